"""The worst mistakes as pictures: a part of the photo, with what was found and what is annotated drawn over it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from pipeline.report_photo import outline, text_html
from pipeline.report_style import color_of
from pipeline.search import Garment
from stages.detect.evaluation import SAME_IOU, Mistake
from stages.errors import ImageError
from stages.images import encode_jpeg, read_image
from stages.types import Box, Detection

Kind: TypeAlias = Literal["confusion", "false-alarm", "miss"]

PICTURE_PX: Final = 420
"""The long side of a picture."""

_AROUND: Final = 0.3
"""What a picture shows around the boxes, as a fraction of their longer side."""

_LEAST_PX: Final = 64
"""The least that a picture shows of its photo, so that one knows where it is."""

_SHAPE: Final = (4, 5)
"""Width to height of a picture, where the photo reaches."""


def mistakes_html(mistakes: Sequence[Mistake], kind: Kind, photos: Path, folder: Path) -> str:
    """Write the pictures of mistakes into ``folder/mistakes``; the list that shows them, for a page in ``folder``.

    A photo of the folder ``photos`` that cannot be read any more has no picture.
    """
    items = []
    for number, mistake in enumerate(mistakes, start=1):
        window = _window(mistake)
        address = f"mistakes/{kind}-{number}.jpg"
        try:
            picture = encode_jpeg(read_image(photos / mistake.photo)[window.slices], 85, PICTURE_PX)
        except (ImageError, ValueError):  # gone, or changed since
            items.append(_item(mistake, kind, "no picture"))
            continue
        (folder / address).write_bytes(picture)
        items.append(_item(mistake, kind, _view(mistake, window, address)))
    return f'<ol class="mistakes">{"".join(items)}</ol>'


def told(mistake: Mistake, kind: Kind) -> str:
    """What went wrong, in a few words."""
    found, truth = mistake.detection, mistake.truth
    if kind == "miss":
        return f"the nearest, at score {found.score:.2f}, is too far off" if found else "nothing like it was found near"
    if found is None or truth is None:
        return "nothing is annotated there"
    if found.label != truth.label:
        return f"annotated as {truth.label}" if mistake.iou >= SAME_IOU else f"near {truth.label}"
    return "found a second time" if mistake.iou >= SAME_IOU else "too far off"


def _window(mistake: Mistake) -> Box:
    """The part of the photo to show: both boxes, some context, in the shape of the pictures."""
    boxes = [one.box for one in (mistake.detection, mistake.truth) if one]
    x1, y1 = min(box.x1 for box in boxes), min(box.y1 for box in boxes)
    x2, y2 = max(box.x2 for box in boxes), max(box.y2 for box in boxes)
    around = 1 + 2 * _AROUND
    wide, high = max(_LEAST_PX, around * (x2 - x1)), max(_LEAST_PX, around * (y2 - y1))
    wide, high = max(wide, high * _SHAPE[0] / _SHAPE[1]), max(high, wide * _SHAPE[1] / _SHAPE[0])
    left, right = _span((x1 + x2) / 2, wide, mistake.width)
    top, bottom = _span((y1 + y2) / 2, high, mistake.height)
    return Box(left, top, right, bottom)


def _span(middle: float, length: float, limit: int) -> tuple[int, int]:
    """A stretch of a length around a place, moved to lie within [0, limit], as far as it fits."""
    size = min(limit, round(length))
    start = min(max(0, round(middle - length / 2)), limit - size)
    return start, start + size


def _item(mistake: Mistake, kind: Kind, view: str) -> str:
    shown = mistake.truth if kind == "miss" else mistake.detection
    label = shown.label if shown else ""
    score = f"<span>{shown.score:.2f}</span>" if shown and kind != "miss" else ""
    overlap = f" · IoU\u00a0{math.floor(100 * mistake.iou) / 100:.2f}" if mistake.detection and mistake.truth else ""
    return (
        f'<li class="mistake" style="--color: {color_of(label)}"><div class="view">{view}</div>'
        f"<h3>{text_html(label)}{score}</h3><p>{text_html(told(mistake, kind))}{overlap}</p>"
        f'<bdi class="soft">{text_html(mistake.photo)}</bdi></li>'
    )


def _view(mistake: Mistake, window: Box, address: str) -> str:
    shapes = _shape(mistake.truth, "annotated") + _shape(mistake.detection, "found")
    frame = f"{window.x1} {window.y1} {window.width} {window.height}"
    return (
        f'<img src="{address}" alt="part of {text_html(mistake.photo)}" loading="lazy" decoding="async">'
        f'<svg viewBox="{frame}" aria-hidden="true">{shapes}</svg>'
    )


def _shape(one: Detection | None, kind: str) -> str:
    if one is None:
        return ""
    frame = f'x="{one.box.x1}" y="{one.box.y1}" width="{one.box.width}" height="{one.box.height}"'
    mask = outline(Garment(one.label, one.score, one.box, one.mask))
    return f'<g class="{kind}">{mask}<rect class="halo" {frame}/><rect {frame}/></g>'
