"""What training runs of any stage keep in their folders: a plan that they hold to, and logs of lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.errors import OutfinderError


def keep_plan(path: Path, plan: dict[str, Any]) -> None:
    """Write a run's plan down, or make sure that it is the one that is.

    Raises:
        OutfinderError: it is another one.
    """
    wanted: dict[str, Any] = json.loads(json.dumps(plan, default=str))
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
        return
    begun, now = (_flat(one) for one in (json.loads(path.read_text(encoding="utf-8")), wanted))
    differing = [key for key in now if now[key] != begun.get(key)]
    if differing:
        told = "; ".join(f"{key} was {begun.get(key)}, is now {now[key]}" for key in differing)
        raise OutfinderError(
            f"{path.parent} holds a run of another plan ({told}); give the same options to go on with it, or another folder"
        )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is no log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write a log anew, atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    partial.replace(path)


def _flat(plan: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested parts by dotted names."""
    found: dict[str, Any] = {}
    for key, value in plan.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found
