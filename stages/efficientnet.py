"""EfficientNet-Lite, a backbone without squeeze-and-excitation or swish, as plain convolutions and ReLU6.

Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019; the Lite variants
are TensorFlow's. They pad as TensorFlow does: at stride 2, more on the right and at the bottom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from torch import Tensor, nn

LITE: Final[Mapping[str, tuple[float, float]]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
"""Width and depth multipliers by name."""

MEAN: Final = (127 / 255,) * 3
STD: Final = (128 / 255,) * 3
"""The input normalisation of the published weights, for pixels in [0, 1]."""

Norm = Callable[[int], nn.Module]


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES: Final = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_EPS: Final = 1e-3


def batch_norm(channels: int) -> nn.Module:
    """Return the batch norm that the published weights were trained with."""
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=0.01)


class MBConv(nn.Module):
    """An inverted residual block: expand, filter each channel, project, and add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, norm: Norm) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        width = inputs * expansion
        layers = [] if expansion == 1 else list(_conv(inputs, width, 1, 1, 1, norm))
        layers += [
            *_conv(width, width, kernel, stride, width, norm),
            nn.Conv2d(width, outputs, 1, bias=False),
            norm(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` → ``(n, outputs, h / stride, w / stride)``."""
        out: Tensor = self.conv(x)
        return x + out if self.use_res_connect else out


def efficientnet_lite(name: str, norm: Norm = batch_norm, *, head: bool = True) -> nn.Sequential:
    """Build an EfficientNet-Lite without its classifier, with random weights.

    Args:
        name: one of :data:`LITE`.
        norm: builds the normalisation layer of so many channels.
        head: end in the 1280 channels that the classifier reads, rather than in the last block.

    Returns:
        ``(n, 3, h, w)`` → ``(n, 1280, h / 32, w / 32)``: the stem, then one module per block, then the head.
    """
    width, depth = LITE[name]
    modules: list[nn.Module] = [nn.Sequential(*_conv(3, _STEM, 3, 2, 1, norm))]
    channels = _STEM
    for number, stage in enumerate(_STAGES):
        outputs = _rounded(stage.channels * width)
        fixed = number in (0, len(_STAGES) - 1)
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * depth)):
            stride = stage.stride if repeat == 0 else 1
            modules.append(MBConv(channels, outputs, stage.kernel, stride, stage.expansion, norm))
            channels = outputs
    if head:
        modules.append(nn.Sequential(*_conv(channels, _HEAD, 1, 1, 1, norm)))
    return nn.Sequential(*modules)


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int, norm: Norm) -> list[nn.Module]:
    layers: list[nn.Module] = []
    padding = kernel // 2
    if stride == 2:
        layers.append(nn.ZeroPad2d((padding - 1, padding, padding - 1, padding)))
        padding = 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [*layers, conv, norm(outputs), nn.ReLU6(inplace=True)]


def _rounded(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of the divisor, but not down by more than a tenth."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
