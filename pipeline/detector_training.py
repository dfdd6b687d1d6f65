"""Training a detector as a run in a folder: checked data, a plan that it keeps, curves, weights at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import weights
from pipeline.plots import Line as Curve
from pipeline.plots import Panel
from pipeline.runs import (
    PLAN,
    VALIDATION,
    WEIGHTS,
    Clock,
    Line,
    Moment,
    draw_curves,
    keep_plan,
    modules_of,
    read_lines,
    write_lines,
)
from stages.detect.annotations import Annotations
from stages.detect.coco import read_annotations
from stages.detect.data import LabelledPhotos, TrainingSet
from stages.detect.evaluation import EVALUATION_MIN_SCORE, DetectorEvaluation, balanced_thresholds, evaluate
from stages.detect.networks import build_network
from stages.detect.rcnn import RcnnDetector
from stages.detect.start import freeze_first_blocks, start_from
from stages.detect.train import Recipe, Trainer
from stages.types import LABELS

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
        keep_plan(folder / PLAN, asdict(plan))
        torch.manual_seed(plan.recipe.seed)
        self._network: GeneralizedRCNN = build_network(plan.architecture, len(plan.labels), plan.input_px)
        fresh = start_from(self._network, plan.architecture, plan.start, plan.labels)
        if fresh:
            note(f"not in {plan.start}, so random at the start: {modules_of(fresh)}")
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
        clock = Clock(self.done)
        validations = [line for line in read_lines(self.folder / VALIDATION) if line["step"] <= self.done]
        for losses in self._trainer.run(workers):
            step = int(losses["step"])
            latest = None
            if self._validation_is_due(step, validations):
                latest = self._validate(step)
                validations.append(latest)
                write_lines(self.folder / VALIDATION, validations)
            if latest or step == self.steps:
                draw_curves(self.folder, _panels)
            tell(Moment(self.steps, losses, latest, clock.left_s(step, self.steps)))
        if not (self.folder / WEIGHTS).exists():  # without validation
            self._save(None)

    def _validation_is_due(self, step: int, validations: Sequence[Line]) -> bool:
        if self.plan.validation is None:
            return False
        every = max(1, round(self.plan.validate_rounds * self._trainer.steps_per_round))
        last = int(validations[-1]["step"]) if validations else 0
        return step == self.steps or step // every > last // every

    def _validate(self, step: int) -> Line:
        if self.plan.validation is None:
            raise ValueError("there is nothing to validate with")
        with self._trainer.averaged():
            judged = RcnnDetector(self._network, self.plan.labels, EVALUATION_MIN_SCORE, self._device)
            evaluation = evaluate(judged, *self.plan.validation)
        self._save(evaluation)
        line: Line = {"step": step, "box": asdict(evaluation.box)}
        if evaluation.mask:
            line["mask"] = asdict(evaluation.mask)
        line["box_ap50"] = {name: label.box.ap50 for name, label in evaluation.labels.items() if label.box}
        return line

    def _save(self, evaluation: DetectorEvaluation | None) -> None:
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


def _panels(training: Sequence[Line], validation: Sequence[Line]) -> list[Panel]:
    parts = [name for name in training[0] if name.startswith("loss")]
    steps = [line["step"] for line in training]
    losses = [Curve(name.removeprefix("loss_"), steps, [line[name] for line in training]) for name in parts]
    panels = [Panel("Losses", "step", "loss", losses)]
    if validation:
        at = [line["step"] for line in validation]
        kinds = [(kind, figure) for kind in ("box", "mask") if kind in validation[0] for figure in ("ap50", "ap")]
        curves = [Curve(f"{kind} {figure.upper()}", at, [line[kind][figure] for line in validation])
                  for kind, figure in kinds]  # fmt: skip
        panels.append(Panel("Validation", "step", "average precision", curves, y_range=(0.0, 1.0)))
    return panels
