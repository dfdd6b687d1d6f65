"""The Siamese network: two towers that share one set of weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.checkpoints import check_fits
from stages.embed.backbones import IMAGENET, STATS, Stats, build_backbone, check_name
from stages.embed.colour import MOST_DIM, Colours
from stages.embed.kinds import KINDS, KindPart
from stages.embed.layers import HEADS, PAIR_HEADS, POOLINGS, UNIT
from stages.errors import WeightsError
from stages.labels import kind_of
from weights import Checkpoint

MAX_DIM, MAX_INPUT_PX = 1 << 16, 4096
"""The largest that weights may ask for."""

_MOST_FEATURES = 1 << 26

PREFIX = "siamese-"
"""The metadata of a checkpoint names its architecture ``siamese-BACKBONE``."""


@dataclass(frozen=True, slots=True)
class Design:
    """What a Siamese network is made of, each part by its name.

    Attributes:
        backbone: see :func:`~stages.embed.backbones.build_backbone`.
        pooling: of :data:`~stages.embed.layers.POOLINGS`.
        head: of :data:`~stages.embed.layers.HEADS`.
        dim: width of its vectors.
        input_px: side of the square that it looks at.
        pair_head: of :data:`~stages.embed.layers.PAIR_HEADS`; empty where cosine similarity compares.
        colour_dim: numbers of each vector that are of :class:`~stages.embed.colour.Colours`; 0: none.
        colour_share: what these make up of the cosine similarity of two vectors.
        trim: whether the white around what an image shows is cut away, see :func:`~stages.embed.inputs.trimmed`.
        types: article types, by their names in :mod:`stages.labels`, whose probabilities and those of their kinds are
            the last numbers of each vector, see :class:`~stages.embed.kinds.KindPart`; empty: none.
        kind_share: what kinds make up of the cosine similarity of two vectors.
        type_share: what types make up of it.

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
    types: tuple[str, ...] = ()
    kind_share: float = 0.0
    type_share: float = 0.0

    def __post_init__(self) -> None:
        check_name(self.backbone)
        for kind, name, known in (("pooling", self.pooling, POOLINGS), ("head", self.head, HEADS)):
            if name not in known:
                raise ValueError(f"no {kind} is called {name!r}; there are {', '.join(known)}")
        if self.pair_head and self.pair_head not in PAIR_HEADS:
            raise ValueError(f"no pair head is called {self.pair_head!r}; there are {', '.join(PAIR_HEADS)}")
        if not (1 <= self.dim <= MAX_DIM and 1 <= self.input_px <= MAX_INPUT_PX):
            raise ValueError(
                f"dim is at least 1 and at most {MAX_DIM}, input_px at most {MAX_INPUT_PX}, got {self.dim} and {self.input_px}"
            )
        if unknown := [name for name in self.types if kind_of(name) is None]:
            raise ValueError(f"no article type is called {unknown[0]!r}")
        shares = self.kind_share, self.type_share
        if min(shares) < 0 or sum(shares) >= 1 or (any(shares) and not self.types):
            raise ValueError(
                f"kind_share and type_share are at least 0, their sum below 1, and they need types; got {shares}"
            )
        most = min(self.dim - self._kind_width - 1, MOST_DIM)
        if not (0 <= self.colour_dim <= most and 0 < self.colour_share < 1):
            raise ValueError(
                f"colour_dim is at least 0 and less than dim, at most {most}, and colour_share between 0 and 1,"
                f" got {self.colour_dim} and {self.colour_share}"
            )
        if self.colour_dim and self.head not in UNIT:
            raise ValueError(f"colours stand beside a head of unit length ({', '.join(sorted(UNIT))}), not {self.head}")

    @property
    def architecture(self) -> str:
        """What the metadata of a checkpoint says."""
        return PREFIX + self.backbone

    @property
    def kind_part(self) -> KindPart | None:
        """Where vectors hold kinds and types; None where they hold none."""
        return KindPart(self.dim, self.types, self.kind_share, self.type_share) if self.types else None

    @property
    def _kind_width(self) -> int:
        return len(KINDS) + len(self.types) if self.types else 0

    @property
    def head_dim(self) -> int:
        """How many numbers of a vector come from the head."""
        return self.dim - self.colour_dim - self._kind_width

    @property
    def stats(self) -> Stats:
        """Mean and deviation that its input is normalised by in training."""
        return STATS.get(self.backbone, IMAGENET)

    def metadata(self) -> dict[str, str]:
        """What a checkpoint has to say, for :meth:`of` to read."""
        mean, std = (" ".join(map(str, values)) for values in self.stats)
        return {
            "architecture": self.architecture,
            "pooling": self.pooling,
            "head": self.head,
            "pair_head": self.pair_head,
            "dim": str(self.dim),
            "input_px": str(self.input_px),
            "colour_dim": str(self.colour_dim),
            "colour_share": str(self.colour_share),
            "trim": str(int(self.trim)),
            "types": "\n".join(self.types),
            "kind_share": str(self.kind_share),
            "type_share": str(self.type_share),
            "mean": mean,
            "std": std,
        }

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The design of a checkpoint's network; what older ones do not say is GeM, linear, no pair head, no colours, white as it is.

        Raises:
            WeightsError: the checkpoint is of something else, or describes itself with what is no number.
        """
        architecture, says = checkpoint.describes("architecture"), checkpoint.metadata
        if not architecture.startswith(PREFIX):
            raise WeightsError(f"{checkpoint.name} holds {architecture!r} weights; a SiameseEmbedder needs {PREFIX}…")
        dim, input_px = checkpoint.describes("dim"), checkpoint.describes("input_px")
        try:
            return cls(
                architecture.removeprefix(PREFIX),
                says.get("pooling", "gem"),
                says.get("head", "linear"),
                int(dim),
                int(input_px),
                says.get("pair_head", ""),
                int(says.get("colour_dim", "0")),
                float(says.get("colour_share", "0.4")),
                bool(int(says.get("trim", "0"))),
                tuple(says.get("types", "").splitlines()),
                float(says.get("kind_share", "0")),
                float(says.get("type_share", "0")),
            )
        except ValueError as error:
            raise WeightsError(f"{checkpoint.name} describes itself wrongly: {error}") from error


class Parts(NamedTuple):
    """What vectors are joined from, ``(n, …)`` rows each; a network without colours or types has None for them.

    ``types`` are logits.
    """

    shapes: Tensor
    colours: Tensor | None
    types: Tensor | None = None


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
    _kind_of_type: Tensor

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.features = build_backbone(design.backbone)
        self.pool = POOLINGS[design.pooling]()
        seen = _seen(self.features, design)
        pooled_width = _pooled_width(seen, design)
        self.head = HEADS[design.head](pooled_width, design.head_dim)
        self.types = nn.Linear(pooled_width, len(design.types)) if design.types else None
        self._kind_part = design.kind_part
        if self._kind_part is not None:
            kind_of_type = torch.from_numpy(self._kind_part.kind_of_type)
            self.register_buffer("_kind_of_type", kind_of_type, persistent=False)
        self.pair_head = PAIR_HEADS[design.pair_head](design.dim) if design.pair_head else None
        self.colours = _colours(seen, design) if design.colour_dim else None
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
        """The parts of each vector by themselves."""
        features = self.features(images)
        pooled = self.pool(features) if features.ndim > 2 else features
        vectors: Tensor = self.head(pooled).float()
        shapes = F.normalize(vectors) if self.design.head in UNIT else vectors
        types = None if self.types is None else self.types(pooled).float()
        if self.colours is None:
            return Parts(shapes, None, types)
        return Parts(shapes, self.colours(images, self.colours.where(features).sigmoid()), types)

    def joined(self, parts: Parts) -> Tensor:
        """The vectors, whose similarity is that of each part by its share."""
        looks = parts.shapes
        if parts.colours is not None:
            share = self.design.colour_share
            looks = torch.cat([looks * (1 - share) ** 0.5, parts.colours * share**0.5], dim=1)[:, self._order]
        if parts.types is None:
            return looks
        types = parts.types.softmax(dim=1)
        kinds = types @ self._kind_of_type
        of_kinds, of_types = self.design.kind_share, self.design.type_share
        return torch.cat(
            [looks * (1 - of_kinds - of_types) ** 0.5, (kinds * of_kinds).sqrt(), (types * of_types).sqrt()], dim=1
        )


def alternating(first: int, second: int) -> list[int]:
    """The places of ``first`` and then ``second`` numbers in an order in which any stretch has its share of both.

    >>> alternating(4, 2)
    [0, 4, 1, 2, 5, 3]
    """
    return sorted(range(first + second), key=lambda i: (i + 0.5) / first if i < first else (i - first + 0.5) / second)


def read_network(checkpoint: Checkpoint) -> SiameseNetwork:
    """The network of a checkpoint, its weights in place.

    Raises:
        WeightsError: the weights are not of the network that the checkpoint describes.
    """
    design = Design.of(checkpoint)
    own = design.metadata()
    if design.colour_dim and any(checkpoint.describes(name).split() != own[name].split() for name in ("mean", "std")):
        raise WeightsError(f"{checkpoint.name}: colours are counted by the mean and std of {design.backbone} alone")
    told = f"{checkpoint.name} does not fit {design.architecture} of dim {design.dim}"
    try:
        check_fits(partial(SiameseNetwork, design), checkpoint.tensors, told)
        network = SiameseNetwork(design)
        network.load_state_dict(checkpoint.tensors)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{told}: {' '.join(str(error).split())[:300]}") from error
    return network


@torch.no_grad()
def _seen(features: nn.Module, design: Design) -> torch.Size:
    """The shape of what the backbone makes of an image, found by shapes alone.

    Raises:
        ValueError: the input is too small for the backbone, or what it makes is too large.
    """
    shadow = copy.deepcopy(features).to("meta").eval()
    try:
        seen: Tensor = shadow(torch.zeros(1, 3, design.input_px, design.input_px, device="meta"))
    except (RuntimeError, AssertionError) as error:  # a convolution wider than what is left; a transformer's own size
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{design.backbone} cannot look at {design.input_px} px: {reason}") from error
    if seen.ndim > 2 and seen.numel() > _MOST_FEATURES:
        raise ValueError(f"{design.backbone} makes {seen.numel()} features of {design.input_px} px, more than any use")
    return seen.shape


@torch.no_grad()
def _pooled_width(seen: torch.Size, design: Design) -> int:
    """How many numbers the pooling hands to the head."""
    if len(seen) <= 2:
        return seen[1]
    with torch.device("cpu"):  # a pooling may compute in another precision, which has to have a device
        pooled: Tensor = POOLINGS[design.pooling]()(torch.zeros(seen))
    return pooled.shape[1]


def _colours(seen: torch.Size, design: Design) -> Colours:
    if len(seen) <= 2:
        raise ValueError(f"{design.backbone} makes no map of features, by which colours would find the garment")
    return Colours(seen[1], design.colour_dim, *design.stats)
