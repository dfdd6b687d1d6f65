"""Decoding in worker processes, so that a photo that crashes, hangs or exhausts its decoder costs only its own result.

::

    with isolated():
        for analysis in pipeline(walk(["photos"])):
            ...

Inside the context, every photo that :mod:`stages.images` reads, on any thread, is decoded by a worker process that is killed
when it takes too long, cannot take more memory than it is allowed, and is replaced when it dies. A photo whose worker dies is
tried once more, since the worker may have been killed for another reason; then it is an :class:`~stages.errors.ImageError`.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, BinaryIO, Final, cast

import numpy as np

from stages.cores import cores
from stages.errors import ImageError
from stages.types import Image

TIME_S: Final = 60.0
"""Seconds that reading and decoding a photo may take; a hundred megapixels take about ten."""

MAX_GROWTH: Final = 950_000_000
"""Bytes by which a worker may grow, on Linux; with what it starts from it stays below 1 GB."""

_START_S: Final = 60.0
_ALARM_GRACE_S: Final = 30.0  # after which a worker whose parent was killed ends itself
_IDLE_WORKERS: Final = 2
_KEPT_BYTES: Final = 32_000_000
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),  # keeping freed memory is faster than asking for it again
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
_BOOTSTRAP: Final = "import sys; sys.path += sys.argv[3:]; from stages.decode_worker import main; main()"

Decoded = tuple[Image, int, int]
"""An image, and the width and height of the full-size photo."""


class _Worker:
    """One worker process. Pixels come back through a shared file, which is much faster than a pipe."""

    def __init__(self) -> None:
        self._shared = _shared_file()
        self._reusable = True
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        try:
            self._process = subprocess.Popen(  # noqa: S603  our own code
                [
                    *(sys.executable, "-P", "-S", "-W", "ignore", "-c", _BOOTSTRAP),
                    *(str(MAX_GROWTH), str(self._shared), *_search_path()),
                ],
                pass_fds=[self._shared],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff complains there about what is reported as an error anyway
                env=environment | _ENVIRONMENT,
                process_group=0,  # Ctrl-C is for the parent
            )
        except OSError as error:
            os.close(self._shared)
            raise EOFError(f"no decoder can be started ({error.strerror}; try --no-isolate)") from None
        self._requests = cast("BinaryIO", self._process.stdin)
        self._answers = cast("BinaryIO", self._process.stdout)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._started = False

    @property
    def usable(self) -> bool:
        """Whether it can take another photo: it lives, and has not kept much of the memory of earlier ones."""
        return self._reusable and self._process.poll() is None

    def decode(self, request: dict[str, Any], data: bytes, time_s: float) -> Decoded:
        """Decode one photo.

        Raises:
            ImageError: the photo cannot be used.
            TimeoutError: it takes longer than ``time_s`` seconds.
            EOFError: the process has died; the message says when and how.
        """
        if not self._started and self._answer(_START_S, "as it started") != b"ready\n":
            raise EOFError("its decoder does not start; try --no-isolate")
        self._started = True
        try:
            self._requests.write(json.dumps(request).encode() + b"\n" + data)
            self._requests.flush()
        except OSError:
            raise EOFError(self._why_dead("while it read the photo")) from None
        answer = json.loads(self._answer(time_s, "while it decoded the photo"))
        self._reusable = answer["reusable"]
        if "error" in answer:
            raise ImageError(answer["error"])
        return self._image(*answer["size"]), *answer["full_size"]

    def _answer(self, time_s: float, when: str) -> bytes:
        if not self._poll.poll(1000 * time_s):
            raise TimeoutError
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError(self._why_dead(when))
        return line

    def _image(self, width: int, height: int) -> Image:
        image: Image = np.empty((height, width, 3), np.uint8)
        rest = image.data.cast("B")
        while rest:
            count = os.preadv(self._shared, [rest], image.nbytes - len(rest))
            if not count:
                raise EOFError("its decoder wrote no image")
            rest = rest[count:]
        if image.nbytes > _KEPT_BYTES:
            os.ftruncate(self._shared, 0)
        return image

    def _why_dead(self, when: str) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # its pipe closes a moment before it is gone
        self.kill()
        status = self._process.returncode
        how = f"exit status {status}" if status >= 0 else f"signal {-status}: {signal.strsignal(-status)}".lower()
        return f"its decoder ended {when} ({how}){'' if self._started else '; try --no-isolate'}"

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # what was not sent any more
                pipe.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1


def _search_path() -> list[str]:
    """Return the folders of this package and of the libraries that a worker needs.

    They follow the standard library, which no installed package replaces, and the current folder is not among them.
    """
    specs = map(find_spec, ("stages", "numpy", "PIL", "cv2", "pillow_heif"))
    return list(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin))


def _shared_file() -> int:
    """Return the descriptor of a file without a name, in memory where the system has such files."""
    import fcntl  # noqa: PLC0415  not on Windows

    with os.fdopen(os.memfd_create("outfinder")) if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as file:
        return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)  # not a standard stream's, should one be closed


class _Pool:
    """Worker processes, at most one per core, started when they are needed."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = Lock()
        self._slots = BoundedSemaphore(max(_IDLE_WORKERS, cores()))

    def warm_up(self) -> None:
        """Start some workers, so that the first photos need not wait for them."""
        with self._lock, suppress(EOFError):
            while len(self._idle) < _IDLE_WORKERS:
                self._idle.append(_Worker())

    def decode(self, request: dict[str, Any], data: bytes, time_s: float) -> Decoded:
        """Decode one photo, by a new worker if the first one dies."""
        with self._slots:
            try:
                with suppress(EOFError):
                    return self._try(self._usable_worker(), request, data, time_s)
                return self._try(_Worker(), request, data, time_s)
            except TimeoutError:
                raise ImageError(f"takes longer than {time_s:g} seconds to decode") from None
            except EOFError as error:
                raise ImageError(f"cannot be decoded: {error}") from None

    def _usable_worker(self) -> _Worker:
        with self._lock:
            worker = self._idle.pop() if self._idle else _Worker()
        if worker.usable:
            return worker
        worker.kill()
        return _Worker()

    def _try(self, worker: _Worker, request: dict[str, Any], data: bytes, time_s: float) -> Decoded:
        healthy = False
        try:
            decoded = worker.decode(request, data, time_s)
            healthy = True
        except ImageError:
            healthy = True
            raise
        finally:  # after any other error, Ctrl-C included, its next answer would not be to the next question
            if healthy and worker.usable:
                with self._lock:
                    self._idle.append(worker)
            else:
                worker.kill()
        return decoded

    def stop(self) -> None:
        """End all idle workers."""
        with self._lock:
            for worker in self._idle:
                worker.kill()
            self._idle.clear()


_pool = _Pool()
_parents_pools: list[_Pool] = []
_time_limits: list[float] = []  # of the contexts that are active, the innermost last


@contextmanager
def isolated(time_s: float = TIME_S) -> Iterator[None]:
    """Decode photos in worker processes for as long as the context lasts; without effect on Windows.

    Args:
        time_s: seconds that a photo may take.
    """
    if os.name == "posix":
        _pool.warm_up()
    _time_limits.append(time_s)
    try:
        yield
    finally:
        _time_limits.remove(time_s)


def is_isolated() -> bool:
    """Return whether photos are decoded in worker processes now."""
    return bool(_time_limits) and os.name == "posix"


def decode(source: str | os.PathLike[str] | bytes, at_least_px: int | None, max_pixels: int | None) -> Decoded:
    """Decode a file or its bytes in a worker process, as :func:`stages.images.decode_in_process` does.

    Raises:
        ImageError: it cannot be used, takes too long, or two workers died of it.
    """
    time_s = _time_limits[-1] if _time_limits else TIME_S
    data = source if isinstance(source, bytes) else b""
    request = {
        "path": None if isinstance(source, bytes) else str(Path.cwd() / source),
        "bytes": len(data),
        "at_least_px": at_least_px,
        "max_pixels": max_pixels,
        "alarm_s": int(time_s + _ALARM_GRACE_S),
    }
    return _pool.decode(request, data, time_s)


@atexit.register
def stop() -> None:
    """End the idle workers; they start again with the next photo."""
    _pool.stop()


def _forget_workers() -> None:
    """Start over in a forked child: the workers answer the parent, which ends them."""
    global _pool  # noqa: PLW0603  one for the process
    _parents_pools.append(_pool)  # so that its pipes are not closed here
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
