import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.embed.metrics import angular_percent, euclidean
from stages.types import Box, Detection

coordinate = st.integers(0, 60)
real = st.floats(-100, 200) | st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1 = draw(coordinate), draw(coordinate)
    return Box(x1, y1, x1 + draw(st.integers(1, 40)), y1 + draw(st.integers(1, 40)))


@given(boxes())
def test_a_box_is_what_it_cuts_out(box: Box) -> None:
    image = np.zeros((120, 120), bool)
    image[box.slices] = True
    assert image[box.slices].shape == (box.height, box.width)
    assert image.sum() == box.area


@given(boxes(), boxes())
def test_iou_is_that_of_the_pixels(one: Box, other: Box) -> None:
    first, second = np.zeros((2, 120, 120), bool)
    first[one.slices], second[other.slices] = True, True
    assert one.iou(other) == pytest.approx((first & second).sum() / (first | second).sum())


@given(real, real, real, real, st.integers(1, 90), st.integers(1, 90))
def test_clipping_gives_a_box_in_the_photo_or_none(
    x1: float, y1: float, x2: float, y2: float, width: int, height: int
) -> None:
    box = Box.clipped(x1, y1, x2, y2, width, height)
    if box is None:
        inside = np.isfinite([x1, y1, x2, y2]).all() and min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)
        assert not inside
    else:
        assert box.x2 <= width
        assert box.y2 <= height
        assert box.x1 <= max(x1, 0)
        assert box.x2 >= min(x2, width)


@pytest.mark.parametrize("corners", [(5, 0, 5, 9), (0, 9, 5, 3), (-1, 0, 5, 5)])
def test_an_empty_or_negative_box_is_refused(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"use Box\.clipped"):
        Box(*corners)


def test_a_mask_lives_inside_its_box() -> None:
    Detection("top", 0.5, Box(0, 0, 4, 3), np.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"wanted bool \(3, 4\), got bool \(4, 3\)"):
        Detection("top", 0.5, Box(0, 0, 4, 3), np.ones((4, 3), bool))
    with pytest.raises(ValueError, match="got uint8"):
        Detection("top", 0.5, Box(0, 0, 4, 3), np.ones((3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"score lies in \[0, 1\]"):
        Detection("top", 1.5, Box(0, 0, 4, 3))


@given(st.floats(-1, 1))
def test_distance_and_angle_are_views_of_similarity(similarity: float) -> None:
    angle = math.radians(180 * (1 - angular_percent(similarity) / 100))
    assert math.cos(angle) == pytest.approx(similarity, abs=1e-6)
    assert euclidean(similarity) == pytest.approx(2 * math.sin(angle / 2), abs=1e-6)
