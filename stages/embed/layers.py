"""The layers of a Siamese network: backbones, poolings, heads that make vectors, and pair heads that compare them.

Two backbones are defined here, Koch's network and a small one; all others are torchvision's classifiers without their
last layers.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import pairwise
from typing import Final

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import DenseNet, MaxVit, VisionTransformer

import weights
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD
from stages.errors import WeightsError

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of each channel, in [0, 1]."""

IMAGENET_STATS: Final[Stats] = (IMAGENET_MEAN, IMAGENET_STD)
HALVES: Final[Stats] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
INK: Final[Stats] = ((1.0, 1.0, 1.0), (0.3, 0.3, 0.3))  # white paper is 0, so that empty parts of a drawing add nothing
STATS: Final[Mapping[str, Stats]] = {
    "koch": INK, "koch_half": INK, "small": HALVES, "inception_v3": HALVES, "googlenet": HALVES,
}  # fmt: skip
"""The mean and standard deviation of a backbone's input, if not ImageNet's."""

_TAIL: Final = {"AuxLogits", "aux1", "aux2", "avgpool", "dropout", "flatten", "fc", "classifier", "head"}
"""Layers of torchvision's classifiers after the last feature map."""

HIDDEN: Final = 512  # the width of a head's hidden layer


class Koch(nn.Module):
    """The four convolutions of Koch, Zemel and Salakhutdinov 2015, fig. 4; made for 105 px, where it ends at 6 x 6.

    From ``(n, 3, h, w)`` to ``(n, 256, h', w')``; it sees grey, the mean of the channels. With the pooling ``flatten``,
    the head ``sigmoid`` of 4096 and the pair head ``linear`` it is the paper's network, once the batch norms that help it to
    learn are folded into the convolutions.

    ``koch_half`` has kernels of half the width, for 53 px, where it ends at 3 x 3: a twelfth of the arithmetic.
    ``scripts/recipes/enlarge_koch.py`` makes the start of a network for 105 px of it.
    """

    def __init__(self, kernels: tuple[int, int, int, int] = (10, 7, 4, 4)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (before, after), kernel in zip(pairwise((1, 64, 128, 128, 256)), kernels, strict=True):
            layers += [nn.Conv2d(before, after, kernel, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.MaxPool2d(2)] if after < 256 else []
            layers += [nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the last feature map."""
        features: Tensor = self.layers(images.mean(dim=1, keepdim=True))
        return features


def small() -> nn.Module:
    """Build four blocks of 64 to 512 channels, each with convolution, batch norm, ReLU and pooling."""
    blocks = (
        nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        for before, after in pairwise((3, 64, 128, 256, 512))
    )
    return nn.Sequential(*blocks)


OURS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "koch": Koch, "koch_half": partial(Koch, (5, 4, 2, 2)), "small": small,
}  # fmt: skip
"""The backbones that are not torchvision's."""


def build_backbone(name: str) -> nn.Module:
    """Build a backbone with random weights, from ``(n, 3, h, w)`` to ``(n, channels, h', w')``.

    Vision transformers, which have no feature map, return ``(n, channels)``. ``name`` is one of :data:`OURS`, or a
    classifier of ``torchvision.models`` such as ``vgg16``, ``mobilenet_v2`` or ``resnet50``; else a ValueError is raised.
    """
    return OURS[name]() if name in OURS else _torchvision_body(name)[0]


def backbone_tensors(name: str, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a torchvision classifier that belong to its backbone, by their names in the backbone."""
    if name in OURS:
        raise ValueError(
            f"no torchvision classifier has the backbone {name}; start from scratch, or from weights of that backbone"
        )
    with torch.device("meta"):  # for the names alone
        body, prefix = _torchvision_body(name)
    names = body.state_dict()
    stripped = {key.removeprefix(prefix): value for key, value in classifier.items() if key.startswith(prefix)}
    return {key: value for key, value in stripped.items() if key in names}


def check_backbone(name: str) -> None:
    """Raise a ValueError that suggests similar names if there is no such backbone."""
    known = [*OURS, *torchvision.models.list_models(module=torchvision.models)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["mobilenet_v2", "resnet50", "vgg16"]
        raise ValueError(f"no backbone is called {name!r}; try {', '.join(near)}, or any torchvision classifier")


def check_name(kind: str, name: str | None, known: Collection[str | None]) -> None:
    """Raise a ValueError if a name of this kind is not among the known ones."""
    if name not in known:
        raise ValueError(f"no {kind} is called {name!r}; choose one of {', '.join(filter(None, known))}")


def imagenet_tensors(name: str) -> dict[str, Tensor]:
    """Return torchvision's default weights of a classifier, downloaded on first use; raise a WeightsError on failure."""
    try:
        return weights.read_torchvision(torchvision.models.get_model_weights(name).DEFAULT)
    except OSError as error:
        raise WeightsError(
            f"torchvision's weights of {name} cannot be downloaded ({error}); give them as a safetensors file"
        ) from error


def remove_layer(network: nn.Module, name: str) -> None:
    """Replace a layer by the identity, as ``set_submodule`` does since torch 2.5."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())


def _torchvision_body(name: str) -> tuple[nn.Module, str]:
    """Return a classifier without its last layers, and the prefix that its tensors' names have in the classifier."""
    check_backbone(name)
    scratch = {"init_weights": True} if name in ("inception_v3", "googlenet") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **scratch)
    if isinstance(network, VisionTransformer | MaxVit):
        last = [part for part, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
        remove_layer(network, last)
        return network, ""
    layers = OrderedDict((part, layer) for part, layer in network.named_children() if part not in _TAIL)
    if len(layers) > 1:
        return nn.Sequential(layers), ""
    ((part, body),) = layers.items()
    if isinstance(network, DenseNet):
        return nn.Sequential(OrderedDict([*body.named_children(), ("relu5", nn.ReLU(inplace=True))])), f"{part}."
    return body, f"{part}."


class GeM(nn.Module):
    """Generalised-mean pooling (Radenovic, Tolias, Chum 2018, eq. 3): ``(mean(x ** p)) ** (1 / p)`` with a learned p.

    p = 1 is the average, p → ∞ the maximum. Always computed in float32, because powers overflow in half precision.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool each channel over its positions."""
        with torch.autocast(features.device.type, enabled=False):
            powers = features.float().clamp(min=self.eps).pow(self.p)
            return powers.mean(dim=(-2, -1)).pow(1.0 / self.p)


class Average(nn.Module):
    """The mean of each channel over its positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool each channel over its positions."""
        return features.mean(dim=(-2, -1))


POOLINGS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "gem": GeM,
    "average": Average,
    "flatten": nn.Flatten,  # keeps every position, which ties the network to one input size
}


class _Sigmoid(nn.Module):
    """A sigmoid in float32, because bfloat16 would round away differences near 0.5."""

    def forward(self, features: Tensor) -> Tensor:
        return features.float().sigmoid()


def _orthogonal(width: int, dim: int) -> nn.Module:
    layer = nn.Linear(width, dim)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


HEADS: Final[Mapping[str, Callable[[int, int], nn.Module]]] = {
    "linear": _orthogonal,
    "elu": lambda width, dim: nn.Sequential(nn.Linear(width, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, dim)),
    # Koch et al. 2015: vectors that are not of unit length, compared by a pair head
    "sigmoid": lambda width, dim: nn.Sequential(nn.Linear(width, dim), _Sigmoid()),
}
"""Heads by name, as functions of the widths of their input and output."""

UNIT: Final = frozenset({"linear", "elu"})  # heads whose vectors the network scales to unit length


class PairHead(nn.Module):
    """Maps ``|a − b|`` to the logit of the probability that two vectors show the same identity.

    Koch, Zemel and Salakhutdinov 2015, section 3.1, have no hidden layer. Maps two batches ``(n, dim)`` to ``(n,)``.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Compare row by row."""
        logits: Tensor = self.layers((left - right).abs())
        return logits.squeeze(-1)


PAIR_HEADS: Final[Mapping[str, Callable[[int], PairHead]]] = {
    "linear": lambda dim: PairHead(nn.Linear(dim, 1)),
    "relu": lambda dim: PairHead(nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))),
}
"""Pair heads by name, as functions of the width of the vectors."""
