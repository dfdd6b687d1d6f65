"""Which detectors and embedders are compared, by name, so that another process can build them too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import weights
from pipeline.config import EMBEDDERS, Config, build_detector, build_embedder
from stages.protocols import Detector, Embedder

DETECTORS: Final = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")

UNKNOWN: Final = "not said"


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is compared, built.

    Attributes:
        detectors: by name.
        embedders: by name; the first is the one that the verdict speaks of first.
        sources: what each embedder was named by, for another process to build it.
        trained_on: the crop that each embedder says it was trained on.
    """

    detectors: dict[str, Detector]
    embedders: dict[str, Embedder]
    sources: dict[str, str]
    trained_on: dict[str, str]

    @classmethod
    def of(cls, detectors: Sequence[str] = DETECTORS, embedders: Sequence[str] = ()) -> Subject:
        """Build the stages of these names; an embedder is ``NAME`` or ``NAME=WEIGHTS``, all that are shipped by default.

        Raises:
            ValueError: no stage has such a name, or two have the same.
            StageError, WeightsError: one cannot be built.
        """
        named = [(spec.partition("=")[0], spec) for spec in embedders or shipped()]
        names = [name for name, _ in named]
        for all_names in (names, list(detectors)):
            if twice := [name for name in dict.fromkeys(all_names) if all_names.count(name) > 1]:
                raise ValueError(f"two are called {twice[0]!r}; give each a name of its own: NAME=WEIGHTS")
        return cls(
            {name: build_detector(Config(detector=name)) for name in detectors},
            {name: build_embedder(config_of(spec)) for name, spec in named},
            dict(named),
            {name: _trained_on(name, config_of(spec)) for name, spec in named},
        )


def shipped() -> list[str]:
    """The embedders whose weights are here."""
    return [name for name in EMBEDDERS if name in weights.manifest()]


def config_of(spec: str) -> Config:
    """The config that builds the embedder of ``NAME`` or ``NAME=WEIGHTS``.

    A name that is none of outfinder's is that of a Siamese network of the user's own.

    >>> config_of("mine=run/weights.safetensors").embedder
    'siamese'
    >>> config_of("features-resnet50").embedder
    'features-resnet50'
    """
    name, _, file = spec.partition("=")
    known = name in EMBEDDERS or ":" in name or name.startswith("features-")
    return Config(embedder=name if known or not file else "siamese", embedder_weights=Path(file) if file else None)


def _trained_on(name: str, config: Config) -> str:
    """What an embedder's weights say of the crop that they were trained on."""
    if config.embedder.startswith("features"):
        return "nothing but ImageNet"
    if config.embedder_weights:
        return weights.read(config.embedder_weights).metadata.get("crop", UNKNOWN)
    return weights.load(name).metadata.get("crop", UNKNOWN) if name in weights.manifest() else UNKNOWN
