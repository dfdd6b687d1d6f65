"""Training runs of detectors: plan, validated annotations, validation and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import weights
from pipeline.plots import Line as Curve
from pipeline.plots import Panel
from pipeline.training import WEIGHTS, Line, Note, Run, keep_plan, modules_of
from stages.detect.annotations import Annotations
from stages.detect.coco import read_annotations
from stages.detect.evaluation import EVALUATION_MIN_SCORE, DetectorEvaluation, balanced_thresholds, evaluate
from stages.detect.networks import build_network
from stages.detect.rcnn import RcnnDetector
from stages.detect.training import (
    DetectorRecipe,
    DetectorTrainer,
    LabelledPhotos,
    TrainingSet,
    freeze_first_blocks,
    start_from,
)
from stages.types import LABELS


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPlan:
    """The settings of a run; a run can only be resumed with the same plan."""

    architecture: str = "maskrcnn_mobilenet_v2"
    start: str = ""  # see stages.detect.training.start_from; empty for the architecture's shipped weights, else coco
    train: tuple[tuple[str, str], ...] = ()  # COCO files with the folders of their photos
    val: tuple[str, str] | None = None  # to validate with, and to set each label's threshold
    labels: tuple[str, ...] = LABELS  # category names to learn, in order
    input_px: int = 512  # long side of the network's input, in training and inference
    rare: float = 0.3  # photos of labels that fewer photos have, by this share, are drawn more often
    paste: float = 0.4  # share of photos that other photos' garments are pasted into
    validate_rounds: float = 1.0  # rounds over the data between validations
    training: DetectorRecipe = field(default_factory=DetectorRecipe)
    about: str = ""  # the data and its licences, for the checkpoint

    def __post_init__(self) -> None:
        if self.input_px < 64:
            raise ValueError(f"input_px must be at least 64, got {self.input_px}")
        if not (0 <= self.rare <= 1 and 0 <= self.paste <= 1):
            raise ValueError(f"rare and paste must be shares between 0 and 1, got {self.rare} and {self.paste}")
        if self.training.rounds <= 0 or self.training.batch_size < 1 or self.validate_rounds <= 0:
            raise ValueError("rounds, batch_size and validate_rounds must be above 0")


class DetectorRun(Run):
    """A training run of a detector.

    ``note`` receives remarks before training starts. With ``skip_bad``, wrong annotations are only noted.

    Raises:
        CatalogueError: the annotations have problems, which the message lists.
        OutfinderError: the folder holds a run with another plan.
        ValueError: there is no such architecture or start.
        WeightsError: the start cannot be read.
    """

    def __init__(
        self,
        plan: DetectorPlan,
        folder: Path | str,
        device: str = "cpu",
        *,
        skip_bad: bool = False,
        note: Note = lambda _: None,
    ) -> None:
        folder = Path(folder)
        shipped = plan.architecture if plan.architecture in weights.manifest() else "coco"
        self.plan = plan = replace(plan, start=plan.start or shipped)
        if not plan.train:
            raise ValueError("there is nothing to train on; give a COCO file and the folder of its photos")
        masks = plan.architecture.startswith("mask")
        photos = [
            LabelledPhotos(_checked(each, plan, masks=masks, skip_bad=skip_bad, note=note), Path(each[1]))
            for each in plan.train
        ]
        if plan.val:
            _checked(plan.val, plan, masks=False, skip_bad=skip_bad, note=note)
        torch.manual_seed(plan.training.seed)
        self._network: GeneralizedRCNN = build_network(plan.architecture, len(plan.labels), plan.input_px)
        random = start_from(self._network, plan.architecture, plan.start, plan.labels)
        if random:
            note(f"not in {plan.start}, and so random at the start: {modules_of(random)}")
        freeze_first_blocks(self._network)
        self._network.to(device, memory_format=torch.channels_last)
        self._device = device
        keep_plan(folder, asdict(plan))
        data = TrainingSet(photos, plan.input_px, plan.training.seed, plan.rare, plan.paste)
        trainer = DetectorTrainer(self._network, data, plan.training, folder)
        every = max(1, round(plan.validate_rounds * trainer.steps_per_round)) if plan.val else None
        super().__init__(folder, trainer, every)

    def _validate(self) -> Line:
        if self.plan.val is None:
            raise ValueError("there are no validation photos")
        annotations, photos = map(Path, self.plan.val)
        with self._trainer.averaged():
            detector = RcnnDetector(self._network, self.plan.labels, EVALUATION_MIN_SCORE, self._device)
            evaluation = evaluate(detector, annotations, photos)
        self._save(evaluation)
        line: Line = {"box": asdict(evaluation.box)}
        if evaluation.mask:
            line["mask"] = asdict(evaluation.mask)
        return line | {"box_ap50": {name: label.box.ap50 for name, label in evaluation.labels.items() if label.box}}

    def _finish(self) -> None:
        if not (self.folder / WEIGHTS).exists():
            self._save(None)

    def _save(self, evaluation: DetectorEvaluation | None) -> None:
        plan = self.plan
        metadata = {
            "architecture": plan.architecture,
            "labels": "\n".join(plan.labels),
            "input_px": str(plan.input_px),
            "mean": " ".join(map(str, self._network.transform.image_mean)),
            "std": " ".join(map(str, self._network.transform.image_std)),
            "crop": "none",
            "data": plan.about or ", ".join(annotations for annotations, _ in plan.train),
            "seed": str(plan.training.seed),
        }
        if evaluation:
            thresholds = balanced_thresholds(evaluation)
            metadata["thresholds"] = " ".join(str(thresholds.get(label, 0.5)) for label in plan.labels)
        with self._trainer.averaged():
            weights.save(self.folder / WEIGHTS, self._network.state_dict(), metadata)

    def _panels(self, training: Sequence[Line]) -> list[Panel]:
        names = [name for name in training[0] if name.startswith("loss")]
        steps = [line["step"] for line in training]
        losses = [Curve(name.removeprefix("loss_"), steps, [line[name] for line in training]) for name in names]
        panels = [Panel("Losses", "step", "loss", losses)]
        if self._validations:
            at = [line["step"] for line in self._validations]
            curves = [
                Curve(f"{kind} {metric.upper()}", at, [line[kind][metric] for line in self._validations])
                for kind in ("box", "mask")
                if kind in self._validations[0]
                for metric in ("ap50", "ap")
            ]
            panels.append(Panel("Validation", "step", "average precision", curves, y_range=(0.0, 1.0)))
        return panels


def _checked(source: tuple[str, str], plan: DetectorPlan, *, masks: bool, skip_bad: bool, note: Note) -> Annotations:
    annotations = read_annotations(Path(source[0]), Path(source[1]), plan.labels)
    annotations.raise_on_problems(skip_bad=skip_bad)
    if masks:
        annotations.raise_on_boxes_only()
    note(annotations.describe())
    return annotations
