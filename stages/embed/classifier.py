"""The classifier of attributes: one network, and the probabilities of each attribute's values for a crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.checkpoints import check_fits
from stages.cpu import fast_dtype, parallel_map, split_batch
from stages.embed.attributes import Probabilities
from stages.embed.colour import Colours
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.layers import IMAGENET_STATS, POOLINGS, build_backbone
from stages.embed.siamese import batch_size_for, faster
from stages.errors import WeightsError
from stages.labels import kind_of
from stages.types import Image, check_batch
from weights import Checkpoint

PREFIX: Final = "attributes-"
"""The metadata of a checkpoint names its architecture ``attributes-BACKBONE``."""

COLOUR: Final = "colour"
_MOST_VALUES: Final = 10_000


class AttributeNetwork(nn.Module):
    """Backbone → pooling → one linear layer for all attributes; colours also follow from a histogram of the garment's pixels.

    ``(n, 3, h, w)`` normalised float → logits ``(n, values)`` of each attribute by its name.
    """

    def __init__(self, backbone: str, values: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.features = build_backbone(backbone)
        self.pool = POOLINGS["gem"]()
        with torch.no_grad():
            width = self.features.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
        self._sizes = {name: len(names) for name, names in values.items()}
        self.head = nn.Linear(width, sum(self._sizes.values()))
        self.colours = Colours(width, self._sizes[COLOUR], *IMAGENET_STATS)
        nn.init.zeros_(self.colours.project.weight)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of each attribute."""
        features = self.features(images)
        scores = self.head(self.pool(features)).float().split(list(self._sizes.values()), dim=1)
        logits = dict(zip(self._sizes, scores, strict=True))
        roots = self.colours.roots(images.float(), self.colours.where(features).sigmoid())
        logits[COLOUR] = logits[COLOUR] + self.colours.project(roots)
        return logits


class AttributeClassifier:
    """Classifies crops of garments by the attributes that its checkpoint names.

    Attributes:
        values: the values of each attribute, ``type`` and ``colour`` among them.
        least: the confidence from which a value is stated, chosen on validation photos.
        input_px: the side of the white square that images are letterboxed into.
        fingerprint: the architecture, the start of the weights' sha256, the input size.

    Args:
        checkpoint: trained weights, from ``weights.load`` or ``weights.read``.
        device: where to run, as torch names it.

    Raises:
        WeightsError: the checkpoint is not of a classifier of attributes.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        architecture = checkpoint.describes("architecture")
        if not architecture.startswith(PREFIX):
            raise WeightsError(f"{checkpoint.name} holds {architecture!r} weights; a classifier needs {PREFIX}…")
        backbone = architecture.removeprefix(PREFIX)
        try:
            self.input_px = int(checkpoint.describes("input_px"))
            self.values, self.least = values_of(checkpoint)
            build = partial(AttributeNetwork, backbone, self.values)
            check_fits(build, checkpoint.tensors, f"{checkpoint.name} does not fit {architecture}")
        except ValueError as error:
            raise WeightsError(f"{checkpoint.name} describes itself wrongly: {error}") from error
        network = build().eval().requires_grad_(requires_grad=False)
        network.load_state_dict(checkpoint.tensors)
        self._device, self._batch_size = device, batch_size_for(device)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        network.features = faster(network.features, backbone, fast_dtype(device), device, self._batch_size)
        self._normalise = Normalise(*IMAGENET_STATS)
        self.fingerprint = f"{architecture}-{checkpoint.sha256[:12]}-{self.input_px}px"

    def __call__(self, images: Sequence[Image]) -> dict[str, Probabilities]:
        """Return the probabilities of each attribute's values, ``(len(images), values)``; they do not depend on the batch."""
        check_batch(images)
        parts = parallel_map(self._classify, split_batch(images, self._batch_size), self._device)
        empty = np.empty((0, sum(map(len, self.values.values()))), np.float32)
        stops = np.cumsum([len(values) for values in self.values.values()])[:-1]
        return dict(zip(self.values, np.split(np.concatenate([empty, *parts]), stops, axis=1), strict=True))

    @torch.inference_mode()
    def _classify(self, few: Sequence[Image]) -> NDArray[np.float32]:
        logits = self._network(letterboxed(few, self.input_px, self._normalise, trim=True).to(self._device))
        rows: NDArray[np.float32] = torch.cat([each.softmax(dim=1) for each in logits.values()], dim=1).cpu().numpy()
        return rows


def values_of(checkpoint: Checkpoint) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
    """Return the values of each attribute that a checkpoint names, and the confidence from which each is stated.

    Raises:
        ValueError: it names none, too many, or a type that is unknown.
    """
    names = checkpoint.describes("attributes").split()
    values = {name: tuple(checkpoint.describes(name).splitlines()) for name in names}
    if not {"type", COLOUR} <= set(names) or sum(map(len, values.values())) > _MOST_VALUES or not all(values.values()):
        raise ValueError(f"attributes are type, colour and perhaps others, got {', '.join(names)[:200]}")
    if unknown := [name for name in values["type"] if kind_of(name) is None]:
        raise ValueError(f"no article type is called {unknown[0]!r}")
    return values, {name: float(checkpoint.describes(f"least_{name}")) for name in names}


def metadata(values: Mapping[str, Sequence[str]], least: Mapping[str, float], input_px: int) -> dict[str, str]:
    """Return what a checkpoint says of its classifier, for :func:`values_of` to read."""
    return {
        "attributes": " ".join(values),
        "input_px": str(input_px),
        **{name: "\n".join(names) for name, names in values.items()},
        **{f"least_{name}": f"{value:g}" for name, value in least.items()},
    }
