"""Training an embedder as a run in a folder: checked photos, a plan that it keeps, curves, the best weights at the end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch

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
from pipeline.training_photos import DataPlan, Note, read_training
from stages.embed.batches import Batches
from stages.embed.inputs import WHITE
from stages.embed.losses import LossPlan
from stages.embed.metrics import is_collapsed
from stages.embed.network import Design, SiameseNetwork
from stages.embed.offline import Mining, OfflineTriplets
from stages.embed.samplers import SamplerPlan
from stages.embed.start import SCRATCH, fit_colours, start_from
from stages.embed.train import ALONE, LOSS_TERMS, Recipe, Trainer
from stages.embed.validation import Validator
from stages.embed.views import VIEWS
from stages.embed.whitening import check_whitens, whiten
from stages.errors import OutfinderError
from stages.images import letterbox
from stages.training import STATE
from stages.types import Image

MINED: Final = "mined.safetensors"
SOME: Final = 1024
"""So many photos choose the components of colours and of vectors; more where vectors are wide."""

COLLAPSED: Final = (
    "the network has collapsed: it gives all photos nearly the same vector, so no weights were written;"
    " lower the learning rate or the margin, mine semi-hard instead of batch-hard, or start from imagenet"
)


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
        whiten: how far the vectors of what is judged and written are whitened, see
            :func:`~stages.embed.whitening.whiten`; 0: they stay as they are.
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
    whiten: float = 0.0
    patience: int = 0
    about: str = ""

    def __post_init__(self) -> None:
        for _, name in self.views:
            if name not in VIEWS:
                raise ValueError(f"no view is called {name!r}; there are {', '.join(VIEWS)}")
        if self.recipe.distill_weight and self.start == "scratch":
            raise ValueError("a network that starts from scratch knows nothing to be distilled; name a start")
        parts_alone = self.recipe.shape_weight or self.recipe.colour_weight
        if parts_alone and self.loss.name in ("bce", "proxy-nca", "proxy-anchor"):
            raise ValueError(
                f"{self.loss.name} compares whole vectors alone; leave out the weights of shapes and colours or take another loss"
            )
        if parts_alone and not self.design.colour_dim:
            raise ValueError(ALONE)
        if self.whiten:
            check_whitens(self.design, power=self.whiten)
        if self.validate_steps < 1 or self.patience < 0:
            raise ValueError(
                f"validate_steps is at least 1 and patience at least 0, got {self.validate_steps} and {self.patience}"
            )


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
        rows, val = read_training(plan.data, note, crossed=bool(crossed), trim=plan.design.trim)
        if plan.whiten:
            check_whitens(plan.design, len(rows))
        self._rows = rows
        loss = plan.loss.build(self._network, rows.classes)
        sampler = plan.sampler.build(rows)
        self._judge = Validator(val, plan.metric, crossed) if val else None
        fresh = start_from(self._network, plan.start)
        _tell_fresh(fresh, plan.start, note)
        if "colours.project.weight" in fresh and not (folder / STATE).exists():
            fit_colours(self._network, self._some_letterboxed())
        folder.mkdir(parents=True, exist_ok=True)
        keep_plan(folder / PLAN, asdict(plan))
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        views = {domain: VIEWS[name] for domain, name in plan.views}
        side = plan.train_px or plan.design.input_px
        batches = Batches(rows, sampler, views, side, plan.recipe.seed)
        self._trainer = Trainer(self._network, loss, batches, plan.recipe, folder)
        mined = folder / MINED
        self._mining = Mining(sampler, self._network, rows, mined) if isinstance(sampler, OfflineTriplets) else None
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
    def best(self) -> Line | None:
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
        clock = Clock(self.done)
        if self._owes_validation():  # killed just before
            self._validate()
        while not self.ended:
            due = self._next(self.plan.validate_steps)
            losses: Line = {}
            for losses in self._lines(due, workers):
                if losses["step"] < due:
                    tell(self._moment(losses, None, clock))
            line = self._validate() if self._owes_validation() else None
            draw_curves(self.folder, self._panels)
            tell(self._moment(losses, line, clock))
        if self._judge is None:
            with self._result() as network:
                if network is None:
                    raise OutfinderError(COLLAPSED)
                self._save(network)
        elif self.best is None:
            raise OutfinderError(COLLAPSED)

    def _next(self, every: int) -> int:
        return min(self.steps, self.done - self.done % every + every)

    def _lines(self, until: int, workers: int) -> Iterator[Line]:
        """Train until a step, mining when it is due."""
        while self.done < until:
            if self._mining is None:
                yield from self._trainer.run(until, workers)
            else:
                self._mining.prepare(self.done)
                yield from self._trainer.run(min(until, self._next(self._mining.every)), workers)

    def _owes_validation(self) -> bool:
        due = self.done == self.steps or (self.done > 0 and self.done % self.plan.validate_steps == 0)
        return self._judge is not None and due and all(line["step"] != self.done for line in self._validations)

    def _validate(self) -> Line:
        if self._judge is None:
            raise ValueError("there is nothing to validate with")
        with self._result() as network:
            line = {"step": self.done, "metric": self._judge(network) if network else None}
            better = self.best is None or (line["metric"] is not None and line["metric"] > self.best["metric"])
            if network and better and line["metric"] is not None:
                self._save(network)
        self._validations.append(line)
        write_lines(self.folder / VALIDATION, self._validations)
        return line

    @contextmanager
    def _result(self) -> Iterator[SiameseNetwork | None]:
        """The network as it would be used, its weights averaged, and its vectors whitened if they are to be.

        None where there is nothing to whiten: a collapse.
        """
        with self._trainer.averaged():
            if not self.plan.whiten:
                yield self._network
                return
            network = copy.deepcopy(self._network)
            before = whiten(network, [self._some()], self.plan.whiten)
            yield None if is_collapsed(before) else network

    def _some(self) -> list[Image]:
        """Photos to train on, chosen at random."""
        count = max(SOME, 4 * self.plan.design.dim)
        chosen = np.random.default_rng(self.plan.recipe.seed).permutation(len(self._rows))[:count]
        return [self._rows.images[row] for row in chosen]

    def _some_letterboxed(self) -> Iterator[list[Image]]:
        """Batches of some photos as the network looks at them, for its colours to start from."""
        images = self._some()
        for start in range(0, len(images), 64):
            yield [letterbox(image, self.plan.design.input_px, WHITE) for image in images[start : start + 64]]

    def _save(self, network: SiameseNetwork) -> None:
        plan = self.plan
        described = plan.design.metadata() | {
            "crop": "whole",
            "data": plan.about or ", ".join(plan.data.train),
            "loss": plan.loss.name,
            "step": str(self.done),
            "seed": str(plan.recipe.seed),
        }
        weights.save(self.folder / WEIGHTS, network.state_dict(), described)

    def _moment(self, losses: Line, line: Line | None, clock: Clock) -> Moment:
        return Moment(self.steps, losses, line, clock.left_s(self.done, self.steps))

    def _panels(self, training: Sequence[Line], validation: Sequence[Line]) -> list[Panel]:
        steps = [line["step"] for line in training]

        def curves(*names: str) -> list[Curve]:
            there = [name for name in names if any(name in line for line in training)]
            return [Curve(name, steps, [line.get(name, float("nan")) for line in training]) for name in there]

        panels = [
            Panel("Loss", "step", "loss", curves("loss", *(f"loss_{term}" for term in LOSS_TERMS))),
            Panel("Similarity in batches", "step", "mean cosine", curves("same", "different")),
        ]
        if validation:
            metric = self.plan.metric
            values = [float("nan") if line["metric"] is None else line["metric"] for line in validation]
            judged = Curve(metric, [line["step"] for line in validation], values)
            panels.append(Panel("Validation", "step", metric, [judged], y_range=(0.0, 1.0)))
        return panels


def _tell_fresh(fresh: Sequence[str], start: str, note: Note) -> None:
    random = [name for name in fresh if not name.startswith("colours.")]  # which start from photos
    if start != SCRATCH and random:
        note(f"not in {start}, so random at the start: {modules_of(random, depth=1)}")
