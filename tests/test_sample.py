"""The sample shop and street: the same each time, and truly annotated."""

import csv
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.sample import (
    VIEWS,
    choose_outfit,
    make_items,
    render_item,
    render_sample,
    render_scene,
    render_scenes,
)
from stages.types import LABELS

SCENES = 13

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools on numpy 2


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return render_sample(tmp_path_factory.mktemp("sample") / "new", seed=3, items=13, scenes=SCENES)


@pytest.fixture(scope="module")
def coco(sample):
    return COCO(sample.street_json)


def rows_of(sample):
    with sample.shop_csv.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_shop_has_every_group_and_every_photo(sample):
    rows = rows_of(sample)
    assert {row["category"] for row in rows} == set(LABELS)
    assert len(rows) == sample.photos == 13 * len(VIEWS)
    for row in rows:
        image = cv2.imread(str(sample.shop_csv.parent / row["image"]))
        assert image.shape == (400, 400, 3)
        assert (image.min(axis=2) < 200).mean() > 0.02, row["image"]
        assert float(row["price"]) > 0


def test_every_group_is_worn(coco):
    worn = {coco.cats[a["category_id"]]["name"] for a in coco.anns.values()}
    assert worn == set(LABELS)


def test_annotations_are_what_their_masks_say(coco):
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        assert annotation["area"] == mask.sum() >= 64
        ys, xs = np.nonzero(mask)
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert annotation["iscrowd"] == 0


def test_no_pixel_is_worn_twice(coco):
    for image_id in coco.imgs:
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        assert np.sum(masks, axis=0).max() == 1


def test_worn_items_are_in_the_shop(sample, coco):
    category = {row["item_id"]: row["category"] for row in rows_of(sample)}
    for annotation in coco.anns.values():
        assert category[annotation["item_id"]] == coco.cats[annotation["category_id"]]["name"]


def test_shoes_come_in_two_pieces_and_other_groups_in_one():
    items = make_items(0, 13)
    pairs = 0
    for seed in range(6):
        scene = render_scene(
            np.random.default_rng(seed), [choose_outfit(np.random.default_rng(seed), items)], 0.0, (480, 320)
        )
        labels = [piece.item.label for piece in scene.pieces]
        pairs += labels.count("shoes") == 2
        for label in set(labels) - {"shoes", "hosiery"}:
            assert labels.count(label) == 1
        for piece in scene.pieces:
            if piece.item.label in ("shoes", "hosiery"):
                assert cv2.connectedComponents(piece.mask.astype(np.uint8))[0] == 2
    assert pairs >= 4


def test_scenes_are_sized_and_listed(coco, sample):
    assert len(coco.imgs) == SCENES
    for image in coco.imgs.values():
        pixels = cv2.imread(str(sample.street_json.parent / "street" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert 0 <= image["clutter"] <= 1


def test_the_same_seed_gives_the_same_bytes(tmp_path, sample):
    again = render_sample(tmp_path / "again", seed=3, items=13, scenes=2)
    assert again.shop_csv.read_bytes() == sample.shop_csv.read_bytes()
    for photo in sorted((tmp_path / "again").rglob("*.jpg")):
        assert photo.read_bytes() == (sample.shop_csv.parent / photo.relative_to(tmp_path / "again")).read_bytes()
    few = json.loads(again.street_json.read_text())
    many = json.loads(sample.street_json.read_text())
    assert few["annotations"] == many["annotations"][: len(few["annotations"])]


def test_another_seed_gives_another_street():
    items = make_items(0, 13)
    one, other = (next(render_scenes(items, 1, seed)).image for seed in (0, 1))
    assert (one != other).any()


def test_clutter_makes_edges():
    items = make_items(0, 13)
    means = []
    for clutter in (0.0, 0.5, 1.0):
        edges = []
        for seed in range(4):
            scene = render_scene(
                np.random.default_rng(seed), [choose_outfit(np.random.default_rng(seed), items)], clutter, (360, 240)
            )
            edges.append((cv2.Canny(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), 60, 140) > 0).mean())
        means.append(np.mean(edges))
    assert means[0] < means[1] < means[2]


def test_clutter_leaves_the_people_alone():
    items = make_items(0, 13)
    outfit = choose_outfit(np.random.default_rng(1), items)
    plain, crowded = (render_scene(np.random.default_rng(7), [outfit], c, (360, 240)) for c in (0.0, 1.0))
    assert [(p.item, p.box) for p in plain.pieces] == [(p.item, p.box) for p in crowded.pieces]
    assert all((p.mask == q.mask).all() for p, q in zip(plain.pieces, crowded.pieces, strict=True))


def test_the_nearer_person_hides_the_farther():
    items = make_items(0, 26)
    rng = np.random.default_rng(5)
    scene = render_scene(rng, [choose_outfit(rng, items), choose_outfit(rng, items)], 0.3)
    cover = np.zeros(scene.image.shape[:2], int)
    for piece in scene.pieces:
        cover[piece.box.slices] += piece.mask
    assert cover.max() == 1
    assert sum(piece.item.label == "shoes" for piece in scene.pieces) >= 2


@pytest.mark.parametrize("label", LABELS)
def test_an_item_keeps_its_colour_from_view_to_view(label):
    item = next(item for item in make_items(1, 26) if item.label == label)
    front, back = (render_item(item, view, 96).astype(float) for view in VIEWS)
    assert (front != back).any()
    tones = [photo[photo.min(axis=2) < photo.min(axis=2).mean()].mean(axis=0) for photo in (front, back)]
    assert np.abs(tones[0] - tones[1]).max() < 40


def test_progress_is_told(tmp_path):
    seen = []
    render_sample(tmp_path, items=13, scenes=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 27) for k in range(1, 28)]


def test_mistakes_are_told(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="empty folder"):
        render_sample(tmp_path)
    with pytest.raises(ValueError, match="13 groups"):
        make_items(0, 5)
    with pytest.raises(ValueError, match="at least one scene"):
        render_sample(tmp_path / "new", scenes=0)
    with pytest.raises(ValueError, match="a view is one of"):
        render_item(make_items(0, 13)[0], "side")
    with pytest.raises(ValueError, match=r"clutter lies in \[0, 1\]"):
        render_scene(np.random.default_rng(0), [], 1.5)
