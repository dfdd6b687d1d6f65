"""Flip averaging with box voting: each region is judged in a photo and in its mirror image, and the outputs averaged.

Box voting replaces a kept box by the mean of all candidates that overlap it, weighted by their scores: Gidaris and Komodakis,
*Object detection via a multi-region & semantic segmentation-aware CNN model*, ICCV 2015, §3.3.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import box_iou, clip_boxes_to_image

Features = dict[str, Tensor]
Size = tuple[int, int]
"""Height and width of a photo within its padding."""

MIN_VOTE_IOU: Final = 0.7
"""The least overlap with a kept box at which a candidate votes on it."""


def mirror_image(batch: Tensor, width: int) -> Tensor:
    """Mirror a photo ``(1, 3, h, w)`` within its own width; its padding stays where it is."""
    mirrored = torch.zeros_like(batch)
    mirrored[..., :width] = batch[..., :width].flip(-1)
    return mirrored


def mirror_boxes(boxes: Tensor, width: int) -> Tensor:
    """Mirror the boxes ``(k, 4)`` of a photo."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], 1)


def detect_both_ways(
    heads: RoIHeads, features: Features, mirrored: Features, proposals: Tensor, size: Size
) -> dict[str, Tensor]:
    """Apply torchvision's RoI heads to the features of a photo and of its mirror image, and average the outputs.

    Args:
        heads: of a network in evaluation mode.
        features: of the photo.
        mirrored: of its mirror image, see :func:`mirror_image`.
        proposals: ``(k, 4)`` in pixels of the photo.
        size: of the photo.

    Returns:
        ``boxes``, ``labels``, ``scores`` and, with a mask head, ``masks``.
    """
    logits, deltas = _box_outputs(heads, features, proposals, size)
    mirrored_logits, mirrored_deltas = _box_outputs(heads, mirrored, mirror_boxes(proposals, size[1]), size)
    mirrored_deltas[:, ::4].neg_()  # dx has the opposite sign
    logits, deltas = (logits + mirrored_logits) / 2, (deltas + mirrored_deltas) / 2
    (boxes,), (scores,), (labels,) = heads.postprocess_detections(logits, deltas, [proposals], [size])
    candidates = clip_boxes_to_image(heads.box_coder.decode(deltas, [proposals]).flatten(0, 1), size)
    boxes = vote(boxes, labels, candidates.view(*logits.shape, 4), F.softmax(logits, -1))
    result = {"boxes": boxes, "labels": labels, "scores": scores}
    if heads.has_mask():
        masks = _mask_logits(heads, features, boxes, size)
        mirrored_masks = _mask_logits(heads, mirrored, mirror_boxes(boxes, size[1]), size).flip(-1)
        (result["masks"],) = maskrcnn_inference((masks + mirrored_masks) / 2, [labels])
    return result


def vote(boxes: Tensor, labels: Tensor, candidates: Tensor, scores: Tensor) -> Tensor:
    """Move the boxes that suppression has kept to the mean of their candidates.

    Args:
        boxes: ``(n, 4)``.
        labels: of the boxes, ``(n,)``.
        candidates: the boxes of all proposals for each label, ``(k, labels + 1, 4)``.
        scores: of the candidates, ``(k, labels + 1)``.
    """
    moved = boxes.clone()
    for label in sorted(set(labels.tolist())):
        of_label, voters = labels == label, candidates[:, label]
        weights = (box_iou(boxes[of_label], voters) >= MIN_VOTE_IOU) * scores[:, label]
        total = weights.sum(1, keepdim=True)
        moved[of_label] = torch.where(total > 0, weights @ voters / total.clamp(min=1e-12), boxes[of_label])
    return moved


def _box_outputs(heads: RoIHeads, features: Features, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Return logits ``(k, labels + 1)`` and box deltas ``(k, 4 * (labels + 1))``."""
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, [boxes], [size])))
    return logits, deltas


def _mask_logits(heads: RoIHeads, features: Features, boxes: Tensor, size: Size) -> Tensor:
    """Return mask logits ``(k, labels + 1, m, m)``."""
    masks: Tensor = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, [boxes], [size])))
    return masks
