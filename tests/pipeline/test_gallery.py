import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw

from pipeline.catalogue import CatalogueEntry, Indexing, Tally, read_catalogue
from pipeline.gallery import Gallery, Row
from pipeline.pipeline import Pipeline
from stages.crop import BoxCrop, MaskCrop
from stages.errors import GalleryError, GalleryMismatch
from stages.images import write_jpeg
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import Box, Match, Vectors


def row(item: str, photo: str, label: str = "top", **metadata: str) -> Row:
    return Row(item, photo, f"sha of {photo}", "fake", label, 0.9, Box(0, 0, 5, 5), tuple(metadata.items()))


def vectors(*seeds: int) -> Vectors:
    rows = np.array([np.random.default_rng(seed).normal(size=49) for seed in seeds], np.float32).reshape(-1, 49)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def new(folder: Path, index: str = "exact") -> Gallery:
    return Gallery.create(folder, FakeEmbedder(), BoxCrop(), index)


def comparable(match: Match) -> Match:
    """Tables keep columns in an order of their own, and sums round differently over other blocks."""
    return replace(match, metadata=tuple(sorted(match.metadata)), similarity=round(match.similarity, 5))


def run(gallery: Gallery, shop: Path) -> Tally:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True)
    return Indexing(gallery, pipeline, "fake")(read_catalogue([shop]))


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_what_is_saved_is_found_again_after_opening(tmp_path: Path, shop: Path, index: str) -> None:
    tally = run(new(tmp_path / "g", index), shop)
    assert (tally.added, tally.failed) == (5, [])
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.items == ["black", "blue", "green", "red"]
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder())
    (street,) = pipeline([shop / "red" / "front.jpg"])
    (matches,) = gallery.search(street.vectors, k=10)
    assert matches[0].item == "red"
    assert matches[0].similarity == pytest.approx(1, abs=1e-4)
    assert matches[0].photo.endswith("front.jpg")
    assert [match.item for match in matches] == sorted((m.item for m in matches), key=[m.item for m in matches].index)
    assert len({match.item for match in matches}) == 4


def test_indexing_again_embeds_only_new_and_changed_photos(tmp_path: Path, shop: Path) -> None:
    gallery = new(tmp_path / "g")
    run(gallery, shop)
    generation = gallery.manifest.generation
    assert run(gallery, shop).unchanged == 5
    shutil.copy(shop / "red" / "front.jpg", shop / "red" / "front (1).jpg")
    assert run(gallery, shop).unchanged == 6
    assert Gallery.open(tmp_path / "g").manifest.generation == generation
    write_jpeg(shop / "green.jpg", draw("blue", side=48))
    (shop / "broken.jpg").write_bytes(b"")
    tally = run(gallery, shop)
    assert (tally.replaced, tally.unchanged, len(gallery)) == (1, 5, 5)
    assert tally.failed == [(str(shop / "broken.jpg"), "is empty (0 bytes)")]
    query = FakeEmbedder()([draw("blue", side=48)[6:-6, 12:36]])
    assert Gallery.open(tmp_path / "g").search(query, k=1)[0][0].item in {"green", "blue"}


def test_new_metadata_is_taken_without_embedding(tmp_path: Path, shop: Path) -> None:
    gallery = new(tmp_path / "g")
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True)
    for price, outcome in (("5", "added"), ("6", "redescribed"), ("6", "unchanged")):
        entry = CatalogueEntry(shop / "green.jpg", "green", (("price", price),))
        assert getattr(Indexing(gallery, pipeline, "fake")([entry]), outcome) == 1
    (match,) = gallery.search(FakeEmbedder()([draw("green")]), k=1)[0]
    assert match.metadata == (("price", "6"),)


def test_same_label_keeps_to_the_group_and_the_catalogues_word_comes_first(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    gallery.add(
        [row("a", "1"), row("b", "2", "bag"), row("c", "3", "whole", category="Bag"), row("d", "4", "whole")],
        vectors(1, 2, 3, 4),
    )
    (found,) = gallery.search(vectors(1), 4, labels=["bag"])
    assert {match.item for match in found} == {"b", "c"}
    assert {match.label for match in found} == {"bag"}
    assert gallery.search(vectors(1), 4, labels=["hat"]) == [[]]


def test_an_item_of_many_photos_does_not_crowd_out_the_others(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([row("many", str(n)) for n in range(60)], vectors(*[1] * 60))
    gallery.add([row("one", "x"), row("two", "y")], vectors(2, 3))
    (found,) = gallery.search(vectors(1), k=3)
    assert found[0].item == "many"
    assert {match.item for match in found} == {"many", "one", "two"}


def test_matches_are_the_same_saved_at_once_piece_by_piece_or_not_at_all(tmp_path: Path) -> None:
    rows = [
        row(f"item {number // 3}", f"{number} é", ("top", "bag", "hat")[number % 3], note="n" * (number % 4))
        if number % 5
        else row(f"item {number // 3}", str(number), "", size="", other=str(number))
        for number in range(60)
    ]
    several = new(tmp_path / "several")
    for start in range(0, 45, 15):
        several.add(rows[start : start + 15], vectors(*range(start, start + 15)))
        several.save()
    several = Gallery.open(tmp_path / "several")
    several.add(rows[45:], vectors(*range(45, 60)))
    fresh, once = new(tmp_path / "fresh"), new(tmp_path / "once")
    for gallery in (fresh, once):
        gallery.add(rows, vectors(*range(60)))
    once.save()
    found = fresh.search(vectors(*range(60)), k=20)
    for own, matches in zip(rows, found, strict=True):
        assert comparable(matches[0]) == comparable(Match(own.item, own.photo, 1.0, own.group, own.metadata))
        assert len({match.item for match in matches}) == len(matches) == 20
    for gallery in (several, once, Gallery.open(tmp_path / "once")):
        told = gallery.search(vectors(*range(60)), k=20)
        assert [list(map(comparable, matches)) for matches in told] == [list(map(comparable, own)) for own in found]


def test_min_similarity_and_k_and_an_empty_gallery(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    assert gallery.search(vectors(1), k=3) == [[]]
    gallery.add([row("a", "1"), row("b", "2")], vectors(1, 2))
    assert [m.item for m in gallery.search(vectors(1), k=3, min_similarity=0.9)[0]] == ["a"]
    assert gallery.search(vectors(), k=3) == []
    with pytest.raises(ValueError, match="k is at least 1"):
        gallery.search(vectors(1), k=0)
    with pytest.raises(ValueError, match="label for each"):
        gallery.search(vectors(1), k=1, labels=[])


def test_remove_takes_all_photos_of_an_item_and_unknown_ones_are_told(tmp_path: Path, shop: Path) -> None:
    gallery = new(tmp_path / "g", "hnsw")
    run(gallery, shop)
    with pytest.raises(ValueError, match="no item yellow; nothing was removed"):
        gallery.remove(["red", "yellow"])
    assert gallery.remove(["red"]) == 2
    gallery.save()
    again = Gallery.open(tmp_path / "g")
    assert again.items == ["black", "blue", "green"]
    assert "red" not in {match.item for match in again.search(FakeEmbedder()([draw("red")]), k=9)[0]}
    assert run(again, shop).added == 2


def test_another_embedder_or_crop_is_refused_by_both_names(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    gallery.check_made_with(FakeEmbedder(), BoxCrop())
    other = FakeEmbedder()
    other.fingerprint = "another net"
    with pytest.raises(GalleryMismatch, match=r"'fake mean colours'.*'another net'"):
        gallery.check_made_with(other, BoxCrop())
    with pytest.raises(GalleryMismatch, match=r"'box margin=0.05'.*'mask background=white"):
        gallery.check_made_with(FakeEmbedder(), MaskCrop())
    wider = FakeEmbedder()
    wider.dim += 1
    with pytest.raises(GalleryMismatch, match="holds vectors of 49 numbers, and fake mean colours now makes 50"):
        gallery.check_made_with(wider, BoxCrop())


def test_absent_and_present_galleries_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match=r"no gallery at .*; make one with: outfinder index"):
        Gallery.open(tmp_path / "g")
    new(tmp_path / "g")
    with pytest.raises(GalleryError, match=r"a gallery at .* already"):
        new(tmp_path / "g")


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_a_reader_outlives_a_write(tmp_path: Path, index: str) -> None:
    writer = new(tmp_path / "g", index)
    writer.add([row("a", "1")], vectors(1))
    writer.save()
    reader = Gallery.open(tmp_path / "g")
    writer.remove(["a"])
    writer.add([row("b", "2")], vectors(1))
    writer.save()
    assert reader.search(vectors(1), k=2)[0][0].item == "a"
    assert Gallery.open(tmp_path / "g").search(vectors(1), k=2)[0][0].item == "b"
