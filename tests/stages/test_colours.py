"""Names of colours, counted over a garment's pixels."""

import numpy as np
import pytest

from stages.colours import CENTRES, named_colours
from stages.labels import COLOURS


def filled(colour: str, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), list(bytes.fromhex(colour)), np.uint8)


@pytest.mark.parametrize(
    ("colour", "name"),
    [("101010", "black"), ("1a2040", "navy"), ("3060c0", "blue"), ("cc2030", "red"), ("6a1525", "maroon"),
     ("f0a0b8", "pink"), ("208040", "green"), ("f2d43c", "yellow"), ("6b4428", "brown"), ("888888", "grey"),
     ("ffffff", "white")],
)  # fmt: skip
def test_a_plain_garment_has_the_colour_that_people_call_it(colour, name):
    assert named_colours(filled(colour, 40, 40)) == named_colours(filled(colour, 1, 1)) == ((name, 1.0),)


def test_shares_are_of_the_garments_pixels_largest_first():
    image = np.concatenate([filled("cc2030", 40, 40), filled("101010", 40, 20)], axis=1)
    assert named_colours(image, np.ones(image.shape[:2], np.bool_)) == (
        ("red", pytest.approx(0.67, abs=0.03)),
        ("black", pytest.approx(0.33, abs=0.03)),
    )


def test_pixels_outside_the_mask_and_a_white_background_do_not_count():
    image, mask = filled("ffffff", 60, 60), np.zeros((60, 60), np.bool_)
    image[20:40, 20:40] = (26, 32, 64)
    mask[20:40, 20:40] = True

    assert named_colours(image)[0][0] == "navy"
    assert named_colours(image, mask)[0] == ("navy", pytest.approx(1, abs=0.25))


def test_names_are_those_that_filters_and_texts_know():
    assert set(CENTRES) - {"light blue"} <= set(COLOURS)
