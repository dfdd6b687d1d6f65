"""Build stages from their names.

Each built-in name is an entry of a table below; ``package.module:Name`` names anyone else's stage. torch is imported
only when a stage that needs it is built.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from stages.crop import BoxCrop, MaskCrop, WholeCrop
from stages.detect import ONE_STAGE, OURS, TORCHVISION, WholeDetector
from stages.errors import StageError
from stages.index import ExactIndex, HnswIndex
from stages.protocols import Cropper, Detector, Embedder, Index

T = TypeVar("T")

MILVUS: Final = "milvus+"
"""Prefix of an index kept in Milvus; its URI follows."""

AUTO: Final = "auto"
"""The fastest device available: CUDA, else MPS, else the CPU."""

FLIP: Final = "+flip"
"""Suffix of an R-CNN detector that also analyses each photo mirrored and averages the two results."""

WITH_ATTRIBUTES: Final = "+attributes"
"""Suffix of an embedder that adds the attributes of garments to its vectors."""

DEFAULT_EMBEDDER: Final = "siamese+attributes"

ELSEWHERE: Final = "elsewhere"
"""In a gallery's settings, an embedder that outfinder does not have: it made vectors that were imported."""

FEATURES: Final = "features-"
"""Prefix of an embedder made of a torchvision classifier, whose name follows."""

FOUNDATIONS: Final = ("open_clip:", "timm:")
"""Prefixes of embedders of other libraries, whose names follow."""


@dataclass(frozen=True, slots=True)
class Config:
    """The names of the stages and the few settings they share.

    ``detector_weights`` and ``embedder_weights`` are the user's safetensors files; None loads the shipped weights, or
    torchvision's for a torchvision network. ``device`` is a torch device or ``auto``. ``batch_size`` and ``workers`` are
    those of :class:`pipeline.pipeline.Pipeline`. Paths may be given as text.
    """

    detector: str = "maskrcnn_mobilenet_v2"
    crop: str = "box"
    embedder: str = DEFAULT_EMBEDDER
    index: str = "hnsw"
    detector_weights: Path | None = None
    embedder_weights: Path | None = None
    min_score: float = 0.5
    device: str = AUTO
    batch_size: int = 8
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("detector_weights", "embedder_weights"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))


def resolve_device(name: str) -> str:
    """Return the torch device for a name, which may be ``auto``, after checking that torch can use it.

    Raises:
        ValueError: torch cannot use the device.
    """
    import torch  # noqa: PLC0415

    if name == AUTO:
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # depending on why it is unavailable
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}); cpu always can") from error
    return name


def _device(config: Config) -> str:
    from stages.cpu import keep_memory  # noqa: PLC0415

    keep_memory()  # before torch starts its threads, each of which would get a heap of its own
    return resolve_device(config.device)


def _siamese(name: str, config: Config) -> Embedder:
    import weights  # noqa: PLC0415
    from stages.embed.siamese import SiameseEmbedder  # noqa: PLC0415

    file, device = config.embedder_weights, _device(config)
    return SiameseEmbedder(weights.read(file) if file else weights.load(name), device)


def _features(architecture: str, config: Config) -> Embedder:
    from stages.embed.features import FeaturesEmbedder  # noqa: PLC0415

    return FeaturesEmbedder(architecture, config.embedder_weights, _device(config))


def _foundation(name: str, config: Config) -> Embedder:
    from stages.embed.foundation import OpenClipEmbedder, TimmEmbedder  # noqa: PLC0415

    library, _, model = name.partition(":")
    build = OpenClipEmbedder if library == "open_clip" else TimmEmbedder
    try:
        return build(model, config.embedder_weights, _device(config))
    except ModuleNotFoundError as error:
        extra = "clip" if library == "open_clip" else "timm"
        raise StageError(f"{name} needs the extra {extra}: pip install 'outfinder[{extra}]'") from error
    except (RuntimeError, OSError, LookupError, TypeError) as error:  # whatever these libraries raise
        raise StageError(f"{name} cannot be built: {type(error).__name__}: {error}") from error


DETECTORS: Final = (*OURS, *TORCHVISION, *ONE_STAGE, "whole")
"""The built-in detectors; the R-CNNs also as NAME+flip."""

CROPPERS: dict[str, Callable[[], Cropper]] = {
    "box": BoxCrop,
    "mask": partial(MaskCrop, "white"),
    "mask-mean": partial(MaskCrop, "mean"),
    "mask-white": partial(MaskCrop, "white"),
    "mask-blur": partial(MaskCrop, "blur"),
    "whole": WholeCrop,
}
EMBEDDERS: dict[str, Callable[[Config], Embedder]] = {
    "siamese": partial(_siamese, "siamese"),
    "siamese_box": partial(_siamese, "siamese_box"),  # these three differ only in the crops that they were trained on,
    "siamese_mask": partial(_siamese, "siamese_mask"),  # for the crop benchmark
    "siamese_both": partial(_siamese, "siamese_both"),
    "features": partial(_features, "mobilenet_v2"),
    # and features-NAME for any torchvision classifier, open_clip:MODEL/PRETRAINED, timm:MODEL
}
INDEXES: dict[str, Callable[[int], Index]] = {
    "exact": ExactIndex,
    "hnsw": HnswIndex,
    # and milvus+URI for a Milvus server (milvus+http://host:19530) or a Milvus Lite file (milvus+shop.db)
}


def build_detector(config: Config) -> Detector:
    """Build the detector named by ``config.detector``.

    Raises:
        ValueError: no detector has that name.
        StageError: a ``package.module:Name`` cannot be imported or is no detector.
        WeightsError: its weights are missing or damaged.
    """
    if ":" in config.detector:
        return _imported(config.detector, Detector)
    name, flip = config.detector.removesuffix(FLIP), config.detector.endswith(FLIP)
    _check_known(name, DETECTORS, "detector")
    if name == "whole":
        if flip:
            raise ValueError(f"{config.detector} has nothing to average; leave {FLIP} out")
        return WholeDetector()
    import weights  # noqa: PLC0415
    from stages.detect.rcnn import from_checkpoint, from_torchvision, read_detector  # noqa: PLC0415

    device = _device(config)
    if config.detector_weights:
        return read_detector(config.detector_weights, config.min_score, device, flip=flip)
    if name in weights.manifest():
        return from_checkpoint(weights.load(name), config.min_score, device, flip=flip)
    return from_torchvision(name, config.min_score, device, flip=flip)


def build_cropper(config: Config) -> Cropper:
    """Build the cropper named by ``config.crop``; raises as :func:`build_detector` does."""
    if ":" in config.crop:
        return _imported(config.crop, Cropper)
    _check_known(config.crop, CROPPERS, "crop")
    return CROPPERS[config.crop]()


def build_embedder(config: Config) -> Embedder:
    """Build the embedder named by ``config.embedder``; raises as :func:`build_detector` does.

    ``NAME+attributes`` appends the output of the shipped attribute classifier to each vector. The default embedder does
    not append it to the vectors of the user's own weights.
    """
    name = config.embedder.removesuffix(WITH_ATTRIBUTES)
    users_weights = config.embedder_weights is not None and config.embedder == DEFAULT_EMBEDDER
    if name != config.embedder and not users_weights:
        import weights  # noqa: PLC0415
        from stages.embed.classifier import AttributeClassifier, AttributeEmbedder  # noqa: PLC0415

        plain = build_embedder(replace(config, embedder=name))
        return AttributeEmbedder(plain, AttributeClassifier(weights.load("attributes"), _device(config)))
    if name.startswith(FOUNDATIONS):
        return _foundation(name, config)
    if ":" in name:
        return _imported(name, Embedder)
    if name.startswith(FEATURES):
        return _features(name.removeprefix(FEATURES), config)
    _check_known(name, EMBEDDERS, "embedder")
    return EMBEDDERS[name](config)


def build_index(name: str, dim: int) -> Index:
    """Build an empty index of the given name for vectors of ``dim`` numbers; raises as :func:`build_detector` does."""
    if name.startswith(MILVUS):
        from stages.index.milvus import MilvusIndex  # noqa: PLC0415

        return MilvusIndex(dim, name.removeprefix(MILVUS))
    if ":" in name:
        return _imported(name, Index, dim)
    _check_known(name, INDEXES, "index")
    return INDEXES[name](dim)


_trusted: set[str] = set()


def is_external(name: str) -> bool:
    """Return whether a stage's name stands for code, a model to download or a Milvus address, not for a built-in stage."""
    return name.startswith(MILVUS) or ":" in name


def trust(name: str) -> None:
    """Allow galleries to name this ``package.module:Name``, ``timm:MODEL`` or ``milvus+URI`` until the process ends."""
    _trusted.add(name)


def check_trusted(name: str, source: object, option: str) -> None:
    """Raise a StageError if an external stage is named by a file and not by the caller: files must not choose code.

    The message names ``source``, where the name comes from, and the command-line ``option`` that would name the stage.
    """
    if is_external(name) and name not in _trusted:
        what = "code and not data"
        if name.startswith((MILVUS, *FOUNDATIONS)):
            what = "a place elsewhere" if name.startswith(MILVUS) else "a model that may be downloaded"
        raise StageError(
            f"{source} names {name!r}, which is {what}; if you trust it, name it yourself: --{option} {name}"
            f" (in Python: pipeline.config.trust({name!r}))"
        )


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Return ``", did you mean 'NAME'?"`` for the choice most like a mistyped name, or an empty string.

    >>> suggestion("siamse", ["siamese", "features"])
    ", did you mean 'siamese'?"
    """
    close = get_close_matches(name, choices, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _check_known(name: str, choices: Collection[str], kind: str) -> None:
    if name not in choices:
        hint = suggestion(name, choices) or ";"
        raise ValueError(
            f"no {kind} is called {name!r}{hint} there are {', '.join(choices)}, or package.module:Name for your own"
        )


def _imported(name: str, protocol: type[T], *arguments: Any) -> T:
    """Call the ``Name`` of ``package.module:Name`` and check that the result keeps the protocol.

    The current folder is searched last, so that nothing in it can take the place of an installed package.
    """
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        stage = getattr(importlib.import_module(module_name), attribute)(*arguments)
    except Exception as error:
        raise StageError(f"{name} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(stage, protocol):
        members = (part for part in vars(protocol) if not part.startswith("_") or part in ("__call__", "__len__"))
        missing = sorted(part for part in members if not hasattr(stage, part))
        raise StageError(f"{name} is no {protocol.__name__}: it lacks {', '.join(missing)}")
    return stage
