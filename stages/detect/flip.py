"""Flip averaging with box voting: each region is judged in the photo and in its mirror image, and the outputs averaged.

Box voting replaces a kept box by the mean of all candidates that overlap it, weighted by their scores: Gidaris and Komodakis,
*Object detection via a multi-region & semantic segmentation-aware CNN model*, ICCV 2015, §3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import box_iou, clip_boxes_to_image

Features = dict[str, Tensor]
Size = tuple[int, int]
"""Height and width of an image within its padding."""

MIN_VOTE_IOU: Final = 0.7
"""The least overlap with a kept box at which a candidate votes on it."""


def mirror_images(batch: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Mirror images ``(n, 3, h, w)``, each within its own width; their top left corners stay in place."""
    mirrored = torch.zeros_like(batch)
    for image, target, (_, width) in zip(batch, mirrored, sizes, strict=True):
        target[:, :, :width] = image[:, :, :width].flip(-1)
    return mirrored


def mirror_boxes(boxes: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    """Mirror the boxes ``(k, 4)`` of each image."""
    return [
        torch.stack([width - x2, y1, width - x1, y2], 1)
        for (x1, y1, x2, y2), (_, width) in zip((each.unbind(1) for each in boxes), sizes, strict=True)
    ]


def detect_both_ways(
    heads: RoIHeads, features: Features, mirrored: Features, proposals: list[Tensor], sizes: list[Size]
) -> list[dict[str, Tensor]]:
    """Apply torchvision's RoI heads to the features of images and of their mirror images, and average the outputs.

    Args:
        heads: of a network in evaluation mode.
        features: of the images.
        mirrored: of their mirror images, see :func:`mirror_images`.
        proposals: of each image, ``(k, 4)`` in pixels.
        sizes: of the images.

    Returns:
        For each image ``boxes``, ``labels``, ``scores`` and, with a mask head, ``masks``.
    """
    logits, deltas = _box_outputs(heads, features, proposals, sizes)
    mirrored_logits, mirrored_deltas = _box_outputs(heads, mirrored, mirror_boxes(proposals, sizes), sizes)
    mirrored_deltas[:, ::4].neg_()  # dx has the opposite sign
    logits, deltas = (logits + mirrored_logits) / 2, (deltas + mirrored_deltas) / 2
    boxes, scores, labels = heads.postprocess_detections(logits, deltas, proposals, sizes)
    boxes = vote(heads, list(zip(boxes, labels, strict=True)), (logits, deltas), proposals, sizes)
    results = [{"boxes": b, "labels": n, "scores": s} for b, n, s in zip(boxes, labels, scores, strict=True)]
    if heads.has_mask():
        mask_logits = _mask_logits(heads, features, boxes, sizes)
        mirrored_masks = _mask_logits(heads, mirrored, mirror_boxes(boxes, sizes), sizes).flip(-1)
        averaged = maskrcnn_inference((mask_logits + mirrored_masks) / 2, labels)
        for result, masks in zip(results, averaged, strict=True):
            result["masks"] = masks
    return results


def vote(
    heads: RoIHeads,
    kept: Sequence[tuple[Tensor, Tensor]],
    outputs: tuple[Tensor, Tensor],
    proposals: list[Tensor],
    sizes: list[Size],
) -> list[Tensor]:
    """Move the boxes ``(n, 4)`` of each image to the mean of their candidates.

    Args:
        heads: of the network.
        kept: for each image the boxes that suppression leaves, ``(n, 4)``, and their labels.
        outputs: logits and box deltas of all proposals, one image after the other.
        proposals: of each image, ``(k, 4)``.
        sizes: of the images.
    """
    logits, deltas = outputs
    counts = [len(each) for each in proposals]
    candidates = torch.split(heads.box_coder.decode(deltas, proposals), counts)
    scores = torch.split(F.softmax(logits, -1), counts)
    return [
        _vote_one(boxes, labels, clip_boxes_to_image(of_image.flatten(0, 1), size).view_as(of_image), weights)
        for (boxes, labels), of_image, weights, size in zip(kept, candidates, scores, sizes, strict=True)
    ]


def _vote_one(boxes: Tensor, labels: Tensor, candidates: Tensor, scores: Tensor) -> Tensor:
    moved = boxes.clone()
    for label in sorted(set(labels.tolist())):
        of_label, voters = labels == label, candidates[:, label]
        weights = (box_iou(boxes[of_label], voters) >= MIN_VOTE_IOU) * scores[:, label]
        total = weights.sum(1, keepdim=True)
        moved[of_label] = torch.where(total > 0, weights @ voters / total.clamp(min=1e-12), boxes[of_label])
    return moved


def _box_outputs(heads: RoIHeads, features: Features, boxes: list[Tensor], sizes: list[Size]) -> tuple[Tensor, Tensor]:
    """Return logits ``(k, labels + 1)`` and box deltas ``(k, 4 * (labels + 1))``."""
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sizes)))
    return logits, deltas


def _mask_logits(heads: RoIHeads, features: Features, boxes: list[Tensor], sizes: list[Size]) -> Tensor:
    """Return mask logits ``(k, labels + 1, m, m)``."""
    masks: Tensor = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, sizes)))
    return masks
