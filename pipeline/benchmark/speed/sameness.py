"""Whether the fast way finds what the plain one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

import weights
from pipeline.benchmark.speed.contenders import Answer
from stages.crop import BoxCrop
from stages.embed.siamese import SiameseEmbedder
from stages.images import read_image
from stages.types import Detection

SAME_IOU: Final = 0.9
CONFIDENT: Final = 0.7
"""The score from which a garment of the baseline counts: nearer to the threshold a rounding decides."""


CROPPED: Final = 12
"""Photos whose crops are embedded both ways."""


@dataclass(frozen=True, slots=True)
class Sameness:
    """The pipeline's output beside the baseline's, on the same photos.

    ``garments`` is how many confident ones the baseline found, ``same`` the share of them that the pipeline found
    under the same label with an IoU above 0.9; ``cosine`` the median of those garments' vectors' similarity, which
    has the difference of the crops in it, and ``cosine_of_crops`` the least where both had the very same crop.
    """

    garments: int
    same: float
    cosine: float
    cosine_of_crops: float


def compare(plain: Sequence[Answer], fast: Sequence[Answer]) -> Sameness:
    """Both ways' answers to the same photos in the same order."""
    overlaps, cosines = [], []
    for (theirs, their_vectors), (ours, our_vectors) in zip(plain, fast, strict=True):
        for place, garment in enumerate(theirs.garments):
            if garment.score < CONFIDENT:
                continue
            candidates = [number for number, one in enumerate(ours.garments) if one.label == garment.label]
            ious = [garment.box.iou(ours.garments[number].box) for number in candidates]
            overlaps.append(max(ious, default=0.0))
            if overlaps[-1] > SAME_IOU:
                cosines.append(float(their_vectors[place] @ our_vectors[candidates[int(np.argmax(ious))]]))
    same = float(np.mean(np.array(overlaps) > SAME_IOU)) if overlaps else 1.0
    return Sameness(len(overlaps), round(same, 4), round(float(np.median(cosines or [1.0])), 5), _least(plain))


def _least(answers: Sequence[Answer]) -> float:
    """The least cosine between the vectors of the same crops in float32 and in what the pipeline computes in."""
    checkpoint, least = weights.load("siamese"), 1.0
    exact, fast = SiameseEmbedder(checkpoint, dtype=torch.float32), SiameseEmbedder(checkpoint)
    for result, _ in answers[:CROPPED]:
        image = read_image(result.photo)
        found = [Detection(one.label, one.score, one.box) for one in result.garments]
        images = [crop.image for crop in BoxCrop()([image], [found])[0]]
        least = min(least, *(exact(images) * fast(images)).sum(1).tolist(), 1.0)
    return round(least, 5)
