"""Draw garments on a photo."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from pipeline.pages import color_of
from pipeline.search import PhotoResult
from stages.types import Box, Image

_DIM: Final = 0.45
"""How far what is no garment fades to white."""


def draw(image: Image, result: PhotoResult) -> Image:
    """Return a copy of a photo, which may be reduced, with its garments outlined and labelled and the rest dimmed.

    Nothing is laid over a garment, whose colours its matches depend on; labels do not cover one another.
    """
    scaled = [(garment, _reduced(garment.box, result, image)) for garment in result.garments]
    placed = [(garment, box) for garment, box in scaled if box]
    canvas = (image * (1 - _DIM) + 255 * _DIM).astype(np.uint8) if placed else image.copy()
    outlines = []
    for garment, box in placed:
        mask = np.ones((1, 1), np.bool_) if garment.mask is None else garment.mask
        inside = cv2.resize(mask.astype(np.uint8), (box.width, box.height), interpolation=cv2.INTER_NEAREST)
        canvas[box.slices][inside > 0] = image[box.slices][inside > 0]
        outlines.append(cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(box.x1, box.y1))[0])
    line_px = max(1, round(max(image.shape[:2]) / 400))
    labels: list[tuple[int, int, int, int]] = []
    for (garment, box), outline in zip(placed, outlines, strict=True):
        color = tuple(int(color_of(garment.label)[place : place + 2], 16) for place in (1, 3, 5))
        cv2.drawContours(canvas, outline, -1, color, line_px)
        _draw_label(canvas, f"{garment.label} {garment.score:.2f}", box, color, line_px, labels)
    return canvas


def _reduced(box: Box, result: PhotoResult, canvas: Image) -> Box | None:
    """Return a box of the full-size photo in the canvas' pixels."""
    height, width = canvas.shape[:2]
    across, down = width / result.width, height / result.height
    x1, y1, x2, y2 = box.corners
    return Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)


def _draw_label(
    canvas: Image, text: str, box: Box, color: tuple[int, ...], line_px: int, labels: list[tuple[int, int, int, int]]
) -> None:
    """Draw a label at the top of its box, or below the labels that are there already."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line_px
    (width, height), below = cv2.getTextSize(text, font, size, line_px)
    height += below
    left, bottom = max(0, min(box.x1, canvas.shape[1] - width)), max(box.y1, height)
    for x1, y1, x2, y2 in sorted(labels, key=lambda label: label[1]):
        if left < x2 and x1 < left + width and bottom - height < y2 and y1 < bottom:
            bottom = y2 + height
    labels.append((left, bottom - height, left + width, bottom))
    cv2.rectangle(canvas, (left, bottom - height), (left + width, bottom), color, cv2.FILLED)
    cv2.putText(canvas, text, (left, bottom - below // 2), font, size, (255, 255, 255), line_px, cv2.LINE_AA)
