"""Find the calibration of an embedder, and add its verdicts to matches: same item, not sure, or different."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import weights
from stages.embed.calibration import Calibration
from stages.types import Match

SUFFIX: Final = ".calibration.json"


def calibration_path(checkpoint: Path) -> Path:
    """Return where the calibration of a checkpoint is expected.

    >>> calibration_path(Path("run/weights.safetensors")).as_posix()
    'run/weights.calibration.json'
    """
    return checkpoint.with_name(checkpoint.stem + SUFFIX)


def find_calibration(
    fingerprint: str, file: Path | None = None, checkpoint: Path | None = None, embedder: str = ""
) -> Calibration | None:
    """Return the given calibration, else the one beside the weights if it was made with these weights, else None.

    Args:
        fingerprint: of the embedder.
        file: the calibration that the user named.
        checkpoint: the embedder's weights, if they are the user's.
        embedder: its name, for shipped weights.

    Raises:
        OutfinderError: a file is no readable calibration, or the named one was made with another embedder.
    """
    if file:
        return Calibration.read(file).require(fingerprint)
    path = calibration_path(checkpoint) if checkpoint else weights.FOLDER / f"{embedder}{SUFFIX}"
    calibration = Calibration.read(path) if path.exists() else None
    return calibration if calibration and calibration.fingerprint == fingerprint else None


def add_verdicts(calibration: Calibration, label: str, matches: Iterable[Match]) -> Iterator[Match]:
    """Yield the matches of a garment with a label, each with its verdict; a label's thresholds hold within the label."""
    for match in matches:
        verdict = calibration.verdict(match.similarity, label if match.label == label else "")
        yield replace(match, verdict=verdict.value)
