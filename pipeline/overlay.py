"""A photo with its garments drawn on it: masks tinted, boxes outlined, labels with scores."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.report_style import color_of
from pipeline.results import Garment, PhotoResult
from stages.types import Box, Image

_TINT = 0.4


def draw(image: Image, result: PhotoResult) -> Image:
    """Draw the garments of a result on its photo, which may be a reduced decoding; a fresh image comes back."""
    canvas = image.copy()
    line_px = max(1, round(max(image.shape[:2]) / 400))
    for garment in sorted(result.garments, key=lambda garment: -garment.box.area):
        if box := _reduced(garment.box, result, canvas):
            _draw_garment(canvas, garment, box, line_px)
    return canvas


def _reduced(box: Box, result: PhotoResult, canvas: Image) -> Box | None:
    """A box of the full-size photo in the canvas' pixels."""
    height, width = canvas.shape[:2]
    across, down = width / result.width, height / result.height
    x1, y1, x2, y2 = box.corners
    return Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)


def _draw_garment(canvas: Image, garment: Garment, box: Box, line_px: int) -> None:
    color = tuple(int(color_of(garment.label)[place : place + 2], 16) for place in (1, 3, 5))
    x1, y1, x2, y2 = box.corners
    if garment.mask is not None:
        small = box.width, box.height
        mask = cv2.resize(garment.mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0
        region = canvas[box.slices]
        region[mask] = (region[mask] * (1 - _TINT) + np.array(color) * _TINT).astype(np.uint8)
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, line_px)
    text, font, size = f"{garment.label} {garment.score:.2f}", cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line_px
    (wide, high), below = cv2.getTextSize(text, font, size, line_px)
    top = max(y1, high + below)
    cv2.rectangle(canvas, (x1, top - high - below), (x1 + wide, top), color, cv2.FILLED)
    cv2.putText(canvas, text, (x1, top - below // 2), font, size, (255, 255, 255), line_px, cv2.LINE_AA)
