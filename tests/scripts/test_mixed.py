"""Batches of several kinds of items."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from mixed import Item, MixedSampler, Tint, close_up, garment_colour, items_of
from stages.embed.data import Dataset, Sample


def shop_photo(colour, seed=0):
    """A garment of one colour and a hand of another on a white ground."""
    photo = np.full((90, 60, 3), 255, np.uint8)
    photo[15:75, 10:50] = colour
    photo[15:75, 10:50] += np.random.default_rng(seed).integers(0, 4, (60, 40, 3), np.uint8)
    photo[60:75, 40:50] = (222, 180, 150)  # a hand
    return photo


CLASSES = ("Hat", "Hat", "Hat", "Shirt", "Shirt", "Not sure", "Not sure", "")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Six styles of three colours, four photographers of three pairs, eight photos, eight garments."""
    rng = np.random.default_rng(0)

    def photos(count):
        return tuple(shop_photo(tuple(rng.integers(0, 200, 3).tolist()), seed=count) for _ in range(count))

    luma = [
        Item("luma", f"luma/{s}", c, "", photos(2 if c == "red" else 1)) for s in range(6) for c in ("red", "b", "c")
    ]
    shoes = [Item("shoes", f"shoes/{p}_{k}", "", str(p), photos(2)) for p in range(4) for k in range(3)]
    clothing = [Item("clothing", f"clothing/{k}", "", "", photos(1), label=label) for k, label in enumerate(CLASSES)]
    garments = [Item("garments", f"garments/{k}", "", "", photos(2)) for k in range(8)]
    return [*luma, *shoes, *clothing, *garments]


class TestMixedSampler:
    def test_every_identity_has_positives_and_one_style(self, items):
        sampler = MixedSampler(items, side=32)
        for step in range(12):
            shots = sampler.shots(step)
            assert set(Counter(shot.identity for shot in shots).values()) == {2}
            assert {shot.item.kind for shot in shots} == {"luma", "shoes", "clothing", "garments"}
        batch = sampler(0)
        styles = defaultdict(set)
        for identity, style in zip(batch.identities.tolist(), batch.styles.tolist(), strict=True):
            styles[identity].add(style)
        assert all(len(of_one) == 1 for of_one in styles.values())
        assert batch.views.shape == (len(batch.styles), 32, 32, 3)

    def test_a_batch_holds_all_colours_of_a_style(self, items):
        colours = defaultdict(set)
        for shot in MixedSampler(items, side=32, quota={"luma": 2}).shots(0):
            if shot.tint is None:
                colours[shot.item.style].add(shot.item.colour)
        assert len(colours) == 2
        assert all(found == {"red", "b", "c"} for found in colours.values())

    def test_styles_of_a_sort_stand_beside_each_other(self):
        photo = (shop_photo((90, 30, 30)),)
        items = [Item("luma", f"luma/{sort}{n:02}", "red", "", photo) for sort in ("mh", "wt") for n in range(6)]
        sampler = MixedSampler(items, side=32, quota={"luma": 3})
        uneven = MixedSampler(items[:10], side=32, quota={"luma": 4})
        seen = Counter(style for step in range(5) for style in {shot.item.style for shot in uneven.shots(step)})
        assert set(seen.values()) == {2}
        orders = set()
        for epoch in range(3):
            seen = [
                tuple(dict.fromkeys(shot.item.style for shot in sampler.shots(4 * epoch + step))) for step in range(4)
            ]
            assert all(len({style[:7] for style in three}) == 1 for three in seen)
            assert len({style for three in seen for style in three}) == 12
            orders.add(tuple(seen))
        assert len(orders) == 3

    def test_styles_of_a_batch_are_sometimes_dyed_alike(self, items):
        sampler = MixedSampler(items, side=32)
        dyed = []
        for step in range(40):
            tints = [shot.tint for shot in sampler.shots(step) if shot.item.kind == "luma" and shot.tint]
            assert len({tint.target for tint in tints}) <= 1
            dyed.append(len({tint.source for tint in tints}))
        assert 4 < sum(count > 0 for count in dyed) < 24
        assert max(dyed) > 2

    def test_clothing_of_a_class_is_one_style_and_of_none_its_own(self, items):
        styles = defaultdict(set)
        for step in range(4):
            for shot in MixedSampler(items, side=32, quota={"clothing": 2}).shots(step):
                styles[shot.item.label].add(shot.style)
        assert {label: len(found) for label, found in styles.items()} == {"Hat": 1, "Shirt": 1, "Not sure": 2, "": 1}

    def test_a_photographer_brings_several_pairs(self, items):
        shots = MixedSampler(items, side=32, quota={"shoes": 2}).shots(0)
        pairs = Counter(shot.item.source for shot in shots)
        assert len(pairs) == 2
        assert all(count == 6 for count in pairs.values())

    def test_two_photos_of_an_item_come_before_one_twice(self, items):
        shots = MixedSampler(items, side=32).shots(1)
        for first, second in zip(shots[::2], shots[1::2], strict=True):
            assert first.item is second.item
            assert (first.photo != second.photo) == (len(first.item.photos) > 1)

    def test_an_epoch_shows_each_group_once(self, items):
        sampler = MixedSampler(items, side=32, quota={"clothing": 2})
        seen = Counter(name for step in range(4) for name in {shot.item.style for shot in sampler.shots(step)})
        assert len(seen) == 8
        assert set(seen.values()) == {1}

    def test_a_batch_depends_on_seed_and_step_alone(self, items):
        sampler, other = MixedSampler(items, side=32, seed=5), MixedSampler(items, side=32, seed=5)
        sampler(0)
        assert np.array_equal(sampler(1).views, other(1).views)
        assert len(MixedSampler(items, side=32, seed=6).shots(1)) > 0
        assert not np.array_equal(sampler(1).views[:4], MixedSampler(items, side=32, seed=6)(1).views[:4])

    def test_items_have_their_photos_in_order(self):
        samples = (
            Sample(Path("1.jpg"), "x-red", "x", "bag", "street"),
            Sample(Path("2.jpg"), "y", source="anna"),
            Sample(Path("3.jpg"), "x-red", "x", "bag", "shop"),
        )
        red, other = items_of(Dataset("set, train", samples, images=[np.zeros((1, 1, 3), np.uint8)] * 3))
        assert (red.kind, red.style, red.colour, red.label) == ("set", "set/x", "red", "bag")
        assert (red.domains, len(red.photos)) == (("street", "shop"), 2)
        assert (other.identity, other.source, other.domains) == (("set/y", ""), "anna", ())

    def test_a_tint_moves_the_garment_alone(self):
        photo = shop_photo((40, 60, 160))
        tint = Tint.draw(photo, np.random.default_rng(0))
        moved = tint.apply(photo)
        assert math.dist(garment_colour(moved), tint.target) < 20
        assert math.dist(garment_colour(moved), garment_colour(photo)) > 20
        assert (moved[:10] == 255).all()
        hand = moved[66, 45].astype(int) - photo[66, 45]
        assert abs(hand).max() < 12

    def test_a_close_up_is_a_part_near_the_middle_unless_that_is_white(self):
        photo = np.full((120, 90, 3), 255, np.uint8)
        photo[20:100, 15:75] = 90
        close = [close_up(photo, np.random.default_rng(seed)) for seed in range(20)]
        parts = [one for one in close if len(one) < 120]
        assert len(parts) > 15
        assert all(0.28 < len(one) / 120 < 0.67 for one in parts)
        assert np.mean([(one > 235).mean() for one in parts]) < (photo > 235).mean() - 0.1
        photo[:] = 255
        photo[:20] = 30
        assert sum(len(close_up(photo, np.random.default_rng(seed))) == 120 for seed in range(20)) > 12

    def test_refuses_nothing(self):
        with pytest.raises(ValueError, match="needs items"):
            MixedSampler([], side=32)
