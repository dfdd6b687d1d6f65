"""The scripts that prepare data for the recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw
from script_runs import run_script

import enlarge_koch
import weights
from ccp import GROUPS, instances, regions, tagged_labels
from outline import outline
from pipeline.demo import FOLDER
from pseudo_label import accepted, only_garment, pseudo_label
from stages.embed.network import Design, SiameseNetwork, read_network
from stages.images import read_image, write_jpeg
from stages.testing import FakeDetector
from stages.types import LABELS, Box, Detection


def test_ccp_classes_become_groups_and_shoes_two_pieces() -> None:
    label_map = np.zeros((40, 40), np.uint8)
    label_map[5:20, 5:35] = 1  # blouse
    label_map[30:38, 2:14] = label_map[30:38, 24:36] = 2  # shoes, apart
    label_map[0:3, 0:3] = 3  # a crumb of a bag
    groups = np.array([0, *(1 + LABELS.index(name) for name in ("top", "shoes", "bag"))], np.uint8)
    found = [(LABELS[group - 1], int(mask.sum())) for group, mask in instances(label_map, groups)]
    assert found == [("top", 450), ("shoes", 96), ("shoes", 96)]
    assert set(GROUPS) == set(LABELS)
    assert len({name for members in GROUPS.values() for name in members}) == sum(map(len, GROUPS.values()))


def test_ccp_regions_hold_both_shoes_and_no_crumbs() -> None:
    label_map = np.zeros((40, 60), np.uint8)
    label_map[20:30, 10:20] = 1  # a boot
    label_map[20:32, 30:40] = 2  # the other one, called by another name
    label_map[0:3, 50:53] = 2  # a crumb
    label_map[10:12, 0:4] = 3  # all of a flat is one
    names = ["null", "boots", "boot", "flats"]
    classes = {"boots": ("boots", "boot"), "flats": ("flats",), "pumps": ("pumps",)}
    assert regions(label_map, names, classes, margin=0.0) == {"boots": Box(10, 20, 40, 32)}
    assert regions(label_map, names, classes, margin=0.5) == {"boots": Box(0, 14, 55, 38)}


def detection(label: str, score: float, *corners: int) -> Detection:
    return Detection(label, score, Box(*corners), None)


def test_pseudo_labels_follow_the_tags() -> None:
    detections = [
        detection("dress", 0.9, 10, 10, 50, 90),
        detection("top", 0.8, 11, 10, 50, 88),  # not tagged
        detection("belt", 0.2, 10, 40, 50, 45),  # tagged, and the best there is
        detection("belt", 0.18, 10, 60, 50, 65),
        detection("shoes", 0.95, 10, 90, 30, 99),
        detection("shoes", 0.6, 12, 91, 28, 99),  # a part of the other shoe
        detection("shoes", 0.55, 40, 90, 60, 99),
        detection("hat", 0.1, 20, 0, 40, 9),  # tagged, but less than likely
    ]
    kept = accepted(detections, {"dress", "belt", "shoes", "hat", "skirt"})
    assert [(one.label, one.score) for one in kept] == [("shoes", 0.95), ("dress", 0.9), ("shoes", 0.55), ("belt", 0.2)]


def test_one_garment_gets_one_pseudo_label() -> None:
    kept = accepted([detection("dress", 0.9, 0, 0, 50, 90), detection("skirt", 0.8, 1, 1, 50, 90)], {"dress", "skirt"})
    assert [one.label for one in kept] == ["dress"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        write_jpeg(tmp_path / name, draw("red", "blue"))
    return tmp_path


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


def test_grabcut_outlines_a_garment_on_the_floor() -> None:
    image = read_image(FOLDER / "shop" / "pants-01" / "front.jpg")
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


def test_a_lone_garment_is_accepted_whatever_its_label() -> None:
    labels, area = {"dress", "top", "skirt"}, 100 * 100
    dress, shoes = detection("dress", 0.6, 10, 10, 60, 90), detection("shoes", 0.9, 20, 85, 30, 95)
    assert only_garment([dress], labels, area) is dress
    within = detection("skirt", 0.5, 10, 50, 60, 90)  # the same thing seen twice
    assert only_garment([within, dress], labels, area) is dress
    assert only_garment([dress, shoes], labels, area) is None
    assert only_garment([dress, detection("shoes", 0.2, 20, 85, 30, 95)], labels, area) is dress
    assert only_garment([dress, detection("top", 0.5, 60, 10, 95, 60)], labels, area) is None
    assert only_garment([shoes], labels, area) is None
    assert only_garment([detection("top", 0.9, 0, 0, 20, 20)], labels, area) is None  # a small part of the photo


def test_a_small_koch_network_becomes_a_large_one_that_gives_similar_vectors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = SiameseNetwork(Design("koch_half", "flatten", "sigmoid", 256, 53, "linear")).eval()
    weights.save(tmp_path / "small.safetensors", small.state_dict(), small.design.metadata())
    run_script(enlarge_koch.main, tmp_path / "small.safetensors", tmp_path / "large.safetensors")
    large = read_network(weights.read(tmp_path / "large.safetensors")).eval()
    assert (large.design.backbone, large.design.input_px) == ("koch", 105)
    drawings = F.interpolate(torch.randn(12, 1, 8, 8), (106, 106), mode="bicubic").expand(-1, 3, -1, -1)
    with torch.no_grad():
        before, after = small(F.avg_pool2d(drawings, 2)), large(drawings[..., :105, :105])
    both = np.corrcoef(np.concatenate([before - before.mean(dim=0), after - after.mean(dim=0)]))
    assert (both[:12, 12:].argmax(axis=1) == np.arange(12)).all()
    assert np.diag(both[:12, 12:]).mean() > 0.5
    assert "not a koch_half" in run_script(enlarge_koch.main, tmp_path / "large.safetensors", "x", status=2).stderr
