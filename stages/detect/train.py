"""Training of the detection networks: AdamW, a moving average of the weights, resumable to the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from stages.detect.data import Rounds, Target, TrainingSet
from stages.detect.networks import float32_outputs
from stages.state import State
from stages.training import Journal, rate

Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: learning rates are AdamW's; the schedule is warm-up, constant, then cosine to zero.

    ``decay`` is the fraction of all steps that the cosine takes: 1 is a plain cosine, 0 none at all, which
    leaves a checkpoint that later runs go on from.
    """

    rounds: float = 12
    batch_size: int = 4
    lr: float = 4e-4
    lr_body: float = 1e-4
    weight_decay: float = 0.03
    warmup_steps: int = 200
    decay: float = 1.0
    ema: float = 0.998
    max_norm: float = 10.0
    precision: str = "bfloat16"
    seed: int = 0


class Trainer:
    """One training run in a folder, which a :class:`~stages.training.Journal` keeps.

    A run that goes on takes the same steps as if it had not been interrupted.

    Args:
        network: trained in place; its parameters that need no gradient stay as they are.
        data: what it sees.
        recipe: of this run, the same each time that it is resumed.
        folder: of the run, made if need be.
    """

    def __init__(self, network: GeneralizedRCNN, data: TrainingSet, recipe: Recipe, folder: Path) -> None:
        self._network, self._data, self._recipe = network, data, recipe
        float32_outputs(network)
        self._optimizer = torch.optim.AdamW(_groups(network, recipe), weight_decay=recipe.weight_decay)
        self._journal = Journal(State(network, self._optimizer, recipe.ema), folder)
        self.steps_per_round = Rounds(data.repeats, recipe.seed).per_round / recipe.batch_size
        self.steps = max(1, round(recipe.rounds * self.steps_per_round))

    @property
    def done(self) -> int:
        """Steps behind."""
        return self._journal.done

    def averaged(self) -> AbstractContextManager[None]:
        """The network with the moving average of its weights, which is what a run gives."""
        return self._journal.averaged()

    def run(self, workers: int = 1) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding each line of the log."""
        reports = map(self._step, self._batches(workers))
        yield from self._journal.follow(reports, self.steps, self._round)

    def _round(self, step: int) -> dict[str, float]:
        return {"round": round(step / self.steps_per_round, 3)}

    def _batches(self, workers: int) -> Iterator[Batch]:
        draws = Rounds(self._data.repeats, self._recipe.seed, self.done * self._recipe.batch_size)
        loader = DataLoader(
            self._data,
            batch_size=self._recipe.batch_size,
            sampler=draws,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_one_thread,
            prefetch_factor=4 if workers else None,
        )
        return (batch for batch, _ in zip(loader, range(self.done, self.steps), strict=False))

    def _step(self, batch: Batch) -> dict[str, float]:
        recipe, network = self._recipe, self._network
        torch.manual_seed(recipe.seed * 1_000_003 + self.done)  # which regions are sampled follows from the step
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate(self.done, self.steps, recipe.warmup_steps, recipe.decay)
        network.train()
        network.transform._skip_resize = True  # noqa: SLF001  torchvision's switch for data that comes at its size
        device = next(network.parameters()).device
        images = [image.to(device) for image in batch[0]]
        targets = [{key: value.to(device) for key, value in target.items()} for target in batch[1]]
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            losses = network(images, targets)
        network.transform._skip_resize = False  # noqa: SLF001
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.done}; lower the learning rate")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.max_norm)
        self._optimizer.step()
        return {"loss": loss.item(), **{name: value.item() for name, value in losses.items()}}


def _groups(network: GeneralizedRCNN, recipe: Recipe) -> list[dict[str, Any]]:
    """The body learns slower than the heads; what is frozen is left out."""
    body: list[torch.nn.Parameter] = []
    heads: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (body if name.startswith("backbone.body") else heads).append(parameter)
    return [{"params": body, "peak": recipe.lr_body}, {"params": heads, "peak": recipe.lr}]


def _collate(samples: list[tuple[Tensor, Target]]) -> Batch:
    return [image for image, _ in samples], [target for _, target in samples]


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)  # the cores are the network's
