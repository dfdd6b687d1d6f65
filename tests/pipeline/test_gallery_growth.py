"""A gallery that grows: what a save writes, how vectors are kept, and runs that are cut short."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from test_gallery import new, row, vectors

from pipeline.gallery import Gallery, search, verify
from pipeline.gallery.vectors import decode, encode
from stages.crop import BoxCrop
from stages.errors import StageError
from stages.images import write_jpeg
from stages.index import HnswIndex, exact_search
from stages.testing import FakeEmbedder
from stages.types import Vectors


def clustered(count: int, dim: int = 49, seed: int = 0) -> Vectors:
    """Unit rows about a hundred centres, as garments lie about their kinds."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(100, dim))[rng.integers(0, 100, count)] + 0.5 * rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_adding_a_little_writes_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TAIL", 100)
    gallery = new(tmp_path / "g", "hnsw")
    gallery.add([row(f"i{number}", f"p{number}") for number in range(3000)], clustered(3000))
    gallery.save()
    size, kept = gallery.size, gallery.kept_index
    gallery.add([row(f"new{number}", "p") for number in range(30)], clustered(30, seed=1))
    assert [len(block.ids) for block, _ in gallery.vectors.changed_blocks(1024)] == [30]
    gallery.save()
    assert gallery.size < 1.1 * size
    assert gallery.kept_index == kept  # the index stays too
    again = Gallery.open(tmp_path / "g")
    assert [match.item for match in again.search(clustered(30, seed=1)[7:8], k=1)[0]] == ["new7"]


def test_an_index_that_fails_costs_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search, "TAIL", 10)
    gallery = new(tmp_path / "g", "hnsw")
    gallery.add([row(f"i{number}", "p") for number in range(20)], vectors(*range(20)))

    def fail(*_: object) -> None:
        raise StageError("the server is down")

    with monkeypatch.context() as down:
        down.setattr(HnswIndex, "add", fail)
        gallery.save()
        assert "the photos are saved" in caplog.text
        assert "the server is down" in caplog.text
        assert gallery.kept_index is not None  # names the place where the next process continues
        again = Gallery.open(tmp_path / "g")
        assert len(again) == 20
        with pytest.raises(StageError):
            again.index()
    for each in (gallery, again):
        found = each.index()
        assert found is not None
        assert found[1].tolist() == list(range(20))


def test_compact_joins_the_blocks_of_small_saves_and_drops_what_was_removed(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    for number in range(60):
        gallery.add([row(f"i{number}", "p")], vectors(number))
        gallery.save()
    assert [len(block.ids) for block in gallery.vectors.blocks] == [1] * 60
    gallery.remove([f"i{number}" for number in range(1, 60, 2)])
    gallery.save()
    assert (gallery.removed, len(gallery.vectors.blocks)) == (0, 30)  # a block of removed photos is deleted
    gallery.remove(["i58"])
    before = gallery.search(vectors(7, 8), k=5)
    gallery.compact()
    assert ([len(block.ids) for block in gallery.vectors.blocks], gallery.removed) == ([29], 0)
    assert gallery.search(vectors(7, 8), k=5) == Gallery.open(tmp_path / "g").search(vectors(7, 8), k=5) == before
    assert gallery.ids.tolist() == list(range(0, 58, 2))  # ids stay, and are not given again
    gallery.add([row("another", "p")], vectors(99))
    assert gallery.ids.tolist()[-1] == 60


def test_compact_rebuilds_the_index_without_removed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TAIL", 10)
    gallery = new(tmp_path / "g", "hnsw")
    gallery.add([row(f"i{number}", "p") for number in range(100)], vectors(*range(100)))
    gallery.save()
    gallery.remove([f"i{number}" for number in range(20)])
    gallery.save()
    assert gallery.kept_index is not None
    large = gallery.kept_index.stat().st_size
    gallery.compact()
    assert gallery.kept_index.stat().st_size < 0.9 * large
    assert verify(tmp_path / "g") == []


@pytest.mark.parametrize(("storage", "least"), [("float16", 0.99), ("int8", 0.95)])
def test_compact_vectors_find_nearly_the_same(tmp_path: Path, storage: str, least: float) -> None:
    truth, queries = clustered(2000), clustered(50, seed=3)
    gallery = Gallery.create(tmp_path / "g", FakeEmbedder(), BoxCrop(), "exact", storage=storage)
    gallery.add([row(f"i{number}", "p") for number in range(2000)], truth)
    unsaved = gallery.search(queries, k=10)
    gallery.save()
    gallery = Gallery.open(tmp_path / "g")
    found = gallery.search(queries, k=10)
    assert found == unsaved
    wanted = exact_search(truth, queries, 10).rows
    same = [{m.item for m in own} & {f"i{number}" for number in rows} for own, rows in zip(found, wanted, strict=True)]
    assert np.mean([len(items) / 10 for items in same]) > least
    stored = sum(part.nbytes for _, part in gallery.vectors.changed_blocks(1024, rewrite=True) if part is not None)
    assert stored == truth.nbytes // (2 if storage == "float16" else 4)
    np.testing.assert_allclose(np.linalg.norm(gallery.vectors.take(gallery.ids), axis=1), 1, atol=1e-6)


def test_encoding_is_kept_when_it_is_written_again() -> None:
    stored = encode(clustered(100), "int8")
    np.testing.assert_array_equal(encode(decode(stored), "int8"), stored)
    with pytest.raises(ValueError, match="float32, float16, int8, not as 'int4'"):
        Gallery.create(Path("nowhere"), FakeEmbedder(), BoxCrop(), storage="int4")


def test_only_what_a_filter_lets_through_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broad filters walk the index, narrow ones search exactly: the answers are the same."""
    monkeypatch.setattr(search, "TAIL", 50)
    truth = clustered(3000)
    gallery = new(tmp_path / "g", "hnsw")
    rows = [row(f"i{number}", "p", "top" if number % 3 else "bag", price=str(number % 100)) for number in range(3000)]
    gallery.add(rows, truth)
    gallery.save()
    gallery.add([row("late", "p", "bag", price="1", colour="red")], clustered(1, seed=9))
    queries = clustered(20, seed=4)
    for limit in (90, 50, 2):
        allowed = np.flatnonzero([number % 100 < limit for number in range(3000)])
        wanted = allowed[exact_search(truth[allowed], queries, 5).rows]
        found = gallery.search(queries, 5, where=f"price < {limit} and item != late")
        same = [
            {f"i{number}" for number in own} & {m.item for m in them} for own, them in zip(wanted, found, strict=True)
        ]
        assert np.mean([len(items) / 5 for items in same]) > 0.99
    (found,) = gallery.search(queries[:1], 5, labels=["bag"], where="colour = red")
    assert [match.item for match in found] == ["late"]
    assert gallery.count("label = bag") == 1001
    assert [chosen.item for chosen in gallery.select("colour contains RE")] == ["late"]
    with pytest.raises(
        ValueError, match="no column 'shade'; there are item, photo, label, found, detector, price, colour"
    ):
        gallery.search(queries, 5, where="shade = red")


def test_near_duplicates_are_grouped(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    base, noise = vectors(1, 2, 3, 4), vectors(11, 12, 13, 14)
    near = base + 0.1 * noise
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    gallery.add([row(f"i{number}", "a") for number in range(4)], base)
    gallery.add([row(f"j{number}", "b", price="5") for number in range(2)], near[:2])
    gallery.add([row("k0", "c")], base[:1])
    groups = gallery.duplicates(0.98)
    assert [sorted(found.item for found, _ in group) for group in groups] == [["i0", "j0", "k0"], ["i1", "j1"]]
    assert {found.item: round(near, 2) for found, near in groups[0]}["k0"] == 1.0
    assert gallery.duplicates(0.98, where="price = 5") == []


def test_a_bad_vector_is_named_and_nothing_is_added(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    bad = vectors(1, 2, 3)
    bad[2, 5] = np.nan
    with pytest.raises(ValueError, match="row 2 has length nan"):
        gallery.add([row("a", "1"), row("b", "2"), row("c", "3")], bad)
    with pytest.raises(ValueError, match="a vector for each of 2 rows, got 3"):
        gallery.add([row("a", "1"), row("b", "2")], vectors(1, 2, 3))
    assert len(gallery) == 0


def test_file_names_that_are_no_text_and_metadata_of_any_kind_come_back(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    metadata = (("größe/codes", "ä"), ("item", "mine"), ("", "empty name"))
    odd = [
        replace(row("x", os.fsdecode(b"/\xfe.jpg")), item=os.fsdecode(b"bl\xff"), metadata=metadata),
        replace(row("", ""), metadata=(("größe/codes", ""),)),
        row("a" * 70_000, "\n\0"),
    ]
    gallery.add(odd, vectors(1, 2, 3))
    gallery.save()
    again = Gallery.open(tmp_path / "g")
    assert again.rows == odd
    assert [again.photo_of(one.item, one.photo) for one in odd] == odd
    assert again.of_item("") == odd[1:2]
    assert again.select("item = mine") == []  # the rows' own columns come first


KILLED = """
import os, sys, signal
import pipeline.catalogue
from pipeline.cli import main
from stages.testing import FakeDetector
pipeline.catalogue.SAVE_EVERY_S = 0
at, find = int(sys.argv.pop(1)), FakeDetector._find
def counted(self, image):
    with open("looked", "a") as file:
        file.write("x")
    if os.path.getsize("looked") == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return find(self, image)
FakeDetector._find = counted
main()
"""


def test_a_killed_run_that_is_repeated_embeds_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for number in range(80):
        write_jpeg(tmp_path / "shop" / f"{number:02}.jpg", draw("red", side=40 + number))

    def run(at: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(at), "index", "g", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    stages = ("--detector", "stages.testing:FakeDetector", "--embedder", "stages.testing:FakeEmbedder")
    killed = run(60, "shop", *stages)
    assert killed.returncode < 0, killed.stderr
    kept = len(Gallery.open(tmp_path / "g"))
    assert 0 < kept < 80
    (tmp_path / "looked").unlink()
    resumed = run(-1, "shop", *stages)
    assert resumed.returncode == 0, resumed.stderr
    assert f"({80 - kept} added, 0 replaced, 0 redescribed, {kept} unchanged, 0 failed)" in resumed.stderr
    assert (tmp_path / "looked").stat().st_size == 80 - kept
    assert verify(tmp_path / "g") == []
