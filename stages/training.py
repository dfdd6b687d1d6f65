"""What the trainers of all stages share: a schedule, a precision, a log that fits a resumed run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch


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
    return "bfloat16" if kind == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"  # noqa: SLF001


def keep_lines(log: Path, done: int) -> None:
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
