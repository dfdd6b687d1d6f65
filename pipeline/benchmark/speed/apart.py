"""What has to be measured in a process of its own: the most memory it has had, and how soon it answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from pipeline.benchmark.speed.contenders import Setup
from pipeline.benchmark.timing import peak_bytes
from stages.errors import OutfinderError

SEARCH: Final = "from pipeline.cli import main; main()"
TIMES: Final = 3
CHUNK: Final = 24
"""Photos that are looked at in one go."""


def peak_bytes_for(setup: Setup, photos: Sequence[Path]) -> int | None:
    """The most memory that a fresh process has had when it has looked at the photos; None where the system does not tell."""
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        return apart.submit(_peak, setup, photos).result()


def _peak(setup: Setup, photos: Sequence[Path]) -> int | None:
    run = setup.build()
    for start in range(0, len(photos), CHUNK):  # answers are not kept
        run(photos[start : start + CHUNK])
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
