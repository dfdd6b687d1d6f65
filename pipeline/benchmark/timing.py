"""Fair times on a busy machine: the candidates take turns, and medians are told."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")
B = TypeVar("B")

Times = list[list[float]]
"""Seconds of each batch, round by round."""


def take_turns(
    candidates: Mapping[str, Callable[[B], object]], batches: Sequence[B], rounds: int, most_s: float = 2.0
) -> dict[str, Times]:
    """The seconds that each candidate takes for each batch.

    In each round every candidate goes over the same batches, as many as it can begin in ``most_s``, in an order
    that turns from round to round. A first call to each is not counted.
    """
    times: dict[str, Times] = {name: [] for name in candidates}
    names = list(candidates)
    for name in names:
        candidates[name](batches[0])
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_one_pass(candidates[name], batches, most_s))
    return times


def middle(times: Times) -> float:
    """The median of all batches, in seconds."""
    return median(took for one_round in times for took in one_round)


def slower_pct(times: Times, than: Times) -> float:
    """By how many percent the same batch takes longer than another candidate in the same round: the median.

    >>> slower_pct([[1.1, 2.4], [3.3]], [[1.0, 2.0], [3.0]])
    10.0
    """
    ratios = [
        ours / other
        for own_round, other_round in zip(times, than, strict=True)
        for ours, other in zip(own_round, other_round, strict=False)  # one of them may have run out of time
    ]
    return round(100 * (median(ratios) - 1), 1)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its seconds."""
    start = perf_counter()
    result = call()
    return result, perf_counter() - start


def resident_bytes() -> int | None:
    """The memory that this process has in use, garbage collected first; None where the system does not tell."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _one_pass(search: Callable[[B], object], batches: Sequence[B], most_s: float) -> list[float]:
    took: list[float] = []
    start = perf_counter()
    for batch in batches:
        before = perf_counter()
        if took and before - start > most_s:
            break
        search(batch)
        took.append(perf_counter() - before)
    return took
