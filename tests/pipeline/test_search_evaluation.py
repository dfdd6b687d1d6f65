"""``outfinder evaluate search``: labels of the catalogue, and matches of annotated garments by kind and by type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import DETECTOR, EMBEDDER, run
from conftest import draw

from pipeline.pages import STYLE
from pipeline.search import Garment
from pipeline.search_evaluation import AnnotatedGarment, CataloguePhoto, SearchEvaluation, search_figures
from stages.embed.metrics import Estimate
from stages.images import read_image, write_jpeg
from stages.types import Box

SAMPLE = Path(__file__).parents[1] / "golden" / "input"


@pytest.fixture
def gallery(shop: Path, tmp_path: Path) -> Path:
    """Four items by colour, indexed as FakeDetector calls them: red a dress, blue and green a top, and so on."""
    rows = [
        f"{color},catalogue/{name}.jpg,{kind},{type_}"
        for color, name, kind, type_ in (
            ("red", "red/front", "Dress", "dress"),
            ("blue", "blue", "top", "shirt"),
            ("green", "green", "pants", "jeans"),
            ("black", "black", "kettle", "kettle"),
        )
    ]
    (tmp_path / "shop.csv").write_text("\n".join(["item_id,image,group,article", *rows]))
    assert shop.exists()
    run("index", tmp_path / "gallery", tmp_path / "shop.csv", *DETECTOR, *EMBEDDER)
    return tmp_path / "gallery"


@pytest.fixture
def truth(street: Path) -> Path:
    """A dress of a type, a top that is annotated elsewhere than it is found, and a bag that the shop does not have."""
    categories = [{"id": 1, "name": "dress"}, {"id": 2, "name": "top"}, {"id": 3, "name": "bag"}]
    annotations = [
        {"category_id": 1, "bbox": [16, 8, 32, 48], "attributes": {"type": "Dress"}},
        {"category_id": 2, "bbox": [80, 8, 10, 10], "type": "shirt"},
        {"category_id": 3, "bbox": [82, 8, 30, 48]},
    ]
    dataset = {
        "images": [
            {"id": 1, "file_name": "a two.jpg", "width": 128, "height": 64},
            {"id": 2, "file_name": "gone.jpg", "width": 40, "height": 40},
        ],
        "categories": categories,
        "annotations": [
            {"id": number, "image_id": 1, "iscrowd": 0, "area": 100} | one for number, one in enumerate(annotations)
        ],
    }
    path = street.parent / "truth.json"
    path.write_text(json.dumps(dataset))
    return path


def evaluated(*arguments: object, status: int = 0) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(run("evaluate", "search", *arguments, "--json", "-", status=status).stdout)
    return figures


def test_labels_matches_and_misses_are_counted(gallery: Path, truth: Path, street: Path) -> None:
    command = (gallery, truth, street, *DETECTOR, "--kind-column", "group", "--type-column", "article", "-k", 2)
    figures = evaluated(*command, status=1)
    labels = figures["catalogue"]
    assert (labels["photos"], labels["without_kind"]) == (3, 1)
    assert list(labels["kinds"]) == ["top", "dress", "pants"]
    search = figures["search"]
    assert (search["garments"], search["found"], search["missed"], search["photos"]) == (3, 2, 1, 1)
    assert search["found_share"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    by_kind = search["all_garments"]["kind"]
    assert by_kind["garments"] == 2, "no match could be right for the bag, which the shop does not have"
    assert (by_kind["p@1"]["value"], by_kind["p@2"]["value"]) == (0.5, 0.25)
    assert search["found_garments"]["kind"]["p@1"]["value"] == 1
    assert search["all_garments"]["type"]["garments"] == 2
    assert search["found_garments"]["type"]["p@1"]["value"] == 1
    assert search["kinds"]["top"]["missed"] == 1
    assert figures["failed"] == {"gone.jpg": "was not found"}
    assert any("bag 1" in note for note in figures["notes"])
    assert any("kettle" in note for note in figures["notes"])


def test_the_text_has_a_row_for_each_kind(gallery: Path, truth: Path, street: Path) -> None:
    result = run("evaluate", "search", gallery, truth, street, *DETECTOR, "--kind-column", "group", status=1)
    rows = {line.split("  ")[0]: line.split() for line in result.stdout.splitlines() if line}
    assert "3 garments in 1 street photos: 2 found, 1 missed" in result.stdout
    assert rows["bag"][1:] == ["1", "1", "–", "–", "–", "–"]
    assert rows["top"][1:4] == ["1", "0", "0.000"]
    assert "gone.jpg: was not found" in result.stderr


def test_the_page_shows_confusions_as_pictures(gallery: Path, truth: Path, street: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    command = (gallery, truth, street, *DETECTOR, "--kind-column", "group", "-o", page)
    run("evaluate", "search", *command, status=1)
    html = (page / "index.html").read_text(encoding="utf-8").replace(STYLE, "")
    pictures = sorted((page / "pictures").iterdir())
    assert all(f'src="pictures/{one.name}"' in html for one in pictures)
    assert all(read_image(one).size for one in pictures)
    assert "Wrong labels of catalogue photos" in html
    assert "Missed garments" in html
    assert "top: 1 garment" in html
    assert json.loads((page / "figures.json").read_text())["kind column"] == "group"


def test_what_cannot_run_says_what_there_is(gallery: Path, truth: Path, street: Path, tmp_path: Path) -> None:
    def told(*options: object, file: Path = truth) -> str:
        return run("evaluate", "search", gallery, file, street, *DETECTOR, *options, status=2).stderr

    assert "name the catalogue's column of kinds or of types" in told()
    assert "its columns are group, article" in told("--kind-column", "category")
    (tmp_path / "none.json").write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}')
    assert "dog" in told("--kind-column", "group", file=tmp_path / "none.json")
    (street / "a two.jpg").unlink()
    assert "the folder that its file names are relative to?" in told("--kind-column", "group")
    (tmp_path / "shop.csv").write_text("item_id,image,group\nred,catalogue/red/front.jpg,kettle")
    run("index", tmp_path / "other", tmp_path / "shop.csv", *DETECTOR, *EMBEDDER)
    result = run("evaluate", "search", tmp_path / "other", truth, street, "--kind-column", "group", *DETECTOR, status=2)
    assert "('kettle') is a known kind" in result.stderr


def test_a_detection_answers_for_one_garment_of_its_own_kind_first(tmp_path: Path) -> None:
    """A top and a dress in one place: the detection, a dress, is the dress's, and the top is missed."""
    street = tmp_path / "photos"
    street.mkdir()
    write_jpeg(street / "1.jpg", draw("red"))
    write_jpeg(tmp_path / "red.jpg", draw("red"))
    (tmp_path / "shop.csv").write_text("item_id,image,group\nred,red.jpg,dress")
    run("index", tmp_path / "gallery", tmp_path / "shop.csv", *DETECTOR, *EMBEDDER)
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [16, 8, 32, 48], "area": 1},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [17, 8, 31, 48], "area": 1},
    ]
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "top"}, {"id": 2, "name": "dress"}],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    command = (tmp_path / "gallery", tmp_path / "truth.json", street, *DETECTOR, "--kind-column", "group")
    kinds = evaluated(*command)["search"]["kinds"]
    assert (kinds["top"]["found"], kinds["dress"]["found"]) == (0, 1)


def test_intervals_resample_photos_and_the_mean_over_kinds_weighs_kinds_alike() -> None:
    def photo(item: int, label: str, kind: str) -> CataloguePhoto:
        return CataloguePhoto(str(item), f"{item}.jpg", label, kind, None)

    catalogue = [photo(k, "shoes" if k % 10 else "hat", "shoes") for k in range(90)]
    catalogue += [photo(90 + k, "belt" if k % 2 else "whole", "belt") for k in range(10)]
    garment = Garment("shoes", 0.9, Box(0, 0, 9, 9))
    queries = [
        AnnotatedGarment(
            f"{k // 2}.jpg", Box(0, 0, 9, 9), (9, 9), "shoes", None, garment, (catalogue[0 if k // 2 % 4 else 95],)
        )
        for k in range(80)
    ]
    figures = search_figures(SearchEvaluation(1, tuple(catalogue), 40, tuple(queries), {}, (), ()))
    right = figures["catalogue"]["label_right"]
    assert right["mean_over_kinds"].value == pytest.approx((0.9 + 0.5) / 2)
    assert right["over_photos"].value == pytest.approx((81 + 5) / 100)
    for estimate in right.values():
        assert isinstance(estimate, Estimate)
        assert estimate.low < estimate.value < estimate.high
    first = figures["search"]["all_garments"]["kind"]["p@1"]
    assert first.value == pytest.approx(0.75)
    spread = 2 * 1.96 * np.sqrt(0.75 * 0.25 / 40)  # forty photos, whose two garments agree
    assert first.high - first.low == pytest.approx(spread, rel=0.25)
    assert figures["confusions"] == {"shoes > belt": 20}


def test_shipped_weights_answer_the_sample_street_from_the_sample_shop(tmp_path: Path) -> None:
    run("index", tmp_path / "gallery", SAMPLE / "shop.csv")
    command = (tmp_path / "gallery", SAMPLE / "street.json", SAMPLE / "street", "--kind-column", "category")
    figures = evaluated(*command)
    assert figures["search"]["garments"] == 22
    assert figures["search"]["found"] >= 18
    assert figures["search"]["found_garments"]["kind"]["p@1"]["value"] > 0.8
    assert figures["catalogue"]["label_right"]["over_photos"]["value"] > 0.6
