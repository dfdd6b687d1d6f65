"""Evaluation of detectors: figures against hand-computed ones and pycocotools' own summary, counts, mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.detect.evaluation import Mistake, Mistakes, balanced_threshold, evaluate
from stages.errors import CatalogueError, StageError
from stages.images import write_jpeg
from stages.types import Box, Detection, Image

WIDTH, HEIGHT = 100, 80
Corners = tuple[int, int, int, int]


def detection(label: str, score: float, corners: Corners, *, masked: bool = False) -> Detection:
    box = Box(*corners)
    return Detection(label, score, box, np.ones((box.height, box.width), np.bool_) if masked else None)


class Scripted:
    """Returns given detections for the first photo, the second, and so on."""

    labels: tuple[str, ...] = ("top", "bag")
    input_px = None

    def __init__(self, *photos: Sequence[Detection]) -> None:
        self._photos = iter(photos)
        self.batches: list[int] = []

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        self.batches.append(len(images))
        return [sorted(next(self._photos, ()), key=lambda found: -found.score) for _ in images]


class Truth:
    """A COCO instances file in the making, with a white photo for each image."""

    def __init__(self, folder: Path, categories: Sequence[str] = ("top", "bag")) -> None:
        self.path, self.photos = folder / "truth.json", folder / "photos"
        self.photos.mkdir()
        self.dataset: dict[str, list[dict[str, object]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 10 + place, "name": name} for place, name in enumerate(categories)],
        }

    def photo(self, *garments: tuple[str, Corners], masked: bool = True) -> None:
        number = 1 + len(self.dataset["images"])
        name = f"{number:03}.jpg"
        write_jpeg(self.photos / name, np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
        self.dataset["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        ids = {category["name"]: category["id"] for category in self.dataset["categories"]}
        for label, (x1, y1, x2, y2) in garments:
            garment: dict[str, object] = {
                "id": len(self.dataset["annotations"]),  # from 0, which pycocotools by itself takes for no match
                "image_id": number,
                "category_id": ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            if masked:
                garment["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            self.dataset["annotations"].append(garment)

    def write(self) -> tuple[Path, Path]:
        self.path.write_text(json.dumps(self.dataset))
        return self.path, self.photos


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path)


def test_average_precision_equals_that_computed_by_hand(truth: Truth) -> None:
    truth.photo(("top", (0, 0, 50, 50)), ("top", (50, 0, 100, 50)))
    truth.photo()
    half = detection("top", 0.7, (50, 0, 82, 50))  # IoU 0.64: right at 0.50, 0.55 and 0.60
    found = evaluate(
        Scripted([detection("top", 0.9, (0, 0, 50, 50)), half], [detection("top", 0.8, (0, 0, 50, 50))]), *truth.write()
    )
    at_50 = (51 * 1 + 50 * 2 / 3) / 101  # precision 1 up to recall 0.5, then 2 of 3
    at_75 = 51 / 101
    assert found.box.ap50 == pytest.approx(at_50)
    assert found.box.ap75 == pytest.approx(at_75)
    assert found.box.ap == pytest.approx((3 * at_50 + 7 * at_75) / 10)
    assert found.box.recall == pytest.approx((3 * 1 + 7 * 0.5) / 10)
    assert found.labels["top"].box == found.box, "the bag has no garments, and does not count"
    assert (found.labels["bag"].box, found.labels["bag"].box_curve, found.mask) == (None, None, None)
    curve = found.labels["top"].box_curve
    assert curve is not None
    assert curve.recall[:3] + curve.recall[-1:] == (0, 0.01, 0.02, 1)
    assert curve.precision == pytest.approx([1] * 51 + [2 / 3] * 50)
    assert curve.score == pytest.approx([0.9] * 51 + [0.7] * 50)


def test_figures_equal_those_of_pycocotools_summary(truth: Truth) -> None:
    rng = np.random.default_rng(0)
    labels = ("top", "bag")

    def anywhere() -> Corners:
        x, y = rng.integers(0, 70), rng.integers(0, 50)
        return int(x), int(y), int(x + rng.integers(5, 30)), int(y + rng.integers(5, 30))

    def near(corners: Corners) -> Corners:
        x1, y1, x2, y2 = (int(value + rng.integers(-3, 4)) for value in corners)
        return max(0, x1), max(0, y1), min(WIDTH, max(x1 + 4, x2)), min(HEIGHT, max(y1 + 4, y2))

    photos = [[(str(rng.choice(labels)), anywhere()) for _ in range(rng.integers(0, 6))] for _ in range(12)]
    found = []
    for garments in photos:
        truth.photo(*garments)
        garments_found = [(label, near(corners)) for label, corners in garments if rng.random() < 0.8]
        garments_found += [(str(rng.choice(labels)), anywhere()) for _ in range(rng.integers(0, 4))]
        found.append([detection(*one[:1], float(rng.random()), one[1], masked=True) for one in garments_found])
    evaluation = evaluate(Scripted(*found), *truth.write())
    assert evaluation.mask is not None
    for kind, ours in (("bbox", evaluation.box), ("segm", evaluation.mask)):
        stats = summary(truth, found, kind)
        assert [ours.ap, ours.ap50, ours.ap75, ours.recall] == pytest.approx([*stats[:3], stats[8]])


def summary(truth: Truth, found: Sequence[Sequence[Detection]], kind: str) -> list[float]:
    """The twelve figures that pycocotools prints."""
    garments = [{**garment, "id": place} for place, garment in enumerate(truth.dataset["annotations"], start=1)]
    ids = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    results = []
    for number, some in enumerate(found, start=1):
        for one in sorted(some, key=lambda one: -one.score):
            x1, y1, x2, y2 = one.box.corners
            result = {"image_id": number, "category_id": ids[one.label], "score": one.score}
            outline = {"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]} if kind == "segm" else {}
            results.append({**result, "bbox": [x1, y1, x2 - x1, y2 - y1], **outline})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth.dataset, "annotations": garments, "info": {}}
        coco.createIndex()
        if kind == "segm":  # loadRes takes polygons of results for boxes
            theirs = COCO()
            theirs.dataset = {
                **coco.dataset,
                "annotations": [{**one, "area": 1, "iscrowd": 0, "id": k} for k, one in enumerate(results, start=1)],
            }
            theirs.createIndex()
        else:
            theirs = coco.loadRes(results)
        judge = COCOeval(coco, theirs, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def test_a_perfect_detector_scores_one_and_a_blind_one_zero(truth: Truth) -> None:
    truth.photo(("top", (10, 10, 40, 40)), ("bag", (50, 20, 90, 70)))
    everything = [
        detection("top", 0.9, (10, 10, 40, 40), masked=True),
        detection("bag", 0.8, (50, 20, 90, 70), masked=True),
    ]
    perfect = evaluate(Scripted(everything), *truth.write(), mistakes=5)
    assert perfect.mask is not None
    assert [perfect.box.ap, perfect.box.recall, perfect.mask.ap, perfect.mask.recall] == pytest.approx([1] * 4)
    assert (perfect.missed, perfect.false_alarms) == (0, 0)
    assert perfect.mistakes == Mistakes()
    blind = evaluate(Scripted([]), *truth.write(), mistakes=5)
    assert (blind.box.ap, blind.box.recall, blind.mask) == (0, 0, None)
    assert (blind.missed, blind.false_alarms, blind.garments) == (2, 0, 2)
    assert [mistake.truth.label for mistake in blind.mistakes.misses if mistake.truth] == ["bag", "top"]
    assert blind.labels["top"].balanced_threshold is None


def test_masks_are_judged_by_their_pixels(truth: Truth) -> None:
    truth.photo(("top", (10, 10, 50, 50)))
    mask = np.zeros((40, 40), np.bool_)
    mask[:, :24] = True  # IoU 0.6
    found = evaluate(Scripted([Detection("top", 0.9, Box(10, 10, 50, 50), mask)]), *truth.write())
    assert found.mask is not None
    assert found.box.ap == pytest.approx(1)
    assert (found.mask.ap50, found.mask.ap75) == pytest.approx((1, 0))


@pytest.mark.parametrize("lacking", ["truth", "detector"])
def test_mask_figures_need_every_mask(truth: Truth, lacking: str) -> None:
    truth.photo(("top", (10, 10, 50, 50)), masked=lacking != "truth")
    found = evaluate(
        Scripted([detection("top", 0.9, (10, 10, 50, 50), masked=lacking != "detector")]), *truth.write(), mistakes=1
    )
    assert found.box.ap == pytest.approx(1)
    assert (found.mask, found.labels["top"].mask_curve) == (None, None)


def test_finds_misses_and_false_alarms_are_counted_at_the_threshold(truth: Truth) -> None:
    truth.photo(("top", (0, 0, 30, 30)), ("top", (40, 0, 70, 30)), ("bag", (0, 40, 30, 70)))
    found = [
        detection("top", 0.9, (0, 0, 30, 30)),
        detection("top", 0.65, (40, 0, 70, 30)),
        detection("top", 0.6, (40, 40, 70, 70)),
        detection("bag", 0.5, (0, 40, 30, 70)),
        detection("bag", 0.4, (70, 40, 100, 70)),
    ]
    files = truth.write()

    def counts(threshold: float) -> dict[str, tuple[int, int, int]]:
        labels = evaluate(Scripted(found), *files, threshold=threshold).labels
        return {name: (one.found, one.missed, one.false_alarms) for name, one in labels.items()}

    assert counts(0.7) == {"top": (1, 1, 0), "bag": (0, 1, 0)}
    assert counts(0.5) == {"top": (2, 0, 1), "bag": (1, 0, 0)}
    assert counts(0.4) == {"top": (2, 0, 1), "bag": (1, 0, 1)}


def test_at_the_balanced_threshold_there_are_as_many_false_alarms_as_misses(truth: Truth) -> None:
    truth.photo(*(("top", (10 * k, 0, 10 * k + 8, 30)) for k in range(8)))
    rng = np.random.default_rng(0)
    found = [detection("top", float(rng.random()), (10 * k, 0, 10 * k + 8, 30)) for k in range(6)]
    found += [detection("top", float(rng.random()), (10 * k, 40, 10 * k + 8, 70)) for k in range(10)]
    files = truth.write()
    balanced = evaluate(Scripted(found), *files).labels["top"].balanced_threshold
    assert balanced is not None
    top = evaluate(Scripted(found), *files, threshold=balanced).labels["top"]
    assert top.missed == top.false_alarms > 0
    assert balanced_threshold([], 0) is None


def seen(mistakes: Sequence[Mistake]) -> list[tuple[str | None, str | None, float]]:
    return [
        (mistake.detection and mistake.detection.label, mistake.truth and mistake.truth.label, round(mistake.iou, 2))
        for mistake in mistakes
    ]


def test_the_worst_mistakes_are_shown_each_once(truth: Truth) -> None:
    truth.photo(("top", (0, 0, 40, 40)), ("bag", (50, 0, 90, 40)), ("bag", (0, 50, 20, 70)), ("top", (60, 50, 90, 80)))
    found = [
        detection("top", 0.99, (0, 0, 40, 40), masked=True),
        detection("top", 0.95, (0, 0, 40, 38)),  # the same top again
        detection("top", 0.90, (50, 0, 90, 40), masked=True),  # the bag, called a top
        detection("bag", 0.85, (25, 45, 45, 65)),  # nothing there
        detection("top", 0.80, (60, 50, 70, 80)),  # a third of the other top
        detection("bag", 0.10, (0, 50, 20, 70)),  # found, but doubtful
    ]
    worst = evaluate(Scripted(found), *truth.write(), mistakes=9).mistakes
    assert seen(worst.confusions) == [("top", "bag", 1.0)]
    assert seen(worst.false_alarms) == [("top", "top", 0.95), ("bag", None, 0.0), ("top", "top", 0.33)]
    assert seen(worst.misses) == [("top", "top", 0.33)], "the doubtful bag was found at some score, the other taken"
    confusion = worst.confusions[0]
    assert (confusion.photo, confusion.width, confusion.height) == ("001.jpg", WIDTH, HEIGHT)
    assert confusion.detection is not None
    assert confusion.truth is not None
    assert confusion.detection.score == 0.90
    assert confusion.detection.mask is not None
    assert confusion.detection.mask.all()
    assert confusion.truth.box == Box(50, 0, 90, 40)
    fewer = evaluate(Scripted(found), *truth.write(), mistakes=1).mistakes
    assert (len(fewer.confusions), seen(fewer.false_alarms)) == (1, [("top", "top", 0.95)])


def test_photos_are_evaluated_one_at_a_time_and_unreadable_ones_are_reported(truth: Truth) -> None:
    box = (10, 10, 40, 40)
    for _ in range(5):
        truth.photo(("top", box))
    (truth.photos / "002.jpg").unlink()
    (truth.photos / "003.jpg").write_bytes(b"")
    write_jpeg(truth.photos / "004.jpg", np.zeros((20, 30, 3), np.uint8))
    told: list[tuple[str, str | None, int]] = []
    detector = Scripted([detection("top", 0.9, box)], [detection("top", 0.8, box)])
    found = evaluate(detector, *truth.write(), progress=lambda *each: told.append(each))
    assert detector.batches == [1, 1]
    assert told == [
        ("001.jpg", None, 5),
        ("002.jpg", "was not found", 5),
        ("003.jpg", "is empty (0 bytes)", 5),
        ("004.jpg", "is 30x20 px, its annotations are for 100x80", 5),
        ("005.jpg", None, 5),
    ]
    assert (found.photos, found.garments, found.box.ap) == pytest.approx((2, 2, 1)), (
        "the garments of bad photos are not missed"
    )
    assert found.failed == {photo: error for photo, error, _ in told if error}
    assert evaluate(Scripted([detection("top", 0.9, box)]), *truth.write(), limit=1).failed == {}


def test_an_error_names_the_folder_if_no_photo_can_be_read(truth: Truth, tmp_path: Path) -> None:
    truth.photo(("top", (10, 10, 40, 40)))
    path, _ = truth.write()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(CatalogueError, match=r"is .*elsewhere the folder that its file names are relative to"):
        evaluate(Scripted(), path, tmp_path / "elsewhere")


def test_labels_and_categories_without_a_counterpart_are_noted_and_left_out(tmp_path: Path) -> None:
    truth = Truth(tmp_path, categories=("person", "bag"))
    truth.photo(("person", (0, 0, 90, 70)), ("bag", (10, 10, 40, 40)))
    found = [detection("bag", 0.9, (10, 10, 40, 40)), detection("top", 0.9, (50, 10, 90, 70))]
    evaluation = evaluate(Scripted(found), *truth.write())
    assert (evaluation.box.ap, evaluation.garments, evaluation.false_alarms) == pytest.approx((1, 1, 0))
    assert list(evaluation.labels) == ["bag"]
    told = "\n".join(evaluation.notes)
    assert "(person)" in told
    assert "label top is not one of the categories" in told
    truth.dataset["categories"] = [{"id": 10, "name": "person"}, {"id": 11, "name": "dog"}]
    with pytest.raises(CatalogueError, match="none of its categories"):
        evaluate(Scripted(), *truth.write())


def test_bad_annotations_are_reported_and_left_out(truth: Truth) -> None:
    truth.photo(("top", (10, 10, 40, 40)), ("top", (50, 10, 80, 40)))
    truth.dataset["annotations"][1]["image_id"] = 77
    evaluation = evaluate(Scripted([detection("top", 0.9, (10, 10, 40, 40))]), *truth.write())
    assert (evaluation.garments, evaluation.box.ap) == pytest.approx((1, 1))
    assert len(evaluation.problems) == 1
    assert "77" in evaluation.problems[0]


def test_latency_leaves_the_first_photo_out(truth: Truth) -> None:
    class Slow(Scripted):
        def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
            time.sleep(0.002 if self.batches else 0.5)
            return super().__call__(images)

    for _ in range(4):
        truth.photo(("top", (10, 10, 40, 40)))
    latency = evaluate(Slow(), *truth.write()).latency
    assert 0.002 <= latency.median_s <= latency.p95_s < 0.5
    assert 0.002 <= latency.mean_s < 0.5
    assert evaluate(Slow(), *truth.write(), limit=1).latency.mean_s >= 0.5, "one photo is better than none"


def test_a_detection_with_an_undeclared_label_is_an_error(truth: Truth) -> None:
    truth.photo(("top", (10, 10, 40, 40)))
    with pytest.raises(StageError, match="found a 'kimono', which is not one of its labels"):
        evaluate(Scripted([detection("kimono", 0.9, (10, 10, 40, 40))]), *truth.write())
