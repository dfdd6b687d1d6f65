from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import draw

from stages.detect.annotations import AnnotatedPhoto, Annotations, Instance, to_rle
from stages.detect.training import LabelledPhotos, Scene, TrainingSet, jitter, paste, recolour, to_target
from stages.errors import CatalogueError
from stages.images import write_jpeg


def red_scene() -> Scene:
    image = draw("red")
    red = (np.abs(image.astype(int) - (200, 30, 30)).max(axis=2) < 9).astype(np.uint8)
    return Scene(image, red[None], np.array([1]))


def test_masks_follow_the_pixels_through_augmentation() -> None:
    overlaps = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = jitter(red_scene(), 96, rng)
        image = recolour(scene.image, rng)
        assert image.shape[:2] == scene.masks.shape[1:]
        assert max(image.shape) <= 96
        inside, outside = image[scene.masks[0] > 0], image[scene.masks[0] == 0]
        if len(inside) > 100 and len(outside) > 100 and np.ptp(image.mean((0, 1))) > 5:  # not the grey ones
            overlaps.append(outside[:, 1].mean() - inside[:, 1].mean())  # green: white ground against red cloth
    assert len(overlaps) > 15
    assert min(overlaps) > 20


def test_pasted_garments_cover_those_below() -> None:
    below, above = red_scene(), Scene(draw("blue"), red_scene().masks, np.array([2]))
    odds = np.array([0, 1.0, 1.0])
    both = 0
    for seed in range(20):
        made = paste(below, above, odds, np.random.default_rng(seed))
        assert made.masks.shape[1:] == below.image.shape[:2]
        assert made.masks.sum(axis=0).max() <= 1, "no pixel belongs to two garments"
        assert made.labels.tolist() in ([1, 2], [2])
        both += len(made.labels) == 2
        blue = made.image[made.masks[-1] > 0].mean(axis=0)
        assert blue[2] > blue[0] + 60
    assert both > 10
    untouched = paste(below, above, np.array([0, 1.0, 0.0]), np.random.default_rng(0))
    assert untouched is below


def test_targets_have_tight_boxes_and_no_slivers() -> None:
    masks = np.zeros((2, 50, 50), np.uint8)
    masks[0, 10:30, 5:25] = 1
    masks[1, 0:2, 0:40] = 1
    image, target = to_target(Scene(np.zeros((50, 50, 3), np.uint8), masks, np.array([3, 4])))
    assert image.shape == (3, 50, 50)
    assert target["boxes"].tolist() == [[5, 10, 25, 30]]
    assert target["labels"].tolist() == [3]


def test_a_round_draws_every_photo_and_rare_ones_more_often() -> None:
    def data(seed: int) -> TrainingSet:
        labels = [(1,), (1,), (1, 2), (1,)]
        photos = [
            AnnotatedPhoto(n, f"{n}", 9, 9, tuple(Instance(k, (0, 0, 9, 9)) for k in each))
            for n, each in enumerate(labels)
        ]
        return TrainingSet([LabelledPhotos(Annotations(Path("x"), tuple(photos), {}), Path())], 64, seed, rare=1.0)

    assert data(3).repeats.tolist() == [1, 1, 2, 1]
    assert data(3).draws_per_round == 5
    draws = list(islice(data(3).draws(), 550))
    assert [position for position, _ in draws] == list(range(550))
    counts = np.bincount([place for _, place in draws])
    np.testing.assert_allclose(counts / counts[0], [1, 1, 2, 1], rtol=0.1)
    assert set(range(4)) == {place for _, place in draws[:5]}, "each comes in the first round"
    assert list(islice(data(3).draws(123), 50)) == draws[123:173], "resumes where it stopped"
    assert list(islice(data(4).draws(), 50)) != draws[:50]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        write_jpeg(tmp_path / name, draw("red", "blue"))
    return tmp_path


def labelled(photos: Path) -> LabelledPhotos:
    mask = np.zeros((64, 128), np.uint8)
    mask[8:56, 16:48] = 1
    instance = Instance(3, (16.0, 8.0, 48.0, 56.0), to_rle([[16, 8, 48, 8, 48, 56, 16, 56]], 64, 128))
    annotated = tuple(AnnotatedPhoto(n, f"{name}.jpg", 128, 64, (instance,)) for n, name in enumerate("ab"))
    return LabelledPhotos(Annotations(photos / "x.json", annotated, {1: "dress"}), photos)


def test_a_sample_depends_on_its_draw_alone(photos: Path) -> None:
    data = TrainingSet([labelled(photos)], 64, seed=0, rare=0.5, paste=0.5)
    assert len(data) == 2
    first, again, other = data[7, 1], data[7, 1], data[8, 1]
    np.testing.assert_array_equal(first[0], again[0])
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])
    assert set(first[1]["labels"].tolist()) <= {3}


def test_a_photo_that_cannot_be_read_any_more_is_replaced_by_the_next(photos: Path) -> None:
    data = TrainingSet([labelled(photos)], 64, seed=0)
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff damaged")
    assert data[0, 0][0].shape[0] == 3
    (photos / "b.jpg").unlink()
    with pytest.raises(CatalogueError, match="none of the photos can be read"):
        data[0, 0]
