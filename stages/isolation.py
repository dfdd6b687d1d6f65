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
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock, Timer
from typing import Any, BinaryIO, Final, cast

import numpy as np

from stages.cores import cores
from stages.errors import ImageError, StageError
from stages.types import Image

MEMORY: Final = 950_000_000
"""In bytes: by how much a decoding process may grow; with what it is made of it stays below 1 GB. (Linux.)"""

TIME_S: Final = 60.0
"""How long a photo may take to be read and decoded; a hundred megapixels take some ten seconds."""

_AHEAD: Final = 2
_KEPT: Final = 32_000_000
_REUSE: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}  # asking anew takes time
_GRACE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoding process answers: the pixels, and the full-size photo's width and height."""

    image: Image
    width: int
    height: int


class _Worker:
    """A decoding process."""

    def __init__(self) -> None:
        root = str(Path(__file__).parent.parent)
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._pixels = _shared_file()
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"} | _REUSE
        try:
            self._process = subprocess.Popen(  # noqa: S603  ourselves
                [sys.executable, "-P", "-W", "ignore", "-m", "stages._decoder", str(MEMORY), str(self._pixels)],
                pass_fds=[self._pixels],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff complains there, of what is told as an error anyway
                env=os.environ | threads | {"PYTHONPATH": paths},
                process_group=0,  # Ctrl-C is for whoever asked
            )
        except OSError as error:
            os.close(self._pixels)
            raise StageError(f"no process to decode photos can be started ({error}); try --no-isolate") from error
        self._ready = False
        self._late = self._spent = False

    def __call__(self, request: dict[str, Any], data: bytes | None, time_s: float) -> Decoded:
        """Decode one photo.

        Raises:
            ImageError: it cannot be used, or has ended the process: then another one is needed.
        """
        requests, answers = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        if not self._ready and answers.readline() != b"ready\n":
            raise StageError(
                f"the process that decodes photos ends as it starts ({_ended(self.end())}); try --no-isolate"
            )
        self._ready = True
        timer = Timer(time_s, self._too_late)
        timer.daemon = True
        timer.start()
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            if data is not None:
                requests.write(data)
            requests.flush()
            told = _told(answers)
            self._spent = told["spent"]
            return _decoded(told, self._pixels)
        except (OSError, EOFError):
            timer.cancel()
            status = self.end()
            if self._late:
                raise ImageError(f"takes longer than {time_s:g} seconds to decode") from None
            raise ImageError(f"makes its decoder end ({_ended(status)})") from None
        finally:
            timer.cancel()

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has had, where the system tells: 0 elsewhere."""
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
            return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
        return 0

    @property
    def alive(self) -> bool:
        """Whether it can take another photo."""
        return not self._spent and self._process.poll() is None

    def end(self) -> int:
        """End the process if it has not ended; its exit status."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self._late else 1)  # its pipe is closed a moment before it is gone
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):  # what was not sent any more
                    pipe.close()
        if self._pixels >= 0:
            os.close(self._pixels)
            self._pixels = -1
        return status

    def stop(self) -> None:
        """End it now, whatever it does."""
        self._late = True
        self.end()

    def _too_late(self) -> None:
        self._late = True
        self._process.kill()


class _Pool:
    """Decoding processes, as many as there are cores at most, started when they are needed."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._peak = 0
        self._lock = Lock()
        self._places = BoundedSemaphore(max(_AHEAD, cores()))

    def start(self, count: int) -> None:
        """Have so many idle processes, so that the first photos need not wait for them."""
        with self._lock:
            while len(self._idle) < count:
                self._idle.append(_Worker())

    def __call__(self, request: dict[str, Any], data: bytes | None, time_s: float) -> Decoded:
        with self._places:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None or not worker.alive:
                if worker is not None:
                    worker.stop()
                worker = _Worker()
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

    def _put_back(self, worker: _Worker) -> None:
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


def _told(answers: BinaryIO) -> dict[str, Any]:
    """The line of an answer.

    Raises:
        EOFError: there is no whole one.
    """
    line = answers.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    told: dict[str, Any] = json.loads(line)
    return told


def _decoded(told: dict[str, Any], pixels: int) -> Decoded:
    """What an answer says; the pixels are in a file, which is much faster than a pipe.

    Raises:
        ImageError: it says so.
        EOFError: the file is cut short.
    """
    if "error" in told:
        raise ImageError(told["error"])
    width, height = told["size"]
    image: Image = np.empty((height, width, 3), np.uint8)
    room = image.data.cast("B")
    while room:
        count = os.preadv(pixels, [room], image.nbytes - len(room))
        if not count:
            raise EOFError
        room = room[count:]
    if image.nbytes > _KEPT:
        os.ftruncate(pixels, 0)
    return Decoded(image, *told["full"])


def _shared_file() -> int:
    """The descriptor of a file without a name: in memory where the system has such."""
    import fcntl  # noqa: PLC0415  not on Windows

    with os.fdopen(os.memfd_create("outfinder")) if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as file:
        return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)  # no standard stream's, should one be closed


def _ended(status: int) -> str:
    """How a process has ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"{signal.Signals(-status).name}: {signal.strsignal(-status)}".lower()
    except ValueError:
        return f"signal {-status}"


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
