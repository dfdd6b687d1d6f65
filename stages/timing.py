"""Timing of the steps of a run, reported to listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time

Listener = Callable[[str, float, float], None]
"""Receives the name of a step, its wall-clock seconds and the CPU seconds of its thread."""

_listeners: list[Listener] = []


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Time a step and report it to all listeners; costs about a microsecond if there are none.

    >>> steps = []
    >>> with listening(lambda step, wall_s, cpu_s: steps.append(step)), timed("decode"):
    ...     pass
    >>> steps
    ['decode']
    """
    if not _listeners:
        yield
        return
    cpu, wall = thread_time(), perf_counter()
    try:
        yield
    finally:
        wall_s, cpu_s = perf_counter() - wall, thread_time() - cpu
        for listener in tuple(_listeners):
            listener(step, wall_s, cpu_s)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report the steps of all threads to a listener while the context lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
