"""Fast inference on a CPU: threads, memory, precision, and convolutions fused with the operations that follow them.

Nothing in this module changes results beyond rounding, and no result depends on the batch of its input. An optimization that
PyTorch or the system may not support is tested first, and skipped if it fails.
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

# --- Data parallelism: computing one part of a batch per core is faster than sharing each layer among all cores ---

_MAX_THREADS: Final = 4
"""The most parts of a batch that are computed at once, since memory grows with them; they share any further cores."""

_pool_lock = RLock()
"""Held while the pool starts, which temporarily changes torch's number of threads."""


def parallel_parts(device: str) -> int:
    """Return how many parts of a batch a device computes at once: up to four on a CPU, otherwise one."""
    with _pool_lock:
        return min(_MAX_THREADS, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


def parallel_map(function: Callable[[T], R], parts: Iterable[T], device: str) -> Iterator[R]:
    """Yield the function's result for each part of a batch in order, computing several at once.

    All callers share the same threads, so that stages do not compete for cores. A single part is computed by the caller's
    thread with all cores. Only a few parts are consumed ahead. The function computes with torch on any thread, and sets
    thread-local state, such as inference mode, itself.
    """
    remaining = iter(parts)
    first = list(islice(remaining, 2))
    at_once = parallel_parts(device)
    if len(first) < 2 or at_once < 2:
        yield from map(function, chain(first, remaining))
        return
    pool = thread_pool()
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


def batch_sizes(count: int, most: int) -> list[int]:
    """Divide a batch into as many parts of ``most`` as possible, and powers of two.

    oneDNN compiles and caches kernels for each batch size; with arbitrary sizes, memory would grow for hundreds of batches.

    >>> batch_sizes(23, 8)
    [8, 8, 4, 2, 1]
    """
    rest = count % most
    return [most] * (count // most) + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def split_batch(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Yield the parts of a batch, with the sizes of :func:`batch_sizes`."""
    start = 0
    for size in batch_sizes(len(items), most):
        yield items[start : start + size]
        start += size


def thread_pool() -> ThreadPoolExecutor:
    """Return the threads that compute batches, started on first use."""
    with _pool_lock:
        threads = parallel_parts("cpu")
        return _start_threads(threads, torch.get_num_threads() // threads)


@cache
def _start_threads(threads: int, cores_each: int) -> ThreadPoolExecutor:
    """Start threads for the lifetime of the process, each with its share of the cores."""
    before, all_started = torch.get_num_threads(), Barrier(threads)

    def start() -> None:
        torch.get_num_threads()  # the first call on a thread copies the process's setting to it
        torch.set_num_threads(cores_each)
        limit_thread_to_one_core()
        all_started.wait()

    pool = ThreadPoolExecutor(threads, "outfinder-cpu")
    for started in [pool.submit(start) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(before)  # the threads changed the setting of the process too
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_threads.cache_clear)  # a forked process has no threads of its parent


# --- Memory ---

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


@cache
def keep_memory() -> None:
    """Let glibc's malloc keep up to half a gigabyte of freed memory for the next batch.

    Otherwise the maps of a network are returned to the system after each layer and requested again, page by page, which takes
    up to a third of the time of computing them.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 256 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 512 << 20)
        libc.mallopt(_M_ARENA_MAX, 1)  # so that one thread can reuse what another has freed


class InParts(nn.Module):
    """A network that computes at most ``most`` rows of its input at a time, which limits its memory."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self._most = network, most

    def forward(self, x: Tensor) -> Tensor:
        """Compute all rows."""
        sizes = batch_sizes(len(x), self._most) or [0]
        return torch.cat([self.network(rows) for rows in torch.split(x, sizes)])


def split_first_blocks(blocks: nn.Sequential, count: int, most: int) -> None:
    """Limit the first ``count`` blocks, whose maps are the largest, to ``most`` images at a time, in place."""
    blocks[0] = InParts(nn.Sequential(*list(blocks)[:count]), most)
    for place in range(1, count):
        blocks[place] = nn.Identity()


# --- Precision ---


def fast_dtype(device: str) -> torch.dtype:
    """Return the fastest type of a device: float16 on CUDA, bfloat16 on a CPU that supports it, otherwise float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.float16
    if kind == "cpu":
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.6
        has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return torch.float32


class InPrecision(nn.Module):
    """A module that computes in a given type, regardless of its input's type and of mixed precision around it."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self._dtype = fused(module.to(dtype)), dtype

    def forward(self, x: Tensor) -> Tensor:
        """Compute the result in the given type."""
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.module(x.to(self._dtype))
            return out


def in_precision(blocks: nn.Sequential, dtype: torch.dtype, exact: Collection[int] = ()) -> nn.Sequential:
    """Convert each block of a sequence to a type, or to float32 if its index is in ``exact``, and fuse it."""
    return nn.Sequential(
        *(InPrecision(block, torch.float32 if place in exact else dtype) for place, block in enumerate(blocks))
    )


class FixedBatch(nn.Module):
    """A network that computes ``size`` rows at a time, the last ones padded with zeros; its result is float32.

    The rounding of a matrix product depends on its number of rows. In float32 that is negligible, but in bfloat16 and float16
    the result of a row would visibly depend on the batch.
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

    The network computes the same as before in evaluation mode, and can no longer be trained.
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
    """Return a block of MobileNetV2 whose convolutions apply their ReLU6, or add the block's input, in the same pass.

    Its maps are so wide and its convolutions so small that another pass over a map takes as long as computing it. The block
    is returned unchanged if it has parts other than convolutions and ReLU6, is not on a CPU, or PyTorch cannot fuse it.
    The result is for inference only. Batch norms have to be folded first.
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

    It calls the fused convolutions of oneDNN that PyTorch's compiler uses, without compiling.
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
    """Return the convolutions of a block in order; none if it has parts other than convolutions and ReLU6."""
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
    """Return whether PyTorch's fused convolutions, which are not public, give correct results for a type on this CPU."""
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
