from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import few_scenes

import weights
from pipeline.detector_training import DetectorPlan, DetectorRun
from pipeline.training import read_lines
from stages.detect.networks import build_network
from stages.detect.rcnn import read_detector
from stages.detect.training import DetectorRecipe, DetectorTrainer, TrainingSet, freeze_first_blocks, start_from
from stages.errors import CatalogueError, OutfinderError, WeightsError
from stages.images import read_image
from stages.training import rate
from stages.types import LABELS

PIXELS = 96


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few_scenes(tmp_path_factory.mktemp("few"), 4)


def plan(street: Path, **changes: object) -> DetectorPlan:
    source = (str(street / "street.json"), str(street / "street"))
    usual = {
        "architecture": "fasterrcnn_mobilenet_v2",
        "start": "fasterrcnn_mobilenet_v2",
        "train": (source,),
        "input_px": PIXELS,
        "training": DetectorRecipe(rounds=3, batch_size=2, warmup_steps=5, precision="float32"),
    }
    return DetectorPlan(**(usual | changes))


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    rates = [rate(step, 100, warmup=10, decay=0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:51] == [1.0] * 41
    assert rates[-1] < 0.01
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rate(99, 100, warmup=1, decay=0) == 1


def test_boxes_are_not_rounded_by_mixed_precision(tmp_path: Path) -> None:
    network = build_network("maskrcnn_mobilenet_v2", 2, 320)
    seen = []
    choose = network.roi_heads.select_training_samples

    def spied(proposals: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> object:
        chosen = choose(proposals, targets)
        seen.append((proposals[0], chosen[0][0], chosen[3][0]))  # before, with the garments', what is to be learnt
        return chosen

    network.roi_heads.select_training_samples = spied
    corners = torch.tensor([[300.25, 10.5, 310.75, 300.125]])
    target = {"boxes": corners, "labels": torch.tensor([1]), "masks": torch.ones(1, 320, 320, dtype=torch.uint8)}
    trainer = DetectorTrainer(network, TrainingSet([], 320, seed=0), DetectorRecipe(precision="bfloat16"), tmp_path)
    losses = trainer.step(([torch.rand(3, 320, 320)], [target]))
    assert np.isfinite(losses["loss"])
    ((proposals, kept, wanted),) = seen
    assert proposals.dtype == kept.dtype == wanted.dtype == torch.float32
    assert (kept == corners).all(1).any()


KILLED = """
import sys
from pathlib import Path
from stages import training
training.SAVE_S = 0.0
training.LOG_STEPS = 2
sys.path[:0] = {tests!r}
from test_detect_training import DetectorRun, plan
run = DetectorRun(plan(Path({street!r})), Path({folder!r}))
run.run(lambda progress: print(progress.losses["step"], flush=True), workers=0)
"""


def test_a_killed_run_is_resumed_to_the_same_weights(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.training.LOG_STEPS", 2)
    straight = DetectorRun(plan(street), tmp_path / "straight")
    straight.run(lambda _: None, workers=0)
    code = KILLED.format(
        tests=[str(folder) for folder in Path(__file__).parents[:2]],
        street=str(street),
        folder=str(tmp_path / "killed"),
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if int(line) >= 2:
                time.sleep(0.05)  # somewhere within a step or a save
                process.kill()
                break
    resumed = DetectorRun(plan(street), tmp_path / "killed")
    assert 1 <= resumed.done < resumed.steps
    resumed.run(lambda _: None, workers=0)
    one, other = (weights.read(tmp_path / name / "weights.safetensors") for name in ("straight", "killed"))
    torch.testing.assert_close(other.tensors, one.tensors, atol=1e-5, rtol=1e-3)
    lines = read_lines(tmp_path / "killed" / "log.jsonl")
    assert [line["step"] for line in lines] == [
        line["step"] for line in read_lines(tmp_path / "straight" / "log.jsonl")
    ]


def test_a_run_learns_validates_calibrates_and_draws(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (str(street / "street.json"), str(street / "street"))
    wanted = plan(
        street,
        architecture="maskrcnn_mobilenet_v2",  # whose masks the start knows nothing of
        val=source,
        validate_rounds=2,
        training=DetectorRecipe(rounds=4, batch_size=2, warmup_steps=3, precision="float32"),
    )
    reports = []
    monkeypatch.setattr("stages.training.LOG_STEPS", 2)
    DetectorRun(wanted, tmp_path).run(reports.append, workers=0)
    assert reports[-1].losses["step"] == reports[-1].steps == 8
    assert reports[-1].left_s == 0
    lines = read_lines(tmp_path / "log.jsonl")
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"], [line["loss"] for line in lines]
    validations = read_lines(tmp_path / "validation.jsonl")
    assert [line["step"] for line in validations] == [4, 8]
    assert validations[-1]["box"]["ap50"] > 0.05
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves == {"training": lines, "validation": validations}
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    described = weights.read(tmp_path / "weights.safetensors").metadata
    thresholds = [float(number) for number in described["thresholds"].split()]
    assert len(thresholds) == len(LABELS)
    assert len(set(thresholds)) > 3
    detector = read_detector(tmp_path / "weights.safetensors", min_score=0.3)
    assert detector.labels == LABELS
    assert detector([read_image(street / "street" / "0001.jpg")])[0]


def test_a_run_can_learn_other_labels(street: Path, tmp_path: Path) -> None:
    coco = json.loads((street / "street.json").read_text())
    for category in coco["categories"]:
        category["name"] = f"a kind of {category['name']}"
    (tmp_path / "own.json").write_text(json.dumps(coco))
    wanted = plan(
        street,
        train=((str(tmp_path / "own.json"), str(street / "street")),),
        labels=("a kind of shoes", "a kind of top"),
        training=DetectorRecipe(rounds=1, batch_size=2, precision="float32"),
    )
    notes = []
    DetectorRun(wanted, tmp_path / "run", note=notes.append).run(lambda _: None, workers=0)
    assert read_detector(tmp_path / "run" / "weights.safetensors").labels == wanted.labels
    assert any("roi_heads.box_predictor" in note for note in notes), "it says what starts from nothing"


def test_a_run_is_not_resumed_with_another_plan(street: Path, tmp_path: Path) -> None:
    DetectorRun(plan(street), tmp_path)
    DetectorRun(plan(street), tmp_path)
    with pytest.raises(OutfinderError, match=r"paste was 0\.4, is now 0\.9"):
        DetectorRun(plan(street, paste=0.9), tmp_path)


def test_bad_annotations_stop_a_run_before_it_starts(street: Path, tmp_path: Path) -> None:
    coco = json.loads((street / "street.json").read_text())
    coco["annotations"][0]["bbox"] = [5, 5, 0, 0]
    coco["images"].append({"id": 99, "file_name": "gone.jpg", "width": 5, "height": 5})
    (tmp_path / "bad.json").write_text(json.dumps(coco))
    bad = plan(street, train=((str(tmp_path / "bad.json"), str(street / "street")),))
    with pytest.raises(CatalogueError, match=r"(?s)gone\.jpg.*empty boxes \(1\).*--skip-bad"):
        DetectorRun(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    DetectorRun(bad, tmp_path / "run", skip_bad=True)
    for annotation in coco["annotations"]:
        annotation.pop("segmentation")
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    boxes = plan(
        street, architecture="maskrcnn_mobilenet_v2", train=((str(tmp_path / "boxes.json"), str(street / "street")),)
    )
    with pytest.raises(CatalogueError, match="no segmentation, which Mask R-CNN needs"):
        DetectorRun(boxes, tmp_path / "masks", skip_bad=True)


def test_starting_weights_are_copied_where_they_fit(tmp_path: Path) -> None:
    network = build_network("fasterrcnn_mobilenet_v2", len(LABELS), 128)
    assert start_from(network, "fasterrcnn_mobilenet_v2", "maskrcnn_mobilenet_v2", LABELS) == []
    fresh = start_from(network, "fasterrcnn_mobilenet_v2", "maskrcnn_mobilenet_v2", LABELS[::-1])
    assert {name.split(".")[1] for name in fresh} == {"box_predictor"}, "other labels, so another predictor"
    classifier = {"features.0.0.weight": torch.randn(32, 3, 3, 3), "classifier.1.weight": torch.randn(5, 5)}
    weights.save(tmp_path / "classifier.safetensors", classifier, {})
    start_from(network, "fasterrcnn_mobilenet_v2", str(tmp_path / "classifier.safetensors"), LABELS)
    started = network.backbone.body[0][0].weight
    np.testing.assert_allclose(started.detach(), classifier["features.0.0.weight"], atol=2e-3)
    weights.save(tmp_path / "other.safetensors", {"strange": torch.randn(3)}, {})
    with pytest.raises(WeightsError, match="nothing in"):
        start_from(network, "fasterrcnn_mobilenet_v2", str(tmp_path / "other.safetensors"), LABELS)
    with pytest.raises(ValueError, match="cannot start from 'nowhere'"):
        start_from(network, "fasterrcnn_mobilenet_v2", "nowhere", LABELS)
    with pytest.raises(ValueError, match="no COCO weights"):
        start_from(network, "fasterrcnn_mobilenet_v2", "coco", LABELS)


def test_only_the_first_blocks_are_frozen() -> None:
    network = build_network("fasterrcnn_mobilenet_v2", 3, 128)
    freeze_first_blocks(network)
    frozen = {name.split(".")[2] for name, value in network.named_parameters() if not value.requires_grad}
    assert frozen == {"0", "1", "2", "3"}
