"""What a detector gets wrong at its threshold, counted and shown by its worst, by boxes at IoU 0.50."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from stages.detect.annotations import mask_of
from stages.detect.precision import Placed
from stages.types import Box, Detection

SAME_IOU = 0.5
"""Boxes that overlap as much are of one garment."""

NEAR_IOU = 0.1
"""Boxes that overlap as much have something to do with each other."""


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """One mistake: what was found, what is annotated (with score 1), and how much their boxes overlap.

    A miss may have nothing found near it, a false alarm nothing annotated near it. ``width`` and ``height`` are
    the photo's.
    """

    photo: str
    width: int
    height: int
    found: Detection | None
    truth: Detection | None
    iou: float


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The worst of each kind, worst first.

    ``false_alarms``: the most confident detections of nothing, of something twice, or too far off. ``misses``: the
    largest garments that were found at no score. ``confusions``: the most confident detections of a garment that
    was missed, by another label; they are false alarms too, listed here alone.
    """

    false_alarms: tuple[Mistake, ...] = ()
    misses: tuple[Mistake, ...] = ()
    confusions: tuple[Mistake, ...] = ()


class Findings:
    """Which garments were found and which detections are false, once doubtful detections are left out.

    Args:
        truths: the annotated garments.
        found: the detections, at any score.
        truth_of: which garment each detection found, by their places; see :class:`~stages.detect.precision.Judgement`.
        threshold: the least score of what is not doubtful.
        labels: the name of each label.
    """

    def __init__(
        self,
        truths: Sequence[Placed],
        found: Sequence[Placed],
        truth_of: Mapping[int, int | None],
        threshold: float,
        labels: Mapping[int, str],
    ) -> None:
        self._truths, self._found, self._labels, self._truth_of = truths, found, labels, truth_of
        sure = [place for place in truth_of if found[place].score >= threshold]
        self._false = sorted((k for k in sure if truth_of[k] is None), key=lambda k: (-found[k].score, k))
        hit = {truth_of[k] for k in sure}
        self._missed = [place for place in range(len(truths)) if place not in hit]

    def false_alarms(self, label: int) -> int:
        """How many sure detections of a label found no garment of it."""
        return sum(self._found[place].instance.label == label for place in self._false)

    def missed(self, label: int) -> int:
        """How many garments of a label no sure detection found."""
        return sum(self._truths[place].instance.label == label for place in self._missed)

    def worst(self, most: int) -> Mistakes:
        """At most so many of each kind."""
        confused = self._confusions()
        alarms = [place for place in self._false if place not in confused]
        lost = set(self._missed) - {place for place in self._truth_of.values() if place is not None}
        largest = sorted(lost - set(confused.values()), key=lambda place: (-_area(self._truths[place]), place))
        return Mistakes(
            tuple(self._false_alarm(place) for place in alarms[:most]),
            tuple(self._miss(place) for place in largest[:most]),
            tuple(self._mistake(place, truth) for place, truth in list(confused.items())[:most]),
        )

    def _confusions(self) -> dict[int, int]:
        """The place of a false detection to that of the missed garment which it is by another label."""
        missed = defaultdict(list)
        for place in self._missed:
            missed[self._truths[place].photo.id].append(place)
        confused: dict[int, int] = {}
        for place in self._false:
            garment = self._found[place]
            others = [k for k in missed[garment.photo.id] if self._truths[k].instance.label != garment.instance.label]
            nearest, iou = _nearest(garment, self._truths, others)
            if nearest is not None and iou >= SAME_IOU:
                confused[place] = nearest
                missed[garment.photo.id].remove(nearest)
        return confused

    def _false_alarm(self, place: int) -> Mistake:
        """With the annotated garment of its label that is near, else with any."""
        garment = self._found[place]
        here = [k for k, truth in enumerate(self._truths) if truth.photo.id == garment.photo.id]
        same = [k for k in here if self._truths[k].instance.label == garment.instance.label]
        for among in (same, here):
            nearest, iou = _nearest(garment, self._truths, among)
            if iou >= NEAR_IOU:
                return self._mistake(place, nearest)
        return self._mistake(place, None)

    def _miss(self, place: int) -> Mistake:
        """With the detection of its label that is near, at any score."""
        garment = self._truths[place]
        same = [
            k
            for k in self._truth_of
            if self._found[k].photo.id == garment.photo.id and self._found[k].instance.label == garment.instance.label
        ]
        nearest, iou = _nearest(garment, self._found, same)
        return self._mistake(nearest if iou >= NEAR_IOU else None, place)

    def _mistake(self, found: int | None, truth: int | None) -> Mistake:
        one = None if found is None else self._found[found]
        other = None if truth is None else self._truths[truth]
        photo = (one or other).photo  # type: ignore[union-attr]  # one of them is there
        iou = float(_ious(one, [other])[0]) if one and other else 0.0
        return Mistake(photo.file_name, photo.width, photo.height, self._seen(one), self._seen(other), iou)

    def _seen(self, garment: Placed | None) -> Detection | None:
        if garment is None:
            return None
        photo, instance = garment.photo, garment.instance
        box = Box.clipped(*instance.box, width=photo.width, height=photo.height)
        if box is None:  # annotations are read, and detections made, within their photo
            raise ValueError(f"{instance.box} is not a box of {photo.file_name}, {photo.width}x{photo.height} px")
        mask = mask_of(instance, photo.height, photo.width)[box.slices] > 0 if instance.has_mask else None
        return Detection(self._labels[instance.label], garment.score, box, mask)


def balanced_threshold(scores: Iterable[float], garments: int) -> float | None:
    """The threshold at which a label has as many false alarms as misses; None where there are too few detections.

    Misses are the garments less the true detections, and false alarms the detections less the true ones: they are
    as many where there are as many detections as garments.

    >>> balanced_threshold([0.2, 0.9, 0.6, 0.4], garments=3), balanced_threshold([0.9], garments=3)
    (0.4, None)
    """
    falling = sorted(scores, reverse=True)
    return falling[garments - 1] if 0 < garments <= len(falling) else None


def _nearest(garment: Placed, among: Sequence[Placed], places: Sequence[int]) -> tuple[int | None, float]:
    if not places:
        return None, 0.0
    ious = _ious(garment, [among[place] for place in places])
    best = int(ious.argmax())
    return places[best], float(ious[best])


def _ious(garment: Placed, others: Sequence[Placed]) -> NDArray[np.float64]:
    ious: NDArray[np.float64] = coco_mask.iou(
        [_corner_and_size(garment)], list(map(_corner_and_size, others)), [0] * len(others)
    )[0]
    return ious


def _corner_and_size(garment: Placed) -> list[float]:
    x1, y1, x2, y2 = garment.instance.box
    return [x1, y1, x2 - x1, y2 - y1]


def _area(garment: Placed) -> float:
    x1, y1, x2, y2 = garment.instance.box
    return (x2 - x1) * (y2 - y1)
