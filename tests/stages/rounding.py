"""Coarse arithmetic that depends on the batch, as on a processor that divides products of different sizes differently."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.cpu import _FusedConv2d


def round_by_batch(network: nn.Module) -> None:
    """Change each layer's results within the rounding of their type, in another way for each number of rows."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | _FusedConv2d):
            layer.register_forward_hook(_round)


def _round(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    rows = torch.Generator().manual_seed(len(inputs[0]))
    noise = torch.rand(output.shape, generator=rows) - 0.5
    return (output.float() * (1 + 2 * torch.finfo(output.dtype).eps * noise)).to(output.dtype)
