"""Convolutions that do what follows them in the same pass: their ReLU6, or adding the block's input.

MobileNetV2's maps are wide and its convolutions small, so that on a processor walking over a map once more takes as
long as computing it. PyTorch's compiler calls oneDNN's fused convolutions; here they are called without compiling.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.mobilenetv2 import InvertedResidual


def fused(block: nn.Module) -> nn.Module:
    """A block of MobileNetV2 without batch norms, in fewer passes; as it is where that cannot be had.

    The same values but for rounding. It can only look: on a processor, and without gradients.
    """
    steps = _steps(block)
    if not steps or steps[0].weight.device.type != "cpu" or not _can_fuse():
        return block
    return _FusedBlock(steps, residual=isinstance(block, InvertedResidual) and block.use_res_connect)


class _FusedBlock(nn.Module):
    def __init__(self, steps: list[_FusedConv2d], *, residual: bool) -> None:
        super().__init__()
        self.steps, self._residual = nn.ModuleList(steps), residual

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for step in self.steps[:-1]:
            out = step(out)
        last: Tensor = self.steps[-1](out, x if self._residual else None)
        return last


class _FusedConv2d(nn.Module):
    """A convolution and perhaps a ReLU6; or, with a second argument, a convolution that is added to that."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.relu6 = conv.weight, conv.bias, False
        self._how = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        convolve: Any = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
        if added is not None:
            found: Tensor = convolve.binary(x, added, self.weight, self.bias, *self._how, "add", None, None, [], None)
        elif self.relu6:
            found = convolve(x, self.weight, self.bias, *self._how, "hardtanh", [0.0, 6.0], "")
        else:
            found = convolve(x, self.weight, self.bias, *self._how, "none", [], "")
        return found


def _steps(block: nn.Module) -> list[_FusedConv2d]:
    """The convolutions of a block in their order; none where it has other parts than those and ReLU6."""
    steps: list[_FusedConv2d] = []
    for part in block.modules():
        if isinstance(part, nn.Conv2d) and isinstance(part.padding, tuple) and part.padding_mode == "zeros":
            steps.append(_FusedConv2d(part))
        elif isinstance(part, nn.ReLU6) and steps and not steps[-1].relu6:
            steps[-1].relu6 = True
        elif not isinstance(part, nn.Identity | nn.Sequential | InvertedResidual):
            return []
    return steps


@cache
def _can_fuse() -> bool:
    """Whether this PyTorch has the operators, which it does not promise, and they do as is expected of them here."""
    conv = nn.Conv2d(2, 2, 3, padding=1).requires_grad_(requires_grad=False)
    own, x = _FusedConv2d(conv), torch.linspace(-9, 9, 32).view(1, 2, 4, 4)
    wanted = conv(x)
    try:
        as_is, added, own.relu6 = own(x), own(x, x), True
        found = torch.stack([as_is, added, own(x)])
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.allclose(found, torch.stack([wanted, wanted + x, F.relu6(wanted)]), atol=1e-4)
