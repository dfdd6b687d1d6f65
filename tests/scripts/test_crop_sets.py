"""Public data sets as CSVs that the crop benchmark reads."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from pycocotools import mask as coco_mask

import crop_sets
from pipeline.crop_benchmark_data import load_photos
from public_sets import luma_split
from stages.errors import CatalogueError
from stages.images import write_jpeg
from stages.testing import FakeDetector
from stages.types import Box


def convert(*arguments: object) -> None:
    crop_sets.main(list(map(str, arguments)), standalone_mode=False)


def write_coco(folder: Path, photos: int = 4) -> tuple[Path, Path]:
    """Street photos: a top, a pair of shoes, and in the last one three pieces of shoes."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(photos):
        image = np.full((120, 100, 3), 40 * number, np.uint8)
        places = [(2, Box(20, 8, 60, 48)), (7, Box(4, 70, 34, 100)), (7, Box(50, 70, 80, 100))]
        places += [(7, Box(50, 20, 90, 60))] * (number == photos - 1)
        for category, box in places:
            image[box.slices] = (50 * number, 200, 10 * category)
            dense = np.zeros(image.shape[:2], np.uint8, order="F")
            dense[box.slices] = 1
            counts = coco_mask.encode(dense)["counts"].decode("ascii")
            annotations.append({
                "id": len(annotations) + 1, "image_id": number + 1, "category_id": category, "iscrowd": 0,
                "bbox": [box.x1, box.y1, box.width, box.height], "area": int(dense.sum()),
                "segmentation": {"size": [120, 100], "counts": counts},
            })  # fmt: skip
        write_jpeg(folder / f"{number}.jpg", image)
        images.append({"id": number + 1, "file_name": f"{number}.jpg", "width": 100, "height": 120})
    categories = [{"id": 2, "name": "top"}, {"id": 7, "name": "shoes"}]
    path = folder.parent / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, folder


def test_shoes_find_their_other_among_all(tmp_path: Path) -> None:
    convert("shoes", *write_coco(tmp_path / "photos"), tmp_path / "sets")
    data = load_photos(tmp_path / "sets" / "shoes.csv")
    assert not data.problems
    assert Counter(one.item for one in data.examples if one.is_query) == {"1": 2, "2": 2, "3": 2}
    assert len(data.examples) == 9, "three pieces of the last photo are distractors"
    assert not data.whole


def test_cutouts_are_the_garment_on_another_background(tmp_path: Path) -> None:
    path, photos = write_coco(tmp_path / "photos")
    convert("cutouts", path, photos, tmp_path / "sets", "--most", 5)
    data = load_photos(tmp_path / "sets" / "cutouts.csv")
    queries = [photo for photo in data.photos if photo.examples[0].is_query]
    assert len(queries) == 5
    for photo in queries:
        (example,) = photo.examples
        assert example.truth is not None
        image = photo.read().astype(int)
        original = next(
            other for other in data.photos if any(one.item == example.item and one.in_gallery for one in other.examples)
        ).read()
        box = example.truth.box
        assert np.abs(image[box.slices] - original[box.slices]).mean() < 8, "JPEG"
        outside = np.ones(image.shape[:2], np.bool_)
        outside[box.slices] = False
        assert (np.abs(image - original).max(axis=2)[outside] > 10).mean() > 0.7
    with pytest.raises(CatalogueError, match="has 2 photos with masks"):
        convert("cutouts", *write_coco(tmp_path / "few", photos=2), tmp_path / "sets")


def test_luma_fronts_find_backs(tmp_path: Path) -> None:
    skus = [f"mh{number:02d}" for number in range(1, 30)]
    test, other = (next(sku for sku in skus if (luma_split(sku) == "test") == wanted) for wanted in (True, False))
    names = (f"{test}-red_main", f"{test}-red_back", f"{test}-blue_main", f"{other}-red_main", f"{other}-red_back")
    (tmp_path / "luma").mkdir()
    for name in names:
        write_jpeg(tmp_path / "luma" / f"{name}.jpg", draw("red"))
    convert("luma", tmp_path / "luma", tmp_path / "sets")
    data = load_photos(tmp_path / "sets" / "luma.csv").checked({"fake": FakeDetector()})
    assert [(Path(photo.name).stem, photo.examples[0].is_query) for photo in data.photos] == [
        (f"{test}-red_main", True),
        (f"{test}-red_back", False),
        *sorted([(f"{test}-blue_main", False), (f"{other}-red_back", False)]),
    ]
    assert {one.unit for one in data.examples} == {test, other}
    convert("luma", tmp_path / "luma", tmp_path / "sets", "--others", 0)
    assert len(load_photos(tmp_path / "sets" / "luma.csv").photos) == 2
