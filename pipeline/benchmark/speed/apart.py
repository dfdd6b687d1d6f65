"""What has to be measured in processes of their own: each contender, as its user would run it, and how soon the command answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Thread
from time import perf_counter, process_time
from typing import Final, NamedTuple, TypeVar

from pipeline.benchmark.speed.contenders import Answer, Contender, Setup
from pipeline.benchmark.timing import peak_bytes
from stages.errors import OutfinderError
from stages.parts import listening

SEARCH: Final = "from pipeline.cli import main; main()"
TIMES: Final = 3

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Turn:
    """A contender's answers to some photos, and what they took its process: wall and CPU seconds, seconds of each part.

    ``search_cpu_s`` is for how long a core computed in the part ``search``: where the networks have lanes, one does it
    all, in an index as large as the benchmark's.
    ``peak_bytes`` is the most memory that the process has had until then; None where the system does not tell.
    """

    answers: list[Answer]
    wall_s: float
    cpu_s: float
    parts: dict[str, float]
    search_cpu_s: float
    peak_bytes: int | None

    @property
    def per_s(self) -> float:
        """Photos per second."""
        return len(self.answers) / self.wall_s


class Living(NamedTuple):
    """A contender that lives: it looks at photos whenever it is its turn, or for the sake of the memory that it takes."""

    turn: Callable[[Sequence[Path]], Turn]
    peak_bytes: Callable[[Sequence[Path]], int | None]


@contextmanager
def apart(setup: Setup) -> Iterator[Living]:
    """A contender in a process of its own, with nobody's settings of memory and threads but its own.

    The process loads all that it needs at the first turn, idles between turns, and ends with the block, at once, or
    with this process, however that ends. A turn raises whatever goes wrong in it.

    Raises:
        OutfinderError: of a turn: the process has come to an end.
    """

    def there(task: Callable[[Setup, Sequence[Path]], R], photos: Sequence[Path]) -> R:
        try:
            return pool.submit(task, setup, photos).result()
        except BrokenProcessPool as error:
            raise OutfinderError(f"the process of {setup.name} has ended; was there too little memory?") from error

    spawn = get_context("spawn")
    leash, held = spawn.Pipe(duplex=False)
    with leash, ProcessPoolExecutor(1, spawn, _on_leash, (leash,)) as pool, held:
        yield Living(partial(there, take_turn), partial(there, take_memory))


def _on_leash(leash: Connection) -> None:
    """End this process as soon as the other end of the leash is let go; Ctrl-C is for whoever holds it."""

    def end() -> None:
        with suppress(EOFError, OSError):
            leash.recv_bytes()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=end, daemon=True).start()


@cache
def _built(setup: Setup) -> Contender:
    return setup.build()


def take_turn(setup: Setup, photos: Sequence[Path]) -> Turn:
    """A turn within this process; the first one loads what the contender needs, which is not counted."""
    run = _built(setup)
    parts, cpu_parts = defaultdict[str, float](float), defaultdict[str, float](float)

    def listen(name: str, seconds: float, cpu_s: float) -> None:
        parts[name] += seconds
        cpu_parts[name] += cpu_s

    with listening(listen):
        cpu, wall = process_time(), perf_counter()
        answers = list(run(photos))
        wall_s, cpu_s = perf_counter() - wall, process_time() - cpu
    return Turn(answers, wall_s, cpu_s, parts, cpu_parts["search"], peak_bytes())


def take_memory(setup: Setup, photos: Sequence[Path]) -> int | None:
    """The most memory that this process has had when it has looked at all photos in one go, keeping no answer."""
    deque(_built(setup)(photos), maxlen=0)
    return peak_bytes()


def seconds_to_first_result(gallery: Path, photo: Path) -> float:
    """Seconds of ``outfinder search`` until its first line is there, beyond those of importing torch: medians."""
    imports = [_seconds_to_line("import torch; print()") for _ in range(TIMES)]
    searches = [_seconds_to_line(SEARCH, "search", str(gallery), str(photo)) for _ in range(TIMES)]
    return median(searches) - median(imports)


def _seconds_to_line(code: str, *arguments: str) -> float:
    start = perf_counter()
    with subprocess.Popen(  # noqa: S603  this very Python
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr  # noqa: PT018
        line = process.stdout.readline()
        took = perf_counter() - start
        _, told = process.communicate()
    if not line:
        raise OutfinderError(f"outfinder search gave no result: {told.strip().splitlines()[-1:]}")
    return took
