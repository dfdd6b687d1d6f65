"""A process that decodes photos one after the other, as :mod:`stages.isolation` sees it; within it runs ``stages._decoder``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO, Final, cast

import numpy as np

from stages.errors import ImageError, StageError
from stages.types import Image

MEMORY: Final = 950_000_000
"""In bytes: by how much a decoding process may grow; with what it is made of it stays below 1 GB. (Linux.)"""

_KEPT: Final = 32_000_000
_REUSE: Final = {
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}  # asking anew takes time


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoding process answers: the pixels, and the full-size photo's width and height."""

    image: Image
    width: int
    height: int


class Worker:
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
