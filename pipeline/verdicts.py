"""Which calibration goes with an embedder, and what it says of matches: same item, not sure, different."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import weights
from stages.embed.calibration import Calibration, Verdict
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

    Args:
        fingerprint: of the embedder.
        own: a file that was asked for.
        checkpoint: the embedder's weights, where they are the user's.
        embedder: its name, for weights that came with outfinder.

    Raises:
        OutfinderError: the file cannot be read, is no calibration, or is one of another embedder.
    """
    shipped = weights.FOLDER / f"{embedder}{SUFFIX}"
    path = own or (beside(checkpoint) if checkpoint else shipped)
    if own is None and not path.exists():
        return None
    return Calibration.read(path).require(fingerprint)


def verdicts(calibration: Calibration | None, label: str, matches: Iterable[Match]) -> list[Verdict | None]:
    """What the similarity of each match to a garment with a label means; None where nothing is calibrated.

    The garment's label has its own thresholds only against items of that label.
    """
    if calibration is None:
        return [None for _ in matches]
    return [calibration.verdict(match.similarity, label if match.label == label else "") for match in matches]
