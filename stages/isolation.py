"""Decoding in processes of their own: a photo that makes its decoder crash, hang or fill the memory costs its own result.

::

    with isolated():
        for analysis in pipeline(walk(["photos"])):
            ...

Within, whatever reads a photo by :mod:`stages.images`, on whichever thread, has it decoded by a process that is ended
when it takes too long, cannot take more memory than it is given, and may die; another one takes its place.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Final

from stages._worker import Decoded, Worker
from stages.cores import cores
from stages.errors import ImageError, StageError

TIME_S: Final = 60.0
"""How long a photo may take to be read and decoded; a hundred megapixels take some ten seconds."""

_AHEAD: Final = 2
_GRACE_S: Final = 30.0


class _Pool:
    """Decoding processes, as many as there are cores at most, started when they are needed."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._peak = 0
        self._lock = Lock()
        self._places = BoundedSemaphore(max(_AHEAD, cores()))

    def start(self, count: int) -> None:
        """Have so many idle processes, so that the first photos need not wait for them."""
        with self._lock:
            while len(self._idle) < count:
                self._idle.append(Worker())

    def __call__(self, request: dict[str, Any], data: bytes | None, time_s: float) -> Decoded:
        with self._places:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None or not worker.alive:
                if worker is not None:
                    worker.stop()
                worker = Worker()
            try:
                decoded = worker(request, data, time_s)
            except ImageError:
                self._put_back(worker)
                raise
            except BaseException:  # Ctrl-C within: what it would answer next is not what is asked next
                worker.stop()
                raise
            self._put_back(worker)
            return decoded

    def _put_back(self, worker: Worker) -> None:
        if worker.alive:
            with self._lock:
                self._idle.append(worker)
        else:
            self._peak = max(self._peak, worker.peak_bytes)
            worker.stop()

    @property
    def peak_bytes(self) -> int:
        """The most memory that an idle process has, or one that was ended for having kept much."""
        with self._lock:
            return max(self._peak, *(worker.peak_bytes for worker in self._idle), 0)

    def stop(self) -> None:
        """End all idle processes."""
        with self._lock:
            for worker in self._idle:
                worker.stop()
            self._idle.clear()


_pool = _Pool()
_parents: list[_Pool] = []
_time_s: list[float] = []  # of the isolations that are in force, the innermost last


@contextmanager
def isolated(time_s: float = TIME_S) -> Iterator[None]:
    """Have photos decoded in processes of their own, for as long as the context lasts; on Windows it changes nothing.

    Args:
        time_s: how long a photo may take.

    Where no process can be started, reading a photo is a :class:`~stages.errors.StageError`.
    """
    with suppress(StageError):  # which whoever reads a photo is told
        if os.name == "posix":
            _pool.start(_AHEAD)
    _time_s.append(time_s)
    try:
        yield
    finally:
        _time_s.remove(time_s)


def decoder() -> Callable[[str | os.PathLike[str] | bytes, int | None, int | None], Decoded] | None:
    """What decodes a path or bytes in another process; None where isolation is not in force."""
    return _decode if _time_s and os.name == "posix" else None


def _decode(source: str | os.PathLike[str] | bytes, at_least_px: int | None, max_pixels: int | None) -> Decoded:
    time_s = _time_s[-1] if _time_s else TIME_S
    data = source if isinstance(source, bytes) else None
    request = {
        "path": None if isinstance(source, bytes) else str(Path.cwd() / source),
        "bytes": None if data is None else len(data),
        "at_least_px": at_least_px,
        "max_pixels": max_pixels,
        "alarm_s": int(time_s + _GRACE_S),
    }
    return _pool(request, data, time_s)


def _forget() -> None:
    """In a child: the parent's processes answer the parent, and are the parent's to end."""
    global _pool  # noqa: PLW0603  one for the process
    _parents.append(_pool)
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def peak_bytes() -> int:
    """The most memory that one of the processes which wait for a photo has had; 0 where the system does not tell."""
    return _pool.peak_bytes


@atexit.register
def stop() -> None:
    """End the processes that wait for a photo; they start again when there is one."""
    _pool.stop()
