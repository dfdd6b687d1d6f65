from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import draw

from pipeline.sample import make_items, render_item
from stages.detect.annotations import AnnotatedPhoto, Annotations, Instance
from stages.detect.augment import Scene, jitter, paste, recolour
from stages.detect.ccp import tagged_labels
from stages.detect.data import LabelledPhotos, Rounds, TrainingSet, repeat_factors, to_target
from stages.detect.outline import outline
from stages.detect.pseudo import believed, only_garment, pseudo_label
from stages.detect.segmentation import to_rle
from stages.errors import CatalogueError
from stages.images import write_jpeg
from stages.testing import FakeDetector
from stages.types import LABELS, Box, Detection


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


def test_pasted_garments_cover_what_they_lie_on() -> None:
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


def test_rounds_hold_every_photo_and_rare_ones_more_often() -> None:
    repeats = np.array([1.0, 1.0, 2.5, 1.0])
    rounds = Rounds(repeats, seed=3)
    assert rounds.per_round == 6
    draws = list(islice(rounds, 550))
    assert [position for position, _ in draws] == list(range(550))
    counts = np.bincount([place for _, place in draws])
    np.testing.assert_allclose(counts / counts[0], repeats, rtol=0.1)
    assert set(range(4)) == {place for _, place in draws[:6]}, "each comes in the first round"
    assert list(islice(Rounds(repeats, seed=3, start=123), 50)) == draws[123:173], "goes on where it stopped"
    assert list(islice(Rounds(repeats, seed=4), 50)) != draws[:50]


def test_repeat_factors_follow_the_share_of_photos() -> None:
    labels = [{1}, {1}, {1, 2}, {1, 3}] * 25 + [set()] * 0
    factors = repeat_factors(labels, often=0.5)
    assert factors == {1: 1.0, 2: pytest.approx(2**0.5), 3: pytest.approx(2**0.5)}


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


def test_the_same_draw_gives_the_same_sample_and_another_another(photos: Path) -> None:
    data = TrainingSet([labelled(photos)], 64, seed=0, often=0.5, pasting=0.5)
    assert len(data) == 2
    first, again, other = data[7, 1], data[7, 1], data[8, 1]
    np.testing.assert_array_equal(first[0], again[0])
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])
    assert set(first[1]["labels"].tolist()) <= {3}


def test_a_photo_that_goes_bad_is_replaced_by_the_next(photos: Path) -> None:
    data = TrainingSet([labelled(photos)], 64, seed=0)
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff damaged")
    assert data[0, 0][0].shape[0] == 3
    (photos / "b.jpg").unlink()
    with pytest.raises(CatalogueError, match="none of the photos can be read"):
        data[0, 0]


def found(label: str, score: float, *corners: int) -> Detection:
    return Detection(label, score, Box(*corners), None)


def test_pseudo_labels_believe_the_tags() -> None:
    detections = [
        found("dress", 0.9, 10, 10, 50, 90),
        found("top", 0.8, 11, 10, 50, 88),  # not tagged
        found("belt", 0.2, 10, 40, 50, 45),  # tagged, and the best there is
        found("belt", 0.18, 10, 60, 50, 65),
        found("shoes", 0.95, 10, 90, 30, 99),
        found("shoes", 0.6, 12, 91, 28, 99),  # a part of the other shoe
        found("shoes", 0.55, 40, 90, 60, 99),
        found("hat", 0.1, 20, 0, 40, 9),  # tagged, but less than likely
    ]
    kept = believed(detections, {"dress", "belt", "shoes", "hat", "skirt"})
    assert [(one.label, one.score) for one in kept] == [("shoes", 0.95), ("dress", 0.9), ("shoes", 0.55), ("belt", 0.2)]


def test_one_garment_gets_one_pseudo_label() -> None:
    kept = believed([found("dress", 0.9, 0, 0, 50, 90), found("skirt", 0.8, 1, 1, 50, 90)], {"dress", "skirt"})
    assert [one.label for one in kept] == ["dress"]


def test_pseudo_labels_are_coco_and_leave_out_what_cannot_be_read(photos: Path) -> None:
    detector = FakeDetector()
    (photos / "b.jpg").write_bytes(b"no photo")
    label = detector([draw("red", "blue")])[0][0].label
    coco = pseudo_label(detector, photos, [("a.jpg", [label]), ("b.jpg", [label]), ("a.jpg", ["nothing"])])
    assert [image["file_name"] for image in coco["images"]] == ["a.jpg"]
    (first, *_rest) = coco["annotations"]
    assert coco["categories"][first["category_id"] - 1]["name"] == label
    assert first["area"] > 0
    assert len(first["bbox"]) == 4


def test_grabcut_outlines_what_lies_on_the_floor() -> None:
    item = next(item for item in make_items(0, 26) if item.label == "pants")
    image = render_item(item)
    floor = np.full_like(image, (150, 120, 80))
    floor += np.random.default_rng(0).integers(0, 20, (*image.shape[:2], 1), np.uint8)
    truth = np.abs(image.astype(int) - 240).max(axis=2) > 40
    mask = outline(np.where(truth[..., None], image, floor))
    assert mask is not None
    assert mask.shape == image.shape[:2]
    overlap = (mask > 0) & truth
    assert overlap.sum() / ((mask > 0) | truth).sum() > 0.85
    assert outline(floor) is None or outline(floor).mean() > 0.1


def test_tags_become_groups(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    names = np.array([[name] for name in ("null", "skin", "scarf", "jeans", "boots")], object).reshape(1, -1)
    scipy_io.savemat(tmp_path / "label_list.mat", {"label_list": names})
    folder = tmp_path / "annotations" / "image-level"
    folder.mkdir(parents=True)
    scipy_io.savemat(folder / "0007.mat", {"tags": np.array([[0, 1, 4, 2, 3]], np.uint8)})
    assert tagged_labels(tmp_path) == {"0007": ["pants", "shoes", "scarf"]}
    assert set(tagged_labels(tmp_path)["0007"]) <= set(LABELS)


def test_a_garment_alone_is_taken_whatever_it_is_called() -> None:
    labels, area = {"dress", "top", "skirt"}, 100 * 100
    dress, shoes = found("dress", 0.6, 10, 10, 60, 90), found("shoes", 0.9, 20, 85, 30, 95)
    assert only_garment([dress], labels, area) is dress
    within = found("skirt", 0.5, 10, 50, 60, 90)  # the same thing seen twice
    assert only_garment([within, dress], labels, area) is dress
    assert only_garment([dress, shoes], labels, area) is None
    assert only_garment([dress, found("shoes", 0.2, 20, 85, 30, 95)], labels, area) is dress
    assert only_garment([dress, found("top", 0.5, 60, 10, 95, 60)], labels, area) is None
    assert only_garment([shoes], labels, area) is None
    assert only_garment([found("top", 0.9, 0, 0, 20, 20)], labels, area) is None  # a small part of the photo
