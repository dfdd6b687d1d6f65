"""Garments drawn on photos, also on reduced ones."""

import numpy as np

from pipeline.search import Garment, PhotoResult
from pipeline.writers import draw
from stages.types import Box


def test_masks_are_tinted_and_the_photo_is_left_alone() -> None:
    image = np.full((200, 100, 3), 255, np.uint8)
    mask = np.zeros((100, 60), np.bool_)
    mask[50:] = True
    drawn = draw(image, PhotoResult("a.jpg", 100, 200, (Garment("top", 0.5, Box(20, 60, 80, 160), mask),)))
    assert (image == 255).all()
    assert (drawn[120:150, 30:70] != 255).any(axis=2).all(), "the mask is tinted"
    assert (drawn[90:105, 30:70] == 255).all(), "what it leaves out is not"
    assert (drawn[170:] == 255).all()


def test_the_thinnest_garment_at_the_rim_is_drawn_on_a_reduced_photo() -> None:
    image = np.full((100, 125, 3), 255, np.uint8)
    rim = Garment("belt", 0.5, Box(997, 797, 1000, 800), np.ones((3, 3), np.bool_))
    drawn = draw(image, PhotoResult("a.jpg", 1000, 800, (rim,)))
    assert drawn.shape == image.shape
    assert (drawn[99, 124] != 255).any()
