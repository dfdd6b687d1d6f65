"""Decoding in worker processes, so that a photo that crashes, hangs or exhausts its decoder loses only its own result.

::

    with isolated():
        for analysis in pipeline(walk(["photos"])):
            ...

Inside the context, every photo that :mod:`stages.images` reads, on any thread, is decoded by a worker process that is killed
when it takes too long, has a memory limit, and is replaced when it dies. A photo whose worker dies is decoded once more, since
the worker may have been killed for another reason; the second time it is an :class:`~stages.errors.ImageError`.

A request is a line of JSON on a worker's standard input, followed by the photo's bytes if it has no path. An answer is a line of
JSON on its standard output; the pixels are in a file that both processes have open, which is much faster than a pipe.
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
from collections.abc import Callable, Iterator
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
"""Bytes by which a worker may grow, on Linux; it stays below 1 GB in all."""

_MAX_KEPT_BYTES: Final = 150_000_000
"""A worker that has not freed more than this is replaced, so that every photo has the same memory to use."""

OUT_OF_MEMORY: Final = "does not fit into memory"

_START_S: Final = 60.0
_ALARM_GRACE_S: Final = 30.0  # added to a photo's time: then a worker whose parent was killed ends itself
_IDLE_WORKERS: Final = 2
_KEPT_BYTES: Final = 32_000_000
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),  # keeping freed memory is faster than asking for it again
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
_BOOTSTRAP: Final = "import sys; sys.path += sys.argv[3:]; from stages.decode_pool import serve; serve()"

Decoded = tuple[Image, int, int]
"""An image, and the width and height of the full-size photo."""


class _Worker:
    """One worker process, as its parent sees it."""

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
                stderr=subprocess.DEVNULL,  # where libtiff repeats the errors that it reports
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
        """Whether it can decode another photo: it is alive, and has freed the memory of earlier ones."""
        return self._reusable and self._process.poll() is None

    def decode(self, request: dict[str, Any], data: bytes, time_s: float) -> Decoded:
        """Decode one photo.

        Raises:
            ImageError: the photo cannot be used.
            TimeoutError: it takes longer than ``time_s`` seconds.
            EOFError: the process died; the message says when and how.
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
            self._process.wait(1)  # its pipe closes a moment before it ends
        self.kill()
        status = self._process.returncode
        how = f"exit status {status}" if status >= 0 else f"signal {-status}: {signal.strsignal(-status)}".lower()
        return f"its decoder ended {when} ({how}){'' if self._started else '; try --no-isolate'}"

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # a request that was not sent completely
                pipe.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1


def _search_path() -> list[str]:
    """Return the folders of this package and of the libraries that a worker needs.

    They come after the standard library, so that no package replaces a part of it, and exclude the current folder.
    """
    specs = map(find_spec, ("stages", "numpy", "PIL", "cv2", "pillow_heif"))
    return list(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin))


def _shared_file() -> int:
    """Return the descriptor of an unnamed file, in memory where the system supports that."""
    import fcntl  # noqa: PLC0415  not on Windows

    with os.fdopen(os.memfd_create("outfinder")) if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as file:
        return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)  # never the number of a closed standard stream


class _Pool:
    """Worker processes, at most one per core, started on demand."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = Lock()
        self._slots = BoundedSemaphore(max(_IDLE_WORKERS, cores()))

    def warm_up(self) -> None:
        """Start some workers, so that the first photos do not wait for them."""
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
        finally:  # after any other error, Ctrl-C included, its next answer would belong to an earlier request
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
    """Decode photos in worker processes while the context lasts, ``time_s`` seconds each at most; no effect on Windows."""
    if os.name == "posix":
        _pool.warm_up()
    _time_limits.append(time_s)
    try:
        yield
    finally:
        _time_limits.remove(time_s)


def is_isolated() -> bool:
    """Return whether photos are currently decoded in worker processes."""
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
    """End the idle workers; new ones start with the next photo."""
    _pool.stop()


def _forget_workers() -> None:
    """Give a forked child its own workers: those of the parent belong to the parent."""
    global _pool  # noqa: PLW0603  one for the process
    _parents_pools.append(_pool)  # keeps its pipes open
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


# --- The worker process ---


def serve() -> None:
    """Decode the photos that are requested on standard input, until it ends."""
    from stages.images import decode_in_process  # noqa: PLC0415  which imports this module; before memory is measured

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not an answer
    max_growth, shared = map(int, sys.argv[1:3])
    _decode_on_one_thread()
    size_at_start = _process_bytes()
    _limit_memory(size_at_start, max_growth)
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        answer = _answer_request(json.loads(line), requests, shared, decode_in_process)
        answer["reusable"] = _process_bytes() - size_at_start <= _MAX_KEPT_BYTES
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
    os._exit(0)  # cleaning up would only take time


def _answer_request(
    request: dict[str, Any], requests: BinaryIO, shared: int, decode_in_process: Callable[..., Any]
) -> dict[str, Any]:
    data = requests.read(request["bytes"])
    signal.alarm(request["alarm_s"])  # in case the parent was killed and cannot kill this process
    try:
        photo = decode_in_process(request["path"] or data, request["at_least_px"], request["max_pixels"])
    except ImageError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": OUT_OF_MEMORY}
    finally:
        signal.alarm(0)
    rest, position = photo.image.data.cast("B"), 0
    while position < len(rest):
        position += os.pwrite(shared, rest[position:], position)
    height, width, _ = photo.image.shape
    return {"full_size": (photo.width, photo.height), "size": (width, height)}


def _process_bytes() -> int:
    """Return the address space of this process in bytes; 0 where the system does not report it."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _decode_on_one_thread() -> None:
    """Limit decoders to one thread: there is a worker per core, and threads use up address space."""
    with suppress(ImportError):
        from PIL import AvifImagePlugin  # noqa: PLC0415

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif  # noqa: PLC0415

        pillow_heif.options.DECODE_THREADS = 1


def _limit_memory(size: int, max_growth: int) -> None:
    """Limit the growth of this process to ``max_growth`` bytes, where the system supports that."""
    try:
        import resource  # noqa: PLC0415  not on Windows
    except ImportError:
        return
    if size:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = size + max_growth if hard == resource.RLIM_INFINITY else min(size + max_growth, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
