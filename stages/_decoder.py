"""A process that decodes photos for another: ``python -m stages._decoder``, started by :mod:`stages.isolation`.

Requests come on standard input, a line of JSON each, followed by the photo's bytes where it has no path; answers go to
standard output, a line of JSON each, with the pixels in a file that both have open. It ends with its input, and never
runs what it reads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from stages import images
from stages.errors import ImageError

_RETAINED: Final = 150_000_000
"""A process that has kept more of what photos took is ended, so that each photo has as much as any other."""

_first_size = 0


def main() -> None:
    """Answer until there are no more requests."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    _one_thread_each()
    _limit_memory(int(sys.argv[1]))
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        _answer(json.loads(line), requests, answers, int(sys.argv[2]))
        answers.flush()
    os._exit(0)  # nothing is left to do, and taking a process down piece by piece takes time


def _write(data: memoryview, file: int) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(file, data[at:], at)


def _answer(asked: dict[str, Any], requests: BinaryIO, answers: BinaryIO, pixels: int) -> None:
    data = b"" if asked["bytes"] is None else requests.read(asked["bytes"])
    if hasattr(signal, "alarm"):
        signal.alarm(asked["alarm_s"])  # for when whoever asked is no longer there to end this
    try:
        photo = images.decode_here(asked["path"] or data, asked["at_least_px"], asked["max_pixels"])
    except ImageError as error:
        told: dict[str, Any] = {"error": str(error)}
    except MemoryError:
        told = {"error": images.NO_MEMORY}
    else:
        height, width, _ = photo.image.shape
        told = {"full": (photo.width, photo.height), "size": (width, height)}
        _write(photo.image.data.cast("B"), pixels)
        del photo
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    told["spent"] = _size() - _first_size > _RETAINED
    answers.write(json.dumps(told).encode() + b"\n")


def _size() -> int:
    """The bytes of the process, where the system tells; 0 elsewhere."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _one_thread_each() -> None:
    """There are as many processes as cores, and threads take address space."""
    with suppress(ImportError):
        from PIL import AvifImagePlugin  # noqa: PLC0415

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif  # noqa: PLC0415

        pillow_heif.options.DECODE_THREADS = 1


def _limit_memory(more: int) -> None:
    """Let the process grow by so many bytes and no more, where the system can."""
    global _first_size  # noqa: PLW0603  one for the process
    _first_size = _size()
    try:
        import resource  # noqa: PLC0415
    except ImportError:
        return
    if not _first_size:
        return
    limit = _first_size + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
