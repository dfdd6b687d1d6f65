"""Training a detector as a run in a folder: checked data, a plan that it keeps, curves, weights at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import weights
from pipeline.plots import Line, Panel, draw
from stages.detect.annotations import Annotations
from stages.detect.calibrate import balanced_thresholds
from stages.detect.coco import read_annotations
from stages.detect.data import LabelledPhotos, TrainingSet
from stages.detect.evaluate import DOUBTFUL, Evaluation, evaluate
from stages.detect.networks import build_network
from stages.detect.rcnn import RcnnDetector
from stages.detect.start import freeze_first_blocks, start_from
from stages.detect.train import Recipe, Trainer
from stages.errors import OutfinderError
from stages.types import LABELS

WEIGHTS, PLAN, VALIDATION, CURVES = "weights.safetensors", "plan.json", "validation.jsonl", "curves"

Source = tuple[Path, Path]
"""A COCO instances file and the folder of its photos."""


@dataclass(frozen=True, slots=True)
class DetectorPlan:
    """All that a run depends on; it is written down, and the run goes on with nothing else.

    Attributes:
        architecture: one of :data:`~stages.detect.networks.ARCHITECTURES`.
        start: see :func:`~stages.detect.start.start_from`.
        data: what it learns from.
        validation: what it is judged by now and then, and calibrated by at the end.
        labels: category names to learn, in order.
        input_px: the long side of what the network sees; for training and from then on.
        often: share of photos below which the photos with a label come more often.
        pasting: share of photos that garments of others are pasted into.
        validate_rounds: how many rounds over the data lie between two validations.
        recipe: schedule and seed.
        about: words on the data and licences, for the checkpoint.
    """

    architecture: str
    start: str
    data: tuple[Source, ...]
    validation: Source | None = None
    labels: tuple[str, ...] = LABELS
    input_px: int = 512
    often: float = 0.3
    pasting: float = 0.4
    validate_rounds: float = 1.0
    recipe: Recipe = field(default_factory=Recipe)
    about: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run has come: its last line of losses, the last validation, and seconds left."""

    steps: int
    losses: dict[str, Any]
    validation: dict[str, Any] | None
    left_s: float


class DetectorRun:
    """One training run in a folder, begun or gone on with.

    Args:
        plan: of the run; the same as it was begun with, where it was.
        folder: made if need be. It gets ``weights.safetensors`` and the curves, as ``curves.png`` and
            ``curves.json``, at each validation and at the end.
        device: where to compute.
        skip_bad: train on the rest where annotations are wrong.
        note: told what is worth knowing before the start.

    Raises:
        CatalogueError: the annotations are wrong; the message lists how.
        OutfinderError: the folder holds a run of another plan.
        ValueError: no such architecture or start.
        WeightsError: the start cannot be read.
    """

    def __init__(
        self,
        plan: DetectorPlan,
        folder: Path,
        device: str = "cpu",
        *,
        skip_bad: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plan, self.folder = plan, folder
        masks = plan.architecture.startswith("mask")
        sources = [_checked(source, plan.labels, masks=masks, skip_bad=skip_bad, note=note) for source in plan.data]
        if plan.validation:
            _checked(plan.validation, plan.labels, masks=False, skip_bad=skip_bad, note=note)
        folder.mkdir(parents=True, exist_ok=True)
        _keep_plan(folder / PLAN, plan)
        torch.manual_seed(plan.recipe.seed)
        self._network: GeneralizedRCNN = build_network(plan.architecture, len(plan.labels), plan.input_px)
        fresh = start_from(self._network, plan.architecture, plan.start, plan.labels)
        if fresh:
            note(f"not in {plan.start}, so random at the start: {', '.join(_modules(fresh))}")
        freeze_first_blocks(self._network)
        self._network.to(device, memory_format=torch.channels_last)
        photos = [LabelledPhotos(found, source[1]) for found, source in zip(sources, plan.data, strict=True)]
        data = TrainingSet(photos, plan.input_px, plan.recipe.seed, plan.often, plan.pasting)
        self._trainer = Trainer(self._network, data, plan.recipe, folder)
        self._device = device

    @property
    def done(self) -> int:
        """Steps behind."""
        return self._trainer.done

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self._trainer.steps

    def run(self, tell: Callable[[Moment], None], workers: int = 1) -> None:
        """Train to the end, judge, calibrate, and write the weights."""
        began, first = monotonic(), self._trainer.done
        validations = [line for line in read_lines(self.folder / VALIDATION) if line["step"] <= first]
        for losses in self._trainer.run(workers):
            step = int(losses["step"])
            per_step = (monotonic() - began) / max(1, step - first)
            latest = None
            if self._validation_is_due(step, validations):
                latest = self._validate(step)
                validations.append(latest)
                _write_lines(self.folder / VALIDATION, validations)
            if latest or step == self.steps:
                draw_curves(self.folder)
            tell(Moment(self.steps, losses, latest, per_step * (self.steps - step)))
        if not (self.folder / WEIGHTS).exists():  # without validation
            self._save(None)

    def _validation_is_due(self, step: int, validations: Sequence[dict[str, Any]]) -> bool:
        if self.plan.validation is None:
            return False
        every = max(1, round(self.plan.validate_rounds * self._trainer.steps_per_round))
        last = int(validations[-1]["step"]) if validations else 0
        return step == self.steps or step // every > last // every

    def _validate(self, step: int) -> dict[str, Any]:
        if self.plan.validation is None:
            raise ValueError("there is nothing to validate with")
        with self._trainer.averaged():
            judged = RcnnDetector(self._network, self.plan.labels, DOUBTFUL, self._device)
            evaluation = evaluate(judged, *self.plan.validation)
        self._save(evaluation)
        line: dict[str, Any] = {"step": step, "box": asdict(evaluation.box)}
        if evaluation.mask:
            line["mask"] = asdict(evaluation.mask)
        line["box_ap50"] = {name: label.box.ap50 for name, label in evaluation.labels.items() if label.box}
        return line

    def _save(self, evaluation: Evaluation | None) -> None:
        plan = self.plan
        described = {
            "architecture": plan.architecture,
            "labels": "\n".join(plan.labels),
            "input_px": str(plan.input_px),
            "mean": " ".join(map(str, self._network.transform.image_mean)),
            "std": " ".join(map(str, self._network.transform.image_std)),
            "crop": "none",
            "data": plan.about or ", ".join(str(annotations) for annotations, _ in plan.data),
            "seed": str(plan.recipe.seed),
        }
        if evaluation:
            thresholds = balanced_thresholds(evaluation)
            described["thresholds"] = " ".join(str(thresholds.get(label, 0.5)) for label in plan.labels)
        with self._trainer.averaged():
            weights.save(self.folder / WEIGHTS, self._network.state_dict(), described)


def _checked(
    source: Source, labels: Sequence[str], *, masks: bool, skip_bad: bool, note: Callable[[str], None]
) -> Annotations:
    found = read_annotations(*source, labels)
    found.raise_on_problems(skip_bad=skip_bad)
    if masks:
        found.raise_on_boxes_only()
    note(found.describe())
    return found


def _keep_plan(path: Path, plan: DetectorPlan) -> None:
    """Write the plan down, or make sure that it is the one that is.

    Raises:
        OutfinderError: it is another one.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(asdict(plan), default=str))
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key in wanted if wanted[key] != begun.get(key)]
    if differing:
        told = "; ".join(f"{key} was {begun.get(key)}, is now {wanted[key]}" for key in differing)
        raise OutfinderError(
            f"{path.parent} holds a run of another plan ({told}); give the same options to go on with it, or another folder"
        )


def _modules(names: Sequence[str]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in names})


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is no log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(path)


def draw_curves(folder: Path) -> None:
    """Draw what a run logged: ``curves.png``, and the same numbers as ``curves.json``."""
    training, validation = read_lines(folder / "log.jsonl"), read_lines(folder / VALIDATION)
    parts = [name for name in training[0] if name.startswith("loss")]
    steps = [line["step"] for line in training]
    losses = [Line(name.removeprefix("loss_"), steps, [line[name] for line in training]) for name in parts]
    panels = [Panel("Losses", "step", "loss", losses)]
    if validation:
        at = [line["step"] for line in validation]
        kinds = [(kind, figure) for kind in ("box", "mask") if kind in validation[0] for figure in ("ap50", "ap")]
        curves = [Line(f"{kind} {figure.upper()}", at, [line[kind][figure] for line in validation])
                  for kind, figure in kinds]  # fmt: skip
        panels.append(Panel("Validation", "step", "average precision", curves, y_range=(0.0, 1.0)))
    partial = folder / f"{CURVES}.partial"
    partial.write_text(json.dumps({"training": training, "validation": validation}) + "\n", encoding="utf-8")
    partial.replace(folder / f"{CURVES}.json")
    draw(panels, folder / f"{CURVES}.png")
