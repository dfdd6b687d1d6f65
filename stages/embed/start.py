"""What a Siamese network starts its training from: nothing, ImageNet, or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torchvision.models import get_model_weights

import weights
from stages.embed.backbones import OURS, backbone_tensors
from stages.embed.network import PREFIX, SiameseNetwork
from stages.errors import WeightsError

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
    own = network.state_dict()
    if start == SCRATCH:
        return sorted(own)
    tensors = _tensors(network.design.backbone, start)
    fitting = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise WeightsError(f"nothing in {start} fits {network.design.backbone}; name weights of it, or {SCRATCH}")
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _tensors(backbone: str, start: str) -> dict[str, Tensor]:
    if start == IMAGENET:
        return _in_features(backbone, _imagenet(backbone))
    if start in weights.manifest():
        checkpoint = weights.load(start)
    elif (path := Path(start)).is_file():
        checkpoint = weights.read(path)
    else:
        raise ValueError(
            f"cannot start from {start!r}: it is no file, none of the shipped weights"
            f" ({', '.join(sorted(weights.manifest()))}), nor {SCRATCH} or {IMAGENET}"
        )
    if checkpoint.metadata.get("architecture", "").startswith(PREFIX):
        return checkpoint.tensors
    return _in_features(backbone, checkpoint.tensors)


def _in_features(backbone: str, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in backbone_tensors(backbone, classifier).items()}


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    if backbone in OURS:
        raise ValueError(f"there are no ImageNet weights for {backbone}; start from {SCRATCH} or a file")
    try:
        found: Mapping[str, Tensor] = get_model_weights(backbone).DEFAULT.get_state_dict(check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or a download that fails its checksum
        raise WeightsError(
            f"torchvision's weights of {backbone} cannot be downloaded ({error}); name a safetensors file of them"
        ) from error
    return found
