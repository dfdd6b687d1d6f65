"""Harms a gallery and reports what came of it: a script that forks a child for each fault and prints a JSON line.

``python gallery_faults.py FAULT FOLDER [every]``, with the library that ``build`` compiles in LD_PRELOAD: it counts the
calls by which SQLite changes files, and at the n-th one kills the process with the write cut in half, or fails it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.gallery import Gallery, Row, verify
from pipeline.gallery import gallery as gallery_module
from pipeline.gallery import search as search_module
from stages.crop import BoxCrop
from stages.errors import GalleryError, OutfinderError
from stages.testing import FakeEmbedder
from stages.types import Box, Vectors

TYPED, OTHER, WRONG = 3, 4, 5
"""Exit statuses of children: an error of outfinder's, any other, and results that are not right."""

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static long left = -1, calls = 0;
static int code = 0;
void arm(long n, int error) { left = n; code = error; calls = 0; }
long counted(void) { return calls; }
static int named(const char *path) { return strstr(path, "gallery.sqlite") != NULL; }
static int ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return named(path);
}
static int due(void) {
    calls++;
    if (left < 0) return 0;
    if (left > 0) { left--; return 0; }
    return 1;
}
static void die(void) { kill(getpid(), SIGKILL); }
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)
#define FAULT(harm) do { if (!code) { harm; die(); } errno = code; return -1; } while (0)
#define PWRITE(name, offset) ssize_t name(int fd, const void *data, size_t size, offset at) { \
    REAL(ssize_t, name, int, const void *, size_t, offset); \
    if (ours(fd) && due()) FAULT(real(fd, data, size / 2, at)); return real(fd, data, size, at); }
#define ONE(type, name, argument, is_ours) type name(argument target) { \
    REAL(type, name, argument); if (is_ours(target) && due()) FAULT((void)0); return real(target); }
#define TRUNCATE(name, offset) int name(int fd, offset size) { \
    REAL(int, name, int, offset); if (ours(fd) && due()) FAULT((void)0); return real(fd, size); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
ONE(int, fsync, int, ours)
ONE(int, fdatasync, int, ours)
ONE(int, unlink, const char *, named)
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (ours(fd) && due()) FAULT(real(fd, data, size / 2)); return real(fd, data, size); }
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    if (named(from) && due()) FAULT((void)0); return real(from, to); }
"""


def build(folder: Path) -> Path:
    """Compile the library that fails calls."""
    (folder / "faults.c").write_text(LIBRARY)
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, folder / "faults.c", "-ldl"], check=True)
    return library


def arm(call: int, code: int = 0) -> None:
    ctypes.CDLL(None).arm(ctypes.c_long(call), code)


def calls_of(act: Callable[[], object]) -> int:
    """Act, and return how many calls that took."""
    arm(-1)
    act()
    return int(ctypes.CDLL(None).counted())


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
    gallery.close()


def change(folder: Path) -> None:
    """Every kind of change in one save."""
    gallery = Gallery.open(folder)
    gallery.add([row(number, number) for number in range(50, 70)], vectors(*range(50, 70)))
    new = row(1, 2)
    gallery.add(
        [Row(**{**{name: getattr(new, name) for name in new.__slots__}, "metadata": (("size", "5"),)})], vectors(99)
    )
    gallery.redescribe(row(0, 0), row(0, 0, price=7))
    gallery.remove(["i5", "i20"])
    gallery.save()


def remove(folder: Path) -> None:
    gallery = Gallery.open(folder)
    gallery.remove(["i0", "i1", "i20"])
    gallery.save()


def compact(folder: Path) -> None:
    Gallery.open(folder).compact()


def create(folder: Path) -> None:
    shutil.rmtree(folder)
    Gallery.create(folder, FakeEmbedder(), BoxCrop())


CHANGES = {"change": change, "remove": remove, "compact": compact}


def state(folder: Path) -> Any:
    """All that a gallery says, by every way of asking; and that its parts agree."""
    gallery = Gallery.open(folder)
    found = gallery.search(vectors(2, 40, 99), k=3)
    told = [[(match.item, match.photo, round(match.similarity, 4)) for match in matches] for matches in found]
    prices = sorted(row.photo for row in gallery.select("price > 0"))
    rows = sorted((row.item, row.photo, row.metadata) for row in gallery.rows)
    summed = gallery.vectors.take(gallery.ids).sum(axis=0).round(3).tolist()
    asked = [
        gallery.items,
        gallery.labels,
        gallery.columns,
        [len(gallery.of_item(f"i{number}")) for number in range(9)],
    ]
    gallery.close()
    return json.loads(json.dumps([told, prices, rows, summed, asked]))


def started(act: Callable[[], object]) -> int:
    """Act in a child process; return its id."""
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
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """Wait for a child process; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(act: Callable[[], object]) -> int:
    """Act in a child process; return its exit status."""
    return ended(started(act))


def told_by(act: Callable[[], Any], folder: Path) -> Any:
    """What an act returns in a child, or its exit status."""
    answer = folder.with_suffix(".answer")
    status = forked(lambda: answer.write_text(json.dumps(act())))
    return json.loads(answer.read_text()) if status == 0 else status


def faults(folder: Path, every: bool) -> Any:
    """Changes that are killed, or whose calls fail, at each of their steps: what the next process finds."""
    base, work = folder / "base", folder / "work"
    make(base)
    old = told_by(lambda: state(base), work)
    results = {}
    for name, act in CHANGES.items():
        shutil.copytree(base, work)
        calls = told_by(partial(calls_of, partial(act, work)), work)
        new = told_by(lambda: state(work), work)
        for code in (0, errno.ENOSPC, errno.EIO):
            results[f"{name} {errno.errorcode.get(code, 'KILL')}"] = [
                at_step(base, work, act, step, code, (old, new)) for step in steps(calls, every)
            ]
        shutil.rmtree(work)
    work.mkdir()
    made = []
    for step in steps(told_by(lambda: calls_of(lambda: create(work)), work), every):
        work.mkdir(exist_ok=True)
        killed = forked(partial(armed, step, 0, create, work))
        opened = forked(lambda: Gallery.open(work) if (work / "gallery.sqlite").exists() else create(work))
        made.append([killed, opened])
    return {"results": results, "created": made}


def steps(calls: int, every: bool) -> list[int]:
    return sorted({*range(0, calls, 1 if every else 19), calls - 1})


def armed(step: int, code: int, act: Callable[[Path], None], folder: Path) -> None:
    arm(step, code)
    act(folder)


def at_step(base: Path, work: Path, act: Callable[[Path], None], step: int, code: int, states: tuple[Any, Any]) -> Any:
    """A change that ends or fails at a step: its exit status, and which state the next process finds."""
    shutil.rmtree(work)
    shutil.copytree(base, work)
    status = forked(partial(armed, step, code, act, work))
    after = told_by(lambda: [state(work), verify(work)], work)
    what = next(
        (name for name, told in zip(("old", "new"), states, strict=True) if after == [told, []]), repr(after)[:300]
    )
    if what == "old":  # the next process can go on
        assert forked(partial(act, work)) == 0
    return [status, what]


def damage(folder: Path, every: bool) -> Any:
    """The database cut short, deleted, and with flipped bits in every page: the exit statuses of its readers."""
    base = folder / "base"
    make(base)
    truth = told_by(lambda: state(base), base)
    logging.disable()

    def read() -> None:
        assert state(base) == truth

    path, results = base / "gallery.sqlite", {}
    whole = path.read_bytes()
    size = len(whole)
    generator = np.random.default_rng(0)
    spread = {
        page + at for page in range(0, size, 8192) for at in (*range(0, 12, 5), *generator.integers(8192, size=3))
    }
    bits = range(size) if every else sorted({*range(0, 100, 7), *spread})
    cuts = range(0, size, 97) if every else (0, 1, 8, 100, size // 2, size - 8192, size - 1)
    for kind, number, data in [
        *(("flip", at, whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]) for at in bits),
        *(("cut", at, whole[:at]) for at in cuts),
        ("longer", size, whole + b"\0"),
        ("gone", 0, None),
    ]:
        for each in base.glob("gallery.sqlite*"):
            each.unlink()
        if data is not None:
            path.write_bytes(data)
        results[f"{kind} {number}"] = forked(read)
    path.write_bytes(whole)
    return {"results": results, "after": forked(read)}


def overwritten(folder: Path, _every: bool) -> Any:
    """What becomes of a reader whose files are cut short, or overwritten by those of another gallery."""
    base, other = folder / "base", folder / "other"
    make(base)
    make(other)
    holder = Gallery.open(other)  # so that it has all of SQLite's files
    statuses = []

    def harmed(harm: Callable[[], object]) -> None:
        reader = Gallery.open(base)
        harm()
        for _ in range(2):
            try:
                reader.search(vectors(2), k=3)
                len(reader.rows)
            except GalleryError:
                continue
        try:
            Gallery.open(base)
        except GalleryError:
            return

    def truncate() -> None:
        for path in base.glob("gallery.sqlite*"):
            os.truncate(path, 0)

    for harm in (truncate, lambda: subprocess.run(["cp", "-r", f"{other}/.", base], check=True)):
        shutil.rmtree(base)
        make(base)
        statuses.append(forked(partial(harmed, harm)))
    holder.close()
    return statuses


def readers(folder: Path, many: bool) -> Any:
    """Readers that open and search while a writer saves again and again: each sees one generation as a whole."""
    base, writes = folder / "base", 50 if many else 15
    Gallery.create(base, FakeEmbedder(), BoxCrop()).close()

    def write() -> None:
        for price in range(writes):
            gallery = Gallery.open(base)
            gallery.add([row(number, number, price) for number in range(12)], vectors(*range(12)))
            gallery.save()
            if price % 5 == 4:
                gallery.compact()
            gallery.close()

    def read() -> None:
        last, seen = -1, set()
        while last < writes - 1:
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
            gallery.close()
        assert len(seen) >= 2

    reading = [started(read) for _ in range(8 if many else 2)]
    written = forked(write)
    for child in reading if written else ():  # they wait for the last save
        os.kill(child, signal.SIGKILL)
    return [written, *map(ended, reading)]


if __name__ == "__main__":
    gallery_module.BLOCK = 8  # type: ignore[misc]
    search_module.TAIL = 8  # type: ignore[misc]
    fault, where, *more = sys.argv[1:]
    print(json.dumps(globals()[fault](Path(where), bool(more))))
