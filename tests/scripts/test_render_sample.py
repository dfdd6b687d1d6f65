"""The renderer gives the same pictures each time, and the shop and street that it made are truly annotated."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.demo import FOLDER
from render_sample.items import make_items
from render_sample.scene import choose_outfit, render_grounds, render_scene
from render_sample.shop import VIEWS, render_item
from render_sample.write import paired_outfits, render_sample, render_scenes
from stages.types import LABELS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools on numpy 2

SMALL = (240, 160)


def shop_rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    with (folder / "shop.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_packaged_shop_has_every_group_in_both_views() -> None:
    rows = shop_rows()
    assert {row["category"] for row in rows} == set(LABELS)
    assert set(Counter(row["item_id"] for row in rows).values()) == {len(VIEWS)}
    for row in rows:
        image = cv2.imread(str(FOLDER / row["image"]))
        assert image.shape == (320, 320, 3)
        assert (image.min(axis=2) < 200).mean() > 0.02, row["image"]
        assert float(row["price"]) > 0


@pytest.mark.parametrize("name", ["street", "clutter"])
def test_packaged_annotations_are_what_their_masks_say(name: str) -> None:
    coco = COCO(FOLDER / f"{name}.json")
    category = {row["item_id"]: row["category"] for row in shop_rows()}
    assert {coco.cats[one["category_id"]]["name"] for one in coco.anns.values()} == set(LABELS)
    for image_id, image in coco.imgs.items():
        assert cv2.imread(str(FOLDER / name / image["file_name"])).shape == (image["height"], image["width"], 3)
        assert image["clutter"] in (0, 0.5, 1)
        cover = np.zeros((image["height"], image["width"]), int)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation)
            cover += mask
            assert annotation["area"] == mask.sum() >= 64
            ys, xs = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert category[annotation["item_id"]] == coco.cats[annotation["category_id"]]["name"]
        assert cover.max() == 1, "no pixel belongs to two garments"


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (
        render_sample(tmp_path / name, seed=3, items=13, scenes=scenes, shop_px=64)
        for name, scenes in (("a", 1), ("b", 2))
    )
    assert one.shop_csv.read_bytes() == other.shop_csv.read_bytes()
    for photo in sorted((tmp_path / "a").rglob("*.jpg")):
        assert photo.read_bytes() == (tmp_path / "b" / photo.relative_to(tmp_path / "a")).read_bytes()
    few, many = (json.loads(each.street_json.read_text()) for each in (one, other))
    assert few["annotations"] == many["annotations"][: len(few["annotations"])]
    items = make_items(0, 13)
    first, second = (next(render_scenes(items, 1, seed)).image for seed in (0, 1))
    assert (first != second).any()


def test_each_scene_is_rendered_at_every_clutter(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    summary = render_sample(
        tmp_path / "s", items=13, scenes=2, clutters=(0.0, 1.0), shop_px=64, progress=lambda *done: told.append(done)
    )
    assert told == [(k, 28) for k in range(1, 29)]
    street, others = (json.loads((tmp_path / "s" / f"{name}.json").read_text()) for name in ("street", "clutter"))
    assert [(one["clutter"], one["query"]) for one in street["images"]] == [(0.0, True), (1.0, False)]
    assert [(one["clutter"], one["query"]) for one in others["images"]] == [(1.0, True), (0.0, False)]
    assert summary.annotations == len(street["annotations"]) == len(others["annotations"])


def test_the_second_half_wears_the_garments_of_the_first_in_other_outfits() -> None:
    items = make_items(0, 65)
    outfits = paired_outfits(items, 12, seed=0)
    first, second = outfits[:12], outfits[12:]
    assert Counter(item for outfit in first for item in outfit) == Counter(item for outfit in second for item in outfit)
    for outfit in first:
        assert max(len({*outfit} & {*other}) for other in second) <= len(outfit) - 1
    assert paired_outfits(items, 12, seed=0) == outfits != paired_outfits(items, 12, seed=1)


def test_shoes_come_in_two_pieces_and_other_groups_in_one() -> None:
    items = make_items(0, 13)
    pairs = 0
    for seed in range(4):
        outfit = choose_outfit(np.random.default_rng(seed), items)
        scene = render_scene(np.random.default_rng(seed), [outfit], 0.0, (480, 320))
        labels = [piece.item.label for piece in scene.pieces]
        pairs += labels.count("shoes") == 2
        for label in set(labels) - {"shoes", "hosiery"}:
            assert labels.count(label) == 1
    assert pairs >= 3


def test_clutter_makes_edges_and_leaves_the_people_alone() -> None:
    outfit = choose_outfit(np.random.default_rng(1), make_items(0, 13))
    grades = render_grounds(np.random.default_rng(7), [outfit], (0.0, 0.5, 1.0), SMALL)
    edges = [(cv2.Canny(cv2.cvtColor(one.image, cv2.COLOR_RGB2GRAY), 60, 140) > 0).mean() for one in grades]
    assert edges[0] < edges[1] < edges[2]
    for one in grades[1:]:
        assert [(piece.item, piece.box) for piece in one.pieces] == [
            (piece.item, piece.box) for piece in grades[0].pieces
        ]


def test_the_nearer_person_hides_the_farther() -> None:
    items = make_items(0, 26)
    rng = np.random.default_rng(5)
    scene = render_scene(rng, [choose_outfit(rng, items), choose_outfit(rng, items)], 0.3, (480, 320))
    cover = np.zeros(scene.image.shape[:2], int)
    for piece in scene.pieces:
        cover[piece.box.slices] += piece.mask
    assert cover.max() == 1
    assert sum(piece.item.label == "shoes" for piece in scene.pieces) >= 2


@pytest.mark.parametrize("label", LABELS)
def test_an_item_keeps_its_colour_from_view_to_view(label: str) -> None:
    item = next(item for item in make_items(1, 26) if item.label == label)
    front, back = (render_item(item, view, 64).astype(float) for view in VIEWS)
    assert (front != back).any()
    tones = [photo[photo.min(axis=2) < photo.min(axis=2).mean()].mean(axis=0) for photo in (front, back)]
    assert np.abs(tones[0] - tones[1]).max() < 40


def test_impossible_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="empty folder"):
        render_sample(tmp_path)
    with pytest.raises(ValueError, match="13 groups"):
        make_items(0, 5)
    with pytest.raises(ValueError, match="at least one scene"):
        render_sample(tmp_path / "new", scenes=0)
    with pytest.raises(ValueError, match="an even number"):
        render_sample(tmp_path / "new", items=13, scenes=3, clutters=(0.0,), shop_px=64)
    with pytest.raises(ValueError, match="a view is one of"):
        render_item(make_items(0, 13)[0], "side")
    with pytest.raises(ValueError, match=r"clutter lies in \[0, 1\]"):
        render_scene(np.random.default_rng(0), [], 1.5)
