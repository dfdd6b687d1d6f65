"""Training of the Siamese network: one loop, that a kill at any moment costs at most one epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD, Normalise
from stages.embed.losses import identity_loss, style_loss
from stages.embed.network import SiameseNetwork
from stages.embed.samplers import Batch
from stages.state import State


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a run depends on, but for its batches and its start.

    Batch norm keeps its ImageNet statistics (a batch mixes domains, and repeats garments), and the first
    ``frozen_blocks`` of the backbone keep their weights: they cost most, and learn least.
    """

    steps: int
    steps_per_epoch: int = 50
    lr: float = 2e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    temperature: float = 0.07
    style_weight: float = 0.5
    max_norm: float = 5.0
    ema: float = 0.99
    frozen_blocks: int = 3
    bfloat16: bool = True

    def rate(self, step: int) -> float:
        """What learning rates are multiplied by: linear warm-up, then a cosine down to 0.

        >>> [round(Recipe(steps=100).rate(step), 2) for step in (0, 4, 5, 52, 99)]
        [0.2, 1.0, 1.0, 0.51, 0.0]
        """
        ahead = max(1, round(self.warmup * self.steps))
        if step < ahead:
            return (step + 1) / ahead
        return 0.5 * (1 + math.cos(math.pi * (step - ahead) / max(1, self.steps - ahead)))


def train(
    network: SiameseNetwork,
    batches: Callable[[int], Batch],
    recipe: Recipe,
    folder: Path,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> SiameseNetwork:
    """Train a network in place; returns it with the moving average of its weights, ready to embed.

    Goes on where ``folder/state.safetensors`` ends, with the same result as an uninterrupted run. Adds one line
    per epoch to ``folder/log.jsonl``.

    Args:
        network: its start; ignored where there is a state.
        batches: the batch of each step, from 0.
        recipe: of this run, the same each time that it is resumed.
        folder: of the run, made if need be.
        report: called with what is logged of each epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = optimizer_for(network, recipe)
    state = State(network, optimizer, recipe.ema)
    done = state.resume(folder / "state.safetensors")
    network.to(memory_format=torch.channels_last)
    began, first = perf_counter(), done
    losses: list[tuple[float, float]] = []
    for step, batch in _ahead(batches, done, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * recipe.rate(step)
        losses.append(train_step(network, optimizer, batch, recipe))
        state.average(step)
        if (step + 1) % recipe.steps_per_epoch == 0 or step + 1 == recipe.steps:
            state.save(folder / "state.safetensors", step + 1)
            per_step = (perf_counter() - began) / (step + 1 - first)
            line = _line(step + 1, losses, per_step, recipe)
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            report(line)
            losses = []
    state.take_average()
    return network.eval()


def train_step(network: SiameseNetwork, optimizer: Optimizer, batch: Batch, recipe: Recipe) -> tuple[float, float]:
    """One update; returns the identity and the style loss before it."""
    set_train_mode(network, recipe.frozen_blocks)
    pixels = _NORMALISE(list(batch.views))
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
        vectors = network(pixels)
    identities, styles = torch.from_numpy(batch.identities), torch.from_numpy(batch.styles)
    identity = identity_loss(vectors, identities, recipe.temperature)
    style = style_loss(vectors, identities, styles, recipe.temperature)
    optimizer.zero_grad()
    torch.autograd.backward(identity + recipe.style_weight * style)
    nn.utils.clip_grad_norm_(network.parameters(), recipe.max_norm, error_if_nonfinite=True)
    optimizer.step()
    return identity.item(), style.item()


def set_train_mode(network: SiameseNetwork, frozen_blocks: int) -> None:
    """Training mode, with batch norm's statistics and the first blocks of the backbone left as they are."""
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    for block in list(network.features.children())[:frozen_blocks]:
        block.requires_grad_(requires_grad=False)


def optimizer_for(network: SiameseNetwork, recipe: Recipe) -> AdamW:
    """AdamW: the head learns faster; biases, norms and the pooling's power do not decay."""
    set_train_mode(network, recipe.frozen_blocks)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            peak_lr = recipe.lr if name.startswith("features.") else recipe.head_lr
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((peak_lr, decay), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": peak_lr, "peak_lr": peak_lr, "weight_decay": decay}
            for (peak_lr, decay), parameters in groups.items()
        ]
    )


_NORMALISE = Normalise(IMAGENET_MEAN, IMAGENET_STD)


def _ahead(batches: Callable[[int], Batch], start: int, stop: int) -> Iterator[tuple[int, Batch]]:
    """Each step and its batch, the next one being made in a thread meanwhile."""
    if start >= stop:
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, start)
        for step in range(start, stop):
            batch = coming.result()
            if step + 1 < stop:
                coming = pool.submit(batches, step + 1)
            yield step, batch


def _line(done: int, losses: list[tuple[float, float]], per_step: float, recipe: Recipe) -> dict[str, float]:
    identity, style = (sum(kind) / len(losses) for kind in zip(*losses, strict=True))
    return {
        "step": done,
        "steps": recipe.steps,
        "identity_loss": round(identity, 4),
        "style_loss": round(style, 4),
        "seconds_per_step": round(per_step, 3),
        "minutes_left": round(per_step * (recipe.steps - done) / 60, 1),
    }
