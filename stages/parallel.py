"""Data parallelism on a processor: each core computes one part of a batch.

A network uses cores better that way than by all of them computing one part together, layer by layer; and stages that
compute at the same time share the same few threads, so that they do not fight for the cores.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import chain, islice
from threading import Barrier, RLock
from typing import Final, TypeVar

import torch

from stages.cores import compute_beside_others

T = TypeVar("T")
R = TypeVar("R")

_MOST: Final = 4
"""Parts at once: memory follows it. Where there are more cores, each part has several."""

_making = RLock()
"""Held while lanes are made, when torch is told another number of threads for a moment."""


def lanes(device: str) -> int:
    """How many parts of a batch a device computes at once: on a processor as many as torch may use threads, at most four."""
    with _making:
        return min(_MOST, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


def side_by_side(function: Callable[[T], R], parts: Iterable[T], device: str) -> Iterator[R]:
    """The function of each part in order, several parts at once; few are taken before their turn.

    A part by itself has all cores.

    Args:
        function: computes with torch, in a thread of its own; what is thread-local, such as inference mode, it sets.
        parts: of one batch.
        device: where the function computes.
    """
    remaining = iter(parts)
    first = list(islice(remaining, 2))
    at_once = lanes(device)
    if len(first) < 2 or at_once < 2:
        yield from map(function, chain(first, remaining))
        return
    pool = _lanes()
    begun: deque[Future[R]] = deque()
    try:
        for each in chain(first, remaining):
            begun.append(pool.submit(function, each))
            if len(begun) > at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def few_sizes(count: int, most: int) -> list[int]:
    """Sizes of the parts of a batch: as many of ``most`` as there are, and powers of two of what is left.

    For each size that a network meets oneDNN compiles and keeps its kernels anew, so with any sizes memory grows for
    hundreds of batches.

    >>> few_sizes(23, 8)
    [8, 8, 4, 2, 1]
    """
    left = count % most
    powers = [1 << bit for bit in reversed(range(left.bit_length())) if left >> bit & 1]
    return [most] * (count // most) + powers


def in_few_sizes(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """A batch in parts, in order, as :func:`few_sizes` has them."""
    start = 0
    for size in few_sizes(len(items), most):
        yield items[start : start + size]
        start += size


def in_turn(function: Callable[[], R]) -> R:
    """The function's result, computed when one of the threads that compute parts of batches is free for it.

    So what is short does not have to share its core with them. It starts no threads of its own where it minds
    :func:`stages.cores.cores_here`.
    """
    return _lanes().submit(function).result() if lanes("cpu") > 1 else function()


def _lanes() -> ThreadPoolExecutor:
    """The processor's threads."""
    with _making:
        at_once = lanes("cpu")
        return _pool(at_once, torch.get_num_threads() // at_once)


@cache
def _pool(threads: int, cores_each: int) -> ThreadPoolExecutor:
    """Threads that live as long as the process, each of which tells torch how many cores it has."""
    before, all_there = torch.get_num_threads(), Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the process's number when it first needs one; from then on its own counts
        torch.set_num_threads(cores_each)
        compute_beside_others()
        all_there.wait()

    pool = ThreadPoolExecutor(threads, "outfinder-lane")
    for started in [pool.submit(begin) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(before)  # which is the process's number too
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along
