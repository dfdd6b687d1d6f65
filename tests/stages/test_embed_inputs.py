"""Preprocessing: white borders are trimmed if the design says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from hypothesis import given
from hypothesis import strategies as st

import weights
from stages.background import WHITE_LEVEL, trimmed
from stages.embed.network import Design, SiameseNetwork
from stages.embed.siamese import SiameseEmbedder
from stages.types import Image


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 30), (70, 199), (300, 1)])
def test_white_borders_are_trimmed_except_for_a_margin(top: int, left: int) -> None:
    image = np.full((400, 300, 3), 255, np.uint8)
    image[top : top + 100, left : left + 100] = (200, 30, 60)
    found = trimmed(image)
    expected = [100 + min(place, 2) + min(side - 100 - place, 2) for place, side in ((top, 400), (left, 300))]
    assert found.shape == (*expected, 3)
    np.testing.assert_array_equal(trimmed(found), found)


@given(
    image=st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)),
    border=st.integers(0, 12),
)
def test_trimming_keeps_every_pixel_of_the_garment(image: Image, border: int) -> None:
    image[[0, -1]] = image[:, [0, -1]] = 100
    found = trimmed(np.pad(image, [(border, border), (border, border), (0, 0)], constant_values=250))
    assert (found.min(axis=2) < WHITE_LEVEL).sum() == (image.min(axis=2) < WHITE_LEVEL).sum()
    assert found.shape == image.shape


@pytest.mark.parametrize("image", [np.full((5, 9, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)])
def test_an_image_without_white_borders_or_all_white_stays_unchanged(image: Image) -> None:
    assert trimmed(image) is image


@pytest.mark.parametrize("trim", [False, True])
def test_the_design_decides_whether_white_is_trimmed(trim: bool, tmp_path: Path) -> None:
    design = Design("small", "average", "linear", 8, 64, trim=trim)
    weights.save(tmp_path / "weights.safetensors", SiameseNetwork(design).state_dict(), design.metadata())
    checkpoint = weights.read(tmp_path / "weights.safetensors")
    assert Design.of(checkpoint) == design
    close = draw("red", "blue")
    far = np.pad(close, [(40, 70), (90, 20), (0, 0)], constant_values=255)
    first, second = SiameseEmbedder(checkpoint)([trimmed(close), far])
    assert (float(first @ second) > 0.9999) == trim
