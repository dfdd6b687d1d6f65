"""What training runs of every stage keep in their folders: a plan that they hold to, logs of lines, curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from pipeline.plots import Panel, draw
from stages.errors import OutfinderError
from stages.files import write_whole
from stages.training import LOG

WEIGHTS, PLAN, VALIDATION, CURVES = "weights.safetensors", "plan.json", "validation.jsonl", "curves"
TELL_STEPS: Final = 100

Line = dict[str, Any]
"""A line of a log, with its step."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run has come: its last line of losses, the validation after it if any, and seconds left."""

    steps: int
    losses: Line
    validation: Line | None
    left_s: float

    @property
    def told(self) -> str:
        """Step, loss and time left, for people; empty but at every hundredth step, an early one and the last."""
        step: int = self.losses["step"]
        if step % TELL_STEPS and step not in (20, self.steps):
            return ""
        hours, minutes = divmod(round(self.left_s / 60), 60)
        left = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
        return f"step {step}/{self.steps}: loss {self.losses['loss']:.3f}, {left} left"


class Clock:
    """How long a run will still take, by the steps since it began or went on."""

    def __init__(self, done: int) -> None:
        self._began, self._first = monotonic(), done

    def left_s(self, done: int, steps: int) -> float:
        """Seconds."""
        return (monotonic() - self._began) / max(1, done - self._first) * (steps - done)


def keep_plan(path: Path, plan: dict[str, Any]) -> None:
    """Write a run's plan down, or make sure that it is the one that is.

    Raises:
        OutfinderError: it is another one.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(plan, default=str))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    begun, now = (_flat(one) for one in (json.loads(path.read_text(encoding="utf-8")), wanted))
    differing = [key for key in now if now[key] != begun.get(key)]
    if differing:
        told = "; ".join(f"{key} was {begun.get(key)}, is now {now[key]}" for key in differing)
        raise OutfinderError(
            f"{path.parent} holds a run of another plan ({told}); give the same options to go on with it, or another folder"
        )


def read_lines(path: Path) -> list[Line]:
    """The lines of a log; none where there is no log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write a log anew, atomically."""
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def draw_curves(folder: Path, panels: Callable[[Sequence[Line], Sequence[Line]], Sequence[Panel]]) -> None:
    """Draw what a run logged: ``curves.png``, and the same numbers as ``curves.json``.

    Args:
        folder: of the run.
        panels: of the lines of the training and of the validations.
    """
    training, validation = read_lines(folder / LOG), read_lines(folder / VALIDATION)
    write_whole(folder / f"{CURVES}.json", json.dumps({"training": training, "validation": validation}) + "\n")
    draw(panels(training, validation), folder / f"{CURVES}.png")


def modules_of(names: Iterable[str], depth: int | None = None) -> str:
    """The modules that parameters belong to, named once each.

    >>> modules_of(["head.weight", "head.bias", "features.0.1.weight"])
    'features.0.1, head'
    >>> modules_of(["head.weight", "features.0.1.weight"], depth=1)
    'features, head'
    """
    return ", ".join(sorted({".".join(name.split(".")[:-1][:depth]) for name in names}))


def _flat(plan: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested parts by dotted names."""
    found: dict[str, Any] = {}
    for key, value in plan.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found
