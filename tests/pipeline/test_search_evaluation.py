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
from pipeline.search import Garment, open_gallery
from pipeline.search_evaluation import (
    AnnotatedGarment,
    CataloguePhoto,
    Columns,
    SearchEvaluation,
    evaluate_search,
    search_figures,
)
from stages.embed.metrics import Estimate
from stages.images import read_image, write_jpeg
from stages.types import Box

SAMPLE = Path(__file__).parents[1] / "golden" / "input"
KINDS = ("--kind-column", "group")


def index(folder: Path, name: str, *rows: str) -> Path:
    """Index photos of one colour as FakeDetector labels them: red a dress, blue and green a top, and so on."""
    for color in ("red", "blue", "green", "black"):
        write_jpeg(folder / f"{color}.jpg", draw(color))
    (folder / "shop.csv").write_text("\n".join(["item_id,image,group,article", *rows]))
    run("index", folder / name, folder / "shop.csv", *DETECTOR, *EMBEDDER)
    return folder / name


def write_truth(path: Path, images: list[tuple[str, int, int]], categories: list[str], annotations: list[Any]) -> Path:
    """Write COCO instances; annotations are those of the first image."""
    common = {"image_id": 1, "iscrowd": 0, "area": 100}
    dataset = {
        "images": [{"id": k, "file_name": name, "width": w, "height": h} for k, (name, w, h) in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, 1)],
        "annotations": [{"id": number} | common | one for number, one in enumerate(annotations)],
    }
    path.write_text(json.dumps(dataset))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A gallery of four items; a dress of a type, a top annotated elsewhere than it is found, and a bag that the shop lacks."""
    folder = tmp_path_factory.mktemp("data")
    rows = (
        "red,red.jpg,Dress,dress",
        "blue,blue.jpg,top,shirt",
        "green,green.jpg,pants,jeans",
        "black,black.jpg,kettle,kettle",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTFINDER_CACHE", str(folder / "cache"))
        gallery = index(folder, "gallery", *rows)
    (folder / "street").mkdir()
    write_jpeg(folder / "street" / "a two.jpg", draw("red", "blue"))
    annotations = [
        {"category_id": 1, "bbox": [16, 8, 32, 48], "attributes": {"type": "Dress"}},
        {"category_id": 2, "bbox": [80, 8, 10, 10], "type": "shirt"},
        {"category_id": 3, "bbox": [82, 8, 30, 48]},
    ]
    images = [("a two.jpg", 128, 64), ("gone.jpg", 40, 40)]
    truth = write_truth(folder / "truth.json", images, ["dress", "top", "bag"], annotations)
    return gallery, truth, folder / "street"


def evaluated(*arguments: object, status: int = 0) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(run("evaluate", "search", *arguments, "--json", "-", status=status).stdout)
    return figures


def test_labels_matches_and_misses_are_counted(data: tuple[Path, Path, Path]) -> None:
    figures = evaluated(*data, *DETECTOR, *KINDS, "--type-column", "article", "-k", 2, status=1)
    labels, search = figures["catalogue"], figures["search"]
    assert (labels["photos"], labels["without_kind"]) == (3, 1)
    assert list(labels["kinds"]) == ["top", "dress", "pants"]
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


def test_the_text_has_a_row_for_each_kind_and_the_page_shows_confusions(
    data: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    result = run("evaluate", "search", *data, *DETECTOR, *KINDS, "-o", tmp_path / "page", status=1)
    rows = {line.split("  ")[0]: line.split() for line in result.stdout.splitlines() if line}
    assert "3 garments in 1 street photos: 2 found, 1 missed" in result.stdout
    assert rows["bag"][1:] == ["1", "1", "–", "–", "–", "–"]
    assert rows["top"][1:4] == ["1", "0", "0.000"]
    assert "gone.jpg: was not found" in result.stderr
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8").replace(STYLE, "")
    pictures = sorted((tmp_path / "page" / "pictures").iterdir())
    assert pictures
    for picture in pictures:
        assert f'src="pictures/{picture.name}"' in html
        assert read_image(picture).size
    for text in ("Wrong labels of catalogue photos", "Missed garments", "top: 1 garment"):
        assert text in html
    assert json.loads((tmp_path / "page" / "figures.json").read_text())["kind column"] == "group"


def test_what_cannot_run_says_what_the_catalogue_has(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    gallery, truth, street = data

    def message(*options: object, of: Path = gallery, file: Path = truth, photos: Path = street) -> str:
        return run("evaluate", "search", of, file, photos, *DETECTOR, *options, status=2).stderr

    assert "name the catalogue's column of kinds or of types" in message()
    assert "its columns are group, article" in message("--kind-column", "category")
    assert "dog" in message(*KINDS, file=write_truth(tmp_path / "none.json", [], ["dog"], []))
    assert "the folder that its file names are relative to?" in message(*KINDS, photos=tmp_path)
    assert "('kettle') is a known kind" in message(*KINDS, of=index(tmp_path, "other", "red,red.jpg,kettle,"))


def test_a_detection_answers_for_one_garment_of_its_own_kind_first(tmp_path: Path) -> None:
    """A top and a dress in one place: the detection, a dress, is the dress's, and the top is missed."""
    gallery, pipeline, _ = open_gallery(index(tmp_path, "gallery", "red,red.jpg,dress,"))
    annotations = [{"category_id": 1, "bbox": [16, 8, 32, 48]}, {"category_id": 2, "bbox": [17, 8, 31, 48]}]
    truth = write_truth(tmp_path / "truth.json", [("red.jpg", 64, 64)], ["top", "dress"], annotations)
    evaluation = evaluate_search(gallery, pipeline, str(truth), str(tmp_path), columns=Columns("group"))
    kinds = search_figures(evaluation)["search"]["kinds"]
    assert (kinds["top"]["found"], kinds["dress"]["found"]) == (0, 1)


def test_intervals_resample_photos_and_the_mean_over_kinds_weighs_kinds_alike() -> None:
    def photo(item: int, label: str, kind: str) -> CataloguePhoto:
        return CataloguePhoto(str(item), f"{item}.jpg", label, kind, None)

    catalogue = [photo(k, "shoes" if k % 10 else "hat", "shoes") for k in range(90)]
    catalogue += [photo(90 + k, "belt" if k % 2 else "whole", "belt") for k in range(10)]
    box = Box(0, 0, 9, 9)
    garment = Garment("shoes", 0.9, box)
    queries = [
        AnnotatedGarment(f"{k // 2}.jpg", box, (9, 9), "shoes", None, garment, (catalogue[0 if k // 2 % 4 else 95],))
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


@pytest.mark.slow
def test_shipped_weights_find_the_sample_street_in_the_sample_shop(tmp_path: Path) -> None:
    run("index", tmp_path / "gallery", SAMPLE / "shop.csv")
    figures = evaluated(tmp_path / "gallery", SAMPLE / "street.json", SAMPLE / "street", "--kind-column", "category")
    assert figures["search"]["garments"] == 22
    assert figures["search"]["found"] >= 18
    assert figures["search"]["found_garments"]["kind"]["p@1"]["value"] > 0.8
    assert figures["catalogue"]["label_right"]["over_photos"]["value"] > 0.6
