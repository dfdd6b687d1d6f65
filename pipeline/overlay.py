"""A photo with its garments drawn on it: masks tinted, boxes outlined, labels with scores."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.report_style import color_of
from pipeline.results import Garment, PhotoResult
from stages.types import Image

_TINT = 0.4


def draw(image: Image, result: PhotoResult) -> Image:
    """Draw the garments of a result on its photo, which may be a reduced decoding; a fresh image comes back."""
    canvas = image.copy()
    scale = max(image.shape[:2]) / max(result.width, result.height, 1)
    line_px = max(1, round(max(image.shape[:2]) / 400))
    for garment in sorted(result.garments, key=lambda garment: -garment.box.area):
        _draw_garment(canvas, garment, scale, line_px)
    return canvas


def _draw_garment(canvas: Image, garment: Garment, scale: float, line_px: int) -> None:
    color = tuple(int(color_of(garment.label)[place : place + 2], 16) for place in (1, 3, 5))
    x1, y1, x2, y2 = (round(corner * scale) for corner in garment.box.corners)
    x2, y2 = min(max(x2, x1 + 1), canvas.shape[1]), min(max(y2, y1 + 1), canvas.shape[0])
    if garment.mask is not None:
        mask = cv2.resize(garment.mask.astype(np.uint8), (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST) > 0
        region = canvas[y1:y2, x1:x2]
        region[mask] = (region[mask] * (1 - _TINT) + np.array(color) * _TINT).astype(np.uint8)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, line_px)
    text, font, size = f"{garment.label} {garment.score:.2f}", cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line_px
    (wide, high), below = cv2.getTextSize(text, font, size, line_px)
    top = max(y1, high + below)
    cv2.rectangle(canvas, (x1, top - high - below), (x1 + wide, top), color, cv2.FILLED)
    cv2.putText(canvas, text, (x1, top - below // 2), font, size, (255, 255, 255), line_px, cv2.LINE_AA)
