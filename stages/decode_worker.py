"""The worker process of :mod:`stages.decode_pool`: decodes photos until its standard input ends.

A request is a line of JSON on standard input, followed by the photo's bytes if it has no path; an answer is a line of JSON on
standard output, its pixels in a file that both processes have open.
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

_MAX_KEPT_BYTES: Final = 150_000_000
"""A worker that keeps more of the memory of its photos is replaced, so that each photo has as much as any other."""


def main() -> None:
    """Answer until there are no more requests."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not an answer
    max_growth, shared = map(int, sys.argv[1:3])
    _decode_on_one_thread()
    size_at_start = _size()
    _limit_memory(size_at_start, max_growth)
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        answer = _answer(json.loads(line), requests, shared)
        answer["reusable"] = _size() - size_at_start <= _MAX_KEPT_BYTES
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
    os._exit(0)  # there is nothing to clean up, and doing so takes time


def _answer(request: dict[str, Any], requests: BinaryIO, shared: int) -> dict[str, Any]:
    data = requests.read(request["bytes"])
    signal.alarm(request["alarm_s"])  # in case the parent has been killed and cannot kill this process
    try:
        photo = images.decode_in_process(request["path"] or data, request["at_least_px"], request["max_pixels"])
    except ImageError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": images.OUT_OF_MEMORY}
    finally:
        signal.alarm(0)
    rest, position = photo.image.data.cast("B"), 0
    while position < len(rest):
        position += os.pwrite(shared, rest[position:], position)
    height, width, _ = photo.image.shape
    return {"full_size": (photo.width, photo.height), "size": (width, height)}


def _size() -> int:
    """Return the bytes of this process; 0 where the system does not tell."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def _decode_on_one_thread() -> None:
    """There are as many workers as cores, and threads take address space."""
    with suppress(ImportError):
        from PIL import AvifImagePlugin  # noqa: PLC0415

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif  # noqa: PLC0415

        pillow_heif.options.DECODE_THREADS = 1


def _limit_memory(size: int, max_growth: int) -> None:
    """Let this process grow by so many bytes and no more, where the system can limit that."""
    try:
        import resource  # noqa: PLC0415  not on Windows
    except ImportError:
        return
    if size:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = size + max_growth if hard == resource.RLIM_INFINITY else min(size + max_growth, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
