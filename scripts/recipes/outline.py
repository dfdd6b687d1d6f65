"""Find the outline of a single garment that fills its photo, without a network: GrabCut.

Rother, Kolmogorov, Blake, *GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts*, SIGGRAPH 2004.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.types import Image

_WORK_PX = 200  # long side of the photo while it is segmented
_BORDER = 0.04  # of the short side: certainly background
_ROUNDS = 5
_AREA = 0.12, 0.75  # plausible fractions of the photo
_LEAST_WHOLE = 0.85  # fraction of the foreground in its largest piece
_LEAST_FILL = 0.45  # fraction of its box that the garment fills


def outline(image: Image) -> NDArray[np.uint8] | None:
    """Return the mask ``(h, w)`` of 0 and 1 of the object in the middle of a photo, holes filled.

    None where it is implausible: too small, too large, in pieces, or too ragged for a garment.
    """
    height, width = image.shape[:2]
    scale = _WORK_PX / max(height, width)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    marks = _first_guess(*small.shape[:2])
    cv2.setRNGSeed(0)
    cv2.grabCut(small, marks, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), _ROUNDS, cv2.GC_INIT_WITH_MASK)
    front = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    front = np.asarray(cv2.morphologyEx(front, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(front)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    _, _, box_width, box_height, area = stats[largest]
    plausible = (
        area >= _LEAST_WHOLE * front.sum()
        and _AREA[0] <= area / front.size <= _AREA[1]
        and area >= _LEAST_FILL * box_width * box_height
    )
    if not plausible:
        return None
    garment = (pieces == largest).astype(np.uint8)
    contours, _ = cv2.findContours(garment, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(garment, contours, -1, 1, cv2.FILLED)
    return np.asarray(cv2.resize(garment, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _first_guess(height: int, width: int) -> NDArray[np.uint8]:
    """Mark an ellipse a little larger than the photo as probably the garment, and the border as certainly not."""
    rows, columns = np.mgrid[:height, :width]
    far = ((rows * 2 - height) / height) ** 2 + ((columns * 2 - width) / width) ** 2 > 1.15
    marks = np.where(far, cv2.GC_PR_BGD, cv2.GC_PR_FGD).astype(np.uint8)
    border = max(3, round(_BORDER * min(height, width)))
    marks[:border] = marks[-border:] = cv2.GC_BGD
    marks[:, :border] = marks[:, -border:] = cv2.GC_BGD
    return marks
