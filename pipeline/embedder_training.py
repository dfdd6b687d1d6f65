"""Training runs of embedders: plan, photos, validation and checkpoint."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

import weights
from pipeline.catalogue import open_set
from pipeline.plots import Line as Curve
from pipeline.plots import Panel
from pipeline.training import WEIGHTS, Line, Note, Run, keep_plan, modules_of
from stages.background import WHITE
from stages.embed.augmentation import VIEWS
from stages.embed.data import By, Dataset, Ints, load, merged, split
from stages.embed.layers import check_name
from stages.embed.losses import OF_WHOLE_VECTORS, LossPlan
from stages.embed.metrics import is_collapsed
from stages.embed.network import Design, SiameseNetwork
from stages.embed.sampling import Batches, OfflineTriplets, SamplerPlan
from stages.embed.training import (
    LOSS_TERMS,
    NEEDS_COLOURS,
    SCRATCH,
    EmbedderRecipe,
    EmbedderTrainer,
    Validator,
    check_whitens,
    design_of,
    fit_colours,
    start_from,
    training_vectors,
    whiten,
)
from stages.errors import TrainingError
from stages.images import letterbox
from stages.training import STATE
from stages.types import Image, Vectors

_FITTING_PHOTOS: Final = 1024  # to fit colours and whitening to; more for wide vectors

_OF_VECTORS: Final = ("dim", "head", "colour_dim", "colour_share")
"""Fields of a design that define the meaning of a vector's dimensions."""

COLLAPSED: Final = (
    "the network has collapsed: it gives all photos nearly the same vector, so no weights were written;"
    " lower the learning rate or the margin, mine semi-hard instead of batch-hard, or start from imagenet"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """How sources become training and validation photos."""

    hold_out: int = 10  # percentage of ``train`` to validate with if there is no ``val``; 0 for no validation
    split_by: By = "style"  # kept together when photos are held out
    learn: Literal["item", "label"] = "item"  # shared by positives; a label is a class
    item_pattern: str = ""  # a regular expression that finds the item in a file name, for folders of photos
    val_photos: int = 2000  # limit of validation photos

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out <= 90 or self.val_photos < 4:
            raise ValueError(
                f"hold_out must be 0 to 90 percent and val_photos at least 4, got {self.hold_out} and {self.val_photos}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderPlan:
    """The settings of a run; a run can only be resumed with the same plan."""

    train: tuple[str, ...] = ()  # catalogues: CSV files, or folders with a folder of photos per item
    val: tuple[str, ...] = ()  # catalogues; without any, a share of ``train`` is held out
    data: DataPlan = field(default_factory=DataPlan)
    network: Design = field(default_factory=Design)
    start: str = SCRATCH  # see stages.embed.training.start_from
    loss: LossPlan = field(default_factory=LossPlan)
    sampler: SamplerPlan = field(default_factory=SamplerPlan)
    views: dict[str, str] = field(default_factory=dict)  # names of VIEWS by domain; ``default`` is for all others
    train_px: int = 0  # side of training views; 0 for input_px. Smaller views are faster (Touvron et al. 2019)
    metric: str = "recall@1"  # of stages.embed.training.METRICS
    validate_steps: int = 200
    whiten: float = 0.0  # power, see stages.embed.training.whiten; 0 for no whitening
    patience: int = 0  # validations without improvement that end the run; 0 for no limit
    training: EmbedderRecipe = field(default_factory=EmbedderRecipe)
    about: str = ""  # the data and its licences, for the checkpoint

    def with_start(self, given: Collection[str]) -> EmbedderPlan:
        """Return the plan with defaults that depend on its start: learning rate, batch norm, and a checkpoint's design.

        ``given`` are the dotted keys of settings that stay unchanged.

        Raises:
            ValueError: there is no such start.
            WeightsError: it cannot be read.
        """
        scratch, training, network = self.start == SCRATCH, self.training, self.network
        implied = {"lr_backbone": training.lr if scratch else training.lr / 5, "batch_norm": scratch}
        training = replace(training, **{key: implied[key] for key in implied if f"training.{key}" not in given})  # type: ignore[arg-type]
        if start := design_of(self.start):
            same = all(
                f"network.{key}" not in given or getattr(network, key) == getattr(start, key) for key in ("dim", "head")
            )
            kept = ("backbone", "pooling", "input_px", "trim", *(_OF_VECTORS if same else ()))
            network = replace(network, **{key: getattr(start, key) for key in kept if f"network.{key}" not in given})
        if "network.colour_share" in given and not network.colour_dim:
            raise ValueError("colour_share needs a colour_dim, and colour_dim is 0")
        return replace(self, training=training, network=network)

    def check(self) -> None:
        """Raise a ValueError if settings contradict each other."""
        if not self.train:
            raise ValueError("there is nothing to train on; give a CSV file or a folder of photos")
        for name in self.views.values():
            check_name("view", name, VIEWS)
        if self.training.shape_weight or self.training.colour_weight:
            if self.loss.name in OF_WHOLE_VECTORS:
                raise ValueError(
                    f"the loss {self.loss.name} compares whole vectors only;"
                    " leave out shape_weight and colour_weight, or choose another loss"
                )
            if not self.network.colour_dim:
                raise ValueError(NEEDS_COLOURS)
        if self.whiten:
            check_whitens(self.network, power=self.whiten)
        if self.validate_steps < 1 or self.patience < 0 or self.train_px < 0:
            raise ValueError("validate_steps must be at least 1, patience and train_px at least 0")

    @property
    def view_px(self) -> int:
        """The side of training views."""
        return self.train_px or self.network.input_px


class EmbedderRun(Run):
    """A training run of an embedder, which keeps the weights of its best validation, or else the last weights.

    ``note`` receives remarks before training starts. With ``skip_bad``, problems of the photos are only noted.

    Raises:
        CatalogueError: the photos have problems, which the message lists.
        OutfinderError: the folder holds a run with another plan.
        ValueError: settings of the plan contradict each other or do not fit the photos.
        WeightsError: the start cannot be read.
    """

    def __init__(
        self,
        plan: EmbedderPlan,
        folder: Path | str,
        device: str = "cpu",
        *,
        skip_bad: bool = False,
        note: Note = lambda _: None,
    ) -> None:
        plan.check()
        folder = Path(folder)
        self.plan = plan
        seed = plan.training.seed
        torch.manual_seed(seed)
        self._network = SiameseNetwork(plan.network)
        self._data, val = read_photos(plan, note, skip_bad=skip_bad)
        if plan.whiten:
            check_whitens(plan.network, len(self._data))
        loss = plan.loss.build(self._network, len(self._data.items))
        self._sampler = plan.sampler.build(self._data, seed)
        self._validator = Validator(val, plan.metric, plan.sampler.anchor_domain) if val else None
        random = start_from(self._network, plan.start)
        unfitted = [name for name in random if not name.startswith("colours.")]  # colours are initialised from photos
        if plan.start != SCRATCH and unfitted:
            note(f"not in {plan.start}, and so random at the start: {modules_of(unfitted, depth=1)}")
        if "colours.project.weight" in random and not (folder / STATE).exists():
            fit_colours(self._network, self._letterboxed_photos())
        keep_plan(folder, asdict(plan))
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        views = {domain.replace("default", ""): VIEWS[name] for domain, name in plan.views.items()}
        views = {"": VIEWS["garment"]} | views
        batches = Batches(self._data, self._sampler, views, plan.view_px, seed, turned=plan.sampler.turned)
        trainer = EmbedderTrainer(self._network, loss, batches, plan.training, folder)
        super().__init__(folder, trainer, plan.validate_steps if self._validator else None)

    @property
    def best(self) -> Line | None:
        """The validation whose weights are kept; None before the first without a collapse."""
        usable = [line for line in self._validations if line["metric"] is not None]
        return max(usable, key=lambda line: (line["metric"], -line["step"]), default=None)

    @property
    def ended(self) -> bool:
        """Whether the run is at its last step, or out of patience."""
        since = self.best["step"] if self.best else 0
        behind = sum(line["step"] > since for line in self._validations)
        return super().ended or 0 < self.plan.patience <= behind

    def _train(self, until: int, workers: int) -> Iterator[Line]:
        while self.done < until:
            stop = until
            if isinstance(self._sampler, OfflineTriplets):  # it mines with the current weights
                self._sampler.prepare(self.done, self.folder / "mined.safetensors", self._embed)
                stop = min(until, self._next_multiple(self._sampler.mine_steps))
            yield from self._trainer.run(stop, workers)

    def _embed(self, rows: Ints) -> Vectors:
        return training_vectors(self._network, [self._data.images[row] for row in rows.tolist()])

    def _validate(self) -> Line:
        if self._validator is None:
            raise ValueError("there are no validation photos")
        with self._result() as network:
            metric = self._validator(network) if network else None
            if network and metric is not None and (self.best is None or metric > self.best["metric"]):
                self._save(network)
        return {"metric": metric}

    def _finish(self) -> None:
        if self._validator is None:
            with self._result() as network:
                if network is None:
                    raise TrainingError(COLLAPSED)
                self._save(network)
        elif self.best is None:
            raise TrainingError(COLLAPSED)

    @contextmanager
    def _result(self) -> Iterator[SiameseNetwork | None]:
        """Yield the network with averaged weights, whitened if the plan says so; None if it has collapsed before whitening."""
        with self._trainer.averaged():
            if not self.plan.whiten:
                yield self._network
                return
            network = copy.deepcopy(self._network)
            before = whiten(network, [self._some_photos()], self.plan.whiten)
            yield None if is_collapsed(before) else network

    def _some_photos(self) -> list[Image]:
        count = max(_FITTING_PHOTOS, 4 * self.plan.network.dim)
        chosen = np.random.default_rng(self.plan.training.seed).permutation(len(self._data))[:count]
        return [self._data.images[row] for row in chosen]

    def _letterboxed_photos(self) -> Iterator[list[Image]]:
        images = self._some_photos()
        for start in range(0, len(images), 64):
            yield [letterbox(image, self.plan.network.input_px, WHITE) for image in images[start : start + 64]]

    def _save(self, network: SiameseNetwork) -> None:
        plan = self.plan
        metadata = plan.network.metadata() | {
            "crop": "whole",
            "data": plan.about or ", ".join(plan.train),
            "loss": plan.loss.name,
            "step": str(self.done),
            "seed": str(plan.training.seed),
        }
        weights.save(self.folder / WEIGHTS, network.state_dict(), metadata)

    def _panels(self, training: Sequence[Line]) -> list[Panel]:
        def curves(*names: str) -> list[Curve]:
            steps = [line["step"] for line in training]
            logged = [name for name in names if any(name in line for line in training)]
            return [Curve(name, steps, [line.get(name, float("nan")) for line in training]) for name in logged]

        panels = [
            Panel("Loss", "step", "loss", curves("loss", *(f"loss_{term}" for term in LOSS_TERMS))),
            Panel("Similarity in batches", "step", "mean cosine", curves("same", "different")),
        ]
        if self._validations:
            metric, steps = self.plan.metric, [line["step"] for line in self._validations]
            values = [float("nan") if line["metric"] is None else line["metric"] for line in self._validations]
            panels.append(Panel("Validation", "step", metric, [Curve(metric, steps, values)], y_range=(0.0, 1.0)))
        return panels


def read_photos(plan: EmbedderPlan, note: Note, *, skip_bad: bool = False) -> tuple[Dataset, Dataset | None]:
    """Load the photos to train on, and those to validate with, if any, and note how much of each source can be used.

    Raises:
        CatalogueError: there are problems, without ``skip_bad``; the message lists them.
    """
    train, val = ([_opened(source, plan.data) for source in sources] for sources in (plan.train, plan.val))
    if not val and plan.data.hold_out:
        parts = [split(each, plan.data.hold_out, plan.data.split_by) for each in train]
        train, val = ([part[number] for part in parts] for number in (0, 1))
    crossed = bool(plan.sampler.anchor_domain)
    train = [each.for_training(cross_domain=crossed) for each in train]
    data = _loaded(train, plan, lambda text: note(f"to train on: {text}"), skip_bad=skip_bad, crossed=crossed)
    if not val:
        return data, None
    if not any(max(Counter(sample.item for sample in each.samples).values(), default=0) > 1 for each in val):
        note("no item to validate with has two photos, so there is no validation: the last weights are kept")
        return data, None
    few = [_some_items(each, plan.data.val_photos) for each in val]
    return data, _loaded(few, plan, lambda text: note(f"to validate with: {text}"), skip_bad=skip_bad)


def _opened(source: str, plan: DataPlan) -> Dataset:
    """Return a source as a dataset, with labels as items if the plan learns labels."""
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{source} does not exist; give a CSV file, or a folder with a folder of photos per item")
    data = open_set([path], plan.item_pattern, path.name or source)
    if plan.learn == "item":
        return data
    if unlabelled := sum(not sample.label for sample in data.samples):
        raise ValueError(f"{unlabelled} photos of {source} have no label to learn; set learn to item")
    return replace(data, samples=tuple(replace(sample, item=sample.label, style="") for sample in data.samples))


def _loaded(
    sets: Sequence[Dataset], plan: EmbedderPlan, note: Note, *, skip_bad: bool, crossed: bool = False
) -> Dataset:
    for data in sets:
        data.raise_on_problems(skip_bad=skip_bad)
    result = []
    for data in sets:
        loaded = load(data, round(plan.view_px * 8 / 7), trim=plan.network.trim)
        if len(loaded) < len(data):
            loaded.raise_on_problems(skip_bad=skip_bad)
            if crossed:  # an unreadable photo may have been half of a pair
                loaded = loaded.for_training(cross_domain=True)
        note(loaded.describe())
        result.append(loaded)
    return merged(result)


def _some_items(data: Dataset, limit: int) -> Dataset:
    """Return at most ``limit`` photos of random items; an item contributes at most an equal share."""
    if len(data) <= limit:
        return data
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, sample in enumerate(data.samples):
        rows_of[sample.item].append(row)
    share, kept = max(2, limit // len(rows_of)), set[int]()
    rng = np.random.default_rng(0)
    names = list(rows_of)
    for place in rng.permutation(len(names)).tolist():
        chosen = rng.permutation(rows_of[names[place]])[:share].tolist()
        if len(kept) + len(chosen) > limit:
            break
        kept.update(chosen)
    return replace(data, samples=tuple(data.samples[row] for row in sorted(kept)))
