"""What a detection network starts its training from: an ImageNet body, torchvision's COCO weights, or a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import weights
from stages.detect.networks import OURS, MobileNetV2FPN
from stages.errors import WeightsError
from stages.start import read_start, take_over

IMAGENET, COCO = "imagenet", "coco"
_FROZEN_BLOCKS = 4  # of MobileNetV2: stem to stride 4, whose gradients cost most and change least


def start_from(network: GeneralizedRCNN, architecture: str, start: str, labels: Sequence[str]) -> list[str]:
    """Give a network all of a start that fits it; the rest stays as it is, random.

    Args:
        network: changed in place.
        architecture: its name.
        start: ``imagenet`` or ``coco`` for torchvision's own weights (downloaded on first use), the name of a shipped
            checkpoint, or a safetensors file: a detector's checkpoint or an ImageNet classifier in torchvision's names.
        labels: of the network; the predictors of a checkpoint with other labels do not fit.

    Returns:
        The names of the tensors that are still random.

    Raises:
        ValueError: there are no such weights for the architecture.
        WeightsError: they cannot be read or downloaded, or nothing of them fits.
    """
    tensors = _tensors(architecture, start, labels)
    nothing = f"nothing in {start} fits {architecture}; name an ImageNet classifier of its body instead"
    return take_over(network, tensors, nothing)


def freeze_first_blocks(network: GeneralizedRCNN) -> None:
    """Leave the first blocks of our body as they are; torchvision's networks freeze their own."""
    if isinstance(network.backbone, MobileNetV2FPN):
        for block in network.backbone.body[:_FROZEN_BLOCKS]:
            block.requires_grad_(requires_grad=False)


def _tensors(architecture: str, start: str, labels: Sequence[str]) -> dict[str, Tensor]:
    if start in (IMAGENET, COCO):
        return _torchvision(architecture, start)
    checkpoint = read_start(start, (IMAGENET, COCO))
    if not any(name.startswith("backbone.") for name in checkpoint.tensors):  # a classifier
        return {f"backbone.body.{name.removeprefix('features.')}": value for name, value in checkpoint.tensors.items()}
    if checkpoint.metadata.get("labels") == "\n".join(labels):
        return checkpoint.tensors
    return {name: value for name, value in checkpoint.tensors.items() if "_predictor." not in name}


def _torchvision(architecture: str, start: str) -> dict[str, Tensor]:
    if start == COCO and architecture in OURS:
        raise ValueError(f"there are no COCO weights for {architecture}; start from {IMAGENET} or a file")
    body = next(name for name in ("mobilenet_v2", "mobilenet_v3_large", "resnet50") if name in architecture)
    try:
        tensors = weights.read_torchvision(get_model_weights(architecture if start == COCO else body).DEFAULT)
    except OSError as error:
        raise WeightsError(
            f"torchvision's {start} weights for {architecture} cannot be downloaded ({error}); name a safetensors file"
        ) from error
    if start == COCO:
        return {name: value for name, value in tensors.items() if "_predictor." not in name}
    return {f"backbone.body.{name.removeprefix('features.')}": value for name, value in tensors.items()}
