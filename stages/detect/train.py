"""Training of the detection networks: AdamW, bfloat16, resumable after each epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from stages.detect.data import Target, TrainingSet

Batch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: learning rates are AdamW's; the schedule is warm-up, constant, then cosine to zero.

    ``decay`` is the fraction of all steps that the cosine takes: 1 is a plain cosine, 0 none at all, which
    leaves a checkpoint that later runs go on from.
    """

    epochs: int = 12
    batch_size: int = 4
    lr: float = 4e-4
    lr_body: float = 1e-4
    weight_decay: float = 0.03
    warmup_steps: int = 200
    decay: float = 1.0
    seed: int = 0


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate's factor at a step, in [0, 1]."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    decaying = round(steps * recipe.decay)
    into = step - (steps - decaying)
    return warm * (0.5 * (1 + math.cos(math.pi * into / decaying)) if into > 0 else 1.0)


def train(
    network: GeneralizedRCNN,
    data: TrainingSet,
    recipe: Recipe,
    folder: Path,
    *,
    workers: int = 1,
    log: Callable[[str], None] = print,
    after_epoch: Callable[[int], dict[str, Any]] | None = None,
) -> None:
    """Train a network in place.

    ``folder/last.pt`` is rewritten atomically after every epoch, and a run whose folder has one goes on from
    it; ``folder/log.jsonl`` gets a line per epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(_groups(network, recipe), weight_decay=recipe.weight_decay)
    per_epoch = math.ceil(len(data) / recipe.batch_size)
    steps = per_epoch * recipe.epochs
    first = _resume(folder / "last.pt", network, optimizer)
    network.transform._skip_resize = True  # noqa: SLF001  torchvision's switch for data that comes at its size
    for epoch in range(first, recipe.epochs):
        start, total = perf_counter(), 0.0
        data.epoch = epoch
        torch.manual_seed(recipe.seed * 1000 + epoch)
        network.train()
        for place, batch in enumerate(_batches(data, recipe, workers)):
            step = epoch * per_epoch + place
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate(step, steps, recipe)
            total += _step(network, optimizer, batch)
            if place % 50 == 0:
                left = (perf_counter() - start) / (place + 1) * (per_epoch * (recipe.epochs - epoch) - place - 1)
                log(f"epoch {epoch + 1}/{recipe.epochs} step {place}/{per_epoch} loss {total / (place + 1):.3f}"
                    f" left {left / 60:.0f} min")  # fmt: skip
        line = {"epoch": epoch + 1, "loss": round(total / per_epoch, 4), "seconds": round(perf_counter() - start)}
        _save(
            folder / "last.pt",
            {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1},
        )
        line |= after_epoch(epoch + 1) if after_epoch else {}
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | {"recipe": asdict(recipe)}) + "\n")
        log(json.dumps(line))
    network.transform._skip_resize = False  # noqa: SLF001


def _groups(network: GeneralizedRCNN, recipe: Recipe) -> list[dict[str, Any]]:
    """The body learns slower than the heads; what is frozen is left out."""
    body: list[torch.nn.Parameter] = []
    heads: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (body if name.startswith("backbone.body") else heads).append(parameter)
    return [{"params": body, "peak": recipe.lr_body}, {"params": heads, "peak": recipe.lr}]


def _batches(data: TrainingSet, recipe: Recipe, workers: int) -> Iterator[Batch]:
    order = torch.Generator().manual_seed(recipe.seed * 1000 + data.epoch)
    return iter(
        DataLoader(
            data,
            batch_size=recipe.batch_size,
            shuffle=True,
            generator=order,
            num_workers=workers,
            collate_fn=_collate,
        )
    )


def _collate(samples: list[tuple[Tensor, Target]]) -> Batch:
    return [image for image, _ in samples], [target for _, target in samples]


def _step(network: GeneralizedRCNN, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    device = next(network.parameters()).device
    images = [image.to(device) for image in batch[0]]
    targets = [{key: value.to(device) for key, value in target.items()} for target in batch[1]]
    with torch.autocast(device.type, torch.bfloat16):
        losses = network(images, targets)
    loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()
    return loss.item()


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, network: GeneralizedRCNN, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])
