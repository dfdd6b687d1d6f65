"""The comparison of crops on photos whose answer is known: what it counts, pairs, refuses, says and draws."""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from cli_runs import run
from conftest import draw
from crop_cases import BOX, BoxesOnly, disc, items, photo, subject, write_coco, write_table

from pipeline.benchmark.crops import (
    Comparison,
    Condition,
    CropSet,
    Garment,
    Plan,
    Shot,
    Subject,
    benchmark_crops,
    cutouts,
    fronts_and_backs,
    own_photos,
    rendered,
    shoe_pairs,
    verdict,
)
from pipeline.benchmark.crops.asking import ALL, BOTH, answers
from pipeline.benchmark.crops.costs import _grown, costs
from pipeline.benchmark.crops.figures import Difference
from pipeline.benchmark.crops.looking import Seen, look, matched
from pipeline.benchmark.crops.report import figures_of
from pipeline.benchmark.crops.subject import shipped
from stages.embed.splits import luma_split
from stages.errors import CatalogueError
from stages.images import read_image, write_jpeg
from stages.testing import FakeDetector
from stages.types import Box, Detection

FAST = Plan(cost_photos=2, cost_rounds=1)
FAKES = ("--detector", "stages.testing:FakeDetector", "--embedder", "stages.testing:FakeEmbedder")


def difference(comparison: Comparison, first: str, second: str, data: str = "discs", **wanted: object) -> Difference:
    """The row on all queries of two crops by the annotations."""
    (found,) = (
        row
        for row in comparison.differences
        if (row.data, row.first.query, row.second.query, row.first.detections) == (data, first, second, "truth")
        and (row.clutter, row.among, row.label) == (wanted.get("clutter"), ALL, "")
    )
    return found


class TestAsking:
    def test_like_a_naive_search(self) -> None:
        rng = np.random.default_rng(0)
        count = 40
        garments = tuple(
            Garment(f"{rng.integers(12)}", asks=bool(rng.random() < 0.6), found=bool(rng.random() < 0.7))
            for _ in range(count)
        )
        photos = rng.integers(0, 15, count)
        key, e = ("d", "box"), "e"
        vectors = np.round(rng.normal(size=(count, 3)), 1).astype(np.float32)  # coarse, so that there are ties
        there = rng.random(count) < 0.7
        seen = Seen(CropSet("random", "", ()), garments, photos, {key: there}, {(e, key): vectors})
        told = answers(seen, [e])
        assert told is not None
        outcome = told.outcomes[Condition(e, "d", "box", "box")]
        checked = 0
        for place, row in enumerate(outcome.queries.tolist()):
            own = garments[row]
            right = [k for k in range(count) if k != row and garments[k].found and garments[k].item == own.item]
            wrong = [
                k
                for k in range(count)
                if garments[k].found and garments[k].item != own.item and photos[k] != photos[row] and there[k]
            ]
            ranks = []
            reachable = [k for k in right if there[k] and there[row]]
            likeness = {k: float(np.round(vectors[row] @ vectors[k], 6)) for k in (*reachable, *wrong)}
            for number, k in enumerate(sorted(reachable, key=lambda k: -likeness[k]), start=1):
                ranks.append(number + sum(likeness[other] >= likeness[k] for other in wrong))
            if ranks:
                assert outcome.ranks[place] == ranks[0]
            else:
                assert outcome.ranks[place] > 20
            precision = sum(n / rank for n, rank in enumerate(ranks, 1) if rank <= len(right)) / len(right)
            assert outcome.average_precisions[place] == pytest.approx(precision)
            checked += bool(ranks)
        assert checked > 5
        assert len(outcome.queries) == sum(
            one.asks and any(k.found and k is not one and k.item == one.item for k in garments) for one in garments
        )

    def test_a_whole_photo_ties_with_itself_and_a_miss_is_a_failure(self) -> None:
        two = Detection("top", 1.0, Box(0, 0, 30, 60)), Detection("top", 1.0, Box(34, 0, 64, 60))
        shots = [
            Shot(
                name,
                lambda: draw("red"),
                (Garment("a", "top", two[0], asks=ask), Garment("b", "top", two[1], asks=ask)),
            )
            for name, ask in (("x", True), ("y", False))
        ]
        seen = look(CropSet("pairs", "", shots), {"boxes": BoxesOnly()}, subject().embedders)
        told = answers(seen, ["fake"])
        assert told is not None
        whole = told.outcomes[Condition("fake", "none", "whole", "whole")]
        assert whole.ranks.tolist() == [2, 2]  # the other garment of the same photo is as near, and counts against it
        assert told.missed["boxes"].all()  # one box in the middle: half of each garment, and less over the union
        assert (told.outcomes[Condition("fake", "boxes", "box", "box")].ranks > 20).all()
        assert answers(seen, ["fake"], BOTH) is None  # nobody is left to ask


def test_detections_are_matched_once_by_label_and_overlap() -> None:
    def garment(label: str, *corners: int) -> Garment:
        return Garment("x", label, Detection(label or "any", 1.0, Box(*corners)))

    def found(label: str, *corners: int) -> Detection:
        return Detection(label, 0.9, Box(*corners))

    detections = [found("top", 0, 0, 10, 10), found("top", 1, 0, 11, 10), found("bag", 50, 0, 60, 10)]
    one, two, bag, far = matched(
        [garment("top", 0, 0, 10, 11), garment("top", 0, 0, 10, 10), garment("shoes", 50, 0, 60, 10), garment("", 50, 4, 60, 10)],
        detections,
    )  # fmt: skip
    assert two is detections[0]  # the best overlap first
    assert one is detections[1]
    assert bag is None  # another label
    assert far is detections[2]  # no label, so any
    assert matched([garment("bag", 57, 0, 67, 10)], detections) == [None]  # too little of it


class TestAnswerIsKnown:
    def test_masks_win_before_grounds_that_lie(self) -> None:
        compared = benchmark_crops([items(lying=True)], subject(), FAST)
        gain = difference(compared, "mask-white", "box")
        rows = {
            row.condition.crops: row.recall_1.value for row in compared.figures if row.condition.detections == "truth"
        }
        assert rows["mask-white"] == rows["mask-mean"] == 1.0
        assert gain.recall_1.value == pytest.approx(rows["mask-white"] - rows["box"])
        assert gain.recall_1.low > 0
        words = verdict(compared)
        assert words[0] == ("Mask against box at recall@1, by truth and the embedder fake: masks find more on discs.")
        assert "masks find more (+" in words[1]
        assert "no difference" not in " ".join(words)

    def test_no_difference_is_shown_before_white(self) -> None:
        compared = benchmark_crops([items(lying=False)], subject(), FAST)
        gain = difference(compared, "mask-white", "box")
        assert gain.recall_1.low <= 0 <= gain.recall_1.high
        assert gain.queries == 24
        assert "no difference could be shown on discs" in verdict(compared)[0]

    def test_boxes_win_where_the_ground_gives_the_item_away(self) -> None:
        def shot(number: int, side: int) -> Shot:
            shade = 40 + (number * 7 + side * 3) % 20 * 8  # says nothing of the item
            image = photo((shade, shade, shade), (number * 12, 255 - number * 12, 128))
            garment = Garment(f"{number}", "top", Detection("top", 1.0, BOX, disc()), asks=side == 0, found=side == 1)
            return Shot(f"{number}", lambda: image, (garment,))

        grounds = CropSet("grounds", "", [shot(number, side) for number in range(20) for side in range(2)])
        compared = benchmark_crops([grounds], subject(), FAST)
        assert "boxes find more on grounds" in verdict(compared)[0]

    def test_clutter_is_a_curve_and_its_effect_is_paired(self) -> None:
        data = [items(lying=lying, clutter=clutter) for clutter, lying in ((0.0, False), (1.0, True))]
        compared = benchmark_crops(data, subject(), FAST)
        plain, crowded, all_ = (
            difference(compared, "mask-white", "box", clutter=clutter) for clutter in (0.0, 1.0, None)
        )
        assert plain.recall_1.value == 0 < crowded.recall_1.value
        assert all_.queries == 48
        assert all_.recall_1.value == pytest.approx(crowded.recall_1.value / 2)
        assert any("from clutter 0 to 1" in text and "clutter favours masks" in text for text in verdict(compared))

    def test_what_a_detector_misses_is_a_failure_and_told_apart(self) -> None:
        lying = items(lying=False)
        compared = benchmark_crops([lying], subject(FakeDetector(), BoxesOnly()), FAST)
        light = Condition("fake", "detector 1", "box", "box")
        every, found = (
            next(row for row in compared.figures if (row.condition, row.among) == (light, among))
            for among in (ALL, BOTH)
        )
        assert 0 < every.missed < every.queries == 24
        assert found.missed == 0
        assert found.queries == 24 - every.missed
        assert every.recall_1.value == pytest.approx(found.recall_1.value * found.queries / 24, abs=0.05)
        apart = [row for row in compared.differences if row.asked == "detector" and row.among == ALL]
        assert {(row.first.query, row.second.query) for row in apart} == {("mask-white", "box"), ("box", "box")}
        assert all(row.recall_1.low > 0 for row in apart)
        assert not any(
            row.condition.detections == "detector 1" and "mask" in row.condition.crops for row in compared.figures
        )

    def test_each_crop_with_the_embedder_that_was_trained_on_it(self) -> None:
        trained = {"mine": "whole", "on_box": "box", "on_mask": "mask"}
        compared = benchmark_crops([items(lying=True)], subject(trained=trained), FAST)
        (own,) = (row for row in compared.differences if row.asked == "training" and row.among == ALL)
        assert (own.first, own.second) == (
            Condition("on_mask", "truth", "mask-white", "mask-white"),
            Condition("on_box", "truth", "box", "box"),
        )
        assert compared.reference == "mine"
        assert any("each crop with the embedder trained on it" in text for text in verdict(compared))

    def test_the_same_seed_gives_the_same_rows(self) -> None:
        first, again, other = (benchmark_crops([items(lying=True)], subject(), Plan(seed, 1, 1)) for seed in (0, 0, 1))
        assert (first.figures, first.differences) == (again.figures, again.differences)
        assert [row.recall_1.value for row in first.figures] == [row.recall_1.value for row in other.figures]
        assert first.figures != other.figures  # other draws, other intervals


class TestScenes:
    def test_nothing_but_the_ground_changes(self) -> None:
        plain, half, crowded = rendered()
        assert (plain.clutter, half.clutter, crowded.clutter) == (0.0, 0.5, 1.0)
        assert Counter(one.asks for one in plain.garments).keys() == {True, False}
        for bare, full in zip(plain.shots, crowded.shots, strict=True):
            before, after = bare.read().astype(int), full.read().astype(int)
            inside = np.zeros(before.shape[:2], np.bool_)
            assert len(bare.garments) >= 3
            for one, other in zip(bare.garments, full.garments, strict=True):
                assert (one.item, one.asks) == (other.item, other.asks)
                assert one.truth is not None
                assert other.truth is not None
                assert one.truth.box == other.truth.box
                np.testing.assert_array_equal(one.truth.mask, other.truth.mask)
                inside[one.truth.box.slices] |= one.truth.mask
            apart = np.abs(before - after).max(axis=2)
            assert np.median(apart[inside]) <= 1
            assert np.median(apart[~inside]) > 5

    def test_a_folder_without_scenes_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogueError, match="no rendered street"):
            rendered(tmp_path)
        (tmp_path / "street.json").write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
        with pytest.raises(CatalogueError, match="no rendered street"):
            rendered(tmp_path)


class TestStreet:
    def test_shoes_find_their_other_among_all(self, tmp_path: Path) -> None:
        pairs = shoe_pairs(*write_coco(tmp_path / "photos"))
        assert not pairs.whole
        assert Counter(one.item for one in pairs.garments if one.asks) == {"1": 2, "2": 2, "3": 2}
        assert len(pairs.garments) == 9  # three pieces of the last photo stand in the way
        compared = benchmark_crops([pairs], subject(), FAST)
        assert {row.queries for row in compared.figures} == {6}
        assert not any(row.condition.query == "whole" for row in compared.figures)

    def test_cutouts_are_the_garment_and_another_ground(self, tmp_path: Path) -> None:
        path, photos = write_coco(tmp_path / "photos")
        data = cutouts(path, photos, most=5)
        asking = [shot for shot in data.shots if shot.garments[0].asks]
        assert len(asking) == 5
        for shot in asking:
            (garment,) = shot.garments
            assert garment.truth is not None
            image = shot.read()
            original = next(
                other
                for other in data.shots
                if not other.garments[0].asks and any(one.item == garment.item for one in other.garments)
            ).read()
            assert image.shape == original.shape
            np.testing.assert_array_equal(image[garment.truth.box.slices], original[garment.truth.box.slices])
            outside = np.ones(image.shape[:2], np.bool_)
            outside[garment.truth.box.slices] = False
            assert (image[outside] != original[outside]).any(axis=1).mean() > 0.9
        assert [shot.name for shot in cutouts(path, photos, most=5, seed=1).shots] != [shot.name for shot in data.shots]
        with pytest.raises(CatalogueError, match="has 2 photos with masks"):
            cutouts(*write_coco(tmp_path / "few", photos=2))


def test_luma_fronts_find_backs(tmp_path: Path) -> None:
    skus = [f"mh{number:02d}" for number in range(1, 30)]
    test, other = (next(sku for sku in skus if (luma_split(sku) == "test") == wanted) for wanted in (True, False))
    for name in (f"{test}-red_main", f"{test}-red_back", f"{test}-blue_main", f"{other}-red_main", f"{other}-red_back"):
        write_jpeg(tmp_path / f"{name}.jpg", draw("red"))
    data = fronts_and_backs(tmp_path)
    assert [(shot.name, shot.garments[0].asks) for shot in data.shots] == [
        (f"{test}-red_main.jpg", True),
        (f"{test}-red_back.jpg", False),
        *sorted([(f"{test}-blue_main.jpg", False), (f"{other}-red_back.jpg", False)]),
    ]
    assert {shot.garments[0].unit for shot in data.shots} == {test, other}
    data.check({"fake": FakeDetector()})
    assert len(fronts_and_backs(tmp_path, others=0).shots) == 2


class TestOwn:
    def test_a_table_of_boxes_and_masks(self, tmp_path: Path) -> None:
        data = own_photos(write_table(tmp_path))
        assert data.name == "garments"
        assert data.problems == ()
        first = data.shots[0].garments[0]
        assert (first.item, first.label, first.asks, first.found) == ("item 0", "top", True, True)
        assert first.truth is not None
        assert first.truth.box == BOX
        assert first.truth.mask is not None
        assert (first.truth.mask == disc()).mean() > 0.97  # JPEG

    def test_a_mask_alone_and_a_box_alone(self, tmp_path: Path) -> None:
        table = write_table(tmp_path)
        text = (
            table.read_text()
            .replace("16 16 48 48,mask.jpg", ",mask.jpg", 1)
            .replace("16 16 48 48,mask.jpg", "16.5 16 48 48,", 1)
        )
        table.write_text(text)
        first, second = (shot.garments[0].truth for shot in own_photos(table).shots[:2])
        assert first is not None
        assert second is not None
        assert first.box.iou(BOX) > 0.8
        assert (second.box, second.mask) == (BOX, None)
        compared = benchmark_crops([own_photos(table)], subject(), FAST)
        assert not any("mask" in row.condition.crops for row in compared.figures)  # one garment has none

    def test_a_folder_for_each_item(self, shop: Path) -> None:
        data = own_photos(shop)
        assert Counter(one.item for one in data.garments) == {"black": 1, "blue": 1, "green": 1, "red": 2}
        compared = benchmark_crops([data], subject(FakeDetector()), FAST)
        main = next(
            row
            for row in compared.figures
            if row.condition == Condition("fake", "detector 0", "mask-white", "mask-white")
        )
        assert (main.queries, main.missed, main.recall_1.value) == (2, 0, 1.0)
        assert not any(row.condition.detections == "truth" for row in compared.figures)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("0-0.jpg,1 2 3,,a,top", "a box is four numbers"),
            ("0-0.jpg,1 2 3 999,,a,top", "is not within its photo of 64x64"),
            ("0-0.jpg,,none.jpg,a,top", "none.jpg was not found"),
            ("0-0.jpg,,small.jpg,a,top", "the mask small.jpg is 10x10, its photo 64x64"),
            ("0-0.jpg,0 0 4 4,mask.jpg,a,top", "no white pixel in the box"),
            ("gone.jpg,0 0 4 4,,a,top", "gone.jpg was not found"),
            ("0-0.jpg,0 0 4 4,,,top", "lacks a photo or an item_id"),
            ("0-0.jpg,,,a,top", "has neither box nor mask"),
        ],
    )
    def test_a_wrong_row_is_told_and_left_out(self, tmp_path: Path, row: str, reason: str) -> None:
        table = write_table(tmp_path)
        write_jpeg(tmp_path / "small.jpg", draw("red", side=10))
        with table.open("a") as file:
            file.write(row + "\n")
        data = own_photos(table)
        assert len(data.garments) == 16
        (problem,) = data.problems
        assert reason in problem

    def test_what_nothing_can_be_learnt_from_is_refused(self, tmp_path: Path) -> None:
        def refused(data: CropSet, reason: str) -> None:
            with pytest.raises(CatalogueError, match=reason):
                benchmark_crops([data], subject(FakeDetector()), FAST)

        table = write_table(tmp_path)
        single = tmp_path / "single.csv"
        single.write_text("\n".join(table.read_text().splitlines()[:9]) + "\n")
        refused(own_photos(single), "no item has two photos.*got 8 garments of 8 items in 8 photos")
        refused(own_photos(write_table(tmp_path / "boots", label="boots")), r"its labels \(boots\) match nothing that")
        mixed = tmp_path / "mixed.csv"
        mixed.write_text(table.read_text().replace(",top", ",boots", 1))
        refused(own_photos(mixed), "the labels boots match nothing; detectors find dress, top")
        with pytest.raises(CatalogueError, match="lacks the column photo"):
            own_photos(_written(tmp_path / "wrong.csv", "image,item_id\n"))
        with pytest.raises(CatalogueError, match="no photo that can be used"):
            own_photos(_written(tmp_path / "empty.csv", "photo,item_id\n"))
        with pytest.raises(CatalogueError, match="cannot be read"):
            own_photos(tmp_path / "none.csv")
        with pytest.raises(ValueError, match="needs photos"):
            benchmark_crops([], subject(), FAST)

    def test_labels_that_no_detector_finds_are_left_out_where_asked(self) -> None:
        data = items(lying=False).only(["dress"])
        assert data.garments == []
        assert "no detector finds top" in data.notes[-1]
        assert items(lying=False).only(["top"]).notes == ()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


class TestCosts:
    def test_every_way_has_its_time(self) -> None:
        images = [draw("red", "blue"), draw("green")]
        told = costs(images, subject(FakeDetector(), BoxesOnly()), 1, memory=False)
        ways = {(one.detections, one.crop): one for one in told}
        assert len(ways) == len(told) == 1 + 6 + 2
        assert ways["none", "whole"].detect_ms == ways["none", "whole"].crop_ms == 0
        assert ways["detector 0", "box"].garments == 1.5
        both = ways["detector 0", "mask+box"]
        assert both.embed_ms == pytest.approx(2 * ways["detector 0", "box"].embed_ms, abs=0.02)
        assert both.total_ms == pytest.approx(both.detect_ms + both.crop_ms + both.embed_ms)
        assert all(one.embed_ms > 0 and one.peak_mb is None for one in told)

    def test_memory_is_that_of_a_process_of_its_own(self) -> None:
        told = _grown("stages.testing:FakeDetector", "mask-white", "stages.testing:FakeEmbedder", [draw("red")])
        assert told is None or told >= 0

    def test_a_plan_times_something(self) -> None:
        with pytest.raises(ValueError, match="got 0 and 1"):
            Plan(cost_photos=0, cost_rounds=1)


def test_embedders_by_name_and_weights() -> None:
    assert shipped()[0] == "siamese"
    with pytest.raises(ValueError, match="two are called 'siamese'"):
        Subject.of((), ["siamese", "siamese=other.safetensors"])
    with pytest.raises(ValueError, match="no embedder is called 'best'"):
        Subject.of((), ["best"])
    own = Subject.of((), ["stages.testing:FakeEmbedder"])
    assert own.trained_on == {"stages.testing:FakeEmbedder": "not said"}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("pipeline.benchmark.crops.costs._peaks", lambda *_: defaultdict(lambda: None))


@pytest.mark.usefixtures("brief")
class TestCommand:
    def test_a_table_a_verdict_json_and_a_page(self, tmp_path: Path) -> None:
        table = write_table(tmp_path / "data", lying=True)
        page = tmp_path / "page"
        result = run("benchmark", "crops", "--data", table, *FAKES, "-o", page, "--json", tmp_path / "crops.json")
        assert "garments (16 queries, 16 garments)" in result.stdout
        assert "Mask against box at recall@1" in result.stdout
        told = json.loads((tmp_path / "crops.json").read_text())
        assert told == json.loads((page / "figures.json").read_text())
        assert told["data"][0]["missed"] == {"truth": 0, "stages.testing:FakeDetector": 16}  # the ground is not white
        row = next(row for row in told["figures"] if (row["detections"], row["query"]) == ("truth", "mask-white"))
        assert row["recall_1"].keys() == {"value", "low", "high"}
        html = (page / "index.html").read_text()
        assert told["verdict"][0] in html.replace("&#x27;", "'")
        pictures = {part.split('"')[0] for part in html.split('src="')[1:]}
        assert {"cost.png"} < pictures
        assert any(name.startswith("photos/") for name in pictures)
        for name in pictures:
            assert min(read_image(page / name).shape[:2]) > 20

    def test_the_same_seed_gives_the_same_figures(self, tmp_path: Path) -> None:
        table = write_table(tmp_path, lying=False)
        first, again = (
            json.loads(run("benchmark", "crops", "--data", table, *FAKES, "--json", "-").stdout) for _ in "ab"
        )
        for part in ("data", "figures", "differences"):
            assert first[part] == again[part]
        assert not any(
            isinstance(value, float) and math.isnan(value) for row in first["figures"] for value in row.values()
        )

    def test_clutter_is_drawn_where_scenes_are_rendered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = [items(lying=lying, clutter=clutter, name="scenes") for clutter, lying in ((0.0, False), (1.0, True))]
        monkeypatch.setattr("pipeline.benchmark.crops.rendered", lambda *_, **__: data)
        run("benchmark", "crops", "--quick", *FAKES, "-o", tmp_path / "page")
        html = (tmp_path / "page" / "index.html").read_text()
        assert "curves.png" in html
        assert "Mask wins most" in html
        curves = json.loads((tmp_path / "page" / "curves.json").read_text())
        assert [point[0] for point in curves["By annotated outlines"]["box"]] == [0.0, 1.0]
        assert curves["By annotated outlines"]["mask-white"][1][1] == 1.0

    def test_bad_rows_and_refusals(self, tmp_path: Path) -> None:
        table = write_table(tmp_path)
        with table.open("a") as file:
            file.write("gone.jpg,0 0 4 4,,a,top\n")
        assert "gone.jpg was not found" in run("benchmark", "crops", "--data", table, *FAKES, status=1).stderr
        lone = _written(tmp_path / "lone.csv", "photo,item_id\n0-0.jpg,a\n1-0.jpg,b\n")
        assert "no item has two photos" in run("benchmark", "crops", "--data", lone, *FAKES, status=2).stderr
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").touch()
        assert "is not empty" in run("benchmark", "crops", "--data", table, "-o", tmp_path / "full", status=2).stderr


@pytest.mark.slow
def test_shipped_stages_on_rendered_scenes() -> None:
    data = rendered()
    compared = benchmark_crops(data, Subject.of(embedders=["siamese"]), Plan(cost_photos=2, cost_rounds=1, memory=True))
    rows = {
        (row.condition.detections, row.condition.crops): row.recall_1.value
        for row in compared.figures
        if (row.clutter, row.among, row.label) == (None, ALL, "")
    }
    assert rows["truth", "mask-white"] > 0.4 > rows["none", "whole"]
    assert rows["truth", "box"] > 0.3
    peaks = {(one.detections, one.crop): one.peak_mb or 0 for one in compared.costs}
    assert peaks["maskrcnn_mobilenet_v2", "mask-white"] > peaks["none", "whole"] > 20
    assert figures_of(compared)["verdict"] == verdict(compared)
