"""Fair times on a busy machine: the candidates take turns, and medians are told."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
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

    In each round every candidate is given the same batches, one batch after the other and each to all of them before
    the next, in an order that is drawn anew each time; one that has used up ``most_s`` sits out the rest of the round.
    A first call to each is not counted.
    """
    times: dict[str, Times] = {name: [] for name in candidates}
    draw = Random(0)  # noqa: S311  turns, not secrets
    for search in candidates.values():
        search(batches[0])
    for _ in range(rounds):
        for own in times.values():
            own.append([])
        for batch in batches:
            for name in draw.sample(list(candidates), len(candidates)):
                took = times[name][-1]
                if sum(took) <= most_s:
                    took.append(timed(partial(candidates[name], batch))[1])
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


def peak_bytes() -> int | None:
    """The most memory that this process has had in use; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    # not getrusage's: a process inherits that from the one that started it
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def resident_bytes() -> int | None:
    """The memory that this process has in use, garbage collected first; None where the system does not tell."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
