"""What makes a network quick that only looks: batch norms folded into convolutions, and shorter numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from stages.fusing import fused
from stages.parallel import few_sizes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def fast_dtype(device: str) -> torch.dtype:
    """What a device multiplies fastest: float16 on CUDA, bfloat16 on a processor that has it, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.float16
    if kind == "cpu":
        able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


@cache
def keep_memory() -> None:
    """Have malloc keep what is freed, up to half a gigabyte, for the next batch; where malloc is glibc's.

    Else it gives the maps of a network back to the system after each layer and asks for them anew, page by page, which
    takes up to a third as long as computing them.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library: it has its own ways
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)
        libc.mallopt(_M_ARENA_MAX, 1)  # what one thread has freed serves another


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Give each convolution that a batch norm follows in a ``Sequential`` that norm's scale and shift, in place.

    The same values as those of the network in evaluation, without the norms' passes over every map. It cannot be
    trained any more.
    """
    for sequence in [part for part in network.modules() if isinstance(part, nn.Sequential)]:
        for (_, conv), (place, norm) in pairwise(list(sequence.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                mean, variance = norm.running_mean, norm.running_var
                assert isinstance(mean, Tensor) and isinstance(variance, Tensor)  # noqa: PT018
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
                )
                setattr(sequence, place, nn.Identity())


class Shortened(nn.Sequential):
    """A sequence of blocks that only looks, of which some compute in float32 and the others in a shorter type.

    Args:
        blocks: the sequence, which is converted in place; its batch norms are folded.
        exact: the places of those that compute in float32.
        dtype: of the others.
    """

    def __init__(self, blocks: nn.Sequential, exact: Collection[int], dtype: torch.dtype) -> None:
        super().__init__(
            *(_InType(block, torch.float32 if place in exact else dtype) for place, block in enumerate(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float32 in, float32 out."""
        for block in self:
            x = block(x)
        return x.float()


class InParts(nn.Module):
    """A network that looks at some rows of its input after the others: memory does not follow how many there are.

    Args:
        network: of rows that it looks at one by one.
        most: rows at a time.
    """

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self._most = network, most

    def forward(self, x: Tensor) -> Tensor:
        """What the network makes of all rows."""
        sizes = few_sizes(len(x), self._most) or [0]
        return torch.cat([self.network(rows) for rows in torch.split(x, sizes)])


def first_in_parts(blocks: nn.Sequential, count: int, most: int) -> None:
    """Have the first blocks of a sequence look at a few images after the others, in place: theirs are the largest maps."""
    blocks[0] = InParts(nn.Sequential(*list(blocks)[:count]), most)
    for place in range(1, count):
        blocks[place] = nn.Identity()


class _InType(nn.Module):
    """A block in a type of its own, whatever it is given and whatever mixed precision is around it."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.block, self._dtype = fused(block.to(dtype)), dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.block(x.to(self._dtype))
            return out
