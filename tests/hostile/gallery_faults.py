"""Harms a gallery and reports what came of it: a script that forks a child for each fault and prints a JSON line.

``python gallery_faults.py FAULT FOLDER [every]``, with the library that ``build`` compiles in LD_PRELOAD: it counts the
calls by which SQLite changes or reads files, and at the n-th one kills the process with the write cut in half, or fails
it. It can also record all changes, from which ``power`` makes what a disk may hold after the power has failed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import sqlglot  # noqa: F401  here, and not anew in every child

from pipeline.catalogue import digest
from pipeline.gallery import Gallery, Row, verify
from pipeline.gallery import gallery as gallery_module
from pipeline.gallery import search as search_module
from pipeline.pipeline import Pipeline
from pipeline.serve.writer import ItemWriter
from stages.crop import BoxCrop
from stages.errors import GalleryError, OutfinderError
from stages.images import encode_jpeg
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import Box, Vectors

TYPED, OTHER, WRONG, SAVED = 3, 4, 5, 6
"""Exit statuses of children: an error of outfinder's, any other, results that are not right, and an error after a save."""

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
static long left = -1, calls = 0;
static int code = 0, counts_reads = 0, trace = -1;
void arm(long n, int error, int reads) { left = n; code = error; counts_reads = reads; calls = 0; }
long counted(void) { return calls; }
static int kept(const char *path) { return strstr(path, "gallery.sqlite") || strstr(path, "/uploads/"); }
static int named(const char *path) { return kept(path) && !strstr(path, "-shm"); }
static char path[4096];
static int ours(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return kept(path);
}
static int due(int reads) {
    if (reads != counts_reads) return 0;
    calls++;
    if (left < 0) return 0;
    if (left > 0) { left--; return 0; }
    return 1;
}
static void put(char kind, const char *name, long long at, const void *data, long long size) {
    if (trace < 0) return;
    struct { long long kind, name, at, size; } head = {kind, strlen(name), at, size};
    syscall(SYS_write, trace, &head, sizeof head);
    syscall(SYS_write, trace, name, head.name);
    syscall(SYS_write, trace, data, size);
}
void record(const char *file) { trace = syscall(SYS_open, file, O_WRONLY | O_CREAT | O_APPEND, 0600); }
void mark(long number) { put('m', "", number, "", 0); }
static void die(void) { kill(getpid(), SIGKILL); }
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)
#define FAULT(harm) do { if (!code) { harm; die(); } errno = code; return -1; } while (0)
#define PWRITE(name, offset) ssize_t name(int fd, const void *data, size_t size, offset at) { \
    REAL(ssize_t, name, int, const void *, size_t, offset); \
    if (!ours(fd)) return real(fd, data, size, at); \
    if (due(0)) FAULT(real(fd, data, size / 2, at)); \
    ssize_t done = real(fd, data, size, at); if (done > 0 && named(path)) put('w', path, at, data, done); return done; }
#define PREAD(name, offset) ssize_t name(int fd, void *data, size_t size, offset at) { \
    REAL(ssize_t, name, int, void *, size_t, offset); if (ours(fd) && due(1)) FAULT((void)0); \
    return real(fd, data, size, at); }
#define SYNC(name) int name(int fd) { \
    REAL(int, name, int); struct stat status; int our = ours(fd); if (our && due(0)) FAULT((void)0); \
    int done = real(fd); if (!done && our && named(path)) put('s', path, 0, "", 0); \
    if (!done && !our && !fstat(fd, &status) && S_ISDIR(status.st_mode)) put('d', path, 0, "", 0); return done; }
#define TRUNCATE(name, offset) int name(int fd, offset size) { \
    REAL(int, name, int, offset); if (!ours(fd)) return real(fd, size); if (due(0)) FAULT((void)0); \
    int done = real(fd, size); if (!done && named(path)) put('t', path, size, "", 0); return done; }
#define OPEN(name) int name(const char *file, int flags, ...) { \
    REAL(int, name, const char *, int, ...); va_list more; va_start(more, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; va_end(more); \
    if (!named(file)) return real(file, flags, mode); if (due(1)) FAULT((void)0); \
    int is_new = flags & O_CREAT && access(file, F_OK), fd = real(file, flags, mode); \
    if (fd >= 0 && is_new) put('c', file, 0, "", 0); return fd; }
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t); if (ours(fd) && due(0)) FAULT(real(fd, data, size / 2));
    return real(fd, data, size); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PREAD(pread, off_t)
PREAD(pread64, off64_t)
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
SYNC(fsync)
SYNC(fdatasync)
OPEN(open)
OPEN(open64)
int unlink(const char *file) {
    REAL(int, unlink, const char *); if (named(file) && due(0)) FAULT((void)0);
    int done = real(file); if (!done && named(file)) put('u', file, 0, "", 0); return done; }
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *); if (named(from) && due(0)) FAULT((void)0);
    int done = real(from, to); if (!done && named(from)) put('r', from, 0, to, strlen(to)); return done; }
"""


def build(folder: Path) -> Path:
    """Compile the library that fails calls."""
    (folder / "faults.c").write_text(LIBRARY)
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, folder / "faults.c", "-ldl"], check=True)
    return library


def arm(call: int, code: int = 0, *, reads: bool = False) -> None:
    ctypes.CDLL(None).arm(ctypes.c_long(call), code, int(reads))


def calls_of(act: Callable[[], object], *, reads: bool = False) -> int:
    """Act, and return how many calls that took."""
    arm(-1, reads=reads)
    act()
    return int(ctypes.CDLL(None).counted())


def row(item: int, photo: int, price: int = 0) -> Row:
    return Row(f"i{item}", f"p{photo}", f"sha{photo}", "fake", "top", 0.9, Box(0, 0, 5, 5), (("price", str(price)),))


def vectors(*seeds: int) -> Vectors:
    rows = np.array([np.random.default_rng(seed).normal(size=49) for seed in seeds], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def begin(folder: Path) -> None:
    Gallery.create(folder, FakeEmbedder(), BoxCrop()).close()


def fill(folder: Path) -> None:
    gallery = Gallery.open(folder)
    gallery.add([row(number // 2, number) for number in range(24)], vectors(*range(24)))
    gallery.save()
    gallery.close()


def exchange(folder: Path) -> None:
    gallery = Gallery.open(folder)
    gallery.add([row(20, 40)], vectors(40))
    gallery.remove(["i3"])
    gallery.save()
    gallery.close()


def make(folder: Path) -> None:
    begin(folder)
    fill(folder)
    exchange(folder)


def add(folder: Path) -> None:
    gallery = Gallery.open(folder)
    gallery.add([row(number, number) for number in range(50, 70)], vectors(*range(50, 70)))
    gallery.save()


def replace(folder: Path) -> None:
    gallery = Gallery.open(folder)
    new = row(1, 2)
    gallery.add(
        [Row(**{**{name: getattr(new, name) for name in new.__slots__}, "metadata": (("size", "5"),)})], vectors(99)
    )
    gallery.save()


def redescribe(folder: Path) -> None:
    gallery = Gallery.open(folder)
    gallery.redescribe(row(0, 0), row(0, 0, price=7))
    gallery.save()


def change(folder: Path) -> None:
    """Every kind of change in one save."""
    gallery = Gallery.open(folder)
    gallery.add([row(number, number) for number in range(50, 70)], vectors(*range(50, 70)))
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


def writer(folder: Path) -> ItemWriter:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), workers=1, main_garment=True)
    return ItemWriter(folder, lambda path: next(pipeline([path])), "fake", None)


def post(folder: Path) -> None:
    """As a server does it: two photos of an item that has others, and its metadata anew."""
    photos = [encode_jpeg(np.full((40, 30 + side, 3), 99, np.uint8)) for side in range(2)]
    writer(folder).add("i4", {"price": "8"}, photos, 0)


def delete(folder: Path) -> None:
    writer(folder).remove("i4", 0)


def beside_a_reader(act: Callable[[Path], None], folder: Path) -> None:
    reader = Gallery.open(folder)
    act(folder)
    reader.close()


CHANGES = {
    "add": add, "replace": replace, "redescribe": redescribe, "change": change, "remove": remove, "compact": compact,
    "post": post, "delete": delete,
}  # fmt: skip
CHANGES |= {
    f"{name} beside a reader": partial(beside_a_reader, CHANGES[name])
    for name in ("add", "change", "remove", "compact")
}
KILL = 0
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)
READ_ERRORS = (errno.EIO, errno.EMFILE)


def state(folder: Path) -> Any:
    """All that a gallery says, by every way of asking; and that its parts agree, and its uploaded photos are whole."""
    gallery = Gallery.open(folder)
    assert all(digest(row.photo) == row.sha256 for row in gallery.rows if "/uploads/" in row.photo)
    found = gallery.search(vectors(2, 40, 99), k=3)
    told = [[(match.item, match.photo, round(match.similarity, 4)) for match in matches] for matches in found]
    prices = sorted(row.photo for row in gallery.select("price > 0")) if "price" in gallery.columns else []
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
        except OutfinderError as error:
            status = SAVED if "the changes were saved" in str(error) else TYPED
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
    posted = folder / "posted"
    shutil.copytree(base, posted)
    assert forked(partial(post, posted)) == 0
    results = {}
    for name, act in CHANGES.items() if every else [(name, CHANGES[name]) for name in ("change", "compact", "post")]:
        start = posted if name.startswith("delete") else base
        old = told_by(lambda: state(start), work)  # noqa: B023  called at once
        for reads, codes in ((False, (KILL, *ERRORS)), (True, READ_ERRORS)):
            shutil.copytree(start, work)
            calls = told_by(partial(calls_of, partial(act, work), reads=reads), work)
            new = told_by(lambda: state(work), work)
            for code in codes if every else codes[:2]:
                results[f"{name} {'reading ' * reads}{errno.errorcode.get(code, 'KILL')}"] = [
                    at_step(start, work, act, (step, code, reads), (old, new)) for step in steps(calls, every)
                ]
            shutil.rmtree(work)
    work.mkdir()
    made = []
    for step in steps(told_by(lambda: calls_of(lambda: create(work)), work), every):
        work.mkdir(exist_ok=True)
        killed = forked(partial(armed, (step, KILL, False), create, work))
        opened = forked(lambda: Gallery.open(work) if (work / "gallery.sqlite").exists() else create(work))
        made.append([killed, opened])
    return {"results": results, "created": made}


def steps(calls: int, every: bool) -> list[int]:
    return sorted({*range(0, calls, 1 if every else 19), calls - 1})


def armed(fault: tuple[int, int, bool], act: Callable[[Path], None], folder: Path) -> None:
    step, code, reads = fault
    arm(step, code, reads=reads)
    act(folder)


def at_step(
    base: Path, work: Path, act: Callable[[Path], None], fault: tuple[int, int, bool], states: tuple[Any, Any]
) -> Any:
    """A change that ends or fails at a step: its exit status, and which state the next process finds."""
    shutil.rmtree(work)
    shutil.copytree(base, work)
    status = forked(partial(armed, fault, act, work))
    what = found_in(work, states)
    if what == "old":  # the next process can go on
        assert forked(partial(act, work)) == 0
    return [status, what]


def found_in(folder: Path, states: tuple[Any, Any]) -> str:
    """Which of two states a new process finds in a gallery whose parts are sound, or what else it finds."""
    after = told_by(lambda: [state(folder), verify(folder)], folder)
    return next((name for name, told in zip(("old", "new"), states, strict=True) if after == [told, []]), repr(after))


def descriptors(folder: Path, every: bool) -> Any:
    """A change by a process that may open a few files only, from none up: its exit status, and what it leaves."""
    base, work = folder / "base", folder / "work"
    make(base)
    old = told_by(lambda: state(base), work)
    shutil.copytree(base, work)
    assert forked(partial(change, work)) == 0
    states = old, told_by(lambda: state(work), work)
    used = len(list(Path("/proc/self/fd").iterdir()))

    def limited(more: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, used + more))
        change(work)

    results = []
    for more in range(0, 20, 1 if every else 3):
        shutil.rmtree(work)
        shutil.copytree(base, work)
        results.append([forked(partial(limited, more)), found_in(work, states)])
    return results


def damage(folder: Path, every: bool) -> Any:
    """The database cut short, deleted, and with flipped bits in every page: the exit statuses of its readers."""
    base = folder / "base"
    make(base)
    truth = told_by(lambda: state(base), base)
    logging.disable()

    def read() -> None:
        assert state(base) == truth

    path, results = base / "gallery.sqlite", dict[str, int]()
    whole = path.read_bytes()
    size = len(whole)
    generator = np.random.default_rng(0)
    spread = {
        page + at for page in range(0, size, 8192) for at in (*range(0, 12, 5), *generator.integers(8192, size=3))
    }
    bits = sorted({*range(1000), *range(0, size, 7)}) if every else sorted({*range(0, 100, 7), *spread})
    cuts = range(0, size, 97) if every else (0, 1, 8, 100, size // 2, size - 8192, size - 1)
    harms = [("flip", at) for at in bits] + [("cut", at) for at in cuts] + [("longer", size), ("gone", 0)]

    def harmed(kind: str, at: int) -> int:
        for each in base.glob("gallery.sqlite*"):
            each.unlink()
        flipped = whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :] if kind == "flip" else whole[:at]
        if kind != "gone":
            path.write_bytes(whole + b"\0" if kind == "longer" else flipped)
        try:
            read()
        except OutfinderError:
            return TYPED
        except AssertionError:
            return WRONG
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            return OTHER
        return 0

    for start in range(0, len(harms), 200):  # many in one child, as forking takes longer than reading
        few = harms[start : start + 200]
        told = told_by(lambda: [harmed(*harm) for harm in few], base)  # noqa: B023  called at once
        statuses = told if isinstance(told, list) else [forked(partial(harmed, *harm)) for harm in few]
        results |= {f"{kind} {at}": status for (kind, at), status in zip(few, statuses, strict=True)}
    for each in base.glob("gallery.sqlite*"):
        each.unlink()
    path.write_bytes(whole)
    return {"results": results, "after": forked(read)}


def overwritten(folder: Path, _every: bool) -> Any:
    """What becomes of a process whose files are cut short, or overwritten by those of another gallery."""
    base, other = folder / "base", folder / "other"
    make(base)
    make(other)
    holder = Gallery.open(other)  # so that it has all of SQLite's files

    def harmed(harm: Callable[[], object], uses: list[Callable[[Gallery], object]]) -> None:
        reader = Gallery.open(base)
        len(reader.rows)
        harm()
        for use in uses:
            try:
                use(reader)
            except GalleryError:
                continue

    def cut(*endings: str, size: int = 0) -> None:
        for ending in endings:
            os.truncate(base / f"gallery.sqlite{ending}", size)

    def write(gallery: Gallery) -> None:
        gallery.add([row(90, 90)], vectors(90))
        gallery.save()

    harms: list[Callable[[], object]] = [lambda: subprocess.run(["cp", "-r", f"{other}/.", base], check=True)]
    harms += [partial(cut, "", "-wal", "-shm"), partial(cut, "-wal", "-shm"), partial(cut, "-shm", size=100)]
    harms += [partial(cut, ending) for ending in ("", "-wal", "-shm")]
    uses: list[Callable[[Gallery], object]] = [
        lambda gallery: gallery.search(vectors(2), k=3), lambda gallery: gallery.rows, lambda _: Gallery.open(base),
        write, lambda _: change(base), lambda gallery: gallery.close(),
    ]  # fmt: skip
    statuses = []
    for harm in harms:
        for order in (uses, uses[::-1], uses[2:]):
            shutil.rmtree(base)
            make(base)
            statuses.append(forked(partial(harmed, harm, order)))
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


# --- power failures


@dataclass
class File:
    """A file on a disk with a cache: what surely is there, and the changes since, any of which may be lost."""

    durable: bytes = b""
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)

    def content(self, kept: Callable[[int], bool], torn: int = -1) -> bytes:
        """Return the content after those changes that are kept; of one, only every other sector."""
        data = bytearray(self.durable)
        for number, (kind, at, new) in enumerate(self.pending):
            if not kept(number):
                continue
            if kind == "t":
                data[at:] = bytes(max(0, at - len(data)))
                continue
            data.extend(bytes(max(0, at + len(new) - len(data))))
            for start in range(0, len(new), 1024 if number == torn else len(new)):
                part = new[start : start + 512] if number == torn else new
                data[at + start : at + start + len(part)] = part
        return bytes(data)


@dataclass
class Disk:
    """A folder on a disk whose cache is lost when the power fails."""

    durable: dict[str, File] = field(default_factory=dict)
    pending: list[tuple[str, str, str, File | None]] = field(default_factory=list)
    now: dict[str, File] = field(default_factory=dict)

    def apply(self, kind: str, name: str, at: int, data: bytes) -> None:
        """Make a recorded change."""
        file = self.now.get(name)
        if kind in "wt" and file:
            file.pending.append((kind, at, data))
        elif kind == "s" and file:
            file.durable, file.pending = file.content(lambda _: True), []
        elif kind == "d":
            self.durable, self.pending = dict(self.now), []
        elif kind in "cur":
            to = Path(data.decode()).name
            new = File() if kind == "c" else file
            self.pending.append((kind, name, to, new))
            rename(self.now, kind, name, to, new)

    def states(self, randomly: random.Random) -> Iterator[dict[str, bytes]]:
        """Yield what may be found after a power failure now: names with contents."""
        changes = [(file, number) for file in self.now.values() for number in range(len(file.pending))]
        singles = changes if len(changes) <= 16 else randomly.sample(changes, 16)
        keeps: list[Callable[[File, int], bool]] = [lambda *_: False, lambda *_: True]
        keeps += [lambda file, number, one=one: (file, number) != one for one in singles]  # type: ignore[misc]
        keeps += [lambda file, number, one=one: (file, number) == one for one in singles]  # type: ignore[misc]
        for _ in range(28 if len(changes) > 2 else 0):
            chosen = {change for change in range(len(changes)) if randomly.random() < 0.5}
            keeps.append(lambda file, number, chosen=chosen: changes.index((file, number)) in chosen)  # type: ignore[misc]
        for keep in keeps:
            yield self.found(keep, randomly.randint(0, len(self.pending)))
        for names in range(len(self.pending) + 1):
            yield self.found(lambda *_: True, names)
        for file, number in singles:
            yield self.found(lambda *_: True, len(self.pending), (file, number))

    def found(
        self, keep: Callable[[File, int], bool], names: int, torn: tuple[File, int] | None = None
    ) -> dict[str, bytes]:
        """Return what is found if some changes of files and the first changes of names have reached the disk."""
        files = dict(self.durable)
        for kind, name, to, new in self.pending[:names]:
            rename(files, kind, name, to, new)
        return {
            name: file.content(partial(keep, file), torn[1] if torn and torn[0] is file else -1)
            for name, file in files.items()
        }


def rename(files: dict[str, File], kind: str, name: str, to: str, new: File | None) -> None:
    """Create, unlink or rename a file."""
    files.pop(name, None)
    if kind != "u" and new is not None:
        files[to if kind == "r" else name] = new


def recorded(trace: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """Read what the library has recorded: kind, file name, position and data of each change."""
    data, place, head = trace.read_bytes(), 0, struct.Struct("qqqq")
    while place < len(data):
        kind, length, at, size = head.unpack_from(data, place)
        place += head.size
        name = data[place : place + length].decode()
        yield chr(kind), Path(name).name, at, data[place + length : place + length + size]
        place += length + size


HISTORY = (begin, fill, exchange, add, redescribe, replace, compact, remove, compact, add, replace)


def power(folder: Path, every: bool) -> Any:
    """A gallery's history, with the power failing after each change of a file: which states are found.

    Each state must be one that was saved, and not older than the last save that had returned. Once a reader is open all
    the while, so that SQLite keeps its log.
    """
    randomly, counts = random.Random(0), {"points": 0, "states": 0, "wrong": list[str]()}
    for held in (False, True):
        work, trace, found = folder / "work", folder / f"trace{held}", folder / "found"
        expected: list[Any] = []
        for number in range(len(HISTORY)):  # the history without recording
            assert forked(partial(HISTORY[number], work)) == 0
            expected.append(told_by(lambda: state(work), folder / "answer"))  # noqa: B023  called at once
        shutil.rmtree(work)
        assert forked(partial(history, work, trace, held)) == 0
        disk, begun, seen = Disk(), 0, set[tuple[str, int]]()
        todo: list[tuple[str, dict[str, bytes], list[Any]]] = []
        for number, (kind, name, at, data) in enumerate(recorded(trace)):
            if kind == "m":
                begun = at + 1
            else:
                disk.apply(kind, name, at, data)
            if not every and number % 61:
                continue
            counts["points"] += 1
            for files in disk.states(randomly) if every else list(disk.states(randomly))[:3]:
                key = sha256(repr(sorted(files.items())).encode()).hexdigest(), begun
                if key not in seen and (begun or "gallery.sqlite" in files):
                    seen.add(key)
                    counts["states"] += 1
                    label = f"reader {held}, change {number} ({kind} {name}), {begun} saved"
                    todo.append((label, files, expected[max(0, begun - 1) : begun + 1]))
        for start in range(0, len(todo), 25):
            few = todo[start : start + 25]
            found_wrong = told_by(lambda: [line for one in few if (line := after_failure(found, *one))], found)  # noqa: B023
            counts["wrong"] += found_wrong if isinstance(found_wrong, list) else [f"exit status {found_wrong}"]
        shutil.rmtree(work)
    return counts


def history(folder: Path, trace: Path, held: bool) -> None:
    """Change a gallery again and again, recorded."""
    ctypes.CDLL(None).record(os.fsencode(trace))
    reader = None
    for number, act in enumerate(HISTORY):
        act(folder)
        ctypes.CDLL(None).mark(ctypes.c_long(number))
        if held:
            reader, last = Gallery.open(folder), reader
            if last is not None and number % 2:
                last.close()


def after_failure(folder: Path, label: str, files: dict[str, bytes], allowed: list[Any]) -> str:
    """Return what is wrong with a folder of these files; "" if it is a gallery in an allowed state, and sound."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        after = [state(folder), verify(folder)]
    except Exception as error:  # noqa: BLE001  it is told
        return f"{label}: {error!r}"
    return "" if after in [[one, []] for one in allowed] else f"{label}: {after!r}"[:300]


if __name__ == "__main__":
    gallery_module.BLOCK = 8  # type: ignore[misc]
    search_module.TAIL = 8  # type: ignore[misc]
    fault, where, *more = sys.argv[1:]
    print(json.dumps(globals()[fault](Path(where), bool(more))))
