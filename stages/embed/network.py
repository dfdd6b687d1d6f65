"""The Siamese network: two towers that share one set of weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.checkpoints import check_fits
from stages.embed.colour import MOST_DIM, Colours
from stages.embed.layers import (
    HEADS,
    IMAGENET_STATS,
    PAIR_HEADS,
    POOLINGS,
    STATS,
    UNIT,
    Stats,
    build_backbone,
    check_backbone,
)
from stages.errors import WeightsError
from weights import Checkpoint

MAX_DIM, MAX_INPUT_PX = 1 << 16, 4096
"""The largest that weights may ask for."""

_MOST_FEATURES: Final = 1 << 26

PREFIX: Final = "siamese-"
"""The metadata of a checkpoint names its architecture ``siamese-BACKBONE``."""


@dataclass(frozen=True, slots=True)
class Design:
    """What a Siamese network is made of, each part by its name.

    Attributes:
        backbone: see :func:`~stages.embed.layers.build_backbone`.
        pooling: of :data:`~stages.embed.layers.POOLINGS`.
        head: of :data:`~stages.embed.layers.HEADS`.
        dim: width of its vectors.
        input_px: side of the square input.
        pair_head: of :data:`~stages.embed.layers.PAIR_HEADS`; empty where cosine similarity compares.
        colour_dim: numbers of each vector that are of :class:`~stages.embed.colour.Colours`; 0: none.
        colour_share: the share of these in the cosine similarity of two vectors.
        trim: whether the white around what an image shows is cut away, see :func:`~stages.embed.inputs.trimmed`.

    Raises:
        ValueError: there is no part of such a name, a size is less than 1, or colours leave nothing to the head.
    """

    backbone: str = "mobilenet_v2"
    pooling: str = "gem"
    head: str = "linear"
    dim: int = 128
    input_px: int = 224
    pair_head: str = ""
    colour_dim: int = 0
    colour_share: float = 0.4
    trim: bool = False

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        for kind, name, known in (
            ("pooling", self.pooling, POOLINGS),
            ("head", self.head, HEADS),
            ("pair head", self.pair_head, ("", *PAIR_HEADS)),
        ):
            if name not in known:
                raise ValueError(f"no {kind} is called {name!r}; there are {', '.join(filter(None, known))}")
        if not (1 <= self.dim <= MAX_DIM and 1 <= self.input_px <= MAX_INPUT_PX):
            limits = f"dim is at least 1 and at most {MAX_DIM}, input_px at most {MAX_INPUT_PX}"
            raise ValueError(f"{limits}, got {self.dim} and {self.input_px}")
        most = min(self.dim - 1, MOST_DIM)
        if not (0 <= self.colour_dim <= most and 0 < self.colour_share < 1):
            raise ValueError(
                f"colour_dim is at least 0 and less than dim, at most {most}, and colour_share between 0 and 1,"
                f" got {self.colour_dim} and {self.colour_share}"
            )
        if self.colour_dim and self.head not in UNIT:
            raise ValueError(f"colours stand beside a head of unit length ({', '.join(sorted(UNIT))}), not {self.head}")

    @property
    def architecture(self) -> str:
        """The architecture in the metadata of a checkpoint."""
        return PREFIX + self.backbone

    @property
    def head_dim(self) -> int:
        """How many numbers of a vector come from the head."""
        return self.dim - self.colour_dim

    @property
    def stats(self) -> Stats:
        """Mean and deviation that its input is normalised by in training."""
        return STATS.get(self.backbone, IMAGENET_STATS)

    def metadata(self) -> dict[str, str]:
        """Return what a checkpoint says of its network, for :meth:`of` to read."""
        mean, std = (" ".join(map(str, values)) for values in self.stats)
        values = {field.name: _text(getattr(self, field.name)) for field in fields(self) if field.name != "backbone"}
        return {"architecture": self.architecture, **values, "mean": mean, "std": std}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Return the design of a checkpoint's network; older checkpoints lack fields, which then have their defaults.

        Raises:
            WeightsError: the checkpoint is of something else, or its metadata has a value of the wrong type.
        """
        architecture, given = checkpoint.describes("architecture"), checkpoint.metadata
        if not architecture.startswith(PREFIX):
            raise WeightsError(f"{checkpoint.name} holds {architecture!r} weights; a SiameseEmbedder needs {PREFIX}…")
        for required in ("dim", "input_px"):
            checkpoint.describes(required)
        try:
            values = {
                field.name: _PARSERS[type(field.default)](given[field.name])
                for field in fields(cls)
                if field.name in given
            }
            return cls(**{**values, "backbone": architecture.removeprefix(PREFIX)})
        except ValueError as error:
            raise WeightsError(f"{checkpoint.name} describes itself wrongly: {error}") from error


_PARSERS: Final[dict[type, Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: bool(int(text)),
}


def _text(value: object) -> str:
    """Return a field as metadata."""
    return str(int(value) if isinstance(value, bool) else value)


class Parts(NamedTuple):
    """What vectors are joined from, ``(n, …)`` rows each; a network without colours has None for them."""

    shapes: Tensor
    colours: Tensor | None


class SiameseNetwork(nn.Module):
    """Backbone → pooling → head → vectors, of unit length unless the head says otherwise.

    Siamese (Bromley et al. 1993): the two towers are this one network, applied twice with shared weights. The two
    photos of a pair, anchor and positive, simply stand in one batch, and each loss compares rows of its output;
    so the network that is trained on pairs is the network that embeds single photos.

    With ``colour_dim``, part of each vector tells the garment's colours by themselves, and the head the rest: shape,
    cloth, kind. The numbers of both alternate, so that the first of them are a smaller vector of the same sort.

    ``(n, 3, h, w)`` normalised float → ``(n, dim)`` float32. The weights start random.
    """

    _order: Tensor

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.features = build_backbone(design.backbone)
        self.pool = POOLINGS[design.pooling]()
        shape = _feature_shape(self.features, design)
        width = shape.numel() if design.pooling == "flatten" else shape[1]
        self.head = HEADS[design.head](width, design.head_dim)
        self.pair_head = PAIR_HEADS[design.pair_head](design.dim) if design.pair_head else None
        if design.colour_dim and len(shape) <= 2:
            raise ValueError(f"{design.backbone} makes no map of features, by which colours would find the garment")
        self.colours = Colours(shape[1], design.colour_dim, *design.stats) if design.colour_dim else None
        order = torch.tensor(alternating(design.head_dim, design.colour_dim))
        self.register_buffer("_order", order, persistent=False)

    @property
    def dim(self) -> int:
        """The width of its vectors."""
        return self.design.dim

    def forward(self, images: Tensor) -> Tensor:
        """Embed one side of the pairs, or both at once."""
        return self.joined(self.parts(images))

    def parts(self, images: Tensor) -> Parts:
        """Return the parts of each vector by themselves."""
        features = self.features(images)
        pooled = self.pool(features) if features.ndim > 2 else features
        vectors: Tensor = self.head(pooled).float()
        shapes = F.normalize(vectors) if self.design.head in UNIT else vectors
        colours = self.colours(images, self.colours.where(features).sigmoid()) if self.colours else None
        return Parts(shapes, colours)

    def joined(self, parts: Parts) -> Tensor:
        """Return the vectors, whose similarity is that of each part by its share."""
        design, looks = self.design, parts.shapes
        if parts.colours is not None:
            shapes, colours = looks * (1 - design.colour_share) ** 0.5, parts.colours * design.colour_share**0.5
            looks = torch.cat([shapes, colours], dim=1)[:, self._order]
        return looks


def alternating(first: int, second: int) -> list[int]:
    """Return the places of ``first`` and then ``second`` numbers in an order in which any stretch has its share of both.

    >>> alternating(4, 2)
    [0, 4, 1, 2, 5, 3]
    """
    return sorted(range(first + second), key=lambda i: (i + 0.5) / first if i < first else (i - first + 0.5) / second)


def read_network(checkpoint: Checkpoint) -> SiameseNetwork:
    """Return the network of a checkpoint, its weights in place.

    Raises:
        WeightsError: the weights are not of the network that the checkpoint describes.
    """
    design = Design.of(checkpoint)
    usual = design.metadata()
    if design.colour_dim and any(checkpoint.describes(name).split() != usual[name].split() for name in ("mean", "std")):
        raise WeightsError(f"{checkpoint.name}: colours are counted by the mean and std of {design.backbone} alone")
    misfit = f"{checkpoint.name} does not fit {design.architecture} of dim {design.dim}"
    try:
        check_fits(partial(SiameseNetwork, design), checkpoint.tensors, misfit)
        network = SiameseNetwork(design)
        network.load_state_dict(checkpoint.tensors)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{misfit}: {' '.join(str(error).split())[:300]}") from error
    return network


@torch.no_grad()
def _feature_shape(features: nn.Module, design: Design) -> torch.Size:
    """Return the shape of a backbone's features of one image, without computing them.

    Raises:
        ValueError: the input is too small for the backbone, or its features are too many.
    """
    shadow = copy.deepcopy(features).to("meta").eval()
    try:
        seen: Tensor = shadow(torch.zeros(1, 3, design.input_px, design.input_px, device="meta"))
    except (RuntimeError, AssertionError) as error:  # a convolution wider than its input; a transformer's fixed size
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{design.backbone} cannot take {design.input_px} px: {reason}") from error
    if seen.ndim > 2 and seen.numel() > _MOST_FEATURES:
        raise ValueError(f"{design.backbone} makes {seen.numel()} features of {design.input_px} px, more than any use")
    return seen.shape
