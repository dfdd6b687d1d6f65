"""Training of the detection networks: AdamW, a moving average of the weights, resumable to the step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from stages.detect.data import Rounds, Target, TrainingSet
from stages.state import State

Batch = tuple[list[Tensor], list[Target]]

STATE = "state.safetensors"
LOG = "log.jsonl"
LOG_STEPS = 20
SAVE_S = 60.0


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

    def rate(self, step: int, steps: int) -> float:
        """The learning rates' factor at a step, in [0, 1].

        >>> recipe = Recipe(warmup_steps=10, decay=0.5)
        >>> [round(recipe.rate(step, 100), 2) for step in (0, 4, 9, 50, 75, 99)]
        [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decaying = round(steps * self.decay)
        into = step - (steps - decaying)
        return warm * (0.5 * (1 + math.cos(math.pi * into / decaying)) if into > 0 else 1.0)


def fastest_precision(device: str) -> str:
    """``bfloat16`` where the device multiplies it in hardware, else ``float32``."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if kind == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"  # noqa: SLF001


class Trainer:
    """One training run in a folder; a kill at any moment costs at most the last minute.

    ``folder/state.safetensors`` is rewritten atomically once a minute and at the end, and a run whose folder
    has one goes on from it, with the same steps as if it had not been interrupted; ``folder/log.jsonl`` gets a
    line per :data:`LOG_STEPS` steps.

    Args:
        network: trained in place; its parameters that need no gradient stay as they are.
        data: what it sees.
        recipe: of this run, the same each time that it is resumed.
        folder: of the run, made if need be.
    """

    def __init__(self, network: GeneralizedRCNN, data: TrainingSet, recipe: Recipe, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._network, self._data, self._recipe, self._folder = network, data, recipe, folder
        self._optimizer = torch.optim.AdamW(_groups(network, recipe), weight_decay=recipe.weight_decay)
        self._state = State(network, self._optimizer, recipe.ema)
        self.steps_per_round = Rounds(data.repeats, recipe.seed).per_round / recipe.batch_size
        self.steps = max(1, round(recipe.rounds * self.steps_per_round))
        self.done = self._state.resume(folder / STATE)
        _keep_lines(folder / LOG, self.done)

    def averaged(self) -> AbstractContextManager[None]:
        """The network with the moving average of its weights, which is what a run gives."""
        return self._state.averaged()

    def run(self, workers: int = 1) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding each line of the log."""
        saved, losses = monotonic(), _Losses()
        for batch in self._batches(workers):
            losses.add(self._step(batch))
            self.done += 1
            ended = self.done == self.steps
            if ended or monotonic() - saved > SAVE_S:
                self._state.save(self._folder / STATE, self.done)
                saved = monotonic()
            if ended or self.done % LOG_STEPS == 0:
                line = {"step": self.done, "round": round(self.done / self.steps_per_round, 3)}
                line |= losses.means()
                with (self._folder / LOG).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                yield line

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
            group["lr"] = group["peak"] * recipe.rate(self.done, self.steps)
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
        self._state.average(self.done)
        return {"loss": loss.item(), **{name: value.item() for name, value in losses.items()}}


class _Losses:
    """Sums of what steps report, until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, losses: dict[str, float]) -> None:
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in losses.items()}
        self._count += 1

    def means(self) -> dict[str, float]:
        means = {name: round(value / self._count, 5) for name, value in self._sums.items()}
        self.__init__()  # type: ignore[misc]
        return means


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


def _keep_lines(log: Path, done: int) -> None:
    """Leave out the lines of steps that were lost with a kill, and a torn last line."""
    if not log.exists():
        return
    kept = []
    for text in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(text)["step"] <= done:
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    partial = log.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(log)
