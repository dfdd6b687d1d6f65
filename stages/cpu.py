"""Fast inference on a processor: threads, memory, precision, and convolutions fused with what follows them.

Nothing here changes results beyond rounding, and no result depends on the batch that its input came in. A trick that needs
something of PyTorch or the system that may be missing is checked first, and left out where it is.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import chain, islice, pairwise
from threading import Barrier, RLock
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops.misc import FrozenBatchNorm2d

from stages.cores import limit_thread_to_one_core

T = TypeVar("T")
R = TypeVar("R")

# --- Data parallelism: cores are used better by one part of a batch each than by all of them together, layer by layer. ---

_MAX_THREADS: Final = 4
"""Parts of a batch computed at once, since memory grows with them; further cores are shared among them."""

_pool_lock = RLock()
"""Held while the pool starts, which changes torch's number of threads for a moment."""


def parallel_parts(device: str) -> int:
    """Return how many parts of a batch a device computes at once: up to four on a processor, one elsewhere."""
    with _pool_lock:
        return min(_MAX_THREADS, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


def parallel_map(function: Callable[[T], R], parts: Iterable[T], device: str) -> Iterator[R]:
    """Yield the function's result for each part of a batch in order, several computed at once.

    All callers share the same threads, so that stages which compute at the same time do not compete for cores. A single part
    is computed by the caller's thread with all cores. Few parts are taken before their turn.

    Args:
        function: computes with torch on any thread, and sets what is local to a thread, such as inference mode.
        parts: of one batch.
        device: where the function computes.
    """
    remaining = iter(parts)
    first = list(islice(remaining, 2))
    at_once = parallel_parts(device)
    if len(first) < 2 or at_once < 2:
        yield from map(function, chain(first, remaining))
        return
    pool = _thread_pool()
    pending: deque[Future[R]] = deque()
    try:
        for part in chain(first, remaining):
            pending.append(pool.submit(function, part))
            if len(pending) > at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def run_in_turn(function: Callable[[], R]) -> R:
    """Run a short function on one of the threads that compute batches, when one is free, rather than beside them."""
    return _thread_pool().submit(function).result() if parallel_parts("cpu") > 1 else function()


def batch_sizes(count: int, most: int) -> list[int]:
    """Divide a batch: as many parts of ``most`` as possible, then powers of two.

    oneDNN compiles and keeps kernels for each size that it meets: with arbitrary sizes, memory grows for hundreds of batches.

    >>> batch_sizes(23, 8)
    [8, 8, 4, 2, 1]
    """
    rest = count % most
    return [most] * (count // most) + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def split_batch(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Yield the parts of a batch, of the sizes that :func:`batch_sizes` gives."""
    start = 0
    for size in batch_sizes(len(items), most):
        yield items[start : start + size]
        start += size


def _thread_pool() -> ThreadPoolExecutor:
    with _pool_lock:
        threads = parallel_parts("cpu")
        return _start_threads(threads, torch.get_num_threads() // threads)


@cache
def _start_threads(threads: int, cores_each: int) -> ThreadPoolExecutor:
    """Start threads that live as long as the process, each with its share of the cores."""
    before, all_started = torch.get_num_threads(), Barrier(threads)

    def start() -> None:
        torch.get_num_threads()  # the first call copies the process's setting to this thread
        torch.set_num_threads(cores_each)
        limit_thread_to_one_core()
        all_started.wait()

    pool = ThreadPoolExecutor(threads, "outfinder-cpu")
    for started in [pool.submit(start) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(before)  # the threads have changed the process's number too
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_threads.cache_clear)  # a fork has none of its parent's threads


# --- Memory ---

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


@cache
def keep_memory() -> None:
    """Let malloc keep up to half a gigabyte of freed memory for the next batch, where the C library is glibc.

    Otherwise the maps of a network are returned to the system after each layer and asked for again, page by page, which takes
    up to a third as long as computing them.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)
        libc.mallopt(_M_ARENA_MAX, 1)  # so that what one thread frees serves another


class InParts(nn.Module):
    """A network that computes at most ``most`` rows of its input at a time, so that its memory is bounded."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self._most = network, most

    def forward(self, x: Tensor) -> Tensor:
        """Compute all rows."""
        sizes = batch_sizes(len(x), self._most) or [0]
        return torch.cat([self.network(rows) for rows in torch.split(x, sizes)])


def split_first_blocks(blocks: nn.Sequential, count: int, most: int) -> None:
    """Let the first ``count`` blocks, whose maps are the largest, compute at most ``most`` images at a time, in place."""
    blocks[0] = InParts(nn.Sequential(*list(blocks)[:count]), most)
    for place in range(1, count):
        blocks[place] = nn.Identity()


# --- Precision ---


def fast_dtype(device: str) -> torch.dtype:
    """Return what a device multiplies fastest: float16 on CUDA, bfloat16 on a processor that has it, otherwise float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.float16
    if kind == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.6
        has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return torch.float32


class InPrecision(nn.Module):
    """A module that computes in a given type, whatever its input and the surrounding mixed precision are."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self._dtype = fused(module.to(dtype)), dtype

    def forward(self, x: Tensor) -> Tensor:
        """Compute in the given type, which is that of the result too."""
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.module(x.to(self._dtype))
            return out


def in_precision(blocks: nn.Sequential, dtype: torch.dtype, exact: Collection[int] = ()) -> nn.Sequential:
    """Convert each block of a sequence to a type, and those at the places ``exact`` to float32; all are fused."""
    return nn.Sequential(
        *(InPrecision(block, torch.float32 if place in exact else dtype) for place, block in enumerate(blocks))
    )


class FixedBatch(nn.Module):
    """A network that computes ``size`` rows at a time, the last ones filled up with zeros; its result is float32.

    How a matrix product is divided, and so how it rounds, depends on the number of its rows. In float32 that is negligible; in
    bfloat16 and float16 a row would differ visibly with the batch that it came in.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self._size = network, size

    def forward(self, x: Tensor) -> Tensor:
        """Compute all rows."""
        missing = -len(x) % self._size
        filled = torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x
        return torch.cat([self.network(rows).float() for rows in torch.split(filled, self._size)])[: len(x)]


# --- Fewer passes over maps ---


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm that follows a convolution in a ``Sequential`` into it, in place.

    The network computes the same as in evaluation before, and can no longer be trained.
    """
    for sequence in [part for part in network.modules() if isinstance(part, nn.Sequential)]:
        for (_, conv), (name, norm) in pairwise(list(sequence.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                mean, variance = norm.running_mean, norm.running_var
                assert isinstance(mean, Tensor) and isinstance(variance, Tensor)  # noqa: PT018
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
                )
                setattr(sequence, name, nn.Identity())


def fused(block: nn.Module) -> nn.Module:
    """Return a block of MobileNetV2 whose convolutions apply their ReLU6 or add the block's input in the same pass.

    Its maps are wide and its convolutions small, so that another pass over a map takes as long as computing it. The block is
    returned as it is if it has other parts than convolutions and ReLU6, is not on a processor, or PyTorch cannot fuse it.
    The result serves for inference only; batch norms have to be folded before.
    """
    steps = _fusible_steps(block)
    if not steps or steps[0].weight.device.type != "cpu" or not _can_fuse(steps[0].weight.dtype):
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
    """A convolution, followed by a ReLU6 or by the addition of a second argument.

    oneDNN's fused convolutions are what PyTorch's compiler calls; they are called here without compiling.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias, self.relu6 = conv.weight, conv.bias, False
        self._geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        convolve: Any = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
        operands = self.weight, self.bias, *self._geometry
        if addend is not None:
            out: Tensor = convolve.binary(x, addend, *operands, "add", None, None, [], None)
        elif self.relu6:
            out = convolve(x, *operands, "hardtanh", [0.0, 6.0], "")
        else:
            out = convolve(x, *operands, "none", [], "")
        return out


def _fusible_steps(block: nn.Module) -> list[_FusedConv2d]:
    """Return the convolutions of a block in order; none if it has other parts than those and ReLU6."""
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
def _can_fuse(dtype: torch.dtype) -> bool:
    """Return whether PyTorch has oneDNN's fused convolutions for a type here; they are not public, so their results count."""
    conv = nn.Conv2d(2, 2, 3, padding=1, dtype=dtype).requires_grad_(requires_grad=False)
    fused_conv, x = _FusedConv2d(conv), torch.linspace(-9, 9, 32, dtype=dtype).view(1, 2, 4, 4)
    expected = conv(x)
    try:
        plain, added, fused_conv.relu6 = fused_conv(x), fused_conv(x, x), True
        computed = torch.stack([plain, added, fused_conv(x)])
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    expected = torch.stack([expected, expected + x, F.relu6(expected)])
    return torch.allclose(computed.float(), expected.float(), atol=1e-4 if dtype == torch.float32 else 0.2)
