"""Fast inference with torchvision's R-CNNs, flip averaging, and detectors from checkpoints.

:class:`RcnnDetector` is the only code that replaces the ``forward`` of a torchvision network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model_weights
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import box_iou, clip_boxes_to_image

import weights
from stages.checkpoints import check_fits
from stages.cpu import InParts, InPrecision, fast_dtype, fold_batch_norms, in_precision, keep_memory
from stages.detect import ONE_STAGE, TORCHVISION
from stages.detect.adapter import TorchvisionDetector
from stages.detect.networks import MobileNetV2FPN, build_network, float32_outputs
from stages.errors import WeightsError
from stages.types import Image
from weights import Checkpoint

Features: TypeAlias = dict[str, Tensor]
Size: TypeAlias = tuple[int, int]
"""Height and width of a photo within its padding."""

COCO_LABELS: Final = ("person", "handbag", "tie", "backpack", "suitcase", "umbrella")
"""The labels of COCO that are kept when torchvision's own weights are used."""

MAX_INPUT_PX: Final = 4096
"""The largest input size that a checkpoint may have, since memory grows with its square."""

FLOAT32_ON_CPU: Final = ("maskrcnn_mobilenet_v2",)
"""Networks that use float32 even on a CPU with bfloat16, which would change one in forty detections."""

MIN_VOTE_IOU: Final = 0.7
"""The least IoU with a kept box at which a candidate votes on it."""

TIE_BREAK: Final = 1e-3
"""How much flip averaging lowers the logits of a region at the right edge, compared with one at the left edge.

In a photo that equals its mirror image, such as one of a plain wall, every region has a mirrored twin with the same score.
Without this, rounding would decide which of them suppression keeps, differently in each batch.
"""

_STRIDE: Final = 32
_MIN_BILINEAR_SCALE: Final = 0.5  # below it, bilinear sampling skips pixels
_MASKS_AT_ONCE: Final = 16


class RcnnDetector(TorchvisionDetector):
    """A Mask R-CNN or Faster R-CNN of torchvision, with a faster ``forward``.

    OpenCV resizes the photos, and the masks within their boxes, so that dense ``(n, h, w)`` masks are never made.

    Two arguments are added to those of :class:`~stages.detect.adapter.TorchvisionDetector`: ``flip`` averages with the
    detections of the mirrored photo, which is more accurate and takes almost twice as long; ``dtype`` is the type of the
    network's arithmetic except for coordinates and scores. None: float16 on CUDA, otherwise float32.
    """

    def __init__(
        self,
        network: GeneralizedRCNN,
        labels: Sequence[str | None],
        min_score: float = 0.5,
        device: str = "cpu",
        thresholds: Sequence[float] | None = None,
        *,
        flip: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(network, labels, min_score, device, thresholds)
        self._device_type = torch.device(device).type
        self._flip, self._dtype = flip, dtype or (torch.float32 if self._device_type == "cpu" else fast_dtype(device))
        if self._dtype != torch.float32:
            float32_outputs(network)
        transform = network.transform
        self._min_px, self._max_px = int(max(transform.min_size)), int(transform.max_size)
        self._mean, self._std = 255 * torch.tensor(transform.image_mean), 255 * torch.tensor(transform.image_std)

    def _set_score_threshold(self, least: float) -> None:
        self._network.roi_heads.score_thresh = least

    def _predict(self, image: Image) -> Mapping[str, Tensor]:
        height, width = image.shape[:2]
        scale = min(self._min_px / min(height, width), self._max_px / max(height, width))
        size = max(1, int(height * scale)), max(1, int(width * scale))  # as torchvision rounds
        batch = self._input(image, size)
        with torch.autocast(self._device_type, self._dtype, enabled=self._dtype != torch.float32):
            features, proposals = self._propose(batch, size)
            if self._flip:
                mirrored_features, mirrored = self._propose(mirror_image(batch, size[1]), size)
                proposals = torch.cat([proposals, mirror_boxes(mirrored, size[1])])
                raw = detect_both_ways(self._network.roi_heads, features, mirrored_features, proposals, size)
            else:
                (raw,), _ = self._network.roi_heads(features, [proposals], [size])
        to_full = raw["boxes"].new_tensor([width / size[1], height / size[0]] * 2)
        return raw | {"boxes": raw["boxes"] * to_full}

    def _input(self, image: Image, size: Size) -> Tensor:
        """Resize, normalize and pad an image to ``(1, 3, h, w)``; the padding is the mean color."""
        height, width = size
        batch = torch.zeros(1, -height // _STRIDE * -_STRIDE, -width // _STRIDE * -_STRIDE, 3)
        resized = torch.from_numpy(_resize(image, size))
        torch.sub(resized, self._mean, out=batch[0, :height, :width]).div_(self._std)
        return batch.to(self._device).permute(0, 3, 1, 2)  # channels-last in memory

    def _propose(self, batch: Tensor, size: Size) -> tuple[Features, Tensor]:
        """Return the features of a photo and its proposals ``(k, 4)``."""
        features = self._network.backbone(batch)
        if isinstance(features, Tensor):
            features = {"0": features}
        if not all(level.isfinite().all() for level in features.values()):
            raise WeightsError("the detector's weights give values that are not finite: they are damaged")
        (proposals,), _ = self._network.rpn(ImageList(batch, [size]), features)
        return features, proposals


def _resize(image: Image, size: Size) -> NDArray[np.float32]:
    """Resize like torchvision, but average the pixels of a photo that becomes much smaller."""
    if image.shape[:2] == size:
        return image.astype(np.float32)
    if max(size[0] / image.shape[0], size[1] / image.shape[1]) < _MIN_BILINEAR_SCALE:
        return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


# --- Flip averaging: the outputs for each region in a photo and in its mirror image are averaged ---


def mirror_image(batch: Tensor, width: int) -> Tensor:
    """Mirror a photo ``(1, 3, h, w)`` within its width, without its padding."""
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
    """Average the outputs of torchvision's RoI heads for a photo and its mirror image.

    ``proposals`` ``(k, 4)`` are in pixels of the photo, ``mirrored`` are the features of :func:`mirror_image`. Returns
    ``boxes``, ``labels``, ``scores`` and, with a mask head, ``masks``.
    """
    logits, deltas = _box_outputs(heads, features, proposals, size)
    mirrored_logits, mirrored_deltas = _box_outputs(heads, mirrored, mirror_boxes(proposals, size[1]), size)
    mirrored_deltas[:, ::4].neg_()  # dx has the opposite sign
    logits, deltas = (logits + mirrored_logits) / 2, (deltas + mirrored_deltas) / 2
    centres = (proposals[:, :1] + proposals[:, 2:3]) / (2 * size[1])
    logits[:, 1:] -= TIE_BREAK * centres
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
    """Replace each box that suppression kept by the score-weighted mean of the candidates that overlap it.

    Box voting: Gidaris and Komodakis, *Object detection via a multi-region & semantic segmentation-aware CNN model*,
    ICCV 2015, §3.3. The kept boxes ``(n, 4)`` have the ``labels`` ``(n,)``; the candidates ``(k, labels + 1, 4)`` are the boxes
    of all proposals for each label, with ``scores`` ``(k, labels + 1)``.
    """
    moved = boxes.clone()
    for label in sorted(set(labels.tolist())):
        of_label, voters = labels == label, candidates[:, label]
        votes = (box_iou(boxes[of_label], voters) >= MIN_VOTE_IOU) * scores[:, label]
        total = votes.sum(1, keepdim=True)
        moved[of_label] = torch.where(total > 0, votes @ voters / total.clamp(min=1e-12), boxes[of_label])
    return moved


def _box_outputs(heads: RoIHeads, features: Features, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Return logits ``(k, labels + 1)`` and box deltas ``(k, 4 * (labels + 1))``."""
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, [boxes], [size])))
    return logits, deltas


def _mask_logits(heads: RoIHeads, features: Features, boxes: Tensor, size: Size) -> Tensor:
    """Return mask logits ``(k, labels + 1, m, m)``."""
    masks: Tensor = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, [boxes], [size])))
    return masks


# --- Detectors from weights, with one stage or two ---


def from_checkpoint(
    checkpoint: Checkpoint,
    min_score: float = 0.5,
    device: str = "cpu",
    *,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> TorchvisionDetector:
    """Build a detector from a checkpoint, whose metadata names the architecture and labels.

    Raises:
        WeightsError: the architecture is unknown or cannot flip, or the tensors do not fit it.
    """
    network, labels, thresholds = read_network(checkpoint)
    architecture = checkpoint.describes("architecture")
    try:
        _check_flip(architecture, flip=flip)
        dtype = dtype or _dtype_of(architecture, device)
        return _detector(network, labels, min_score, device, thresholds, flip=flip, dtype=dtype)
    except (ValueError, RuntimeError) as error:
        raise _misfit(checkpoint, error) from error


def read_network(checkpoint: Checkpoint) -> tuple[Any, list[str], list[float]]:
    """Return a checkpoint's network with its weights in place, its labels, and the threshold of each, if it has them.

    Raises:
        WeightsError: the architecture is unknown, or the tensors do not fit it.
    """
    labels = checkpoint.describes("labels").split("\n")
    architecture = checkpoint.describes("architecture")
    try:
        input_px = int(checkpoint.describes("input_px"))
        if not 0 <= input_px <= MAX_INPUT_PX:
            raise ValueError(f"input_px is {input_px}, at most {MAX_INPUT_PX}")  # noqa: TRY301
        thresholds = [float(number) for number in checkpoint.metadata.get("thresholds", "").split()]
        build = partial(build_network, architecture, len(labels), input_px or None)
        check_fits(build, checkpoint.tensors, f"{checkpoint.name} does not fit its architecture")
        network = build()
        network.load_state_dict(checkpoint.tensors)
    except (ValueError, RuntimeError) as error:
        raise _misfit(checkpoint, error) from error
    return network, labels, thresholds


def _misfit(checkpoint: Checkpoint, error: Exception) -> WeightsError:
    return WeightsError(f"{checkpoint.name} does not fit its architecture: {str(error).splitlines()[0]}")


def read_detector(
    path: str | Path, min_score: float = 0.5, device: str = "cpu", *, flip: bool = False
) -> TorchvisionDetector:
    """Build a detector from a checkpoint file that ``weights.save`` wrote."""
    return from_checkpoint(weights.read(path), min_score, device, flip=flip)


def from_torchvision(
    architecture: str, min_score: float = 0.5, device: str = "cpu", *, flip: bool = False
) -> TorchvisionDetector:
    """Build one of torchvision's detectors with its own COCO weights, downloaded on first use.

    Raises:
        ValueError: torchvision has no such architecture, or it cannot flip.
        WeightsError: the weights are damaged, or neither in torchvision's cache nor can be downloaded.
    """
    known = TORCHVISION + ONE_STAGE
    if architecture not in known:
        raise ValueError(f"{architecture!r} is not one of torchvision's detectors; they are {', '.join(known)}")
    _check_flip(architecture, flip=flip)
    coco = get_model_weights(architecture).DEFAULT
    categories = coco.meta["categories"]  # the first is the background
    try:
        tensors = weights.read_torchvision(coco)
    except OSError as error:
        raise WeightsError(
            f"torchvision's weights for {architecture} cannot be downloaded ({error}); name your own with"
            " --detector-weights, or use maskrcnn_mobilenet_v2, whose weights are shipped"
        ) from error
    network = build_network(architecture, len(categories) - 1)
    network.load_state_dict(tensors)
    labels = [name if name in COCO_LABELS else None for name in categories[1:]]
    return _detector(network, labels, min_score, device, flip=flip, dtype=_dtype_of(architecture, device))


def _check_flip(architecture: str, *, flip: bool) -> None:
    if flip and architecture in ONE_STAGE:
        raise ValueError(f"{architecture} cannot average with the mirrored photo, which only R-CNNs can")


def _dtype_of(architecture: str, device: str) -> torch.dtype:
    on_cpu = torch.device(device).type == "cpu"
    return torch.float32 if on_cpu and architecture in FLOAT32_ON_CPU else fast_dtype(device)


def _detector(
    network: nn.Module,
    labels: Sequence[str | None],
    min_score: float,
    device: str,
    thresholds: Sequence[float] = (),
    *,
    flip: bool,
    dtype: torch.dtype,
) -> TorchvisionDetector:
    keep_memory()
    network.eval().requires_grad_(requires_grad=False)
    if not isinstance(network, GeneralizedRCNN):
        return TorchvisionDetector(network, labels, min_score, device, thresholds)
    _prepare_for_inference(network, device, dtype)
    return RcnnDetector(network, labels, min_score, device, thresholds, flip=flip, dtype=dtype)


def _prepare_for_inference(network: GeneralizedRCNN, device: str, dtype: torch.dtype) -> None:
    """Make a network fast, in place; afterwards it cannot be trained."""
    fold_batch_norms(network)
    network.to(device, memory_format=torch.channels_last)
    if isinstance(network.backbone, MobileNetV2FPN):
        network.backbone.body = in_precision(network.backbone.body, dtype)
    if torch.device(device).type != "cpu":
        return
    heads = network.roi_heads
    if dtype != torch.float32:  # the order of summation in a product this wide depends on the number of threads
        heads.box_head = InPrecision(heads.box_head, torch.float32)
    if heads.mask_predictor is not None:
        heads.mask_predictor = InParts(nn.Sequential(heads.mask_head, heads.mask_predictor), _MASKS_AT_ONCE)
        heads.mask_head = nn.Identity()
