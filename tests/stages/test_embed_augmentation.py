"""Views of photos: a function of the generator, in the garment's colour."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from embed_cases import random_images, shop_photo

from stages.background import white_background
from stages.embed.augmentation import VIEWS, view

PHOTO = shop_photo((40, 60, 160))


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_depends_on_the_generator_and_leaves_the_photo_unchanged(name):
    photo, scenery = PHOTO.copy(), random_images(1)[0]
    first, again, other = (VIEWS[name](photo, 48, np.random.default_rng(seed), scenery) for seed in (3, 3, 5))
    assert (first.shape, first.dtype) == ((48, 48, 3), np.uint8)
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name == "plain")
    assert np.array_equal(photo, PHOTO)


def test_views_keep_the_colour():
    def colour(image):
        middle = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[len(image) // 3 : -len(image) // 3, 20:-20]
        return np.median(middle.reshape(-1, 3), axis=0)[1:]

    views = [colour(view(PHOTO, 64, np.random.default_rng(seed))) for seed in range(20)]
    assert math.dist(np.median(views, axis=0), colour(PHOTO)) < 12


@pytest.mark.parametrize(("share", "replaced"), [(0.0, False), (1.0, True)])
def test_a_white_background_is_replaced_with_its_probability(share, replaced):
    shop = np.full((60, 60, 3), 255, np.uint8)
    shop[20:40, 20:40] = (200, 30, 30)
    views = [view(shop, 48, np.random.default_rng(seed), np.zeros_like(shop), share) for seed in range(12)]
    assert any((one.max(axis=2) < 12).mean() > 0.3 for one in views) == replaced


def test_a_white_background_is_connected_to_the_border():
    photo = PHOTO.copy()
    photo[40:45, 25:30] = 255
    ground = white_background(photo)
    assert ground[0, 0]
    assert not ground[42, 27]
    assert ground.sum() == 90 * 60 - 60 * 40


def test_affine_distortions_keep_the_centre_and_most_of_the_ink():
    stroke = np.full((105, 105, 3), 255, np.uint8)
    cv2.circle(stroke, (52, 52), 20, (0, 0, 0), 5)
    views = [VIEWS["affine"](stroke, 105, np.random.default_rng(seed), stroke) for seed in range(30)]
    ink = [255 - one[..., 0].astype(float) for one in views]
    rows, columns = np.mgrid[:105, :105]
    centres = [((one * rows).sum() / one.sum(), (one * columns).sum() / one.sum()) for one in ink]
    assert np.abs(np.array(centres) - 52).max() < 3.5
    shares = [one.sum() / ink[0].sum() for one in ink]
    assert 0.5 < min(shares) < 0.99 < max(shares) < 2
