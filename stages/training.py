"""What the trainers of all stages share: a schedule, a precision, and a folder from which a run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from stages.cpu import fast_dtype
from stages.files import write_whole
from stages.state import State

STATE = "state.safetensors"
LOG = "log.jsonl"
LOG_STEPS = 20
SAVE_S = 60.0


def rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """What peak learning rates are multiplied by at a step, from 0: warm-up, constant, then cosine to zero.

    Args:
        step: of the run, from 0.
        steps: in all.
        warmup: steps until the peak.
        decay: the fraction of all steps that the cosine takes: 1 is a plain cosine, 0 none at all.

    >>> [round(rate(step, 100, warmup=10, decay=0.5), 2) for step in (0, 4, 9, 50, 75, 99)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warm = min(1.0, (step + 1) / max(1, warmup))
    decaying = round(steps * decay)
    into = step - (steps - decaying)
    return warm * (0.5 * (1 + math.cos(math.pi * into / decaying)) if into > 0 else 1.0)


def fastest_precision(device: str) -> str:
    """``bfloat16`` where the device multiplies it in hardware, else ``float32``."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if fast_dtype(device) == torch.bfloat16 else "float32"


class Journal:
    """How far a run has come, kept in its folder; a kill at any moment costs at most the last minute.

    ``folder/state.safetensors`` is rewritten atomically once a minute and at the end, and a run whose folder has one
    goes on from it; ``folder/log.jsonl`` gets a line per :data:`LOG_STEPS` steps, the means of what they reported.

    Args:
        state: of the run; it is what the folder holds, if it holds one.
        folder: of the run, made if need be.

    Raises:
        WeightsError: the folder holds the state of another run.
    """

    def __init__(self, state: State, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._state, self._folder = state, folder
        self.done = state.resume(folder / STATE)
        _keep_lines(folder / LOG, self.done)

    def averaged(self) -> AbstractContextManager[None]:
        """The network with the moving average of its weights, which is what a run gives."""
        return self._state.averaged()

    def save(self) -> None:
        """Write down how far the run is."""
        self._state.save(self._folder / STATE, self.done)

    def follow(
        self, reports: Iterable[dict[str, float]], until: int, more: Callable[[int], dict[str, float]] = lambda _: {}
    ) -> Iterator[dict[str, Any]]:
        """Yield each line of the log, until a number of steps is done.

        Args:
            reports: each takes a step, and tells losses and the like.
            until: so many steps; there are as many reports as are still to be done.
            more: of the number of steps that are done, to stand in the line before the means.
        """
        saved, means = monotonic(), _Means()
        for report in reports:
            means.add(report)
            self._state.average(self.done)
            self.done += 1
            ended = self.done == until
            if ended or monotonic() - saved > SAVE_S:
                self.save()
                saved = monotonic()
            if ended or self.done % LOG_STEPS == 0:
                line = {"step": self.done} | more(self.done) | means.take()
                with (self._folder / LOG).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                yield line


class _Means:
    """Means of what steps report, until they are taken."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, report: dict[str, float]) -> None:
        for name, value in report.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: round(sum(values) / len(values), 5) for name, values in self._values.items()}
        self._values = {}
        return means


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
    write_whole(log, "".join(kept))
