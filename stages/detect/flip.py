"""Flip averaging: a region is judged by the image and by its mirror image, and the two opinions are averaged.

So are, by votes, the boxes of all regions that agree; see :mod:`stages.detect.voting`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference

from stages.detect.voting import voted

Features = dict[str, Tensor]
Size = tuple[int, int]
"""Height and width of an image within its padding."""


def mirror_images(batch: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Images ``(n, 3, h, w)`` of given sizes in their top left corner, each mirrored in its own width."""
    mirrored = torch.zeros_like(batch)
    for image, into, (_, width) in zip(batch, mirrored, sizes, strict=True):
        into[:, :, :width] = image[:, :, :width].flip(-1)
    return mirrored


def mirror_boxes(boxes: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    """Boxes ``(k, 4)`` of each image where they are in its mirror image."""
    return [
        torch.stack([width - x2, y1, width - x1, y2], 1)
        for (x1, y1, x2, y2), (_, width) in zip((each.unbind(1) for each in boxes), sizes, strict=True)
    ]


def found_both_ways(
    heads: RoIHeads, features: Features, mirrored: Features, proposals: list[Tensor], sizes: list[Size]
) -> list[dict[str, Tensor]]:
    """What torchvision's RoI heads find of the proposals, judged on the average of both images' logits.

    Args:
        heads: of a network in evaluation.
        features: of the images.
        mirrored: of their mirror images, see :func:`mirror_images`.
        proposals: for each image ``(k, 4)``, in pixels.
        sizes: of the images.

    Returns:
        For each image ``boxes``, ``labels``, ``scores`` and, where there is a mask head, ``masks``.
    """
    logits, deltas = _boxes(heads, features, proposals, sizes)
    their_logits, their_deltas = _boxes(heads, mirrored, mirror_boxes(proposals, sizes), sizes)
    their_deltas[:, ::4].neg_()  # dx runs the other way
    opinions = (logits + their_logits) / 2, (deltas + their_deltas) / 2
    boxes, scores, labels = heads.postprocess_detections(*opinions, proposals, sizes)
    boxes = voted(heads, list(zip(boxes, labels, strict=True)), opinions, proposals, sizes)
    found = [{"boxes": b, "labels": n, "scores": s} for b, n, s in zip(boxes, labels, scores, strict=True)]
    if heads.has_mask():
        own = _masks(heads, features, boxes, sizes)
        theirs = _masks(heads, mirrored, mirror_boxes(boxes, sizes), sizes).flip(-1)
        for one, masks in zip(found, maskrcnn_inference((own + theirs) / 2, labels), strict=True):
            one["masks"] = masks
    return found


def _boxes(heads: RoIHeads, features: Features, boxes: list[Tensor], sizes: list[Size]) -> tuple[Tensor, Tensor]:
    """Logits ``(k, labels + 1)`` and box deltas ``(k, 4 * (labels + 1))``."""
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sizes)))
    return logits, deltas


def _masks(heads: RoIHeads, features: Features, boxes: list[Tensor], sizes: list[Size]) -> Tensor:
    """Mask logits ``(k, labels + 1, m, m)``."""
    masks: Tensor = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, sizes)))
    return masks
