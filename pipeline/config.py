"""Names to stages: what each name means is one line of a dict, and ``package.module:Name`` is anyone's own.

Nothing heavy is imported until a stage is built.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from stages.errors import StageError
from stages.protocols import Cropper, Detector, Embedder, Index

T = TypeVar("T")

MILVUS: Final = "milvus+"
"""Begins the name of an index that lives in Milvus; its URI follows."""

AUTO: Final = "auto"
"""The device that is fastest of those that are there: CUDA, else MPS, else the CPU."""

FLIP: Final = "+flip"
"""Ends the name of an R-CNN detector that is to look at each photo mirrored too, and average."""


@dataclass(frozen=True, slots=True)
class Config:
    """Which stages, by name, and the few settings that they share.

    ``detector_weights`` and ``embedder_weights`` name a safetensors file of the user's own; without it the
    shipped weights are loaded, or torchvision's where it is torchvision's network. ``device`` is one of torch's, or
    ``auto``. ``batch_size`` and ``workers`` are those of a :class:`pipeline.pipeline.Pipeline`.
    """

    detector: str = "maskrcnn_mobilenet_v2"
    crop: str = "box"
    embedder: str = "siamese"
    index: str = "hnsw"
    detector_weights: Path | None = None
    embedder_weights: Path | None = None
    min_score: float = 0.5
    device: str = AUTO
    batch_size: int = 8
    workers: int | None = None


def resolve_device(name: str) -> str:
    """The device that is meant, as torch names it, once torch has used it: ``auto`` is the fastest that is there.

    Raises:
        ValueError: it cannot be used.
    """
    import torch  # noqa: PLC0415

    if name == AUTO:
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each for one way of not having it
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}); cpu always can") from error
    return name


def _device(config: Config) -> str:
    from stages.inference import keep_memory  # noqa: PLC0415

    keep_memory()  # before torch starts threads, each of which would keep its own
    return resolve_device(config.device)


def _shipped_detector(name: str, config: Config) -> Detector:
    import weights  # noqa: PLC0415
    from stages.detect.rcnn import from_checkpoint, read_detector  # noqa: PLC0415

    device, flip = _device(config), config.detector.endswith(FLIP)
    if config.detector_weights:
        return read_detector(config.detector_weights, config.min_score, device, flip=flip)
    return from_checkpoint(weights.load(name), config.min_score, device, flip=flip)


def _torchvision_detector(name: str, config: Config) -> Detector:
    from stages.detect.rcnn import from_torchvision, read_detector  # noqa: PLC0415

    device, flip = _device(config), config.detector.endswith(FLIP)
    if config.detector_weights:
        return read_detector(config.detector_weights, config.min_score, device, flip=flip)
    return from_torchvision(name, config.min_score, device, flip=flip)


def _whole_detector(_name: str, _config: Config) -> Detector:
    from stages.detect.whole import WholeDetector  # noqa: PLC0415

    return WholeDetector()


def _siamese(name: str, config: Config) -> Embedder:
    import weights  # noqa: PLC0415
    from stages.embed.siamese import SiameseEmbedder  # noqa: PLC0415

    own, device = config.embedder_weights, _device(config)
    return SiameseEmbedder(weights.read(own) if own else weights.load(name), device)


def _features(architecture: str, config: Config) -> Embedder:
    from stages.embed.features import FeaturesEmbedder  # noqa: PLC0415

    return FeaturesEmbedder(architecture, config.embedder_weights, _device(config))


def _crop(kind: str, *options: str) -> Cropper:
    from stages import crop  # noqa: PLC0415

    made: Cropper = getattr(crop, kind)(*options)
    return made


def _milvus(uri: str, dim: int) -> Index:
    from stages.index.milvus import MilvusIndex  # noqa: PLC0415

    return MilvusIndex(dim, uri)


def _index(kind: str, dim: int) -> Index:
    from stages import index  # noqa: PLC0415

    made: Index = getattr(index, kind)(dim)
    return made


DETECTORS: dict[str, Callable[[str, Config], Detector]] = {
    "maskrcnn_mobilenet_v2": _shipped_detector,
    "fasterrcnn_mobilenet_v2": _shipped_detector,
    "maskrcnn_resnet50_fpn": _torchvision_detector,
    "maskrcnn_resnet50_fpn_v2": _torchvision_detector,
    "fasterrcnn_resnet50_fpn": _torchvision_detector,
    "fasterrcnn_resnet50_fpn_v2": _torchvision_detector,
    "fasterrcnn_mobilenet_v3_large_fpn": _torchvision_detector,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _torchvision_detector,
    "whole": _whole_detector,
    # and NAME+flip for any but whole
}
CROPPERS: dict[str, Callable[[], Cropper]] = {
    "box": partial(_crop, "BoxCrop"),
    "mask": partial(_crop, "MaskCrop", "white"),
    "mask-mean": partial(_crop, "MaskCrop", "mean"),
    "mask-white": partial(_crop, "MaskCrop", "white"),
    "mask-blur": partial(_crop, "MaskCrop", "blur"),
    "whole": partial(_crop, "WholeCrop"),
}
EMBEDDERS: dict[str, Callable[[Config], Embedder]] = {
    "siamese": partial(_siamese, "siamese"),
    "siamese_box": partial(_siamese, "siamese_box"),  # by the same recipe but for the crop they were trained on,
    "siamese_mask": partial(_siamese, "siamese_mask"),  # to compare crops with
    "siamese_both": partial(_siamese, "siamese_both"),
    "features": partial(_features, "mobilenet_v2"),
    # and features-NAME for any torchvision classifier
}
INDEXES: dict[str, Callable[[int], Index]] = {
    "exact": partial(_index, "ExactIndex"),
    "hnsw": partial(_index, "HnswIndex"),
    # and milvus+URI for a Milvus server (milvus+http://host:19530), or milvus-lite in a file (milvus+shop.db)
}


def build_detector(config: Config) -> Detector:
    """The detector that ``config.detector`` names.

    Raises:
        ValueError: no detector has that name.
        StageError: a stage of the user's own cannot be imported or is no detector.
        WeightsError: its weights cannot be had.
    """
    name = config.detector
    if ":" in name:
        return _own(name, Detector)
    name = name.removesuffix(FLIP)
    build = _look_up(name, DETECTORS, "detector")
    if build is _whole_detector and name != config.detector:
        raise ValueError(f"{config.detector} has nothing to average: leave {FLIP} out")
    return build(name, config)


def build_cropper(config: Config) -> Cropper:
    """The cropper that ``config.crop`` names; raises as :func:`build_detector` does."""
    return _own(config.crop, Cropper) if ":" in config.crop else _look_up(config.crop, CROPPERS, "crop")()


def build_embedder(config: Config) -> Embedder:
    """The embedder that ``config.embedder`` names; raises as :func:`build_detector` does."""
    name = config.embedder
    if ":" in name:
        return _own(name, Embedder)
    if name.startswith("features-"):
        return _features(name.removeprefix("features-"), config)
    return _look_up(name, EMBEDDERS, "embedder")(config)


def build_index(name: str, dim: int) -> Index:
    """An empty index of the named kind for vectors of a width; raises as :func:`build_detector` does."""
    if name.startswith(MILVUS):
        return _milvus(name.removeprefix(MILVUS), dim)
    return _own(name, Index, dim) if ":" in name else _look_up(name, INDEXES, "index")(dim)


_trusted: set[str] = set()
_TEST_DOUBLES: Final = "stages.testing:"


def is_own(name: str) -> bool:
    """Whether a name is of something of someone's own: code, which runs when it is built, or a Milvus anywhere."""
    return name.startswith(MILVUS) or (":" in name and not name.startswith(_TEST_DOUBLES))


def trust(name: str) -> None:
    """Let files name this ``package.module:Name`` or ``milvus+URI`` of the caller's own, from now on in this process."""
    _trusted.add(name)


def check_trusted(name: str, source: object, option: str) -> None:
    """Refuse code, servers and files elsewhere that a file names and the caller does not: files are data.

    Args:
        name: of a stage.
        source: what names it, for the message.
        option: which would name it.

    Raises:
        StageError: it is one, and not trusted.
    """
    if is_own(name) and name not in _trusted:
        what = "a place elsewhere" if name.startswith(MILVUS) else "code and not data"
        raise StageError(
            f"{source} names {name!r}, which is {what}; if it is yours, say so: --{option} {name}"
            f" (in Python: pipeline.config.trust({name!r}))"
        )


def _look_up(name: str, choices: dict[str, T], kind: str) -> T:
    try:
        return choices[name]
    except KeyError:
        raise ValueError(
            f"no {kind} is called {name!r}; there are {', '.join(choices)}, or package.module:Name for your own"
        ) from None


def _own(name: str, protocol: type[T], *arguments: Any) -> T:
    """A user's stage: what ``package.module:Name`` gives when called, looked for in the current folder too."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module_name), attribute)(*arguments)
    except Exception as error:
        raise StageError(f"{name} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(made, protocol):
        wanted = (part for part in vars(protocol) if not part.startswith("_") or part in ("__call__", "__len__"))
        missing = sorted(part for part in wanted if not hasattr(made, part))
        raise StageError(f"{name} is no {protocol.__name__}: it lacks {', '.join(missing)}")
    return made
