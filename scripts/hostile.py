"""Run every attack of ``tests/hostile``, read a corpus of hostile photos, and print the figures.

``make hostile``, or ``python scripts/hostile.py``, runs the slow tests too: kills and errors at every call that changes a
gallery's file, power failures, readers during saves, slow uploads, raw requests, hostile bodies and filters, and script
payloads in Chromium. Then it makes the corpus of photos, with more flipped bits than the tests have time for, reads each
file as the commands do, in a decoding process, and walks a folder of 100,000 entries. It takes about half an hour; the
exit status is 1 if anything got through: a test that fails, or a file that crashed or hung the reader, gave a wrong
picture, or took more than 1 GB. ``--photos`` reads the photos alone.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "hostile"))

from corpus import corpus, large
from judging import GOOD, Outcome, judge

from stages import decode_pool
from stages.images import walk

ROOT = Path(__file__).parent.parent
MOST_BYTES = 1_000_000_000


@click.command()
@click.option("--flips", default=300, show_default=True, help="Files with flipped bits per format.")
@click.option("--entries", default=100_000, show_default=True, help="Files in the large folder.")
@click.option("--fuzz", default=80, show_default=True, help="Generated inputs for each kind of file.")
@click.option("--photos", is_flag=True, help="Read the photos alone.")
def main(flips: int, entries: int, fuzz: int, photos: bool) -> None:
    """Attack, and print what was tried and what came of it."""
    attacked = 0 if photos else _attack(fuzz)
    counts: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    slowest, bad = 0.0, list[str]()
    with tempfile.TemporaryDirectory() as folder, decode_pool.isolated():
        for number, case in enumerate(chain(corpus(flips), large())):
            path = Path(folder) / str(number) / case.name
            path.parent.mkdir()
            case.make(path)
            start = time.monotonic()
            outcome, reason = judge(case, path)
            slowest = max(slowest, time.monotonic() - start)
            counts[case.kind][outcome] += 1
            if outcome not in GOOD:
                bad.append(f"{case.kind}: {case.name!r}: {outcome}: {reason}")
            if path.is_file() and not path.is_symlink():
                path.unlink()
        walked, walking_s = _large_folder(Path(folder) / "large", entries)
    decode_pool.stop()
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    _print(counts)
    print(f"a folder of {entries} entries: {walked} photos found in {walking_s:.1f} s")
    print(f"peak memory of a decoding process: {peak / 1e6:.0f} MB; the slowest file took {slowest:.1f} s")
    print(*bad, sep="\n")
    sys.exit(1 if attacked or bad or peak > MOST_BYTES or walked != entries // 2 else 0)


def _attack(fuzz: int) -> int:
    """Run the tests, the slow ones included, but for those that read the same photos; return their exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and tests send it
    which = ["-m", "slow or not slow", "-p", "no:cacheprovider", "tests/hostile"]
    command = [sys.executable, "-m", "pytest", "-q", *which]
    for name in ("test_many_flipped_bits_and_the_largest_photos", "test_a_folder_of_a_hundred_thousand_entries"):
        command += ["--deselect", f"tests/hostile/test_corpus.py::{name}"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"FUZZ": str(fuzz)}, check=False).returncode  # noqa: S603


def _print(counts: dict[str, Counter[Outcome]]) -> None:
    total: Counter[Outcome] = sum(counts.values(), Counter())
    print(f"| inputs | {' | '.join(['tried', *Outcome])} |")
    print("|---" * (2 + len(Outcome)) + "|")
    for kind, found in [*counts.items(), ("all", total)]:
        print(f"| {kind} | {' | '.join(str(count) for count in (found.total(), *(found[one] for one in Outcome)))} |")


def _large_folder(folder: Path, entries: int) -> tuple[int, float]:
    """Return the number of photos that a walk finds among entries of which half are photos, and its seconds."""
    folder.mkdir()
    for number in range(entries):
        (folder / f"{number}.{'jpg' if number % 2 else 'txt'}").touch()
    start = time.monotonic()
    return sum(1 for _ in walk([folder])), time.monotonic() - start


if __name__ == "__main__":
    main()
