"""Names of colours, counted over a garment's pixels."""

import numpy as np
import pytest

from stages.colours import CENTRES, named_colours
from stages.labels import COLOURS


def filled(*colours: str, side: int = 40) -> np.ndarray:
    """Stripes of equal width."""
    values = [[int(one[place : place + 2], 16) for place in (1, 3, 5)] for one in colours]
    return np.repeat(np.array([values], np.uint8), side, axis=1).repeat(side, axis=0).reshape(side, -1, 3)


@pytest.mark.parametrize(
    ("colour", "name"),
    [("#101010", "black"), ("#1a2040", "navy"), ("#3060c0", "blue"), ("#cc2030", "red"), ("#6a1525", "maroon"),
     ("#f0a0b8", "pink"), ("#208040", "green"), ("#f2d43c", "yellow"), ("#6b4428", "brown"), ("#888888", "grey")],
)  # fmt: skip
def test_a_plain_garment_has_the_colour_that_people_call_it(colour, name):
    assert named_colours(filled(colour)) == ((name, 1.0),)


def test_shares_are_of_the_garments_pixels_largest_first():
    image = np.concatenate([filled("#cc2030", side=40), filled("#101010", side=20).repeat(2, axis=0)], axis=1)
    assert named_colours(image, np.ones(image.shape[:2], np.bool_)) == (
        ("red", pytest.approx(0.67, abs=0.03)),
        ("black", pytest.approx(0.33, abs=0.03)),
    )


def test_what_is_outside_the_mask_or_is_white_ground_does_not_count():
    image = np.full((60, 60, 3), 255, np.uint8)
    image[20:40, 20:40] = (26, 32, 64)
    mask = np.zeros((60, 60), np.bool_)
    mask[20:40, 20:40] = True

    assert named_colours(image)[0][0] == "navy"
    assert named_colours(image, mask)[0] == ("navy", pytest.approx(1, abs=0.25))


def test_a_white_photo_is_white_and_a_pixel_is_enough():
    assert named_colours(np.full((9, 5, 3), 255, np.uint8)) == (("white", 1.0),)
    assert named_colours(np.zeros((1, 1, 3), np.uint8)) == (("black", 1.0),)


def test_names_are_those_that_filters_and_texts_know():
    assert set(CENTRES) - {"light blue"} <= set(COLOURS)
