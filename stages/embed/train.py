"""Training of an embedder: any network, loss and source of batches; resumable to the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from stages.embed.batches import Batch, Source
from stages.embed.distilling import Teacher
from stages.embed.inputs import Normalise
from stages.embed.network import SiameseNetwork
from stages.embed.relations import Relations
from stages.state import State
from stages.training import Journal, rate

ALONE: Final = (
    "shapes and colours are learned by themselves where they stand side by side; give the design a colour_dim"
)

LOSS_TERMS: Final = ("item", "style", "shape", "colour", "distill")
"""What a loss may be the sum of; a log has each as ``loss_TERM``, where there are several."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: learning rates are AdamW's; the schedule is warm-up, constant, then cosine to zero.

    Attributes:
        steps: in all.
        lr: of all that is not the backbone, at its peak.
        lr_backbone: of the backbone.
        lr_loss: of what the loss learns itself, proxies.
        weight_decay: of matrices; biases, norms and proxies do not decay.
        warmup_steps: until the peak.
        decay: the fraction of all steps in which the rates fall to zero.
        ema: the share that the moving average of the weights keeps at each step; 0: no average.
        max_norm: of the gradients.
        style_weight: of the same loss a level up, where the colours of a thing are its positives; 0: not at all.
        shape_weight: of the same loss on what is not colour, where all of a style are positives; 0: not at all.
        colour_weight: of the same loss on colours by themselves; 0: not at all.
        distill_weight: of :class:`~stages.embed.distilling.Teacher`'s loss, to stay near what the start finds alike;
            0: not at all.
        frozen_blocks: first blocks of the backbone that stay as they are.
        batch_norm: whether batch norm follows the batches, or keeps the statistics that it starts with, as it should
            where they come from ImageNet.
        precision: ``bfloat16`` or ``float32``.
        seed: of what is random in a step, and of the start.
    """

    steps: int
    lr: float = 1e-3
    lr_backbone: float = 2e-4
    lr_loss: float = 1e-2
    weight_decay: float = 0.01
    warmup_steps: int = 50
    decay: float = 1.0
    ema: float = 0.99
    max_norm: float = 5.0
    style_weight: float = 0.0
    shape_weight: float = 0.0
    colour_weight: float = 0.0
    distill_weight: float = 0.0
    frozen_blocks: int = 0
    batch_norm: bool = True
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a run has at least 1 step, got {self.steps}")
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f"precision is bfloat16 or float32, got {self.precision!r}")


class Trainer:
    """One training run in a folder, which a :class:`~stages.training.Journal` keeps.

    A run that goes on takes the same steps as if it had not been interrupted.

    Args:
        network: as it starts, the same each time; trained in place, on the device that it is on.
        loss: of :data:`~stages.embed.losses.LOSSES`; what it has to learn itself is trained too.
        batches: the batch of each step.
        recipe: of this run, the same each time that it is resumed.
        folder: of the run, made if need be.

    Raises:
        ValueError: the recipe weighs shapes or colours by themselves, and the network has no colours.
        WeightsError: the folder holds the state of another run.
    """

    def __init__(self, network: SiameseNetwork, loss: nn.Module, batches: Source, recipe: Recipe, folder: Path) -> None:
        if (recipe.shape_weight or recipe.colour_weight) and network.colours is None:
            raise ValueError(ALONE)
        self._network, self._loss, self._batches, self._recipe = network, loss, batches, recipe
        self._device = next(network.parameters()).device
        self._loss.to(self._device)
        self._normalise = Normalise(*network.design.stats)
        self._teacher = Teacher(network.features) if recipe.distill_weight else None
        set_train_mode(network, recipe)
        self._optimizer = AdamW(_groups(network, loss, recipe), fused=self._device.type in ("cpu", "cuda"))
        both = nn.ModuleDict({"network": network, "loss": loss})
        self._journal = Journal(State(both, self._optimizer, recipe.ema), folder)

    @property
    def done(self) -> int:
        """Steps behind."""
        return self._journal.done

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self._recipe.steps

    def averaged(self) -> AbstractContextManager[None]:
        """The network with the moving average of its weights, which is what a run gives."""
        return self._journal.averaged()

    def run(self, stop: int | None = None, workers: int = 1) -> Iterator[dict[str, Any]]:
        """Train until a step, or to the end, yielding each line of the log.

        Args:
            stop: the number of steps that are done then.
            workers: threads that make batches ahead.
        """
        until = self.steps if stop is None else min(stop, self.steps)
        reports = map(self._step, _ahead(self._batches, self.done, until, workers))
        yield from self._journal.follow(reports, until)

    def _step(self, batch: Batch) -> dict[str, float]:
        recipe, network = self._recipe, self._network
        torch.manual_seed(recipe.seed * 1_000_003 + self.done)  # dropout follows from the step
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate(self.done, recipe.steps, recipe.warmup_steps, recipe.decay)
        set_train_mode(network, recipe)
        pixels = self._normalise(list(batch.views)).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            parts = network.parts(pixels)
            vectors = network.joined(parts)
            kept = self._teacher.loss(pixels, vectors) if self._teacher else None
        relations = batch.relations(self._device)
        terms = {"item": (1.0, self._loss(vectors, relations))}
        if recipe.style_weight:
            styles = torch.from_numpy(batch.styles).to(self._device)
            terms["style"] = recipe.style_weight, self._loss(vectors, relations.above(styles))
        if recipe.shape_weight:
            terms["shape"] = (
                recipe.shape_weight,
                self._loss(parts.shapes, batch.relations(self._device, by_style=True)),
            )
        if recipe.colour_weight and parts.colours is not None:
            terms["colour"] = recipe.colour_weight, self._loss(parts.colours, relations)
        if kept is not None:
            terms["distill"] = recipe.distill_weight, kept
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.done}; lower the learning rate")
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), recipe.max_norm)
        self._optimizer.step()
        told = {f"loss_{name}": terms[name][1].item() for name in LOSS_TERMS if name in terms} if len(terms) > 1 else {}
        return {"loss": loss.item()} | told | _similarities(vectors.detach(), relations)


def set_train_mode(network: SiameseNetwork, recipe: Recipe) -> None:
    """Training mode; what the recipe leaves as it is does not learn."""
    network.train()
    if not recipe.batch_norm:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    for block in list(network.features.children())[: recipe.frozen_blocks]:
        block.eval().requires_grad_(requires_grad=False)


def _groups(network: SiameseNetwork, loss: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            peak = recipe.lr_backbone if name.startswith("features.") else recipe.lr
            groups.setdefault((peak, recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    own = list(loss.parameters())
    found: list[dict[str, Any]] = [
        {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]
    proxies = {"params": own, "lr": recipe.lr_loss, "peak": recipe.lr_loss, "weight_decay": 0.0}
    return [*found, proxies] if own else found


def _similarities(vectors: Tensor, relations: Relations) -> dict[str, float]:
    """The mean cosine similarity of positives and of negatives; both near 1 is a collapse in the making."""
    unit = nn.functional.normalize(vectors)
    similar = unit @ unit.T
    masks = (("same", relations.positive), ("different", relations.negative))
    return {name: similar[mask].mean().item() for name, mask in masks if mask.any()}


def _ahead(batches: Source, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """The batches of some steps in order, the next ones being made in threads meanwhile."""
    if workers < 1:
        yield from (batches(step) for step in range(start, stop))
        return
    with ThreadPoolExecutor(workers) as pool:
        coming: deque[Future[Batch]] = deque()
        for step in range(start, stop):
            while len(coming) <= workers and step + len(coming) < stop:
                coming.append(pool.submit(batches, step + len(coming)))
            yield coming.popleft().result()
