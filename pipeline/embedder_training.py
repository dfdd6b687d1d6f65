"""Training an embedder as a run in a folder: checked photos, a plan that it keeps, curves, the best weights at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

import weights
from pipeline.plots import Line, Panel, draw
from pipeline.runs import keep_plan, read_lines, write_lines
from pipeline.training_photos import DataPlan, Note, read_training
from stages.embed.batches import Batches
from stages.embed.inputs import Normalise
from stages.embed.losses import LossPlan
from stages.embed.network import Design, SiameseNetwork
from stages.embed.offline import OfflineTriplets
from stages.embed.rows import Ints, Rows
from stages.embed.samplers import SamplerPlan
from stages.embed.siamese import vectors_of
from stages.embed.start import start_from
from stages.embed.train import Recipe, Trainer
from stages.embed.validation import Judge
from stages.embed.views import VIEWS
from stages.errors import OutfinderError
from stages.types import Vectors

WEIGHTS, PLAN, VALIDATION, MINED, CURVES = (
    "weights.safetensors", "plan.json", "validation.jsonl", "mined.safetensors", "curves",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EmbedderPlan:
    """All that a run depends on; it is written down, and the run goes on with nothing else.

    Attributes:
        data: what it learns from and is judged by.
        recipe: schedule and seed.
        design: the network.
        start: see :func:`~stages.embed.start.start_from`.
        loss: what it minimises.
        sampler: how photos come together in batches.
        views: how photos of each domain are looked at, by :data:`~stages.embed.views.VIEWS`; ``("", name)`` is for all
            other domains.
        train_px: side of the views that it trains on; 0: that of the design. A smaller one trains faster, and objects
            look larger in it, which looking at more pixels afterwards makes up for (Touvron et al. 2019).
        metric: of :data:`~stages.embed.validation.METRICS`.
        validate_steps: steps between two validations.
        patience: validations without a better one, after which the run ends; 0: it goes to its last step.
        about: words on the data and licences, for the checkpoint.
    """

    data: DataPlan
    recipe: Recipe
    design: Design = field(default_factory=Design)
    start: str = "scratch"
    loss: LossPlan = field(default_factory=LossPlan)
    sampler: SamplerPlan = field(default_factory=SamplerPlan)
    views: tuple[tuple[str, str], ...] = (("", "garment"),)
    train_px: int = 0
    metric: str = "recall@1"
    validate_steps: int = 200
    patience: int = 0
    about: str = ""

    def __post_init__(self) -> None:
        for _, name in self.views:
            if name not in VIEWS:
                raise ValueError(f"no view is called {name!r}; there are {', '.join(VIEWS)}")
        if self.validate_steps < 1 or self.patience < 0:
            raise ValueError(
                f"validate_steps is at least 1 and patience at least 0, got {self.validate_steps} and {self.patience}"
            )


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run has come: its last line of losses, the validation after it if any, and seconds left."""

    steps: int
    losses: dict[str, Any]
    validation: dict[str, Any] | None
    left_s: float


class EmbedderRun:
    """One training run in a folder, begun or gone on with.

    Args:
        plan: of the run; the same as it was begun with, where it was.
        folder: made if need be. It gets ``weights.safetensors``, the best of all validations or else the last, and
            the curves as ``curves.png`` and ``curves.json``.
        device: where to compute.
        note: told what is worth knowing before the start.

    Raises:
        CatalogueError: something is wrong with the photos; the message lists it.
        OutfinderError: the folder holds a run of another plan.
        ValueError: no such part, start or source.
        WeightsError: the start cannot be read.
    """

    def __init__(self, plan: EmbedderPlan, folder: Path, device: str = "cpu", note: Note = lambda _: None) -> None:
        self.plan, self.folder, self._device = plan, folder, device
        torch.manual_seed(plan.recipe.seed)
        self._network = SiameseNetwork(plan.design)
        crossed = plan.sampler.anchor_domain
        rows, val = read_training(plan.data, note, crossed=bool(crossed))
        loss = plan.loss.build(self._network, rows.classes)
        sampler = plan.sampler.build(rows)
        self._judge = Judge(val, plan.metric, crossed) if val else None
        _tell_fresh(start_from(self._network, plan.start), plan.start, note)
        folder.mkdir(parents=True, exist_ok=True)
        keep_plan(folder / PLAN, asdict(plan))
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        views = {domain: VIEWS[name] for domain, name in plan.views}
        side = plan.train_px or plan.design.input_px
        batches = Batches(rows, sampler, views, side, plan.recipe.seed)
        self._trainer = Trainer(self._network, loss, batches, plan.recipe, folder)
        self._mining = Mining(sampler, self._trainer, self._network, rows, folder / MINED) if isinstance(
            sampler, OfflineTriplets) else None  # fmt: skip
        self._validations = [line for line in read_lines(folder / VALIDATION) if line["step"] <= self._trainer.done]

    @property
    def done(self) -> int:
        """Steps behind."""
        return self._trainer.done

    @property
    def steps(self) -> int:
        """Steps in all, unless it stops early."""
        return self._trainer.steps

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation whose weights are kept; None before the first one without a collapse."""
        judged = [line for line in self._validations if line["metric"] is not None]
        return max(judged, key=lambda line: (line["metric"], -line["step"]), default=None)

    @property
    def ended(self) -> bool:
        """Whether it is at its last step, or has not become better for long enough."""
        patience, lines = self.plan.patience, self._validations
        since = self.best["step"] if self.best else 0
        return self.done >= self.steps or (patience > 0 and sum(line["step"] > since for line in lines) >= patience)

    def run(self, tell: Callable[[Moment], None], workers: int = 1) -> None:
        """Train to the end, and write the best weights.

        Raises:
            OutfinderError: the network has collapsed at every validation: all of its vectors are equal.
        """
        began, first = monotonic(), self.done
        if self._owes_validation():  # killed just before
            self._validate()
        while not self.ended:
            due = self._next(self.plan.validate_steps)
            losses: dict[str, Any] = {}
            for losses in self._lines(due, workers):
                if losses["step"] < due:
                    tell(self._moment(losses, None, began, first))
            line = self._validate() if self._owes_validation() else None
            draw_curves(self.folder, self.plan.metric)
            tell(self._moment(losses, line, began, first))
        if self._judge is None:
            self._save()
        elif self.best is None:
            raise OutfinderError(
                "the network has collapsed: it gives all photos nearly the same vector, so no weights were written;"
                " lower the learning rate or the margin, mine semi-hard instead of batch-hard, or start from imagenet"
            )

    def _next(self, every: int) -> int:
        return min(self.steps, self.done - self.done % every + every)

    def _lines(self, until: int, workers: int) -> Iterator[dict[str, Any]]:
        """Train until a step, mining when it is due."""
        while self.done < until:
            if self._mining is None:
                yield from self._trainer.run(until, workers)
            else:
                self._mining.prepare()
                yield from self._trainer.run(min(until, self._next(self._mining.every)), workers)

    def _owes_validation(self) -> bool:
        due = self.done == self.steps or (self.done > 0 and self.done % self.plan.validate_steps == 0)
        return self._judge is not None and due and all(line["step"] != self.done for line in self._validations)

    def _validate(self) -> dict[str, Any]:
        if self._judge is None:
            raise ValueError("there is nothing to validate with")
        with self._trainer.averaged():
            line = {"step": self.done, "metric": self._judge(self._network)}
        better = self.best is None or (line["metric"] is not None and line["metric"] > self.best["metric"])
        if better and line["metric"] is not None:
            self._save()
        self._validations.append(line)
        write_lines(self.folder / VALIDATION, self._validations)
        return line

    def _save(self) -> None:
        plan = self.plan
        described = plan.design.metadata() | {
            "crop": "whole",
            "data": plan.about or ", ".join(plan.data.train),
            "loss": plan.loss.name,
            "step": str(self.done),
            "seed": str(plan.recipe.seed),
        }
        with self._trainer.averaged():
            weights.save(self.folder / WEIGHTS, self._network.state_dict(), described)

    def _moment(self, losses: dict[str, Any], line: dict[str, Any] | None, began: float, first: int) -> Moment:
        per_step = (monotonic() - began) / max(1, self.done - first)
        return Moment(self.steps, losses, line, per_step * (self.steps - self.done))


class Mining:
    """Mines when it is due, with the weights of that step; a run that goes on has what was mined then."""

    def __init__(
        self, sampler: OfflineTriplets, trainer: Trainer, network: SiameseNetwork, rows: Rows, path: Path
    ) -> None:
        self._sampler, self._trainer, self._network, self._rows, self._path = sampler, trainer, network, rows, path
        self.every = sampler.mine_steps

    def prepare(self) -> None:
        """Have triplets for the steps until the next mining; the trainer has saved its state at the last one."""
        step = self._trainer.done
        since = step - step % self.every
        if len(self._sampler.mined) and step != since:
            return
        if not self._sampler.restore(self._path, since):
            self._sampler.mine(step, self._embed)
            self._sampler.save(self._path, since)

    def _embed(self, rows: Ints) -> Vectors:
        network = self._network.eval()
        device = str(next(network.parameters()).device)
        images = [self._rows.images[row] for row in rows.tolist()]
        return vectors_of(network, images, Normalise(*network.design.stats), device, 32, unit=False)


def draw_curves(folder: Path, metric: str) -> None:
    """Draw what a run logged: ``curves.png``, and the same numbers as ``curves.json``."""
    training, validation = read_lines(folder / "log.jsonl"), read_lines(folder / VALIDATION)
    steps = [line["step"] for line in training]

    def lines(*names: str) -> list[Line]:
        there = [name for name in names if any(name in line for line in training)]
        return [Line(name, steps, [line.get(name, float("nan")) for line in training]) for name in there]

    panels = [
        Panel("Loss", "step", "loss", lines("loss", "loss_item", "loss_style")),
        Panel("Similarity in batches", "step", "mean cosine", lines("same", "different")),
    ]
    if validation:
        values = [float("nan") if line["metric"] is None else line["metric"] for line in validation]
        judged = Line(metric, [line["step"] for line in validation], values)
        panels.append(Panel("Validation", "step", metric, [judged], y_range=(0.0, 1.0)))
    partial = folder / f"{CURVES}.partial"
    partial.write_text(json.dumps({"training": training, "validation": validation}) + "\n", encoding="utf-8")
    partial.replace(folder / f"{CURVES}.json")
    draw(panels, folder / f"{CURVES}.png")


def _tell_fresh(fresh: Sequence[str], start: str, note: Note) -> None:
    modules = sorted({name.split(".")[0] for name in fresh})
    if start != "scratch" and modules:
        note(f"not in {start}, so random at the start: {', '.join(modules)}")
