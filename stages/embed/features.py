"""An embedder for any torchvision classifier: the features before its last layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import weights
from stages.checkpoints import check_unit_rows
from stages.cpu import parallel_map, split_batch
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD, Normalise, letterboxed
from stages.embed.layers import OURS, check_backbone, imagenet_tensors, remove_layer
from stages.errors import WeightsError
from stages.types import Image, Vectors, check_batch

_AUXILIARY = ("AuxLogits", "aux1", "aux2")  # the training-only classifiers of inception_v3 and googlenet


class FeaturesEmbedder:
    """Embeds images as the features before a torchvision classifier's last layer: an untrained baseline.

    Args:
        architecture: a classifier of ``torchvision.models``, such as ``resnet50`` or ``vgg16``.
        checkpoint: a safetensors file with torchvision's tensor names, with or without the last layer. None:
            torchvision's default weights, downloaded on first use.
        device: torch's name of the device.
        batch_size: images per batch.

    Raises:
        ValueError: torchvision has no such classifier.
        WeightsError: the weights cannot be downloaded, are damaged, or do not fit the architecture.
    """

    def __init__(
        self,
        architecture: str = "mobilenet_v2",
        checkpoint: str | Path | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_backbone(architecture)
        if architecture in OURS:
            raise ValueError(f"{architecture} is not a torchvision classifier")
        network = classifier_features(architecture, checkpoint)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        self._device, self._batch_size = device, batch_size
        self.input_px = int(getattr(network, "image_size", 224))  # a transformer takes one size only
        self._normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.dim = int(self._run(torch.zeros(1, 3, self.input_px, self.input_px)).shape[1])
        self.fingerprint = f"features-{architecture}-{digest(network)[:12]}-{self.input_px}px"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        check_batch(images)
        parts = split_batch(images, self._batch_size)
        rows = parallel_map(self._embed, parts, self._device)
        return check_unit_rows(np.concatenate([np.empty((0, self.dim), np.float32), *rows]), self.fingerprint)

    def _embed(self, images: Sequence[Image]) -> Vectors:
        return self._run(letterboxed(images, self.input_px, self._normalise))

    @torch.inference_mode()
    def _run(self, batch: Tensor) -> Vectors:
        features: Tensor = self._network(batch.to(self._device))
        vectors: Vectors = F.normalize(features.flatten(1)).cpu().numpy()
        return vectors


def classifier_features(architecture: str, path: str | Path | None) -> nn.Module:
    """Build a classifier without its last layer, with torchvision's weights or those of a file."""
    scratch = (
        {"init_weights": False} if architecture in ("inception_v3", "googlenet") else {}
    )  # slow, and overwritten below
    network: nn.Module = torchvision.models.get_model(architecture, weights=None, **scratch)
    last = _behead(network)
    if hasattr(network, "transform_input"):  # which torchvision sets for its inception_v3 and googlenet weights
        vars(network)["transform_input"] = True
    tensors = imagenet_tensors(architecture) if path is None else weights.read(path).tensors
    dropped = tuple(f"{name}." for name in (last, *_AUXILIARY))
    try:
        network.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(dropped)})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path or 'the download'} does not fit torchvision's {architecture}: {reason}") from error
    return network.eval().requires_grad_(requires_grad=False)


def _behead(network: nn.Module) -> str:
    """Remove a classifier's last layer and its auxiliary classifiers; return the layer's name."""
    for name in _AUXILIARY:
        if hasattr(network, name):
            setattr(network, name, None)
    modules: list[tuple[str, nn.Module]] = list(network.named_modules())
    layers = [(name, layer) for name, layer in modules if isinstance(layer, nn.Linear | nn.Conv2d)]
    linear = [name for name, layer in layers if isinstance(layer, nn.Linear)]
    last = (linear or [name for name, _ in layers])[-1]  # SqueezeNet ends with a convolution
    remove_layer(network, last)
    return last


def digest(network: nn.Module) -> str:
    """Return the sha256 of a network's tensors, sorted by name."""
    sha256 = hashlib.sha256()
    tensors: dict[str, Tensor] = network.state_dict()
    for name, value in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(value.cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
