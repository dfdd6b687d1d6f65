"""The shipped weights, judged by what they find on a shop and a street that they were not trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import weights
from pipeline.catalogue import Indexing, read_catalogue
from pipeline.config import Config, build_detector, build_embedder
from pipeline.demo import FOLDER
from pipeline.gallery import Gallery
from pipeline.pipeline import Pipeline
from stages.crop import BoxCrop
from stages.detect.evaluation import evaluate
from stages.embed.attributes import attribute_part
from stages.images import read_image, walk
from stages.testing import check_detector, check_embedder
from stages.types import Box, Detection


@pytest.mark.parametrize("name", ["maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2"])
def test_detectors_find_the_garments_of_scenes_they_never_saw(name: str) -> None:
    street = FOLDER / "street"
    result = evaluate(build_detector(Config(detector=name, min_score=0.05)), FOLDER / "street.json", street)
    assert result.box.ap50 > 0.5
    assert (result.mask is None) == (name == "fasterrcnn_mobilenet_v2")
    if result.mask:
        assert result.mask.ap50 > 0.5


@pytest.mark.parametrize("name", ["maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2"])
def test_shipped_detectors_keep_the_law(name: str) -> None:
    photos = [read_image(path) for path in list(walk([FOLDER / "street"]))[:2]]
    check_detector(build_detector(Config(detector=name)), [*photos, photos[0][:300, 100:], photos[1][200:, :90]])


def test_the_shipped_embedder_keeps_the_law() -> None:
    embedder = build_embedder(Config())
    check_embedder(embedder)
    part = attribute_part(embedder)
    assert part is not None
    assert embedder.dim == 128 + part.width
    assert weights.load("siamese").sha256[:12] in embedder.fingerprint


def test_the_other_view_of_an_item_is_among_its_nearest() -> None:
    views = list(walk([FOLDER / "shop"]))
    vectors = build_embedder(Config())([read_image(path) for path in views])
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    items = np.array([path.parent.name for path in views])
    found = (items[np.argsort(-similar, axis=1)[:, :3]] == items[:, None]).any(axis=1)
    assert found.mean() > 0.7


def test_catalogue_photos_get_their_kind_and_what_is_worn_in_the_street_is_found_in_the_shop(tmp_path: Path) -> None:
    """End to end: detect, crop, embed, index, match, against who wears what."""
    detector, cropper, embedder = build_detector(Config()), BoxCrop(), build_embedder(Config())
    gallery = Gallery.create(tmp_path / "g", embedder, cropper)
    shop = Pipeline(detector, cropper, embedder, main_garment=True)
    fronts = (photo for photo in read_catalogue([FOLDER / "shop.csv"]) if photo.path.stem == "front")
    assert Indexing(gallery, shop, "mask")(fronts).added == 40
    kinds_right = [row.label == row.item.rpartition("-")[0] for row in gallery.rows]
    assert np.mean(kinds_right) > 0.6  # rendered, and the classifier of kinds has seen photos only
    worn = worn_by_photo(FOLDER / "street.json")
    asked = right = 0
    for analysis in Pipeline(detector, cropper, embedder)(walk([FOLDER / "street"])):
        for detection, matches in zip(analysis.detections, gallery.search(analysis.vectors, k=5), strict=True):
            item = item_at(detection, worn[analysis.path.name])
            asked += item is not None
            right += item in {match.item for match in matches}
    assert asked > 40
    assert right / asked > 0.4  # by chance: 5 of 40


def worn_by_photo(street: Path) -> dict[str, list[tuple[Box, str]]]:
    coco = json.loads(street.read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    worn: dict[str, list[tuple[Box, str]]] = {name: [] for name in names.values()}
    for garment in coco["annotations"]:
        x, y, w, h = map(round, garment["bbox"])
        worn[names[garment["image_id"]]].append((Box(x, y, x + w, y + h), garment["item_id"]))
    return worn


def item_at(detection: Detection, worn: list[tuple[Box, str]]) -> str | None:
    overlap, item = max((detection.box.iou(box), item) for box, item in worn)
    return item if overlap > 0.5 else None
