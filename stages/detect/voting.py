"""Box voting: a box that was kept becomes the mean of all that it stands for, by their scores.

Gidaris and Komodakis, *Object detection via a multi-region & semantic segmentation-aware CNN model*, ICCV 2015, §3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou, clip_boxes_to_image

VOTES_FROM_IOU: Final = 0.7
"""Candidates that overlap a box by so much have a vote."""


def voted(
    heads: RoIHeads,
    kept: Sequence[tuple[Tensor, Tensor]],
    opinions: tuple[Tensor, Tensor],
    proposals: list[Tensor],
    sizes: list[tuple[int, int]],
) -> list[Tensor]:
    """The boxes ``(n, 4)`` of each image, moved to where their candidates see them.

    Args:
        heads: of the network.
        kept: for each image the boxes that are left after suppression, ``(n, 4)``, and their labels.
        opinions: of all proposals, one image after the other, the logits and the box deltas.
        proposals: for each image ``(k, 4)``.
        sizes: of the images, height and width.
    """
    logits, deltas = opinions
    counts = [len(each) for each in proposals]
    candidates = torch.split(heads.box_coder.decode(deltas, proposals), counts)
    scores = torch.split(F.softmax(logits, -1), counts)
    return [
        _moved(boxes, labels, clip_boxes_to_image(own.flatten(0, 1), size).view_as(own), weights)
        for (boxes, labels), own, weights, size in zip(kept, candidates, scores, sizes, strict=True)
    ]


def _moved(boxes: Tensor, labels: Tensor, candidates: Tensor, scores: Tensor) -> Tensor:
    moved = boxes.clone()
    for label in sorted(set(labels.tolist())):
        own, votes = labels == label, candidates[:, label]
        weights = (box_iou(boxes[own], votes) >= VOTES_FROM_IOU) * scores[:, label]
        total = weights.sum(1, keepdim=True)
        moved[own] = torch.where(total > 0, weights @ votes / total.clamp(min=1e-12), boxes[own])
    return moved
