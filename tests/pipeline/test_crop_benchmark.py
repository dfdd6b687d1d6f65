"""The comparison of crops on photos whose answer is known: what it counts, pairs, refuses, says and draws."""

import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from cli_runs import run
from conftest import draw

from pipeline.crop_benchmark import (
    ALL,
    FOUND_BY_ALL,
    Condition,
    CropComparison,
    CropRow,
    CropStages,
    EmbeddedSet,
    benchmark_crops,
    embed_set,
    match_detections,
    search_set,
)
from pipeline.crop_benchmark_data import CropSet, Example, ExamplePhoto, load_photos, rendered_scenes
from pipeline.crop_benchmark_report import figures_of, verdict
from stages.embed.metrics import UNREACHED
from stages.errors import CatalogueError
from stages.images import read_image, write_jpeg
from stages.protocols import Detector
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import Box, Detection, Image

FAST = {"timed_photos": 2}
FAKES = ("--detector", "stages.testing:FakeDetector", "--embedder", "stages.testing:FakeEmbedder")
BOX = Box(16, 16, 48, 48)
Y, X = np.mgrid[:32, :32] - 15.5
DISC = np.asarray(Y * Y + X * X < 15 * 15)
"""A round garment: a quarter of its box is background."""

ITEMS = 24


def photo(color, background) -> Image:
    image = np.empty((64, 64, 3), np.uint8)
    image[:] = background
    image[BOX.slices][DISC] = color
    return image


def photos_of(count: int, *, misleading: bool) -> dict[tuple[int, int], Image]:
    """Two photos of each item by number and side: on white, or on the background of another item's other photo."""
    colors, backgrounds = (np.random.default_rng(seed).integers(0, 200, (count, 3)) for seed in (0, 1))
    return {
        (number, side): photo(colors[number], backgrounds[(number + side) % count] if misleading else 255)
        for side in range(2)
        for number in range(count)
    }


def items(*, misleading: bool, name: str = "discs", clutter: float | None = None, count: int = ITEMS) -> CropSet:
    """Two photos of each item: a query and its answer."""
    photos = []
    for (number, side), image in photos_of(count, misleading=misleading).items():
        truth = Detection("top", 1.0, BOX, DISC)
        example = Example(f"item {number}", "top", truth, is_query=side == 0, in_gallery=side == 1)
        photos.append(ExamplePhoto(f"{number}-{side}", partial(np.copy, image), (example,)))
    return CropSet(name, "discs find discs", photos, clutter)


def write_table(folder: Path, label: str = "top", count: int = 8, other: str = "") -> Path:
    """Write the same as files: photos, a mask, and a CSV of them; the first garment may have another label."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[BOX.slices][DISC] = 255
    write_jpeg(folder / "mask.jpg", mask)
    rows = [("photo", "box", "mask", "item_id", "label")]
    for (number, side), image in photos_of(count, misleading=True).items():
        write_jpeg(folder / f"{number}-{side}.jpg", image, 98)
        of_row = other if other and len(rows) == 1 else label
        rows.append((f"{number}-{side}.jpg", "16 16 48 48", "mask.jpg", f"item {number}", of_row))
    with (folder / "garments.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder / "garments.csv"


def fake_stages(*detectors: Detector, trained: dict[str, str] | None = None) -> CropStages:
    trained = trained or {"fake": "unknown"}
    named = {f"detector {number}": one for number, one in enumerate(detectors)}
    return CropStages(named, {name: FakeEmbedder() for name in trained}, trained)


class BoxesOnly:
    """Finds what :class:`FakeDetector` finds, without masks and nothing blue."""

    labels = FakeDetector.labels
    input_px: int | None = None

    def __call__(self, images: list[Image]) -> list[list[Detection]]:
        def is_blue(image: Image, box: Box) -> bool:
            red, _, blue = image[(box.y1 + box.y2) // 2, (box.x1 + box.x2) // 2].tolist()
            return blue > 120 > red

        return [
            [Detection(one.label, one.score, one.box) for one in some if not is_blue(image, one.box)]
            for image, some in zip(images, FakeDetector()(images), strict=True)
        ]


class TestSearch:
    def test_ranks_and_precisions_are_those_of_a_naive_search(self) -> None:
        rng = np.random.default_rng(0)
        count, condition = 40, Condition("e", "d", "box")
        examples = tuple(
            Example(f"{rng.integers(12)}", is_query=bool(rng.random() < 0.6), in_gallery=bool(rng.random() < 0.7))
            for _ in range(count)
        )
        photos = rng.integers(0, 15, count)
        vectors = np.round(rng.normal(size=(count, 3)), 1).astype(np.float32)  # coarse, so that there are ties
        present = rng.random(count) < 0.7
        data = CropSet("random", "", [ExamplePhoto("", lambda: draw("red"), examples)])
        detections = [Detection("top", 1.0, BOX) if one else None for one in present]
        embedded = {condition: np.where(present[:, None], vectors, np.nan)}
        results = search_set(EmbeddedSet(data, photos, {"d": detections}, embedded))
        assert results is not None
        rows, checked = results.rows.tolist(), 0
        for row, rank, precision in zip(rows, *results.outcomes[condition], strict=True):
            gallery = [k for k in range(count) if k != row and examples[k].in_gallery]
            right = [k for k in gallery if examples[k].item == examples[row].item]
            wrong = [k for k in gallery if k not in right and photos[k] != photos[row] and present[k]]
            similar = {k: float(np.round(vectors[row] @ vectors[k], 6)) for k in range(count)}
            reachable = sorted((k for k in right if present[k] and present[row]), key=lambda k: -similar[k])
            expected = [n + sum(similar[k] <= similar[other] for other in wrong) for n, k in enumerate(reachable, 1)]
            assert rank == (expected[0] if expected else UNREACHED)
            hits = sum(n / place for n, place in enumerate(expected, 1) if place <= len(right))
            assert precision == pytest.approx(hits / len(right))
            checked += bool(expected)
        assert checked > 5
        answers = Counter(one.item for one in examples if one.in_gallery)
        assert len(rows) == sum(one.is_query and answers[one.item] > one.in_gallery for one in examples)

    def test_a_whole_photo_ties_with_itself_and_a_miss_is_a_failure(self) -> None:
        boxes = {"a": Box(0, 0, 30, 60), "b": Box(34, 0, 64, 60)}
        garments = [(item, "top", Detection("top", 1.0, box)) for item, box in boxes.items()]
        photos = [
            ExamplePhoto("", lambda: draw("red"), tuple(Example(*one, is_query=query) for one in garments))
            for query in (True, False)
        ]
        embedded = embed_set(CropSet("pairs", "", photos), {"boxes": BoxesOnly()}, fake_stages().embedders)
        results = search_set(embedded)
        assert results is not None
        whole = results.outcomes[Condition("fake", "none", "whole")]
        assert whole[0].tolist() == [2, 2]  # the other garment of the same photo is as similar, and counts as an error
        assert results.missed["boxes"].all()  # one box in the middle overlaps each garment by less than half
        assert (results.outcomes[Condition("fake", "boxes", "box")][0] == UNREACHED).all()
        assert search_set(embedded, FOUND_BY_ALL) is None

    def test_whole_photos_are_not_compared_if_answers_are_only_in_the_photos_of_their_queries(self) -> None:
        pair = (Example("a", truth=Detection("shoes", 1.0, BOX)),) * 2
        assert not CropSet("pairs", "", [ExamplePhoto("x", lambda: draw("red"), pair)]).whole
        assert items(misleading=False).whole


def test_detections_are_matched_once_by_label_and_overlap() -> None:
    def example(label: str, *corners: int) -> Example:
        return Example("x", label, Detection(label or "any", 1.0, Box(*corners)))

    top, other, bag = (
        Detection(label, 0.9, Box(*corners))
        for label, corners in (("top", (0, 0, 10, 10)), ("top", (1, 0, 11, 10)), ("bag", (50, 0, 60, 10)))
    )
    examples = [example("top", 0, 0, 10, 11), example("top", 0, 0, 10, 10), example("shoes", 50, 0, 60, 10)]
    unlabelled = example("", 50, 4, 60, 10)
    assert match_detections([*examples, unlabelled], [top, other, bag]) == [other, top, None, bag]
    assert match_detections([example("bag", 57, 0, 67, 10)], [bag]) == [None]


def where_the_background_gives_the_item_away() -> CropSet:
    def shot(number: int, side: int) -> ExamplePhoto:
        shade = 40 + (number * 7 + side * 3) % 20 * 8  # independent of the item
        image = photo((shade, shade, shade), (number * 12, 255 - number * 12, 128))
        example = Example(f"{number}", "top", Detection("top", 1.0, BOX, DISC), side == 0, side == 1)
        return ExamplePhoto(f"{number}", lambda: image, (example,))

    return CropSet("backgrounds", "", [shot(number, side) for number in range(20) for side in range(2)])


@pytest.fixture(scope="module")
def compared() -> CropComparison:
    """Sets where masks win, where nothing differs, where boxes win; and clutter from a plain to a misleading background."""
    sets = [items(misleading=True), items(misleading=False, name="white"), where_the_background_gives_the_item_away()]
    sets += [items(misleading=bool(clutter), clutter=clutter, name="street") for clutter in (0.0, 1.0)]
    return benchmark_crops(sets, fake_stages(), **FAST)


class TestKnownAnswers:
    def test_the_verdict_names_what_finds_more_on_each_set(self, compared: CropComparison) -> None:
        first, clutter = verdict(compared)
        assert first.startswith(
            "Mask against box at recall@1, by truth and the embedder fake: on discs masks find more"
        )
        assert "on white no difference could be shown" in first
        assert "on backgrounds boxes find more" in first
        assert "From clutter 0 to 1 on street" in clutter
        assert "clutter favours masks" in clutter

    def test_differences_are_those_of_the_figures(self, compared: CropComparison) -> None:
        def gain(data: str, clutter: float | None = None) -> CropRow:
            first, second = (Condition("fake", "truth", crop) for crop in ("mask-white", "box"))
            rows = [row for row in compared.differences if (row.first, row.second, row.among) == (first, second, ALL)]
            (row,) = (row for row in rows if (row.data, row.clutter) == (data, clutter))
            return row

        discs = gain("discs")
        recall = {row.first.crop: row.recall_1.value for row in compared.figures if row.data == "discs"}
        assert recall["mask-white"] == recall["mask-mean"] == 1.0
        assert discs.recall_1.value == pytest.approx(recall["mask-white"] - recall["box"])
        assert discs.recall_1.low > 0
        plain, crowded, together = (gain("street", clutter) for clutter in (0.0, 1.0, None))
        assert plain.recall_1.value == 0 < crowded.recall_1.value
        assert (discs.queries, together.queries) == (ITEMS, 2 * ITEMS)
        assert together.recall_1.value == pytest.approx(crowded.recall_1.value / 2)

    def test_what_a_detector_misses_is_a_failure_and_reported_apart(self) -> None:
        data = items(misleading=False, count=24)
        compared = benchmark_crops([data], fake_stages(FakeDetector(), BoxesOnly()), **FAST)
        light = Condition("fake", "detector 1", "box")
        every, found = (
            next(row for row in compared.figures if (row.first, row.among) == (light, among))
            for among in (ALL, FOUND_BY_ALL)
        )
        assert 0 < every.missed < every.queries == 24
        assert (found.missed, found.queries) == (0, 24 - every.missed)
        assert every.recall_1.value == pytest.approx(found.recall_1.value * found.queries / 24, abs=0.05)
        rows = [row for row in compared.differences if row.compared == "detector" and row.among == ALL]
        crops = [(row.first.crop, row.second and row.second.crop) for row in rows]
        assert crops == [("mask-white", "box"), ("box", "box")]
        assert all(row.recall_1.low > 0 for row in rows)
        assert not any("mask" in row.first.crop for row in compared.figures if "1" in row.first.detections)
        assert len(verdict(compared)) == 2
        assert "a photo takes" in verdict(compared)[1]
        times = {row.first: row.ms for row in compared.figures if row.ms}
        assert len(times) == 1 + 6 + 2, "whole photos, crops of the detector with masks, and of the one without"

    def test_each_crop_is_compared_with_the_embedder_that_was_trained_on_it(self) -> None:
        trained = {"mine": "whole", "on_box": "box", "on_mask": "mask"}
        compared = benchmark_crops([items(misleading=True, count=8)], fake_stages(trained=trained), **FAST)
        (row,) = (row for row in compared.differences if row.compared == "training" and row.among == ALL)
        assert row.first == Condition("on_mask", "truth", "mask-white")
        assert row.second == Condition("on_box", "truth", "box")
        assert compared.reference == "mine"
        sentence = "Each crop with the embedder that was trained on it (on_mask against on_box)"
        assert verdict(compared)[-1].startswith(sentence)

    def test_the_same_seed_gives_the_same_rows(self) -> None:
        data = [items(misleading=True, count=8)]
        first, again, other = (benchmark_crops(data, fake_stages(), seed=seed, **FAST) for seed in (0, 0, 1))
        assert first.differences == again.differences
        assert first.differences != other.differences, "other draws, other intervals"
        assert [row.recall_1.value for row in first.figures] == [row.recall_1.value for row in other.figures]

    def test_nothing_to_compare_or_to_time_is_refused(self) -> None:
        for data, timed in (([], 1), ([items(misleading=False)], 0)):
            with pytest.raises(ValueError, match="at least one set and one timed photo"):
                benchmark_crops(data, fake_stages(), timed_photos=timed)


class TestRenderedScenes:
    def test_nothing_but_the_background_changes(self) -> None:
        plain, half, crowded = rendered_scenes()
        assert (plain.clutter, half.clutter, crowded.clutter) == (0.0, 0.5, 1.0)
        assert {one.is_query for one in plain.examples} == {True, False}
        for bare, full in zip(plain.photos[:2], crowded.photos[:2], strict=True):
            change = np.abs(bare.read().astype(int) - full.read()).max(axis=2)
            inside = np.zeros(change.shape, np.bool_)
            assert len(bare.examples) >= 3
            for one, other in zip(bare.examples, full.examples, strict=True):
                assert (one.item, one.is_query, one.truth.box) == (other.item, other.is_query, other.truth.box)
                np.testing.assert_array_equal(one.truth.mask, other.truth.mask)
                inside[one.truth.box.slices] |= one.truth.mask
            assert np.median(change[inside]) <= 8, "JPEG"
            assert np.median(change[~inside]) > 5

    def test_a_folder_without_scenes_is_refused(self, tmp_path: Path) -> None:
        for text in ("", '{"images": [{"id": 1}], "annotations": [], "categories": []}'):
            (tmp_path / "street.json").write_text(text)
            with pytest.raises(CatalogueError, match="no rendered street"):
                rendered_scenes(str(tmp_path))


class TestUsersPhotos:
    def test_a_table_has_boxes_and_masks_or_either(self, tmp_path: Path) -> None:
        table = write_table(tmp_path)
        text = table.read_text().replace("16 16 48 48,mask.jpg", ",mask.jpg", 1)
        table.write_text(text.replace("16 16 48 48,mask.jpg", "16.5 16 48 48,", 1))
        data = load_photos(table)
        mask_only, box_only, both = (one.examples[0] for one in data.photos[:3])
        assert (data.name, data.problems) == ("garments", ())
        assert (both.item, both.label, both.is_query, both.in_gallery) == ("item 2", "top", True, True)
        assert both.truth.box == BOX
        assert (both.truth.mask == DISC).mean() > 0.97, "JPEG"
        assert mask_only.truth.box.iou(BOX) > 0.8
        assert (box_only.truth.box, box_only.truth.mask) == (BOX, None)
        compared = benchmark_crops([data], fake_stages(), **FAST)
        assert not any("mask" in row.first.crop for row in compared.figures), "one garment has none"

    def test_tables_of_any_spreadsheet_have_roles_and_units_and_any_spelling_of_names(self, tmp_path: Path) -> None:
        write_table(tmp_path)
        (tmp_path / "0-0.jpg").rename(tmp_path / normalize("NFD", "größe.jpg"))
        rows = f"{normalize('NFC', 'größe.jpg')},a,query,u\n0-1.jpg,a,gallery,u\n1-0.jpg,b,,\n1-1.jpg,b,x,\n"
        table = tmp_path / "roles.tsv"
        table.write_text(f"Photo,Item_ID,Role,Unit\n{rows}".replace(",", "\t"), encoding="utf-16")
        data = load_photos(str(table))
        roles = [(one.is_query, one.in_gallery, one.unit) for one in data.examples]
        assert roles == [(True, False, "u"), (False, True, "u"), (True, True, "")]
        assert data.problems == ("roles.tsv line 5: the role is query, gallery or empty, got 'x'",)

    def test_a_folder_per_item_needs_no_annotations(self, shop: Path) -> None:
        data = load_photos(shop)
        assert Counter(one.item for one in data.examples) == {"black": 1, "blue": 1, "green": 1, "red": 2}
        compared = benchmark_crops([data], fake_stages(FakeDetector()), **FAST)
        main = Condition("fake", "detector 0", "mask-white")
        row = next(row for row in compared.figures if row.first == main)
        assert (row.queries, row.missed, row.recall_1.value) == (2, 0, 1.0)
        assert not any(row.first.detections == "truth" for row in compared.figures)

    def test_each_bad_row_is_reported_and_left_out(self, tmp_path: Path) -> None:
        table = write_table(tmp_path)
        write_jpeg(tmp_path / "small.jpg", draw("red", side=10))
        bad = {
            "0-0.jpg,1 2 3,,a,top": "a box is four numbers",
            "0-0.jpg,1 2 3 999,,a,top": "is not within its photo of 64x64",
            "0-0.jpg,0.1 0.2 0.5 0.9,,a,top": "lies within one pixel",
            "0-0.jpg,,none.jpg,a,top": "none.jpg was not found",
            "0-0.jpg,,small.jpg,a,top": "the mask small.jpg is 10x10, its photo 64x64",
            "0-0.jpg,0 0 4 4,mask.jpg,a,top": "no white pixel in the box",
            "gone.jpg,0 0 4 4,,a,top": "gone.jpg was not found",
            "0-0.jpg,0 0 4 4,,,top": "lacks a photo or an item_id",
            "0-0.jpg,,,a,top": "has neither box nor mask",
        }
        with table.open("a") as file:
            file.writelines(f"{row}\n" for row in bad)
        data = load_photos(table)
        assert len(data.examples) == 16
        for problem, reason in zip(data.problems, bad.values(), strict=True):
            assert reason in problem

    def test_data_without_answers_is_refused_and_labels_that_no_detector_finds_are_left_out(
        self, tmp_path: Path
    ) -> None:
        def refused(data: CropSet, reason: str) -> None:
            with pytest.raises(CatalogueError, match=reason):
                benchmark_crops([data], fake_stages(FakeDetector()), **FAST)

        table = write_table(tmp_path)
        (tmp_path / "single.csv").write_text("\n".join(table.read_text().splitlines()[:9]) + "\n")
        refused(load_photos(tmp_path / "single.csv"), "no item has two photos.*got 8 garments of 8 items in 8 photos")
        refused(load_photos(write_table(tmp_path / "boots", label="boots")), r"its labels \(boots\) match nothing that")
        (tmp_path / "wrong.csv").write_text("image,item_id\n")
        (tmp_path / "empty.csv").write_text("photo,item_id\n")
        for name, reason in (("wrong", "photo"), ("empty", "no photo that can be used"), ("none", "cannot be read")):
            with pytest.raises(CatalogueError, match=reason):
                load_photos(tmp_path / f"{name}.csv")
        checked = load_photos(write_table(tmp_path / "some", other="boots")).checked({"fake": FakeDetector()})
        assert len(checked.examples) == 15
        assert checked.notes == ("no detector finds boots: left out",)


def test_embedders_are_built_by_name_and_weights() -> None:
    with pytest.raises(ValueError, match="two stages are called 'siamese'"):
        CropStages.build((), ["siamese", "siamese=other.safetensors"])
    with pytest.raises(ValueError, match="no embedder is called 'best'"):
        CropStages.build((), ["best"])
    assert CropStages.build((), [FAKES[-1]]).trained_on == {FAKES[-1]: "unknown"}


class TestCommand:
    def test_it_prints_a_table_and_writes_json_and_a_page(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scenes = [items(misleading=bool(one), clutter=one, name="scenes", count=8) for one in (0.0, 1.0)]
        monkeypatch.setattr("pipeline.crop_benchmark_data.rendered_scenes", lambda *_: scenes)
        table, page, file = write_table(tmp_path / "data"), tmp_path / "page", tmp_path / "crops.json"
        with table.open("a") as more:
            more.write("gone.jpg,0 0 4 4,,a,top\n")
        command = ("benchmark", "crops", "--quick", "--scenes", tmp_path, "--data", table, *FAKES)
        result = run(*command, "-o", page, "--json", file, status=1)
        assert "gone.jpg was not found" in result.stderr
        assert "garments (16 queries, 16 garments)" in result.stdout
        assert "Mask against box at recall@1" in result.stdout
        figures = json.loads(file.read_text())
        assert figures == json.loads((page / "figures.json").read_text())
        assert figures["data"][2]["missed"] == {"truth": 0, FAKES[1]: 16}, "the background is not white"
        row = next(row for row in figures["figures"] if (row["detections"], row["crop"]) == ("truth", "mask-white"))
        assert row["recall_1"].keys() == {"value", "low", "high"}
        html = (page / "index.html").read_text()
        assert figures["verdict"][0] in html
        assert "Mask wins most" in html
        pictures = {part.split('"')[0] for part in html.split('src="')[1:]}
        assert {"cost.png", "curves.png"} < pictures
        assert any(name.startswith("photos/") for name in pictures)
        assert all(min(read_image(page / name).shape[:2]) > 20 for name in pictures)
        curves = json.loads((page / "curves.json").read_text())
        assert [point[0] for point in curves["By annotated outlines"]["box"]] == [0.0, 1.0]
        assert curves["By annotated outlines"]["mask-white"][1][1] == 1.0

    def test_refusals_have_their_exit_status(self, tmp_path: Path) -> None:
        table = write_table(tmp_path)
        (tmp_path / "lone.csv").write_text("photo,item_id\n0-0.jpg,a\n1-0.jpg,b\n")
        refused = run("benchmark", "crops", "--data", tmp_path / "lone.csv", *FAKES, status=2)
        assert "no item has two photos" in refused.stderr
        assert "give --overwrite" in run("benchmark", "crops", "--data", table, "-o", tmp_path, status=2).stderr


@pytest.mark.slow
def test_shipped_stages_find_rendered_garments() -> None:
    compared = benchmark_crops(rendered_scenes(), CropStages.build(embedders=["siamese"]), **FAST)
    recall = {
        (row.first.detections, row.first.crop): row.recall_1.value
        for row in compared.figures
        if (row.clutter, row.among) == (None, ALL)
    }
    assert recall["truth", "mask-white"] > 0.4 > recall["none", "whole"]
    assert recall["truth", "box"] > 0.3
    assert len(figures_of(compared)["verdict"]) == 3
