"""torchvision's detection networks as detectors: two-stage R-CNNs, made fast, and one-stage networks as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

import weights
from stages.checkpoints import check_fits
from stages.cpu import (
    InParts,
    InPrecision,
    fast_dtype,
    fold_batch_norms,
    in_precision,
    keep_memory,
    parallel_map,
)
from stages.detect.flip import detect_both_ways, mirror_boxes, mirror_image
from stages.detect.networks import ONE_STAGE, TORCHVISION, MobileNetV2FPN, build_network, float32_outputs
from stages.errors import WeightsError
from stages.timing import timed
from stages.types import Box, Detection, Image, Mask, check_batch
from weights import Checkpoint

COCO_LABELS: Final = ("person", "handbag", "tie", "backpack", "suitcase", "umbrella")
"""The labels that are kept of COCO's where torchvision's own weights are used."""

MAX_INPUT_PX: Final = 4096
"""The longest side that weights may ask for: memory grows with its square."""

FLOAT32_ON_CPU: Final = ("maskrcnn_mobilenet_v2",)
"""Networks that compute in float32 on a processor that has bfloat16, in which the detections of similar proposals would change
for one garment in forty."""

_STRIDE: Final = 32
_MIN_BILINEAR_SCALE: Final = 0.5  # below, bilinear sampling skips pixels
_MAX_ASPECT: Final = 32
_MASKS_AT_ONCE: Final = 16


class TorchvisionDetector:
    """Adapts a torchvision detection network of any kind, such as RetinaNet, FCOS or SSD.

    The network is used through its public interface only: images in, boxes, labels and scores out, in float32.

    Args:
        network: with its weights loaded.
        labels: the label of each class index from 1; None for a class that is left out.
        min_score: detections with lower scores are left out.
        device: where to run.
        thresholds: for each label the score of the network that becomes 0.5, in (0, 1); other scores follow by their odds.
            None leaves scores as they are.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Sequence[str | None],
        min_score: float = 0.5,
        device: str = "cpu",
        thresholds: Sequence[float] | None = None,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score lies in [0, 1], got {min_score}")
        self._names = tuple(labels)
        self._thresholds = np.asarray(thresholds or [0.5] * len(self._names), np.float64)
        if self._thresholds.shape != (len(self._names),) or not ((self._thresholds > 0) & (self._thresholds < 1)).all():
            raise ValueError(f"thresholds are one number in (0, 1) for each of {len(self._names)} labels")
        self._min_score, self._device = min_score, device
        self._network: Any = network.eval().to(device).to(memory_format=torch.channels_last)
        scorer: Any = self._network.roi_heads if isinstance(network, GeneralizedRCNN) else self._network
        scorer.score_thresh = float(scale_odds(min_score, 1 - self._thresholds).min())  # what may become min_score

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a detection can have."""
        return tuple(name for name in self._names if name is not None)

    @property
    def input_px(self) -> int:
        """The long side that the network resizes photos to."""
        return int(self._network.transform.max_size)

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """Detect garments, those of each photo by falling score.

        Each photo runs by itself, so that its detections cannot depend on the batch.
        """
        check_batch(images)
        return list(parallel_map(self._detect, images, self._device))

    @torch.inference_mode()
    def _detect(self, image: Image) -> list[Detection]:
        height, width = image.shape[:2]
        raw = {key: value.cpu().numpy() for key, value in self._predict(image).items()}
        scores = scale_odds(raw["scores"], self._thresholds[raw["labels"].astype(int) - 1])
        detections = []
        for place, corners in enumerate(raw["boxes"].astype(np.float32)):
            label, score = self._names[int(raw["labels"][place]) - 1], float(scores[place])
            x1, y1, x2, y2 = map(float, corners)
            box = Box.clipped(x1, y1, x2, y2, width=width, height=height)
            if label is None or box is None or score < self._min_score:
                continue
            with timed("mask"):
                mask = mask_in_box(raw["masks"][place, 0], corners, box) if "masks" in raw else None
            detections.append(Detection(label, score, box, mask))
        return sorted(detections, key=lambda detection: -detection.score)

    def _predict(self, image: Image) -> Mapping[str, Tensor]:
        """Return ``boxes`` in the photo's pixels, ``labels`` and ``scores``; perhaps ``masks`` ``(n, 1, m, m)`` over the boxes."""
        height, width = image.shape[:2]
        least = -(-max(height, width) // _MAX_ASPECT)  # a thinner photo would be resized to no pixels
        padding = ((0, max(0, least - height)), (0, max(0, least - width)), (0, 0))
        pixels = torch.from_numpy(np.pad(image, padding)).to(self._device).permute(2, 0, 1).float().div(255)
        raw: dict[str, Tensor] = self._network([pixels])[0]
        return {key: raw[key] for key in ("boxes", "labels", "scores")}


class RcnnDetector(TorchvisionDetector):
    """A Mask R-CNN or Faster R-CNN of torchvision, whose ``forward`` is replaced by faster steps.

    Photos are resized by OpenCV, and masks within their boxes: torchvision's dense ``(n, h, w)`` masks are never made.

    Args:
        network: with its weights loaded.
        labels: see :class:`TorchvisionDetector`.
        min_score: see there.
        device: see there.
        thresholds: see there.
        flip: average with the detections of the mirrored photo: better, and takes almost twice as long.
        dtype: of the network's arithmetic, coordinates and scores excepted. None: float16 on CUDA, otherwise float32.
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
        self._flip, self._dtype = flip, dtype or (fast_dtype(device) if self._device_type != "cpu" else torch.float32)
        if self._dtype != torch.float32:
            float32_outputs(network)
        transform = network.transform
        self._min_px, self._max_px = int(max(transform.min_size)), int(transform.max_size)
        self._mean, self._std = 255 * torch.tensor(transform.image_mean), 255 * torch.tensor(transform.image_std)

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

    def _input(self, image: Image, size: tuple[int, int]) -> Tensor:
        """Resize, normalize and pad an image, ``(1, 3, h, w)``; the padding has the value of the mean."""
        height, width = size
        batch = torch.zeros(1, -height // _STRIDE * -_STRIDE, -width // _STRIDE * -_STRIDE, 3)
        resized = torch.from_numpy(_resize(image, size))
        torch.sub(resized, self._mean, out=batch[0, :height, :width]).div_(self._std)
        return batch.to(self._device).permute(0, 3, 1, 2)  # which makes it channels-last

    def _propose(self, batch: Tensor, size: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the features of a photo and its proposals ``(k, 4)``."""
        features = self._network.backbone(batch)
        if isinstance(features, Tensor):
            features = {"0": features}
        (proposals,), _ = self._network.rpn(ImageList(batch, [size]), features)
        return features, proposals


def scale_odds(scores: ArrayLike, threshold: ArrayLike) -> NDArray[np.float64]:
    """Divide the odds of scores in [0, 1] by those of a threshold, so that the threshold becomes 0.5.

    >>> scale_odds([0.0, 0.8, 0.9, 1.0], 0.8).round(3).tolist()
    [0.0, 0.5, 0.692, 1.0]
    """
    score, middle = np.asarray(scores, np.float64), np.asarray(threshold, np.float64)
    scaled: NDArray[np.float64] = score * (1 - middle) / np.maximum(score * (1 - middle) + (1 - score) * middle, 1e-12)
    return scaled


def mask_in_box(probabilities: NDArray[np.float32], corners: NDArray[np.float32], box: Box) -> Mask:
    """Sample a mask head's ``(m, m)`` output, which spans the real-valued corners, at the box's pixels.

    Where no pixel exceeds one half, the mask is the whole box.
    """
    side = probabilities.shape[0]
    step_x = side / max(float(corners[2] - corners[0]), 1e-3)
    step_y = side / max(float(corners[3] - corners[1]), 1e-3)
    to_grid = np.array(
        [
            [step_x, 0, (box.x1 + 0.5 - corners[0]) * step_x - 0.5],
            [0, step_y, (box.y1 + 0.5 - corners[1]) * step_y - 0.5],
        ],
        np.float64,
    )
    sampled = cv2.warpAffine(
        probabilities,
        to_grid,
        (box.width, box.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    mask: Mask = sampled > 0.5
    return mask if mask.any() else np.ones_like(mask)


def from_checkpoint(
    checkpoint: Checkpoint,
    min_score: float = 0.5,
    device: str = "cpu",
    *,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> TorchvisionDetector:
    """Build a detector from weights that describe themselves.

    Raises:
        WeightsError: the architecture is unknown or the tensors do not fit it.
    """
    labels = checkpoint.describes("labels").split("\n")
    architecture = checkpoint.describes("architecture")
    try:
        input_px = int(checkpoint.describes("input_px"))
        if not 0 <= input_px <= MAX_INPUT_PX:
            raise ValueError(f"input_px is {input_px}, at most {MAX_INPUT_PX}")  # noqa: TRY301
        _check_flip(architecture, flip=flip)
        thresholds = [float(number) for number in checkpoint.metadata.get("thresholds", "").split()]
        build = partial(build_network, architecture, len(labels), input_px or None)
        check_fits(build, checkpoint.tensors, f"{checkpoint.name} does not fit its architecture")
        network = build()
        network.load_state_dict(checkpoint.tensors)
        dtype = dtype or _dtype_of(architecture, device)
        return _detector(network, labels, min_score, device, thresholds, flip=flip, dtype=dtype)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{checkpoint.name} does not fit its architecture: {reason}") from error


def from_torchvision(
    architecture: str, min_score: float = 0.5, device: str = "cpu", *, flip: bool = False
) -> TorchvisionDetector:
    """Build one of torchvision's detectors with its own COCO weights, downloaded on first use.

    Raises:
        ValueError: torchvision has no such architecture, or it cannot flip.
        WeightsError: the weights are damaged, or neither in torchvision's cache nor can be downloaded.
    """
    if architecture not in TORCHVISION + ONE_STAGE:
        raise ValueError(
            f"{architecture!r} is not one of torchvision's detectors; they are {', '.join(TORCHVISION + ONE_STAGE)}"
        )
    _check_flip(architecture, flip=flip)
    coco = get_model_weights(architecture).DEFAULT
    categories = coco.meta["categories"]  # the first is the background
    network = build_network(architecture, len(categories) - 1)
    try:
        network.load_state_dict(weights.read_torchvision(coco))
    except OSError as error:
        raise WeightsError(
            f"torchvision's weights for {architecture} cannot be downloaded ({error}); name your own with"
            " --detector-weights, or use maskrcnn_mobilenet_v2, whose weights are shipped"
        ) from error
    labels = [name if name in COCO_LABELS else None for name in categories[1:]]
    return _detector(network, labels, min_score, device, flip=flip, dtype=_dtype_of(architecture, device))


def read_detector(
    path: Path, min_score: float = 0.5, device: str = "cpu", *, flip: bool = False
) -> TorchvisionDetector:
    """Build a detector from a checkpoint file that ``weights.save`` wrote."""
    return from_checkpoint(weights.read(path), min_score, device, flip=flip)


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
    if isinstance(network, GeneralizedRCNN):
        _prepare_for_inference(network, device, dtype)
        return RcnnDetector(network, labels, min_score, device, thresholds, flip=flip, dtype=dtype)
    keep_memory()
    return TorchvisionDetector(network.requires_grad_(requires_grad=False), labels, min_score, device, thresholds)


def _prepare_for_inference(network: GeneralizedRCNN, device: str, dtype: torch.dtype) -> None:
    """Make a network fast, in place; it can no longer be trained."""
    keep_memory()
    fold_batch_norms(network)
    network.eval().requires_grad_(requires_grad=False).to(device, memory_format=torch.channels_last)
    if isinstance(network.backbone, MobileNetV2FPN):
        network.backbone.body = in_precision(network.backbone.body, dtype)
    if torch.device(device).type != "cpu":
        return
    heads = network.roi_heads
    if dtype != torch.float32:  # a product this wide may be summed in other steps by another number of threads
        heads.box_head = InPrecision(heads.box_head, torch.float32)
    if heads.mask_predictor is not None:
        heads.mask_predictor = InParts(nn.Sequential(heads.mask_head, heads.mask_predictor), _MASKS_AT_ONCE)
        heads.mask_head = nn.Identity()


def _resize(image: Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize as torchvision does, but average the pixels of a photo that becomes much smaller."""
    height, width = size
    if image.shape[:2] == size:
        return image.astype(np.float32)
    if max(height / image.shape[0], width / image.shape[1]) < _MIN_BILINEAR_SCALE:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
