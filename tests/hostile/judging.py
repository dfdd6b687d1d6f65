"""What came of a hostile file."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import numpy as np
from corpus import Case

from stages.errors import ImageError
from stages.images import MAX_PIXELS, read_image
from stages.types import Image


class Outcome(StrEnum):
    """What can come of a file."""

    READ = "read"
    REFUSED = "refused"
    CRASH = "crash"
    HANG = "hang"
    WRONG = "wrong picture"
    UNCLEAR = "unclear refusal"


GOOD = (Outcome.READ, Outcome.REFUSED)


def judge(case: Case, path: Path) -> tuple[Outcome, str]:
    """Read a case's file and tell what came of it, and why if it is not good."""
    try:
        image = read_image(path)
    except ImageError as error:
        return _refused(case, str(error))
    except Exception as error:  # noqa: BLE001  whatever it is, it is told
        return Outcome.CRASH, repr(error)
    return _read(case, image)


def _refused(case: Case, told: str) -> tuple[Outcome, str]:
    if told.startswith("cannot be decoded: "):
        return Outcome.CRASH, told
    if told.startswith("takes longer than"):
        return Outcome.HANG, told
    if not told or not told.isprintable() or len(told) > 200:
        return Outcome.UNCLEAR, told
    expected = case.refusal if case.refusal is not None or case.picture is not None else ""
    if expected is None or not re.search(expected, told):
        return Outcome.UNCLEAR, f"wanted {case.refusal or 'a picture'}, got: {told}"
    return Outcome.REFUSED, told


def _read(case: Case, image: Image) -> tuple[Outcome, str]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size > 3 * MAX_PIXELS:
        return Outcome.WRONG, f"{image.dtype} {image.shape}"
    if case.picture is None:
        return (Outcome.READ, "") if case.refusal is None else (Outcome.WRONG, "is to be refused")
    if image.shape != case.picture.shape:
        return Outcome.WRONG, f"{image.shape}, wanted {case.picture.shape}"
    off = _off(image, case.picture)
    return (Outcome.READ, "") if off <= case.within else (Outcome.WRONG, f"{off:.1f} off, at most {case.within}")


def _off(image: Image, picture: Image) -> float:
    """How far the mean pixel is from the one that it should be, or the worst of a large picture's strips."""
    rows = max(1, 1_000_000 // image.shape[1])
    strips = (slice(top, top + rows) for top in range(0, len(image), rows))
    return max(float(np.abs(image[strip].astype(np.int16) - picture[strip]).mean()) for strip in strips)
