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
    check_name,
)
from stages.errors import WeightsError
from weights import Checkpoint

MAX_DIM, MAX_INPUT_PX = 1 << 16, 4096
"""The largest values that the metadata of a checkpoint may have."""

_MOST_FEATURES: Final = 1 << 26

PREFIX: Final = "siamese-"  # the architecture in a checkpoint's metadata is ``siamese-BACKBONE``


@dataclass(frozen=True, slots=True)
class Design:
    """The parts of a Siamese network, by name.

    Raises:
        ValueError: no part has such a name, a size is out of range, or colours leave no dimension to the head.
    """

    backbone: str = "mobilenet_v2"  # see stages.embed.layers.build_backbone
    pooling: str = "gem"  # of POOLINGS
    head: str = "linear"  # of HEADS
    dim: int = 128  # of the vectors
    input_px: int = 224  # side of the square input
    pair_head: str = ""  # of PAIR_HEADS; empty to compare vectors by cosine similarity
    colour_dim: int = 0  # dimensions of each vector that stages.embed.colour.Colours fills
    colour_share: float = 0.4  # of colours in the cosine similarity of two vectors
    trim: bool = False  # cut white borders off the input, see stages.embed.inputs.trimmed

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        check_name("pooling", self.pooling, POOLINGS)
        check_name("head", self.head, HEADS)
        check_name("pair head", self.pair_head, ("", *PAIR_HEADS))
        if not (1 <= self.dim <= MAX_DIM and 1 <= self.input_px <= MAX_INPUT_PX):
            limits = f"dim must be at least 1 and at most {MAX_DIM}, input_px at least 1 and at most {MAX_INPUT_PX}"
            raise ValueError(f"{limits}, got {self.dim} and {self.input_px}")
        most = min(self.dim - 1, MOST_DIM)
        if not (0 <= self.colour_dim <= most and 0 < self.colour_share < 1):
            raise ValueError(
                f"colour_dim must be at least 0 and less than dim, at most {most}, and colour_share between 0 and 1,"
                f" got {self.colour_dim} and {self.colour_share}"
            )
        if self.colour_dim and self.head not in UNIT:
            raise ValueError(f"colours need a head of unit length ({', '.join(sorted(UNIT))}), got {self.head}")

    @property
    def architecture(self) -> str:
        """The architecture in a checkpoint's metadata."""
        return PREFIX + self.backbone

    @property
    def head_dim(self) -> int:
        """The dimensions of a vector that the head fills."""
        return self.dim - self.colour_dim

    @property
    def stats(self) -> Stats:
        """The mean and standard deviation that normalise the input."""
        return STATS.get(self.backbone, IMAGENET_STATS)

    def metadata(self) -> dict[str, str]:
        """Return a checkpoint's metadata, which :meth:`of` reads."""
        mean, std = (" ".join(map(str, values)) for values in self.stats)
        values = {field.name: _text(getattr(self, field.name)) for field in fields(self) if field.name != "backbone"}
        return {"architecture": self.architecture, **values, "mean": mean, "std": std}

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Return the design of a checkpoint's network; fields that an older checkpoint lacks have their defaults.

        Raises:
            WeightsError: the checkpoint is not of a Siamese network, or its metadata is invalid.
        """
        architecture, given = checkpoint.describes("architecture"), checkpoint.metadata
        if not architecture.startswith(PREFIX):
            raise WeightsError(f"{checkpoint.name} holds {architecture!r} weights; a SiameseEmbedder needs {PREFIX}…")
        for required in ("dim", "input_px"):
            checkpoint.describes(required)
        try:
            values = {field.name: _value(field.type, given[field.name]) for field in fields(cls) if field.name in given}
            return cls(**{**values, "backbone": architecture.removeprefix(PREFIX)})
        except ValueError as error:
            raise WeightsError(f"{checkpoint.name} has invalid metadata: {error}") from error


def _value(kind: Any, text: str) -> Any:
    """Return a metadata value as the type of its field."""
    return bool(int(text)) if kind == "bool" else {"str": str, "int": int, "float": float}[kind](text)


def _text(value: object) -> str:
    """Return a field as a metadata value."""
    return str(int(value) if isinstance(value, bool) else value)


class Parts(NamedTuple):
    """The parts that vectors consist of, ``(n, …)`` each; colours are None in a network without them."""

    shapes: Tensor
    colours: Tensor | None


class SiameseNetwork(nn.Module):
    """Backbone → pooling → head → vectors, of unit length unless the head is ``sigmoid``.

    Both towers of a Siamese network (Bromley et al. 1993) are this one network: the photos of a pair are rows of the
    same batch, and losses compare rows of the output. So single photos are embedded just as in training.

    With ``colour_dim``, part of each vector describes the garment's colours, and the head all else: shape, fabric, kind.
    The dimensions of both alternate, so that a truncated vector has its share of both.

    Maps normalised float images ``(n, 3, h, w)`` to ``(n, dim)`` float32. The initial weights are random.
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
            raise ValueError(f"{design.backbone} has no feature map, which colours need to find the garment")
        self.colours = Colours(shape[1], design.colour_dim, *design.stats) if design.colour_dim else None
        order = torch.tensor(alternating(design.head_dim, design.colour_dim))
        self.register_buffer("_order", order, persistent=False)

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return self.design.dim

    def forward(self, images: Tensor) -> Tensor:
        """Return the vectors of images."""
        return self.joined(self.parts(images))

    def parts(self, images: Tensor) -> Parts:
        """Return the parts of the vectors separately."""
        features = self.features(images)
        pooled = self.pool(features) if features.ndim > 2 else features
        vectors: Tensor = self.head(pooled).float()
        shapes = F.normalize(vectors) if self.design.head in UNIT else vectors
        colours = self.colours(images, self.colours.where(features).sigmoid()) if self.colours else None
        return Parts(shapes, colours)

    def joined(self, parts: Parts) -> Tensor:
        """Return vectors whose similarity is the sum of the parts' similarities, weighted by their shares."""
        if parts.colours is None:
            return parts.shapes
        share = self.design.colour_share
        return torch.cat([parts.shapes * (1 - share) ** 0.5, parts.colours * share**0.5], dim=1)[:, self._order]


def alternating(first: int, second: int) -> list[int]:
    """Return an order of ``first`` and then ``second`` elements in which both are evenly spread.

    >>> alternating(4, 2)
    [0, 4, 1, 2, 5, 3]
    """
    return sorted(range(first + second), key=lambda i: (i + 0.5) / first if i < first else (i - first + 0.5) / second)


def read_network(checkpoint: Checkpoint) -> SiameseNetwork:
    """Return the network of a checkpoint; raise a WeightsError if its metadata and its weights do not fit together."""
    design = Design.of(checkpoint)
    usual = design.metadata()
    if design.colour_dim and any(checkpoint.describes(name).split() != usual[name].split() for name in ("mean", "std")):
        raise WeightsError(f"{checkpoint.name} has colours, which need the mean and std of {design.backbone}")
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
    """Return the shape of a backbone's features of one image, without computing them."""
    shadow = copy.deepcopy(features).to("meta").eval()
    try:
        seen: Tensor = shadow(torch.zeros(1, 3, design.input_px, design.input_px, device="meta"))
    except (RuntimeError, AssertionError) as error:  # a convolution wider than its input; a transformer's fixed size
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{design.backbone} cannot take {design.input_px} px: {reason}") from error
    if seen.ndim > 2 and seen.numel() > _MOST_FEATURES:
        raise ValueError(f"{design.backbone} makes {seen.numel()} features of {design.input_px} px, which is too many")
    return seen.shape
