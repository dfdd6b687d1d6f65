"""Where time goes: the parts of the work tell how long they took, if anyone listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time

Listener = Callable[[str, float, float], None]
"""Is told the name of a part, its seconds, and for how many of them a core computed, from whatever thread did it.

What that thread had others compute is in the former alone, as is its waiting.
"""

_listeners: list[Listener] = []


@contextmanager
def part(name: str) -> Iterator[None]:
    """A part of the work; costs about a microsecond while nobody listens.

    >>> told = []
    >>> with listening(lambda name, seconds, cpu_s: told.append(name)), part("decode"):
    ...     pass
    >>> told
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
            listener(name, wall_s, cpu_s)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Listen to all parts of this process, in every thread, for as long as the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
