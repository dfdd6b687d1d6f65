"""The training loop of all networks: learning-rate schedule, moving average of weights, log, and exact resuming."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from stages.cpu import fast_dtype
from stages.errors import TrainingError, WeightsError
from stages.files import write_whole

STATE, LOG = "state.safetensors", "log.jsonl"
LOG_STEPS: int = 20
SAVE_S: float = 60.0
PRECISIONS: Final = ("bfloat16", "float32")

BatchT = TypeVar("BatchT")
JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The hyperparameters of training: AdamW with a warm-up, a constant learning rate, and a cosine decay to zero."""

    lr: float = 1e-3  # peak learning rate of everything but the backbone
    lr_backbone: float = 2e-4  # peak learning rate of the backbone
    weight_decay: float = 0.01
    warmup_steps: int = 50
    decay: float = 1.0  # fraction of the steps with cosine decay: 1 for all; 0 for a checkpoint to continue from
    ema: float = 0.99  # factor of the exponential moving average of the weights; 0 for none
    max_norm: float = 5.0  # gradients are clipped to this norm
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be {' or '.join(PRECISIONS)}, got {self.precision!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and less than 1, got {self.ema}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be a fraction between 0 and 1, got {self.decay}")


def rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """Return the factor of the peak learning rates at a step, counted from 0, of ``steps``.

    >>> [round(rate(step, 100, warmup=10, decay=0.5), 2) for step in (0, 4, 9, 50, 75, 99)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warm = min(1.0, (step + 1) / max(1, warmup))
    decaying = round(steps * decay)
    into = step - (steps - decaying)
    return warm * (0.5 * (1 + math.cos(math.pi * into / decaying)) if into > 0 else 1.0)


def fastest_precision(device: str) -> str:
    """Return ``bfloat16`` if the device supports it in hardware, else ``float32``."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if fast_dtype(device) == torch.bfloat16 else "float32"


class Trainer(ABC, Generic[BatchT]):
    """The base of all trainers: one training run in a folder, which can be interrupted and resumed.

    A resumed run takes exactly the steps of an uninterrupted one. ``folder/state.safetensors`` is replaced atomically
    every minute and at the end, so a kill costs at most a minute; ``folder/log.jsonl`` gets a line every
    :data:`LOG_STEPS` steps, with the means of what the steps reported.

    Args:
        model: everything that is trained, on its device; parameters without gradients stay unchanged.
        groups: AdamW's parameter groups, each with its peak learning rate as ``lr``.
        recipe: the same each time that the run is resumed.
        steps: of the whole run.
        folder: of the run; created if necessary.

    Raises:
        WeightsError: the folder holds the state of another run.
    """

    def __init__(
        self, model: nn.Module, groups: list[dict[str, Any]], recipe: Recipe, steps: int, folder: Path
    ) -> None:
        if steps < 1:
            raise ValueError(f"a run needs at least 1 step, got {steps}")
        self.steps = steps
        self._model, self._recipe, self._folder = model, recipe, folder
        self.device = next(model.parameters()).device
        self._peaks = [group["lr"] for group in groups]
        self._optimizer = AdamW(groups, weight_decay=recipe.weight_decay, fused=self.device.type in ("cpu", "cuda"))
        self._average = {name: value.detach().clone() for name, value in model.named_parameters()}
        folder.mkdir(parents=True, exist_ok=True)
        self.done = self._resume(folder / STATE)
        _keep_lines(folder / LOG, self.done)

    @abstractmethod
    def batches(self, start: int, stop: int, workers: int) -> Iterator[BatchT]:
        """Yield the batches of the steps from ``start`` to ``stop``, prepared ahead by ``workers`` threads."""

    @abstractmethod
    def losses(self, batch: BatchT) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch, with the model in training mode, and further values to log."""

    def clipped(self) -> Iterable[nn.Parameter]:
        """Return the parameters whose gradients are clipped."""
        return self._model.parameters()

    def progress(self, step: int) -> dict[str, float]:  # noqa: ARG002  used by overrides
        """Return further values of a log line that follow from the step."""
        return {}

    def run(self, stop: int | None = None, workers: int = 1) -> Iterator[dict[str, Any]]:
        """Train until ``stop`` finished steps, or to the end, and yield each line of the log.

        Raises:
            TrainingError: the loss is not finite.
        """
        until = self.steps if stop is None else min(stop, self.steps)
        saved, reports = monotonic(), defaultdict[str, list[float]](list)
        for batch in self.batches(self.done, until, workers):
            for name, value in self.step(batch).items():
                reports[name].append(value)
            self.done += 1
            ended = self.done == until
            if ended or monotonic() - saved > SAVE_S:
                self._save(self._folder / STATE)
                saved = monotonic()
            if ended or self.done % LOG_STEPS == 0:
                means = {name: round(sum(values) / len(values), 5) for name, values in reports.items()}
                line = {"step": self.done} | self.progress(self.done) | means
                reports.clear()
                with (self._folder / LOG).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                yield line

    def step(self, batch: BatchT) -> dict[str, float]:
        """Take one step, and return the values to log."""
        recipe = self._recipe
        torch.manual_seed(recipe.seed * 1_000_003 + self.done)  # dropout and sampled regions depend on the step alone
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate(self.done, self.steps, recipe.warmup_steps, recipe.decay)
        try:
            loss, report = self.losses(batch)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if self._is_finite():
                raise
            raise TrainingError(self._diverged("weights are not finite")) from error
        if not torch.isfinite(loss):
            raise TrainingError(self._diverged(f"loss is {loss.item()}"))
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.clipped(), recipe.max_norm)
        self._optimizer.step()
        self._follow()
        return {"loss": loss.item()} | report

    def autocast(self) -> torch.autocast:
        """Return the context for the network's forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._recipe.precision == "bfloat16")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the moving average of its weights, the result of a run, while the context lasts."""
        with torch.no_grad():
            current = {name: value.detach().clone() for name, value in self._model.named_parameters()}
            self._assign(self._average)
        try:
            yield
        finally:
            self._assign(current)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._model.named_parameters():
            value.copy_(values[name])

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the moving average of the weights, faster in the first steps."""
        keep = min(self._recipe.ema, (1 + self.done) / (10 + self.done))
        for name, value in self._model.named_parameters():
            self._average[name].lerp_(value, 1 - keep)

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(value).all()) for value in self._model.parameters())

    def _diverged(self, what: str) -> str:
        return (
            f"the {what} at step {self.done + 1}, so training stops; lower the learning rate (lr is {self._recipe.lr:g})"
            f" and start again in a folder other than {self._folder}"
        )

    def _save(self, path: Path) -> None:
        """Write the state atomically, and flush it to disk."""
        tensors = {f"network/{name}": value for name, value in self._model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self._average.items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in moments.items()}
        partial = path.with_suffix(".partial")
        contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
        save_file(contiguous, partial, metadata={"step": str(self.done)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def _resume(self, path: Path) -> int:
        """Load the state, if any, and return the number of finished steps."""
        if not path.exists():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                step = int(file.metadata()["step"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._model.load_state_dict(_under("network/", tensors))
            averages = _under("average/", tensors)
            self._average = {name: averages[name].to(self.device) for name in self._average}
            parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _under("optimizer/", tensors).items():
                number, moment = name.split("/")
                like = parameters[int(number)]  # the fused optimizer needs equal strides
                kept = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
                moments.setdefault(int(number), {})[moment] = kept
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        except (SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not the state of this run: {error}; remove it to start again") from error
        return step


def ahead(make: Callable[[JobT], ResultT], jobs: Iterable[JobT], workers: int) -> Iterator[ResultT]:
    """Yield the results of jobs in order, while ``workers`` threads compute the next ones; 0 computes each on demand.

    Threads rather than processes: decoding and warping release the interpreter lock, and batches need not fit into a
    container's shared memory, often 64 MB. ``jobs`` may be endless.
    """
    if workers < 1:
        yield from map(make, jobs)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[ResultT]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(make, job))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _keep_lines(log: Path, done: int) -> None:
    """Drop the lines of steps after the saved state, and an incomplete last line."""
    kept = []
    for text in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(text)["step"] <= done:
                kept.append(text + "\n")
    if log.exists():
        write_whole(log, "".join(kept))
