"""The classifier of attributes, and the embedder whose vectors hold its probabilities."""

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
from stages.embed.attributes import SHARES, AttributePart, Probabilities, attribute_part
from stages.embed.colour import Colours
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.layers import IMAGENET_STATS, POOLINGS, build_backbone
from stages.embed.siamese import batch_size_for, faster
from stages.errors import WeightsError
from stages.labels import kind_of
from stages.protocols import Embedder
from stages.types import Image, Vectors, check_batch
from weights import Checkpoint

PREFIX: Final = "attributes-"  # the architecture in a checkpoint's metadata is ``attributes-BACKBONE``
COLOUR: Final = "colour"
_MOST_VALUES: Final = 10_000


class AttributeNetwork(nn.Module):
    """Backbone → pooling → a linear layer for all attributes; a histogram of the garment's pixels also predicts the colour.

    Maps normalised images ``(n, 3, h, w)`` to logits ``(n, values)`` by attribute.
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
    """Classifies crops of garments by the attributes that a checkpoint names.

    Attributes:
        values: the values of each attribute, ``type`` and ``colour`` among them.
        least: the least confidence at which a value of each attribute is reported, chosen on validation photos.

    Raises:
        WeightsError: the checkpoint is not of a classifier of attributes.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        network = read_attribute_network(checkpoint)
        self.values, self.least = values_of(checkpoint)
        self.input_px = int(checkpoint.describes("input_px"))
        architecture = checkpoint.describes("architecture")
        self._device, self._batch_size = device, batch_size_for(device)
        self._network = network.to(device).to(memory_format=torch.channels_last)
        backbone = architecture.removeprefix(PREFIX)
        network.features = faster(network.features, backbone, fast_dtype(device), device, self._batch_size)
        self._normalise = Normalise(*IMAGENET_STATS)
        self.fingerprint = f"{architecture}-{checkpoint.sha256[:12]}-{self.input_px}px"

    def __call__(self, images: Sequence[Image]) -> dict[str, Probabilities]:
        """Return the probabilities of each attribute's values, ``(len(images), values)``, independent of the batch."""
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


class AttributeEmbedder:
    """Adds the probabilities of a classifier, of the attributes in :data:`SHARES`, to the vectors of any embedder.

    Raises:
        ValueError: the embedder's vectors already hold attributes.
    """

    def __init__(self, looks: Embedder, classifier: AttributeClassifier) -> None:
        if attribute_part(looks) is not None:
            raise ValueError(f"the vectors of {looks.fingerprint} already hold attributes")
        self._looks, self._classifier = looks, classifier
        shares = {name: share for name, share in SHARES.items() if name == "kind" or name in classifier.values}
        width = AttributePart(looks.dim, classifier.values, shares, classifier.least).width
        self.attributes = AttributePart(looks.dim + width, classifier.values, shares, classifier.least)
        self.dim, self.input_px = self.attributes.dim, max(looks.input_px, classifier.input_px)
        self.fingerprint = f"{looks.fingerprint}+{classifier.fingerprint}"

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """``(len(images), dim)`` float32 unit rows."""
        return self.attributes.join(self._looks(images), self._classifier(images))


def read_attribute_network(checkpoint: Checkpoint) -> AttributeNetwork:
    """Return the network of a checkpoint for inference; raise a WeightsError if its metadata or weights do not fit."""
    architecture = checkpoint.describes("architecture")
    if not architecture.startswith(PREFIX):
        raise WeightsError(f"{checkpoint.name} holds {architecture!r} weights; a classifier needs {PREFIX}…")
    try:
        int(checkpoint.describes("input_px"))
        build = partial(AttributeNetwork, architecture.removeprefix(PREFIX), values_of(checkpoint)[0])
        check_fits(build, checkpoint.tensors, f"{checkpoint.name} does not fit {architecture}")
    except ValueError as error:
        raise WeightsError(f"{checkpoint.name} has invalid metadata: {error}") from error
    network = build().eval().requires_grad_(requires_grad=False)
    network.load_state_dict(checkpoint.tensors)
    return network


def values_of(checkpoint: Checkpoint) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
    """Return the values of each attribute of a checkpoint, and the least confidence at which they are reported."""
    names = checkpoint.describes("attributes").split()
    values = {name: tuple(checkpoint.describes(name).splitlines()) for name in names}
    if not {"type", COLOUR} <= set(names) or sum(map(len, values.values())) > _MOST_VALUES or not all(values.values()):
        raise ValueError(f"the attributes must be type, colour and possibly others, got {', '.join(names)[:200]}")
    if unknown := [name for name in values["type"] if kind_of(name) is None]:
        raise ValueError(f"no article type is called {unknown[0]!r}")
    return values, {name: float(checkpoint.describes(f"least_{name}")) for name in names}


def metadata(values: Mapping[str, Sequence[str]], least: Mapping[str, float], input_px: int) -> dict[str, str]:
    """Return a checkpoint's metadata, which :func:`values_of` reads."""
    return {
        "attributes": " ".join(values),
        "input_px": str(input_px),
        **{name: "\n".join(names) for name, names in values.items()},
        **{f"least_{name}": f"{value:g}" for name, value in least.items()},
    }
