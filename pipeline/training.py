"""Training runs in folders: plan, log, validations and curves."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from pipeline.outputs import mark_folder
from pipeline.plots import Panel, draw
from stages.errors import OutfinderError
from stages.files import write_whole
from stages.training import LOG, Trainer

WEIGHTS, PLAN, VALIDATION, CURVES = "weights.safetensors", "plan.json", "validation.jsonl", "curves"
REPORT_STEPS: Final = 100

Line = dict[str, Any]
"""A line of a log, by name; every line has its ``step``."""

Note = Callable[[str], None]
"""Receives a message before training starts."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """The state of a run: the last log line, the validation after it, if any, and the seconds left."""

    steps: int
    losses: Line
    validation: Line | None
    left_s: float

    def __str__(self) -> str:
        """Return step, loss and time left; empty except for every hundredth step, step 20 and the last."""
        step: int = self.losses["step"]
        if step % REPORT_STEPS and step not in (20, self.steps):
            return ""
        hours, minutes = divmod(round(self.left_s / 60), 60)
        left = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
        return f"step {step}/{self.steps}: loss {self.losses['loss']:.3f}, {left} left"


class Run(ABC):
    """A new or resumed training run in a folder, which validates every ``validate_steps`` steps, or never if None.

    The folder gets ``plan.json``, ``weights.safetensors``, ``curves.png`` and ``curves.json``.
    """

    def __init__(self, folder: Path, trainer: Trainer[Any], validate_steps: int | None) -> None:
        self.folder, self._trainer, self._validate_steps = folder, trainer, validate_steps
        self._validations = [line for line in read_lines(folder / VALIDATION) if line["step"] <= trainer.done]

    @property
    def done(self) -> int:
        """The number of finished steps."""
        return self._trainer.done

    @property
    def steps(self) -> int:
        """The number of steps, unless the run stops early."""
        return self._trainer.steps

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.done >= self.steps

    def run(self, report: Callable[[TrainingProgress], None], workers: int = 1) -> None:
        """Train to the end with ``workers`` threads for batches, write the weights, and report every log line.

        Raises:
            TrainingError: the loss is not finite, or the network has collapsed.
        """
        began, first = monotonic(), self.done
        if self._is_due():  # the last run was killed before it
            self._add_validation()
        while not self.ended:
            until = self._next_multiple(self._validate_steps) if self._validate_steps else self.steps
            for losses in self._train(until, workers):
                last = losses["step"] == until
                validation = self._add_validation() if last and self._is_due() else None
                if last:
                    self._draw()
                left_s = (monotonic() - began) / max(1, self.done - first) * (self.steps - self.done)
                report(TrainingProgress(self.steps, losses, validation, left_s))
        self._finish()

    def _next_multiple(self, every: int) -> int:
        return min(self.steps, self.done - self.done % every + every)

    def _train(self, until: int, workers: int) -> Iterator[Line]:
        return self._trainer.run(until, workers)

    def _is_due(self) -> bool:
        if not self._validate_steps or any(line["step"] == self.done for line in self._validations):
            return False
        return self.done == self.steps or (self.done > 0 and self.done % self._validate_steps == 0)

    def _add_validation(self) -> Line:
        line = {"step": self.done} | self._validate()
        self._validations.append(line)
        write_whole(self.folder / VALIDATION, "".join(json.dumps(each) + "\n" for each in self._validations))
        return line

    def _draw(self) -> None:
        training = read_lines(self.folder / LOG)
        data = {"training": training, "validation": self._validations}
        write_whole(self.folder / f"{CURVES}.json", json.dumps(data) + "\n")
        draw(self._panels(training), self.folder / f"{CURVES}.png")

    @abstractmethod
    def _validate(self) -> Line:
        """Validate, and save the weights if they are the ones to keep."""

    @abstractmethod
    def _finish(self) -> None:
        """Save the weights if no validation has saved any."""

    @abstractmethod
    def _panels(self, training: Sequence[Line]) -> list[Panel]:
        """Return the panels of the curves."""


def keep_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Write a run's plan; raise an OutfinderError if a run with another plan is in the folder."""
    mark_folder(folder)
    path = folder / PLAN
    wanted: dict[str, Any] = json.loads(json.dumps(plan, default=str))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    begun, now = (_flat(each) for each in (json.loads(path.read_text(encoding="utf-8")), wanted))
    differing = [key for key in {**begun, **now} if now.get(key) != begun.get(key)]
    if differing:
        changes = "; ".join(f"{key} was {begun.get(key)}, is now {now.get(key)}" for key in differing)
        raise OutfinderError(
            f"{folder} holds a run with another plan ({changes}); resume it with that plan, or use another folder"
        )


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a log, if it exists."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def modules_of(names: Iterable[str], depth: int | None = None) -> str:
    """Return the names of the modules that parameters belong to.

    >>> modules_of(["head.weight", "head.bias", "features.0.1.weight"])
    'features.0.1, head'
    >>> modules_of(["head.weight", "features.0.1.weight"], depth=1)
    'features, head'
    """
    return ", ".join(sorted({".".join(name.split(".")[:-1][:depth]) for name in names}))


def _flat(plan: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in plan.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat
