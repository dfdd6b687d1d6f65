"""Does a gallery harm: run as a script in a process of its own, it forks a child for each fault and tells what came of it.

``python gallery_faults.py FAULT FOLDER [every]`` prints a JSON line. A forked child starts from what is on disk, as a
fresh process does. Chunks and the index are made small, so that small galleries have many of the one and the other.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

import pipeline.gallery.arrays as arrays_module
import pipeline.gallery.searcher as searcher_module
from pipeline.gallery import Gallery, Row
from pipeline.integrity import verify
from stages.crop import BoxCrop
from stages.errors import GalleryError, OutfinderError
from stages.testing import FakeEmbedder
from stages.types import Box, Vectors

TYPED, OTHER, WRONG = 3, 4, 5
"""Exit statuses of children: an error of outfinder's, any other, and results that are not right."""


def row(item: int, photo: int, price: int = 0) -> Row:
    return Row(f"i{item}", f"p{photo}", f"sha{photo}", "fake", "top", 0.9, Box(0, 0, 5, 5), (("price", str(price)),))


def vectors(*seeds: int) -> Vectors:
    rows = np.array([np.random.default_rng(seed).normal(size=49) for seed in seeds], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make(folder: Path) -> None:
    gallery = Gallery.create(folder, FakeEmbedder(), BoxCrop())
    gallery.add([row(number // 2, number) for number in range(24)], vectors(*range(24)))
    gallery.save()
    gallery.add([row(20, 40)], vectors(40))
    gallery.remove(["i3"])
    gallery.save()


def change(folder: Path) -> None:
    """Every kind of change in one save: files are merged, the index is written anew."""
    gallery = Gallery.open(folder)
    gallery.add([row(number, number) for number in range(50, 70)], vectors(*range(50, 70)))
    gallery.add([row(1, 2)], vectors(99))
    gallery.redescribe(row(0, 0), row(0, 0, price=7))
    gallery.remove(["i5", "i20"])
    gallery.save()


def state(folder: Path) -> Any:
    """All that a gallery says, by every way of asking; and that its parts agree."""
    gallery = Gallery.open(folder)
    found = gallery.search(vectors(2, 40, 99), k=3)
    told = [[(match.item, match.photo, round(match.similarity, 4)) for match in matches] for matches in found]
    prices = sorted(row.photo for row in gallery.select("price > 0"))
    rows = sorted((row.item, row.photo, row.metadata) for row in gallery.rows)
    summed = gallery.vectors.take(gallery.ids).sum(axis=0).round(3).tolist()
    return json.loads(json.dumps([told, prices, rows, summed]))


def forked(act: Callable[[], object]) -> int:
    """Act in a child; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = OTHER
        try:
            act()
            status = 0
        except OutfinderError:
            status = TYPED
        except AssertionError:
            status = WRONG
        except BaseException:  # noqa: BLE001  whatever it is, it is told
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def told_by(act: Callable[[], Any], folder: Path) -> Any:
    """What an act returns in a child, or its exit status."""
    answer = folder.with_suffix(".answer")
    status = forked(lambda: answer.write_text(json.dumps(act())))
    return json.loads(answer.read_text()) if status == 0 else status


class Killer:
    """Kills this process at the n-th opening, write, fsync, rename or deletion of a file; a write is cut in half."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.opened, self.fsync = Path.open, os.fsync
        Path.open = lambda path, mode="r", *more, **named: self.file(path, mode, *more, **named)  # type: ignore[assignment]
        os.fsync = lambda descriptor: self.count() or self.fsync(descriptor)
        sys.addaudithook(lambda event, _: self.count() if event in ("os.rename", "os.remove") else None)

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def file(self, path: Path, mode: str, *more: Any, **named: Any) -> Any:
        if "w" in mode:
            self.count()
        file = self.opened(path, mode, *more, **named)
        return Cut(file, self) if "w" in mode else file


class Cut:
    """A file being written, whose writes come in two halves."""

    __slots__ = ("_file", "_killer")

    def __init__(self, file: Any, killer: Killer) -> None:
        self._file, self._killer = file, killer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> None:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._killer.count()
        self._file.write(data[half:])


def kills(folder: Path, _every: bool) -> Any:
    """A save killed at each of its steps: which state the next process finds, and that it can save in its turn."""
    base, work = folder / "base", folder / "work"
    make(base)
    old = told_by(lambda: state(base), work)
    shutil.copytree(base, work)
    change(work)
    new = told_by(lambda: state(work), work)
    assert old != new
    found = []
    for step in range(1000):
        shutil.rmtree(work)
        shutil.copytree(base, work)
        if forked(lambda: (Killer(step), change(work))) != -signal.SIGKILL:  # noqa: B023
            break
        there = told_by(lambda: [state(work), verify(work)], work)
        found.append("old" if there == [old, []] else "new" if there == [new, []] else "neither")
        if found[-1] == "old" and step % 8 == 0:
            change(work)
            assert told_by(lambda: state(work), work) == new
    left = sorted(path.name for path in work.iterdir())
    return {"found": found, "left": left}


def damage(folder: Path, every: bool) -> Any:
    """Files cut short, deleted, and with flipped bits: the exit statuses of whoever reads them then."""
    base = folder / "base"
    make(base)
    truth = told_by(lambda: state(base), base)
    logging.disable()  # a damaged index is told; here many are

    def read() -> None:
        assert state(base) == truth

    results: dict[str, dict[str, int]] = {}
    for path in sorted(base.iterdir()):
        whole = path.read_bytes()
        size = len(whole)
        if size == 0:
            continue
        bits = range(size) if every else sorted({*range(0, size, max(1, size // 10)), 0, 3, 9, size - 1})
        cuts = range(0, size, 7) if every else (0, 1, 8, size // 2, size - 1)
        for kind, number, data in [
            *(("flip", at, whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]) for at in bits),
            *(("cut", at, whole[:at]) for at in cuts),
            ("longer", size, whole + b"\0"),
            ("gone", 0, None),
        ]:
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            results.setdefault(path.name, {})[f"{kind} {number}"] = forked(read)
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    return {"results": results, "after": forked(read)}


def full(folder: Path, _every: bool) -> Any:
    """Saves that run into a limit of file size, and into a folder that is not theirs to write: what is there then."""
    base = folder / "base"
    make(base)
    before = [told_by(lambda: state(base), base), sorted(path.name for path in base.iterdir())]
    told = []

    def attempt(prepare: Callable[[], object]) -> None:
        def act() -> str:
            prepare()
            try:
                change(base)
            except GalleryError as error:
                return str(error)
            return "saved"

        told.append(told_by(act, base))
        assert before == [told_by(lambda: state(base), base), sorted(path.name for path in base.iterdir())]

    def limit(size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    for size in (300, 1500, 5000):  # larger than the note of who writes
        attempt(lambda: limit(size))  # noqa: B023
    base.chmod(0o555)
    for path in (folder, folder.parent):
        path.chmod(0o755)
    if os.getuid() != 0:
        attempt(lambda: None)
    base.chmod(0o755)
    return told


def readers(folder: Path, _every: bool) -> Any:
    """Readers that open and search while a writer saves again and again: each sees one generation as a whole."""
    base = folder / "base"
    Gallery.create(base, FakeEmbedder(), BoxCrop())

    def write() -> None:
        for price in range(25):
            gallery = Gallery.open(base)
            gallery.add([row(number, number, price) for number in range(12)], vectors(*range(12)))
            gallery.save()
            if price % 5 == 4:
                gallery.compact()

    def read() -> None:
        last, seen = -1, set()
        while last < 24:
            gallery = Gallery.open(base)
            prices = {int(dict(row.metadata)["price"]) for row in gallery.rows}
            assert len(prices) <= 1
            if prices:
                (price,) = prices
                assert price >= last
                last = price
                seen.add(price)
                assert len(gallery) == 12
                (matches,) = gallery.search(vectors(3), k=2)
                assert (matches[0].photo, matches[0].metadata) == ("p3", (("price", str(price)),))
        assert len(seen) >= 2

    reading = [os.fork() for _ in range(2)]
    if 0 in reading:
        os._exit(forked(read))
    written = forked(write)
    return [written, *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in reading)]


if __name__ == "__main__":
    arrays_module.CHUNK = 512  # type: ignore[misc]
    searcher_module.TAIL = 8  # type: ignore[misc]
    fault, where, *more = sys.argv[1:]
    print(json.dumps(globals()[fault](Path(where), bool(more))))
