"""Annotated photos for training detectors: which photo comes when, read and augmented on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stages.detect.annotations import Annotations
from stages.detect.augment import Scene, jitter, paste, recolour
from stages.errors import CatalogueError, ImageError
from stages.images import read_image

Target = dict[str, Tensor]
Draw = tuple[int, int]
"""A place in the run, which seeds the augmentation, and the photo that comes there."""

_MIN_SIDE_PX = 4  # an instance smaller than this after augmentation teaches nothing


class LabelledPhotos:
    """The photos of an annotation file as scenes, read when asked for.

    Args:
        annotations: checked, as :func:`~stages.detect.coco.read_annotations` gives them.
        folder: of the photos.
    """

    def __init__(self, annotations: Annotations, folder: Path) -> None:
        self._photos, self._folder = annotations.photos, folder

    def __len__(self) -> int:
        return len(self._photos)

    def labels(self, place: int) -> set[int]:
        """The labels in a photo, from 1, without reading it."""
        return {instance.label for instance in self._photos[place].instances}

    def __getitem__(self, place: int) -> Scene:
        """One photo.

        Raises:
            ImageError: it cannot be read.
        """
        photo = self._photos[place]
        labels = np.array([instance.label for instance in photo.instances], np.int64)
        return Scene(read_image(self._folder / photo.file_name), photo.masks(), labels)


def to_target(scene: Scene) -> tuple[Tensor, Target]:
    """What torchvision's detectors train on: image ``(3, h, w)`` in [0, 1], and boxes, labels, masks."""
    boxes, kept = [], []
    for place, mask in enumerate(scene.masks):
        x, y, w, h = cv2.boundingRect(mask)
        if min(w, h) >= _MIN_SIDE_PX:
            boxes.append([x, y, x + w, y + h])
            kept.append(place)
    image = torch.from_numpy(scene.image.transpose(2, 0, 1).astype(np.float32) / 255)
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.from_numpy(scene.labels[kept]),
        "masks": torch.from_numpy(scene.masks[kept]),
    }


def repeat_factors(labels: Sequence[set[int]], often: float) -> dict[int, float]:
    """How many times as often photos with a label are to come: ``max(1, sqrt(often / f))``, f its share of photos.

    Repeat-factor sampling: Gupta, Dollár, Girshick, *LVIS*, CVPR 2019.

    >>> repeat_factors([{1}, {1}, {1}, {1, 2}], often=1.0)
    {1: 1.0, 2: 2.0}
    """
    share = {label: sum(label in each for each in labels) / len(labels) for label in sorted(set().union(*labels))}
    return {label: max(1.0, (often / share[label]) ** 0.5) for label in share}


class TrainingSet(Dataset[tuple[Tensor, Target]]):
    """Augmented scenes from several sources; what a draw gives follows from the seed and the draw.

    Args:
        sources: whose photos.
        input_px: the longest side after augmentation.
        seed: of everything random.
        often: the share of photos below which a label's photos are repeated; 0 repeats none.
        pasting: the share of scenes that garments of another photo are pasted into.
    """

    def __init__(
        self, sources: Sequence[LabelledPhotos], input_px: int, seed: int, often: float = 0.0, pasting: float = 0.0
    ) -> None:
        self._places = [(source, place) for source in sources for place in range(len(source))]
        self._input_px, self._seed, self._pasting = input_px, seed, pasting
        labels = [source.labels(place) for source, place in self._places]
        factors = repeat_factors(labels, often)
        self.repeats = np.array([max((factors[label] for label in each), default=1.0) for each in labels])
        self._odds = np.zeros(1 + max(factors, default=0))
        for label, factor in factors.items():
            self._odds[label] = min(0.8, 0.3 * factor)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Target]:
        position, place = draw
        rng = np.random.default_rng((self._seed, position))
        scene = self._view(place, rng)
        if rng.random() < self._pasting:
            other = int(rng.choice(len(self), p=self.repeats / self.repeats.sum()))
            scene = paste(scene, self._view(other, rng), self._odds, rng)
        return to_target(Scene(recolour(scene.image, rng), scene.masks, scene.labels))

    def _view(self, place: int, rng: np.random.Generator) -> Scene:
        """A photo seen anew; the next one for a photo that cannot be read."""
        for other in range(len(self)):
            source, within = self._places[(place + other) % len(self)]
            with suppress(ImageError):
                return jitter(source[within], self._input_px, rng)
        raise CatalogueError("none of the photos can be read; were they moved since the start?")


class Rounds(Sampler[Draw]):
    """Draws without end, in shuffled rounds that hold each photo as often as it is repeated on average.

    Args:
        repeats: ``(photos,)``, at least 1 each.
        seed: of the order.
        start: draws to leave out, where a run goes on.
    """

    def __init__(self, repeats: NDArray[np.float64], seed: int, start: int = 0) -> None:
        self._repeats, self._seed, self._start = repeats, seed, start

    @property
    def per_round(self) -> int:
        """How many draws a round has on average."""
        return round(float(self._repeats.sum()))

    def __iter__(self) -> Iterator[Draw]:
        position = 0
        for number in itertools.count():
            rng = np.random.default_rng((self._seed, number))
            times = np.floor(self._repeats + rng.random(len(self._repeats))).astype(int)
            for place in rng.permutation(np.repeat(np.arange(len(times)), times)):
                if position >= self._start:
                    yield position, int(place)
                position += 1
