"""Foundation models as embedders: open_clip's image and text towers, and timm's image models.

Images are preprocessed as the model wants. The library downloads weights on first use, unless the user gives a
safetensors file; either holds tensors only, and no code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor, nn

import weights
from stages.checkpoints import check_unit_rows
from stages.cpu import split_batch
from stages.embed.features import digest
from stages.errors import WeightsError
from stages.types import Image, Vectors, check_batch

HUB: Final = "hf-hub:"
_BATCH: Final = 16


class FoundationEmbedder:
    """Embeds images by a network and its preprocessing."""

    def __init__(
        self, name: str, network: nn.Module, prepare: Callable[[PillowImage.Image], Tensor], device: str
    ) -> None:
        self._network: Any = network.eval().requires_grad_(requires_grad=False).to(device)
        self._prepare, self._device = prepare, device
        sample = prepare(PillowImage.new("RGB", (64, 64)))
        self.input_px = int(sample.shape[-1])
        self.dim = int(self._embed(sample[None]).shape[1])
        self.fingerprint = f"{name}-{digest(network)[:12]}-{self.input_px}px"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        check_batch(images)
        rows = [self._embed(torch.stack(list(map(self._prepared, few)))) for few in split_batch(images, _BATCH)]
        return check_unit_rows(np.concatenate([np.empty((0, self.dim), np.float32), *rows]), self.fingerprint)

    def _prepared(self, image: Image) -> Tensor:
        return self._prepare(PillowImage.fromarray(np.ascontiguousarray(image)))

    @torch.inference_mode()
    def _embed(self, batch: Tensor) -> Vectors:
        return _unit(self._features(batch.to(self._device)))

    def _features(self, batch: Tensor) -> Tensor:
        features: Tensor = self._network(batch)
        return features


class TimmEmbedder(FoundationEmbedder):
    """Embeds images by the pooled features of a timm model.

    Args:
        model: a name of ``timm.list_models``, such as ``vit_base_patch16_siglip_224``.
        checkpoint: a safetensors file with timm's tensor names; None for timm's weights.
        device: torch's name of the device.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such model.
        WeightsError: the file does not fit the model.
    """

    def __init__(self, model: str, checkpoint: str | Path | None = None, device: str = "cpu") -> None:
        timm: Any = import_module("timm")  # an extra
        if not timm.is_model(model):
            raise ValueError(f"timm has no model {model!r}; timm.list_models() lists its models")
        network = timm.create_model(model, pretrained=checkpoint is None, num_classes=0)
        _load(network, checkpoint, model)
        prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
        super().__init__(f"timm-{model}", network, prepare, device)


class OpenClipEmbedder(FoundationEmbedder):
    """Embeds images and texts by the two towers of an open_clip model.

    Args:
        name: ``MODEL/PRETRAINED`` of ``open_clip.list_pretrained``, ``hf-hub:OWNER/MODEL``, or ``MODEL`` with a file.
        checkpoint: a safetensors file with open_clip's tensor names; None for the pretrained weights.
        device: torch's name of the device.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: open_clip has no such model, or no weights are given.
        WeightsError: the file does not fit the model.
    """

    def __init__(self, name: str, checkpoint: str | Path | None = None, device: str = "cpu") -> None:
        open_clip: Any = import_module("open_clip")  # an extra
        model, _, pretrained = (name, "", "") if name.startswith(HUB) else name.partition("/")
        if not name.startswith(HUB):
            if model not in open_clip.list_models():
                raise ValueError(f"open_clip has no model {model!r}; open_clip.list_models() lists its models")
            if not pretrained and checkpoint is None:
                known = open_clip.list_pretrained_tags_by_model(model)
                raise ValueError(
                    f"name the weights of {model}: open_clip:{model}/PRETRAINED, of {', '.join(known) or 'none'},"
                    " or a file with --embedder-weights"
                )
        network, _, prepare = open_clip.create_model_and_transforms(
            model, pretrained=pretrained if pretrained and checkpoint is None else None
        )
        _load(network, checkpoint, model)
        self._tokenizer: Callable[[list[str]], Any] = open_clip.get_tokenizer(model)
        super().__init__(f"open_clip-{name}", network, prepare, device)

    def _features(self, batch: Tensor) -> Tensor:
        features: Tensor = self._network.encode_image(batch)
        return features

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """``(len(texts), dim)`` float32 unit rows.

        Raises:
            ValueError: a text is empty.
        """
        if not all(text.strip() for text in texts):
            raise ValueError("the text is empty; say what to look for, such as: navy checked shirt")
        if not texts:
            return np.empty((0, self.dim), np.float32)
        return _unit(self._network.encode_text(self._tokenizer(list(texts)).to(self._device)))


def _load(network: nn.Module, checkpoint: str | Path | None, model: str) -> None:
    if checkpoint is None:
        return
    try:
        network.load_state_dict(weights.read(checkpoint).tensors)
    except RuntimeError as error:
        raise WeightsError(f"{checkpoint} does not fit {model}: {' '.join(str(error).split())[:300]}") from error


def _unit(features: Tensor) -> Vectors:
    rows: Vectors = F.normalize(features.float()).cpu().numpy()
    return rows
