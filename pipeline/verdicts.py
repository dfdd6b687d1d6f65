"""Which calibration goes with an embedder, and what it says of matches: same item, not sure, different."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import weights
from stages.embed.calibration import Calibration
from stages.types import Match

SUFFIX: Final = ".calibration.json"


def beside(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint is looked for.

    >>> beside(Path("run/weights.safetensors")).as_posix()
    'run/weights.calibration.json'
    """
    return checkpoint.with_name(checkpoint.stem + SUFFIX)


def calibration_for(
    fingerprint: str, own: Path | None = None, checkpoint: Path | None = None, embedder: str = ""
) -> Calibration | None:
    """The calibration to use: the one that is given, else the one beside the weights, else none.

    One beside the weights that was made with other weights, from before they were trained further, is none.

    Args:
        fingerprint: of the embedder.
        own: a file that was asked for.
        checkpoint: the embedder's weights, where they are the user's.
        embedder: its name, for weights that came with outfinder.

    Raises:
        OutfinderError: the file cannot be read or is no calibration; or it was given, and is one of another embedder.
    """
    if own:
        return Calibration.read(own).require(fingerprint)
    path = beside(checkpoint) if checkpoint else weights.FOLDER / f"{embedder}{SUFFIX}"
    found = Calibration.read(path) if path.exists() else None
    return found if found and found.fingerprint == fingerprint else None


def with_verdicts(calibration: Calibration, label: str, matches: Iterable[Match]) -> Iterator[Match]:
    """The matches to a garment with a label, each with what its similarity means.

    The garment's label has its own thresholds only against items of that label.
    """
    for match in matches:
        verdict = calibration.verdict(match.similarity, label if match.label == label else "")
        yield replace(match, verdict=verdict.value)
