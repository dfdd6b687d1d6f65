"""Read a corpus of hostile files and report the outcomes by kind, and the peak memory.

``python scripts/hostile.py`` makes the corpus of ``tests/hostile``, with more flipped bits than the tests have time for,
reads each file as the commands do, in a decoding process, and walks a folder of 100,000 entries. It prints a table; the
exit status is 1 if a file crashed or hung the reader, gave a wrong picture, or took more than 1 GB.
"""

from __future__ import annotations

import resource
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

MOST_BYTES = 1_000_000_000


@click.command()
@click.option("--flips", default=300, show_default=True, help="Files with flipped bits per format.")
@click.option("--entries", default=100_000, show_default=True, help="Files in the large folder.")
def main(flips: int, entries: int) -> None:
    """Read the hostile corpus and print the outcomes."""
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
    sys.exit(1 if bad or peak > MOST_BYTES or walked != entries // 2 else 0)


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
