"""Backbones: the convolutional part of a network, from normalised pixels to a feature map.

Two are defined here, Koch's network and a small one; all others are torchvision's classifiers without their last layers,
under torchvision's names.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import DenseNet, MaxVit, VisionTransformer

from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of each channel, in [0, 1]."""

IMAGENET: Final[Stats] = (IMAGENET_MEAN, IMAGENET_STD)
HALVES: Final[Stats] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_TAIL: Final = {"AuxLogits", "aux1", "aux2", "avgpool", "dropout", "flatten", "fc", "classifier", "head"}
"""Names that torchvision's classifiers give to the layers after the last feature map."""


class Koch(nn.Module):
    """The four convolutions of Koch, Zemel and Salakhutdinov 2015, fig. 4; made for 105 px, where it ends at 6 x 6.

    From ``(n, 3, h, w)`` to ``(n, 256, h', w')``; it sees grey, the mean of the channels. With the pooling ``flatten``,
    the head ``sigmoid`` of 4096 and the pair head ``linear`` it is the paper's network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 64, 10), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 7), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(128, 128, 4), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(128, 256, 4), nn.ReLU(inplace=True)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the last feature map."""
        features: Tensor = self.layers(images.mean(dim=1, keepdim=True))
        return features


def small() -> nn.Module:
    """Build four blocks of 64 to 512 channels, each with convolution, batch norm, ReLU and pooling, to train from scratch."""
    widths = (3, 64, 128, 256, 512)
    blocks = (
        nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        for before, after in pairwise(widths)
    )
    return nn.Sequential(*blocks)


OURS: Final[Mapping[str, Callable[[], nn.Module]]] = {"koch": Koch, "small": small}
"""Backbones that are not torchvision's."""

STATS: Final[Mapping[str, Stats]] = {"koch": HALVES, "small": HALVES, "inception_v3": HALVES, "googlenet": HALVES}
"""Mean and deviation that a backbone's input is normalised by, if not ImageNet's."""


def build_backbone(name: str) -> nn.Module:
    """Build a backbone with random weights, from ``(n, 3, h, w)`` to ``(n, channels, h', w')``.

    Vision transformers, which have no feature map, return ``(n, channels)``.

    Args:
        name: of :data:`OURS`, or a classifier of ``torchvision.models``: ``vgg16``, ``mobilenet_v2``,
            ``mobilenet_v3_large``, ``resnet18``, ``resnet50``, ``inception_v3`` …

    Raises:
        ValueError: there is none of that name.
    """
    if name in OURS:
        return OURS[name]()
    body, _ = _torchvision_body(name)
    return body


def backbone_tensors(name: str, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a torchvision classifier's tensors under their names in its backbone, without the other layers."""
    if name in OURS:
        raise ValueError(
            f"no classifier of torchvision has the backbone {name}; start it from scratch or from weights of that backbone"
        )
    with torch.device("meta"):  # for the names alone
        body, prefix = _torchvision_body(name)
    own = body.state_dict()
    stripped = {key.removeprefix(prefix): value for key, value in classifier.items() if key.startswith(prefix)}
    return {key: value for key, value in stripped.items() if key in own}


def check_name(name: str) -> None:
    """Check that there is such a backbone.

    Raises:
        ValueError: there is none.
    """
    known = [*OURS, *torchvision.models.list_models(module=torchvision.models)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["mobilenet_v2", "resnet50", "vgg16"]
        raise ValueError(f"no backbone is called {name!r}; try {', '.join(near)}, or any classifier of torchvision")


def _torchvision_body(name: str) -> tuple[nn.Module, str]:
    """Return a classifier without its last layers, and the prefix of its tensors' names in the classifier."""
    check_name(name)
    scratch = {"init_weights": True} if name in ("inception_v3", "googlenet") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **scratch)
    if isinstance(network, VisionTransformer | MaxVit):
        last = [part for part, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
        network.set_submodule(last, nn.Identity())
        return network, ""
    layers = OrderedDict((part, layer) for part, layer in network.named_children() if part not in _TAIL)
    if len(layers) > 1:
        return nn.Sequential(layers), ""
    ((part, body),) = layers.items()
    if isinstance(network, DenseNet):
        return nn.Sequential(OrderedDict([*body.named_children(), ("relu5", nn.ReLU(inplace=True))])), f"{part}."
    return body, f"{part}."
