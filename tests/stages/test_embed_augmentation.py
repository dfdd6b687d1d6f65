"""Views of photos: drawn from a generator, and of the garment's own colour."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from embed_cases import random_images, shop_photo

from stages.embed.augmentation import VIEWS, view, white_background


class TestAugment:
    def test_views_are_drawn_from_the_generator(self):
        photo, scenery = shop_photo((40, 60, 160)), random_images(1)[0]
        before = photo.copy()
        first, again, other = (view(photo, 64, np.random.default_rng(seed), scenery) for seed in (3, 3, 4))
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert np.array_equal(photo, before)

    def test_views_keep_the_colour(self):
        photo = shop_photo((40, 60, 160))

        def colour(image):
            middle = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[len(image) // 3 : -len(image) // 3, 20:-20]
            return np.median(middle.reshape(-1, 3), axis=0)[1:]

        views = [colour(view(photo, 64, np.random.default_rng(seed))) for seed in range(40)]
        assert math.dist(np.median(views, axis=0), colour(photo)) < 12

    def test_a_white_background_can_be_left_as_it_is(self):
        shop = np.full((60, 60, 3), 255, np.uint8)
        shop[20:40, 20:40] = (200, 30, 30)
        black = np.zeros((60, 60, 3), np.uint8)
        for share, seen in ((0.0, False), (1.0, True)):
            views = [view(shop, 48, np.random.default_rng(seed), black, share) for seed in range(12)]
            assert any((one.max(axis=2) < 12).mean() > 0.3 for one in views) == seen

    def test_white_background_is_what_the_border_reaches(self):
        photo = shop_photo((40, 60, 160))
        photo[40:45, 25:30] = 255
        ground = white_background(photo)
        assert ground[0, 0]
        assert not ground[42, 27]
        assert ground.sum() == 90 * 60 - 60 * 40


class TestViews:
    @pytest.mark.parametrize("name", VIEWS)
    def test_each_is_drawn_from_the_generator_and_leaves_the_photo(self, name):
        photo, scenery = shop_photo((40, 60, 160)), random_images(1)[0]
        before = photo.copy()
        first, again, other = (VIEWS[name](photo, 48, np.random.default_rng(seed), scenery) for seed in (3, 3, 5))
        assert (first.shape, first.dtype) == ((48, 48, 3), np.uint8)
        assert np.array_equal(first, again)
        assert np.array_equal(first, other) == (name == "plain")
        assert np.array_equal(photo, before)

    def test_distortions_keep_the_middle_and_most_of_the_ink(self):
        stroke = np.full((105, 105, 3), 255, np.uint8)
        cv2.circle(stroke, (52, 52), 20, (0, 0, 0), 5)
        seen = [VIEWS["affine"](stroke, 105, np.random.default_rng(seed), stroke) for seed in range(30)]
        ink = [(255 - one[..., 0].astype(float)) for one in seen]
        rows, columns = np.mgrid[:105, :105]
        centres = [((one * rows).sum() / one.sum(), (one * columns).sum() / one.sum()) for one in ink]
        assert np.abs(np.array(centres) - 52).max() < 3.5
        shares = [one.sum() / ink[0].sum() for one in ink]
        assert 0.5 < min(shares) < 0.99 < max(shares) < 2
