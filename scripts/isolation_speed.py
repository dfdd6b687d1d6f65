"""Measure what decoding in separate processes costs: photos per second and CPU time per photo, with and without.

``python scripts/isolation_speed.py PHOTO...`` (files or folders) reads the photos on two threads, as the pipeline does,
alternately with and without, and prints medians; run it on an idle machine.
"""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter

import click

from stages import decode_pool
from stages.images import read_photo, walk


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--px", default=640, show_default=True, help="Least long side to decode to.")
@click.option("--threads", default=2, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--most", default=200, show_default=True, help="Photos, at most.")
def main(photos: tuple[Path, ...], px: int, threads: int, turns: int, most: int) -> None:
    """Print photos per second and CPU milliseconds per photo."""
    paths = [path for path, _ in zip(walk(photos), range(most), strict=False)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    busy: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(turns + 1):
        for isolate in (True, False):
            wall, cpu = _turn(paths, px, threads, isolate=isolate)
            if turn:  # the first one warms up
                seconds[isolate].append(wall)
                busy[isolate].append(cpu)
    for isolate, name in ((True, "isolated"), (False, "in this process")):
        rate, each = len(paths) / median(seconds[isolate]), 1000 * median(busy[isolate]) / len(paths)
        print(f"{name}: {rate:.1f} photos/s, {each:.2f} ms of CPU time each, {len(paths)} photos")
    print(f"isolation costs {100 * (median(busy[True]) / median(busy[False]) - 1):+.1f} % of CPU time,"
          f" {100 * (1 - median(seconds[False]) / median(seconds[True])):+.1f} % of throughput")  # fmt: skip


def _turn(paths: list[Path], px: int, threads: int, *, isolate: bool) -> tuple[float, float]:
    """Return wall and CPU seconds for all photos, without starting the processes."""
    _, start = _read(paths[: 2 * threads], px, threads, isolate=isolate)
    wall, cpu = _read(paths, px, threads, isolate=isolate)
    return wall, cpu - start


def _read(paths: list[Path], px: int, threads: int, *, isolate: bool) -> tuple[float, float]:
    before = _cpu()
    with decode_pool.isolated() if isolate else nullcontext(), ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda path: read_photo(path, px), paths[: 2 * threads]))
        start = perf_counter()
        list(pool.map(lambda path: read_photo(path, px), paths))
        wall = perf_counter() - start
    decode_pool.stop()  # processes that have ended are counted
    return wall, _cpu() - before


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
