"""Public datasets in their upstream layouts, as CSV files that outfinder reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco_mask
from script_runs import run_script

import omniglot
import public_sets
from mixed import in_memory
from public_sets import luma_split
from stages.embed.data import percentile_of
from stages.images import read_image


def write(folder: Path, *names: str, image: np.ndarray | None = None) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), np.full((90, 60, 3), 90, np.uint8) if image is None else image)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def converted(name: str, *arguments: object) -> list[dict[str, str]]:
    output = next(Path(str(one)) for one in arguments if str(one).endswith(".csv"))
    run_script(public_sets.main, name, *arguments)
    rows = rows_of(output)
    assert all((output.parent / row["image"]).exists() for row in rows)
    return rows


def test_luma_items_are_sku_and_colour_and_splits_share_no_sku(tmp_path: Path) -> None:
    skus = [f"mh{number:02}" for number in range(30)]
    names = [f"{sku}-{end}.jpg" for sku in skus for end in ("red_main", "red_back", "blue-0")]
    write(tmp_path / "luma", *names, "wb04-blue-0.jpg", "wb01-gray_main.jpg", "msh03-blue_main.jpg", "gift.jpg")
    rows = converted("luma", tmp_path / "luma", tmp_path / "luma.csv")
    labels = {Path(row["image"]).name: row["label"] for row in rows}
    assert len(rows) == 93
    assert [labels[name] for name in ("wb04-blue-0.jpg", "wb01-gray_main.jpg", "msh03-blue_main.jpg")] == [
        *("bag", "top", "shorts")
    ]
    test = in_memory(public_sets.luma(tmp_path / "luma", ["test"]).only(lambda sample: sample.style in skus))
    assert {item.style for item in test} == {f"luma/{sku}" for sku in skus if percentile_of(sku) < 40}
    assert {(item.colour, len(item.photos)) for item in test} == {("red", 2), ("blue", 1)}
    assert [luma_split(sku) for sku in ("mh01", "MH01", "wt09", "wp01")] == ["test", "test", "val", "train"]


def test_shoes_are_pairs_of_a_photographer(tmp_path: Path) -> None:
    pairs = [(p, k) for p in range(3) for k in (1, 2)]
    write(tmp_path / "shoes", *(f"u00{p}_{k}_{side}_m.jpg" for p, k in pairs for side in ("left", "right")))
    rows = converted("shoes", tmp_path / "shoes", tmp_path / "shoes.csv")
    assert [row["item_id"] for row in rows] == [f"u00{p}_{k}_m" for p, k in pairs for _ in "lr"]
    assert all(row["source"] == row["item_id"][:4] for row in rows)


def test_clothing_is_split_by_its_id_and_absent_photos_are_left_out(tmp_path: Path) -> None:
    ids = [f"photo{number}" for number in range(40)]
    write(tmp_path / "images", *(f"{name}.jpg" for name in ids))
    lines = [f"{name},7,Shirt,False" for name in [*ids, "absent"]]
    (tmp_path / "images.csv").write_text("\n".join(["image,sender_id,label,kids", *lines]))
    rows = converted("clothing", tmp_path, tmp_path / "out.csv", "--split", "val")
    assert {row["item_id"] for row in rows} == {name for name in ids if 10 <= percentile_of(name) < 20}


def test_products_get_their_proportions_back(tmp_path: Path) -> None:
    write(tmp_path / "images", "7.jpg", "8.jpg", image=np.zeros((224, 224, 3), np.uint8))
    (tmp_path / "styles.csv").write_text("id,articleType\n7,Jeans\n8,Shirts\n9,Socks\n")
    rows = converted("products", tmp_path, tmp_path / "products.csv")
    assert [(row["item_id"], row["label"], row["domain"]) for row in rows] == [
        ("7", "Jeans", "shop"),
        ("8", "Shirts", "shop"),
    ]
    assert read_image(tmp_path / rows[0]["image"]).shape == (224, 168, 3)


def test_cifar_has_folders_and_an_empty_set_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/1.jpg", "test/cat/1.jpg", "test/dog/2.png")
    rows = converted("cifar10", tmp_path, tmp_path / "out.csv", "--split", "test")
    assert [row["item_id"] for row in rows] == ["cat", "dog"]
    arguments = ["luma", str(tmp_path), str(tmp_path / "none.csv")]
    assert "no photo in" in CliRunner().invoke(public_sets.main, arguments).stderr


def test_omniglot_is_unpacked_and_listed_by_alphabet_and_drawer(tmp_path: Path) -> None:
    source = tmp_path / "omniglot"
    source.mkdir()
    _, png = cv2.imencode(".png", np.zeros((105, 105), np.uint8))
    for name, alphabet in (("background", "Latin"), ("evaluation", "Greek")):
        with ZipFile(source / f"images_{name}.zip", "w") as archive:
            for drawer in (1, 2):
                archive.writestr(f"images_{name}/{alphabet}/character01/0009_{drawer:02}.png", png.tobytes())
    run_script(omniglot.main, source, tmp_path / "out")
    train, test = (rows_of(tmp_path / "out" / f"{part}.csv") for part in ("train", "test"))
    assert [(row["item_id"], row["label"], row["source"]) for row in train] == [
        ("Latin/character01", "Latin", "01"),
        ("Latin/character01", "Latin", "02"),
    ]
    assert test[0]["item_id"] == "Greek/character01"
    assert read_image(tmp_path / "out" / test[0]["image"]).shape == (105, 105, 3)


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[Path, Path]:
    """Four photos of one colour each with a bag of another, one of them with a tiny second garment."""
    images, annotations = [], []
    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[8:56, 12:52] = 1
    mask[8:20, 12:20] = 0
    counts = coco_mask.encode(mask)["counts"].decode()
    for number in range(4):
        image = np.full((64, 64, 3), 20 + 50 * number, np.uint8)
        image[mask > 0] = (0, 0, 250)
        write(tmp_path / "photos", f"{number}.jpg", image=image)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 64})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1824, "bbox": [12, 8, 40, 48],
             "segmentation": {"size": [64, 64], "counts": counts}}
        )  # fmt: skip
    annotations.append(annotations[0] | {"id": 9, "bbox": [0, 0, 9, 9], "segmentation": []})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bag"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path / "coco.json", tmp_path / "photos"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
@pytest.mark.parametrize(("name", "domains", "ground"), [("garments", ("street", "shop"), 255),
                                                         ("cutouts", ("photo", "cutout"), 120)])  # fmt: skip
def test_a_garment_is_cut_out_of_its_photo_in_two_domains(
    annotated: tuple[Path, Path], tmp_path: Path, name: str, domains: tuple[str, str], ground: int
) -> None:
    rows = converted(name, *annotated, tmp_path / "out.csv")
    assert [row["domain"] for row in rows] == [*domains] * 4
    assert {row["label"] for row in rows} == {"bag"}
    crops = [read_image(tmp_path / row["image"]).astype(int) for row in rows[:2]]
    assert crops[0].shape == crops[1].shape == (54, 44, 3), "5 % of context on each side"
    assert abs(crops[0][3, 3] - 20).max() < 25
    assert abs(crops[1][3, 3] - ground).max() < 25
    assert abs(crops[0] - crops[1])[20:40, 10:30].max() < 25
