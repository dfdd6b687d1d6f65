"""Indexing on a Ray cluster into a Milvus server, with parts killed on the way: the same as by itself, each product once.

The environment variable OUTFINDER_PRODUCTS says how many products; docs/gallery.md has the figures of 20,000.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from milvus_server import Server

from pipeline.config import trust
from pipeline.gallery import Gallery, search, verify
from stages.images import write_jpeg
from stages.index.milvus import MilvusIndex

pytest.importorskip("ray", reason="needs Ray: pip install 'outfinder[ray]'")
pytest.importorskip("pymilvus", reason="needs pymilvus: pip install 'outfinder[milvus]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
]

PRODUCTS = int(os.environ.get("OUTFINDER_PRODUCTS", "3000"))

COMMAND = """
import sys
from pipeline import catalogue
from pipeline.cli import main
from pipeline.gallery import search
catalogue.SAVE_EVERY_S, search.TAIL = 2, 250
main(sys.argv[1:])
"""
"""The command ``outfinder``, which saves more often than usual, and uses its index sooner."""


def products(folder: Path) -> Path:
    """Photos of few colours in a pattern of their own, about twenty kinds of them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (20, 7, 7, 3))
    for number in range(PRODUCTS):
        pattern = np.clip(kinds[number % 20] + rng.normal(0, 40, (7, 7, 3)), 0, 255).astype(np.uint8)
        write_jpeg(folder / f"{number:06}.jpg", pattern.repeat(8, axis=0).repeat(8, axis=1))
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


def start(gallery: Path, photos: Path, *options: str, count: float = -1) -> subprocess.Popen[bytes]:
    """Index, and return once more than some photos are saved; Ray gives up where its cluster takes 30 seconds to start."""
    for _ in range(4):
        process = spawn(gallery, photos, *options)
        while process.poll() is None and count >= 0 and not saved(gallery) > count:
            time.sleep(0.2)
        if process.poll() is None or "no Ray cluster answers" not in told(gallery):
            return process
    raise AssertionError(told(gallery))


def spawn(gallery: Path, photos: Path, *options: str) -> subprocess.Popen[bytes]:
    arguments = ["index", gallery, photos, "--as-is", "--embedder", "stages.testing:FakeEmbedder", *options]
    environment = os.environ | {
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}',
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    with log(gallery).open("w") as messages:
        return subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, arguments)], stderr=messages, env=environment)


def log(gallery: Path) -> Path:
    return gallery.with_suffix(".log")


def told(gallery: Path) -> str:
    """Return what the last command has said on standard error."""
    return log(gallery).read_text()


def saved(gallery: Path) -> int:
    """Count the photos that are saved, as another process sees them."""
    if not (gallery / "gallery.sqlite").exists():
        return 0
    with closing(sqlite3.connect(f"file:{gallery}/gallery.sqlite?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM photos").fetchone()
    return int(count)


def wait(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that happens while a process runs."""
    deadline = time.monotonic() + 3600
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, and theirs, with their command lines."""
    listed = subprocess.check_output(["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], text=True).splitlines()
    processes = [(int(child), int(parent), title) for child, parent, title in (line.split(None, 2) for line in listed)]
    family, size = {pid: ""}, 0
    while size < len(family):
        size = len(family)
        family |= {child: title for child, parent, title in processes if parent in family and child not in family}
    return family


def workers(driver: int) -> list[int]:
    return [pid for pid, title in descendants(driver).items() if title.startswith("ray::") and "Worker" in title]


def rows_by_photo(gallery: Gallery) -> dict[str, tuple[object, ...]]:
    vectors = gallery.vectors.take(gallery.ids)
    return {row.photo: (row, vector.tobytes()) for row, vector in zip(gallery.rows, vectors, strict=True)}


def test_nothing_is_lost_or_doubled_when_a_worker_milvus_and_the_driver_die(
    milvus_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTFINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "TAIL", 250)
    monkeypatch.setattr(search, "WALK", 0)
    photos, folder = products(tmp_path / "photos"), tmp_path / "gallery"
    trust(index := f"milvus+{milvus_server.uri}")
    options = ["--index", index, "--engine", "ray"]
    others = set(MilvusIndex(1, milvus_server.uri)._client.list_collections())

    driver = start(folder, photos, *options, count=0.1 * PRODUCTS)
    wait(lambda: len(workers(driver.pid)) == 2, driver)
    os.kill(killed := workers(driver.pid)[0], signal.SIGKILL)
    wait(lambda: len({*workers(driver.pid)} - {killed}) == 2, driver)  # Ray starts another
    wait(lambda: saved(folder) > 0.3 * PRODUCTS, driver)
    milvus_server.kill()
    wait(lambda: f"Milvus at {milvus_server.uri} does not answer" in told(folder), driver)
    wait(lambda: saved(folder) > 0.5 * PRODUCTS, driver)  # the run goes on without an index
    family = set(descendants(driver.pid)) - {driver.pid}
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 300
    while any(pid in family and "<defunct>" not in title for pid, title in descendants(1).items()):
        assert time.monotonic() < deadline, "the cluster outlives its driver"
        time.sleep(0.5)
    kept = saved(folder)

    milvus_server.start()
    assert start(folder, photos, *options, count=kept).wait() == 1  # of the broken photo
    assert f"({PRODUCTS - kept} added, 0 replaced, 0 redescribed, {kept} unchanged, 1 failed)" in told(folder)

    assert start(tmp_path / "alone", photos, "--index", "exact").wait() == 1
    got, wanted = Gallery.open(folder), Gallery.open(tmp_path / "alone")
    assert verify(folder) == []
    assert len(got) == PRODUCTS
    assert rows_by_photo(got) == rows_by_photo(wanted)

    queries = wanted.vectors.take(wanted.ids[:: max(1, PRODUCTS // 200)])
    found = got.index()
    assert found is not None
    assert isinstance(found[0], MilvusIndex)
    (counted,) = found[0]._client.query(found[0]._collection, filter="", output_fields=["count(*)"])
    assert counted["count(*)"] == len(found[1])
    assert {*found[0]._client.list_collections()} - others == {found[0]._collection}  # no part of another
    near = got.search(queries, k=10)
    exact = wanted.search(queries, k=10)
    assert [matches[0].item for matches in near] == [matches[0].item for matches in exact]
    common = [
        len({match.item for match in ours} & {match.item for match in theirs}) / 10
        for ours, theirs in zip(near, exact, strict=True)
    ]
    assert np.mean(common) > 0.9
