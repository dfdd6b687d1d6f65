"""The croppers: pixels, margins, masks, and their protocol."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.crop import BoxCrop, MaskCrop, WholeCrop
from stages.detect import WholeDetector
from stages.protocols import Cropper
from stages.testing import check_cropper
from stages.types import Box, Detection

CROPPERS = [BoxCrop(), BoxCrop(0), MaskCrop("mean"), MaskCrop("white", 0), MaskCrop("blur", 0.5), WholeCrop()]


def photo(height=40, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(height, width):
    """Return an ellipse that fills a box."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return x * x + y * y <= 1


@st.composite
def boxes(draw, width=30, height=40):
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Box(x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))


@pytest.mark.parametrize("cropper", CROPPERS, ids=lambda cropper: cropper.fingerprint)
@settings(max_examples=40, deadline=None)
@given(box=boxes(), masked=st.booleans())
def test_a_crop_has_the_pixels_of_its_box(cropper, box, masked):
    image = photo()
    kept = image.copy()
    mask = np.ones((box.height, box.width), dtype=np.bool_) if masked else None
    ((crop,),) = cropper([image], [[Detection("top", 0.5, box, mask)]])
    assert crop.image.shape == (crop.box.height, crop.box.width, 3)
    assert crop.image.dtype == np.uint8
    assert crop.image.flags.c_contiguous
    assert (crop.box.x1, crop.box.y1) <= (box.x1, box.y1)
    assert crop.box.iou(box) == box.area / crop.box.area  # the box lies within
    if not (masked and isinstance(cropper, MaskCrop)):
        np.testing.assert_array_equal(crop.image, image[crop.box.slices])
    crop.image[:] = 0
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("cropper", CROPPERS, ids=lambda cropper: cropper.fingerprint)
def test_one_list_per_photo_and_one_crop_per_detection(cropper):
    assert isinstance(cropper, Cropper)
    check_cropper(cropper)
    assert cropper([], []) == []
    found = [Detection("top", 0.5, Box(2, 3, 9, 12)), Detection("hat", 0.4, Box(0, 0, 1, 1))]
    crops = cropper([photo(), photo(50, 60), photo()], [found, [], found[:1]])
    assert [len(each) for each in crops] == [2, 0, 1]


@pytest.mark.parametrize("cropper", [MaskCrop(), WholeCrop()], ids=lambda cropper: cropper.fingerprint)
def test_wrong_arguments_are_refused(cropper):
    with pytest.raises(ValueError, match="1 != 0"):
        cropper([photo()], [])
    with pytest.raises(ValueError, match="exceeds its photo of 30x40"):
        cropper([photo()], [[Detection("top", 0.5, Box(5, 5, 31, 20))]])
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin"):
            BoxCrop(margin)
        with pytest.raises(ValueError, match="margin"):
            MaskCrop("white", margin)
    with pytest.raises(ValueError, match="one of mean, white, blur, got 'black'"):
        MaskCrop("black")


def test_the_margin_is_a_fraction_of_the_longer_side_and_clipped():
    ((inner, corner),) = BoxCrop(0.1)(
        [photo(100, 100)], [[Detection("top", 0.5, Box(30, 40, 50, 80)), Detection("top", 0.5, Box(0, 98, 40, 100))]]
    )
    assert inner.box == Box(26, 36, 54, 84)
    assert corner.box == Box(0, 94, 44, 100)


@pytest.mark.parametrize(("background", "color"), [("mean", (124, 116, 104)), ("white", (255, 255, 255))])
def test_a_plain_background_around_untouched_pixels(background, color):
    image, box = photo(60, 60), Box(10, 10, 50, 50)
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[10:30, 10:30] = True
    ((crop,),) = MaskCrop(background, 0.1)([image], [[Detection("top", 0.5, box, mask)]])
    assert crop.box == Box(6, 6, 54, 54)
    whole = image[crop.box.slices]
    np.testing.assert_array_equal(crop.image[16:32, 16:32], whole[16:32, 16:32])  # 2 px inside the edge
    outside = np.ones((48, 48), dtype=np.bool_)
    outside[12:36, 12:36] = False  # 2 px outside the edge
    assert (crop.image[outside] == color).all()


def test_the_edge_of_a_mask_is_soft_but_not_at_the_border():
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[:, 20:] = True
    ((crop,),) = MaskCrop("white", 0)([image], [[Detection("top", 0.5, Box(0, 0, 40, 40), mask)]])
    line = crop.image[20, :, 0].astype(int)
    assert line[:18].tolist() == [255] * 18
    assert line[22:].tolist() == [0] * 18
    assert (np.diff(line[17:23]) < 0).all()
    ((crop,),) = MaskCrop()([image], [[Detection("top", 0.5, Box(0, 0, 40, 40), np.ones((40, 40), np.bool_))]])
    assert not crop.image.any(), "a mask that touches the border is not faded there"


def test_blur_keeps_the_color_and_loses_the_detail():
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    image[::2, :, 0] = 200  # stripes of red, whose mean is 100
    ((crop,),) = MaskCrop("blur", 0)([image], [[Detection("top", 0.5, Box(0, 0, 80, 80), disc(80, 80))]])
    corner = crop.image[:6, :6].astype(int)
    assert np.ptp(corner[..., 0]) < 25
    assert 75 < corner[..., 0].mean() < 125
    assert not corner[..., 1:].any()
    np.testing.assert_array_equal(crop.image[30:50, 30:50], image[30:50, 30:50])


@pytest.mark.parametrize("mask", [None, np.zeros((10, 10), dtype=np.bool_)])
def test_without_a_mask_the_crop_is_that_of_the_box(mask):
    image, found = photo(), [[Detection("top", 0.5, Box(5, 5, 15, 15), mask)]]
    ((masked,),), ((plain,),) = MaskCrop()([image], found), BoxCrop()([image], found)
    np.testing.assert_array_equal(masked.image, plain.image)


def test_fingerprints_differ_for_all_options():
    croppers = [*CROPPERS, MaskCrop("white"), MaskCrop("mean", 0.1), BoxCrop(0.1)]
    assert len({cropper.fingerprint for cropper in croppers}) == len(croppers)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3), np.uint8), ["a.jpg"], [np.zeros((4, 4, 3))], [np.zeros((4, 4), np.uint8)]]
)
def test_stages_refuse_what_is_no_list_of_images(wrong: object) -> None:
    for stage in (WholeDetector(), lambda images: BoxCrop()(images, [[]])):
        with pytest.raises(ValueError, match=r"pass \[image\]|an image is \(h, w, 3\) uint8 RGB"):
            stage(wrong)
