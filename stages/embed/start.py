"""What a Siamese network starts its training from: nothing, ImageNet, or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor
from torchvision.models import get_model_weights

import weights
from stages.embed.backbones import OURS, backbone_tensors
from stages.embed.inputs import Normalise
from stages.embed.network import PREFIX, Design, SiameseNetwork
from stages.errors import WeightsError
from stages.start import read_start, take_over
from stages.types import Image
from weights import Checkpoint

SCRATCH, IMAGENET = "scratch", "imagenet"


def start_from(network: SiameseNetwork, start: str) -> list[str]:
    """Give a network all of a start that fits it; the rest stays as it is, random.

    Args:
        network: changed in place.
        start: ``scratch``, ``imagenet`` for torchvision's weights (downloaded on first use), the name of a shipped
            checkpoint, or a safetensors file: a Siamese checkpoint, or a classifier in torchvision's names.

    Returns:
        The names of the tensors that are still random.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read or downloaded, or nothing of them fits.
    """
    if start == SCRATCH:
        return sorted(network.state_dict())
    backbone = network.design.backbone
    nothing = f"nothing in {start} fits {backbone}; name weights of it, or {SCRATCH}"
    return take_over(network, _tensors(backbone, start), nothing)


def design_of(start: str) -> Design | None:
    """The design of a start that is a Siamese checkpoint; None for any other.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read.
    """
    if start in (SCRATCH, IMAGENET):
        return None
    checkpoint = read_start(start, (SCRATCH, IMAGENET))
    return Design.of(checkpoint) if _is_siamese(checkpoint) else None


def fit_colours(network: SiameseNetwork, images: Iterable[Sequence[Image]]) -> None:
    """Start a network's colours from the principal components of those of some images; nothing without colours.

    Args:
        network: changed in place.
        images: square ones of one size in each batch.

    Raises:
        ValueError: there are not more images than numbers of colour.
    """
    if network.colours is not None:
        normalise = Normalise(*network.design.stats)
        network.colours.fit(normalise(batch) for batch in images)


def _is_siamese(checkpoint: Checkpoint) -> bool:
    return checkpoint.metadata.get("architecture", "").startswith(PREFIX)


def _tensors(backbone: str, start: str) -> dict[str, Tensor]:
    if start == IMAGENET:
        return _in_features(backbone, _imagenet(backbone))
    checkpoint = read_start(start, (SCRATCH, IMAGENET))
    return checkpoint.tensors if _is_siamese(checkpoint) else _in_features(backbone, checkpoint.tensors)


def _in_features(backbone: str, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in backbone_tensors(backbone, classifier).items()}


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    if backbone in OURS:
        raise ValueError(f"there are no ImageNet weights for {backbone}; start from {SCRATCH} or a file")
    try:
        return weights.read_torchvision(get_model_weights(backbone).DEFAULT)
    except OSError as error:
        raise WeightsError(
            f"torchvision's weights of {backbone} cannot be downloaded ({error}); name a safetensors file of them"
        ) from error
