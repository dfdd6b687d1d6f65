"""Near-duplicates: a picture saved twice is found, a recoloured one is not, and merged items stay on one side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.dedupe import by_hash, by_vectors, find_duplicates, merge_duplicates
from stages.embed.data import Dataset, Sample, split
from stages.images import decode_photo, encode_jpeg, write_jpeg
from stages.types import Image


def picture(seed: int, side: int = 160) -> Image:
    """Smooth shapes, as photos have them."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(noise, (side, side + 40), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("copy", ["smaller", "worse", "lighter"])
def test_a_copy_is_found_and_others_are_not(copy: str) -> None:
    pictures = [picture(seed) for seed in range(12)]
    again = {
        "smaller": cv2.resize(pictures[3], (90, 112), interpolation=cv2.INTER_AREA),
        "worse": decode_photo(encode_jpeg(pictures[3], quality=30)).image,
        "lighter": np.clip(pictures[3].astype(np.int16) + 5, 0, 255).astype(np.uint8),
    }[copy]
    found = by_hash([*pictures, again])
    assert [(pair.first, pair.second, pair.by) for pair in found] == [(3, 12, "hash")]
    assert 0 <= found[0].score <= 4


def test_another_colour_is_another_picture() -> None:
    image = picture(0)
    recoloured = cv2.cvtColor(np.ascontiguousarray(image[..., [1, 0, 2]]), cv2.COLOR_RGB2LAB)
    recoloured[..., 0] = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0]
    pair = [image, cv2.cvtColor(recoloured, cv2.COLOR_LAB2RGB)]
    assert not by_hash(pair)
    assert by_hash(pair, bits=20, colour=300)
    grey, purple = np.full((2, 200, 200, 3), 255, np.uint8)  # the garment covers a few cells only
    grey[80:120, 80:120], purple[80:120, 80:120] = (120, 120, 120), (118, 104, 150)
    assert not by_hash([grey, purple])
    assert len(by_hash([grey, grey])) == 1
    assert by_hash([]) == []


def test_duplicates_by_vectors_are_those_of_the_naive_loop() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = {(pair.first, pair.second) for pair in by_vectors(vectors, 0.97)}
    assert found == {(i, j) for i in range(60) for j in range(i + 1, 60) if vectors[i] @ vectors[j] >= 0.97}
    assert found


def test_groups_are_chains_of_pairs(tmp_path: Path) -> None:
    samples = []
    for number, seed in enumerate((3, 1, 2, 1, 3, 3)):
        write_jpeg(tmp_path / f"{number}.jpg", picture(seed))
        samples.append(Sample(tmp_path / f"{number}.jpg", f"item {number}"))
    found = find_duplicates(Dataset("set", tuple(samples)))
    assert found.groups == ((0, 4, 5), (1, 3))
    assert found.items_of(found.groups[1]) == ["item 1", "item 3"]


def test_merged_items_have_the_picture_once() -> None:
    samples = tuple(Sample(Path(f"{k}.jpg"), item) for k, item in enumerate("aabbccdd"))
    clean = merge_duplicates(Dataset("set", samples), [[1, 2], [3, 4]])  # a = b = c, by two pictures
    assert [sample.item for sample in clean.samples] == ["a", "a", "a", "a", "d", "d"]
    assert [sample.path.stem for sample in clean.samples] == ["0", "1", "3", "5", "6", "7"]


def test_no_duplicate_crosses_a_split() -> None:
    samples = tuple(Sample(Path(f"{k}.jpg"), f"i{k // 2}") for k in range(80))
    groups = [[k, k + 41] for k in range(0, 38, 2)]
    plain = split(Dataset("set", samples), 40, "item")
    side = {item: number for number, part in enumerate(plain) for item in part.items}
    assert any(side[samples[a].item] != side[samples[b].item] for a, b in groups), "otherwise this test shows nothing"
    merged = split(merge_duplicates(Dataset("set", samples), groups), 40, "item")
    sides = {sample.path: number for number, part in enumerate(merged) for sample in part.samples}
    for first, second in groups:
        others = [row for row in range(80) if samples[row].item == samples[second].item and row != second]
        assert all(sides[samples[first].path] == sides[samples[row].path] for row in others)
