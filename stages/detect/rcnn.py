"""torchvision's R-CNN detectors behind the Detector protocol: boxes clipped, masks kept within their boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from stages.detect.coordinates import exact_coordinates
from stages.detect.flip import found_both_ways, mirror_boxes, mirror_images
from stages.detect.networks import TORCHVISION, MobileNetV2FPN, build_network
from stages.errors import WeightsError
from stages.inference import InParts, Shortened, fast_dtype, first_in_parts, fold_batch_norms, keep_memory
from stages.parallel import in_few_sizes, lanes, side_by_side
from stages.parts import part
from stages.start import check_fits
from stages.types import Box, Detection, Image, Mask, check_batch
from weights import Checkpoint

COCO_LABELS = ("person", "handbag", "tie", "backpack", "suitcase", "umbrella")
"""What is kept of COCO's labels where torchvision's own weights are used."""

MAX_INPUT_PX = 4096
"""The longest side that weights may ask for: what a network takes grows with its square."""

Size = tuple[int, int]
"""Height and width."""

_STRIDE = 32
EXACT = ("maskrcnn_mobilenet_v2",)
"""Networks that compute in float32 on a processor, but for the widest layer of their box head, a quarter of the work: in
bfloat16, of proposals that are nearly as good another one would win for one garment in forty."""

_LEAST_BILINEAR = 0.5  # below, bilinear sampling leaves pixels out
_BATCH = 4
"""Images that are run together: more bring little but take memory."""

_WIDE = 4, 1
"""Blocks of MobileNetV2 whose maps are the largest, and the images that a processor takes through them at once."""

_MASKS = 16
"""Masks that a processor computes together."""


class RcnnDetector:
    """A Mask R-CNN or Faster R-CNN of torchvision's making.

    Masks are resized within their boxes; the dense ``(n, h, w)`` paste of torchvision is never made. Images of
    one padded size are run together, so a result does not depend on the batch that it came in.

    Args:
        network: the network, its weights loaded.
        labels: the label of each class index from 1; None for a class that is left out.
        min_score: detections below it are left out.
        device: where to run.
        thresholds: for each label the network's own score that is to count as 0.5, in (0, 1); scores on either
            side follow as odds. None leaves the scores as the network gives them.
        flip: look at each image mirrored too, and average what is seen: better, and takes almost twice as long.
        dtype: what the network computes in; coordinates and scores are float32 always. None: what the device
            multiplies fastest.
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
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score lies in [0, 1], got {min_score}")
        self._names = tuple(labels)
        self._thresholds = np.asarray(thresholds or [0.5] * len(self._names), np.float64)
        if self._thresholds.shape != (len(self._names),) or not ((self._thresholds > 0) & (self._thresholds < 1)).all():
            raise ValueError(f"thresholds are one number in (0, 1) for each of {len(self._names)} labels")
        self._min_score = min_score
        self._network = network.eval().to(device, memory_format=torch.channels_last)
        # what the least of the network's scores is that can count for min_score
        self._network.roi_heads.score_thresh = float(odds_scaled(min_score, 1 - self._thresholds).min())
        self._device, self._flip, self._dtype = device, flip, dtype or fast_dtype(device)
        if self._dtype != torch.float32:
            exact_coordinates(network)
        transform = network.transform
        self._min_px, self._max_px = int(max(transform.min_size)), int(transform.max_size)
        self._mean, self._std = 255 * torch.tensor(transform.image_mean), 255 * torch.tensor(transform.image_std)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that a detection can have."""
        return tuple(name for name in self._names if name is not None)

    @property
    def input_px(self) -> int:
        """The long side that photos are looked at in."""
        return self._max_px

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """One list per image, by falling score."""
        check_batch(images)
        by_shape: dict[Size, list[int]] = defaultdict(list)
        for place, image in enumerate(images):
            by_shape[_padded(self._looked_at(image))].append(place)
        results: list[list[Detection]] = [[] for _ in images]
        size = self._at_once(len(images))
        parts = [places for alike in by_shape.values() for places in in_few_sizes(alike, size)]
        runs = side_by_side(self._run, ([images[place] for place in places] for places in parts), self._device)
        for places, found in zip(parts, runs, strict=True):
            for place, raw in zip(places, found, strict=True):
                results[place] = self._detections(raw, images[place])
        return results

    def _at_once(self, images: int) -> int:
        """How many of so many images are run together, so that each core of a processor has some."""
        return max(1, min(_BATCH, images // lanes(self._device)))

    def _looked_at(self, image: Image) -> Size:
        """The height and width that the network looks at an image in, as torchvision has them."""
        height, width = image.shape[:2]
        scale = min(self._min_px / min(height, width), self._max_px / max(height, width))
        return max(1, int(height * scale)), max(1, int(width * scale))

    @torch.inference_mode()
    def _run(self, images: list[Image]) -> list[dict[str, NDArray[np.float32]]]:
        """What the network finds in images of one padded size."""
        sizes = [self._looked_at(image) for image in images]
        batch = torch.zeros(len(images), *_padded(sizes[0]), 3)  # padded by the mean
        for image, into, (height, width) in zip(images, batch, sizes, strict=True):
            resized = torch.from_numpy(_resized(image, (height, width)))
            torch.sub(resized, self._mean, out=into[:height, :width]).div_(self._std)
        batch = batch.to(self._device).permute(0, 3, 1, 2)  # which makes it channels-last
        with torch.autocast(torch.device(self._device).type, self._dtype, enabled=self._dtype != torch.float32):
            features = self._features(batch)
            proposals, _ = self._network.rpn(ImageList(batch, sizes), features)
            if self._flip:
                flipped = mirror_images(batch, sizes)
                mirrored = self._features(flipped)
                theirs, _ = self._network.rpn(ImageList(flipped, sizes), mirrored)
                proposals = list(map(torch.cat, zip(proposals, mirror_boxes(theirs, sizes), strict=True)))
                found = found_both_ways(self._network.roi_heads, features, mirrored, proposals, sizes)
            else:
                found, _ = self._network.roi_heads(features, proposals, sizes)
        return [{key: value.cpu().numpy() for key, value in raw.items()} for raw in found]

    def _features(self, batch: Tensor) -> dict[str, Tensor]:
        features = self._network.backbone(batch)
        return {"0": features} if isinstance(features, Tensor) else features

    def _detections(self, raw: dict[str, NDArray[np.float32]], image: Image) -> list[Detection]:
        full, looked_at = image.shape[:2], self._looked_at(image)
        scale = np.array([full[1] / looked_at[1], full[0] / looked_at[0]] * 2, np.float32)
        detections = []
        scores = odds_scaled(raw["scores"], self._thresholds[raw["labels"].astype(int) - 1])
        for place, corners in enumerate(raw["boxes"] * scale):
            label, score = self._names[int(raw["labels"][place]) - 1], float(scores[place])
            x1, y1, x2, y2 = map(float, corners)
            box = Box.clipped(x1, y1, x2, y2, width=full[1], height=full[0])
            if label is None or box is None or score < self._min_score:
                continue
            with part("mask"):
                mask = mask_in_box(raw["masks"][place, 0], corners, box) if "masks" in raw else None
            detections.append(Detection(label, score, box, mask))
        return sorted(detections, key=lambda detection: -detection.score)


def odds_scaled(scores: ArrayLike, threshold: ArrayLike) -> NDArray[np.float64]:
    """Scores in [0, 1] with their odds divided by a threshold's, so that the threshold becomes 0.5.

    >>> odds_scaled([0.0, 0.8, 0.9, 1.0], 0.8).round(3).tolist()
    [0.0, 0.5, 0.692, 1.0]
    """
    score, at = np.asarray(scores, np.float64), np.asarray(threshold, np.float64)
    scaled: NDArray[np.float64] = score * (1 - at) / np.maximum(score * (1 - at) + (1 - score) * at, 1e-12)
    return scaled


def mask_in_box(probabilities: NDArray[np.float32], corners: NDArray[np.float32], box: Box) -> Mask:
    """A mask head's ``(m, m)`` output, which spans the real-valued corners, sampled at the box's pixels.

    Where no pixel passes one half, the box itself is the mask.
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
) -> RcnnDetector:
    """A detector from weights that describe themselves.

    Raises:
        WeightsError: the architecture is unknown or its tensors don't fit.
    """
    labels = checkpoint.describes("labels").split("\n")
    try:
        input_px = int(checkpoint.describes("input_px"))
        if not 0 <= input_px <= MAX_INPUT_PX:
            raise ValueError(f"input_px is {input_px}, at most {MAX_INPUT_PX}")  # noqa: TRY301
        thresholds = [float(number) for number in checkpoint.metadata.get("thresholds", "").split()]
        make = partial(build_network, checkpoint.describes("architecture"), len(labels), input_px or None)
        check_fits(make, checkpoint.tensors, f"{checkpoint.name} does not fit its architecture")
        network = make()
        network.load_state_dict(checkpoint.tensors)
        wide = dtype or fast_dtype(device)
        dtype = dtype or dtype_of(checkpoint.describes("architecture"), device)
        _quicken(network, device, dtype, wide)
        return RcnnDetector(network, labels, min_score, device, thresholds or None, flip=flip, dtype=dtype)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{checkpoint.name} does not fit its architecture: {reason}") from error


def dtype_of(architecture: str, device: str) -> torch.dtype:
    """What a network computes in: what the device multiplies fastest, but for those that are to be :data:`EXACT`."""
    exact = architecture in EXACT and torch.device(device).type == "cpu"
    return torch.float32 if exact else fast_dtype(device)


def from_torchvision(
    architecture: str, min_score: float = 0.5, device: str = "cpu", *, flip: bool = False
) -> RcnnDetector:
    """One of torchvision's detectors with its own COCO weights, downloaded on first use.

    Raises:
        ValueError: the architecture is not one of torchvision's.
        WeightsError: the weights are not in torchvision's cache and cannot be downloaded.
    """
    if architecture not in TORCHVISION:
        raise ValueError(f"{architecture!r} is not one of torchvision's; there are {', '.join(TORCHVISION)}")
    coco = get_model_weights(architecture).DEFAULT
    categories = coco.meta["categories"]  # the background is its first
    network = build_network(architecture, len(categories) - 1)
    try:
        network.load_state_dict(coco.get_state_dict(check_hash=True))
    except OSError as error:
        raise WeightsError(
            f"torchvision's weights for {architecture} cannot be downloaded ({error}); name a checkpoint of your"
            " own with --detector-weights, or use maskrcnn_mobilenet_v2, whose weights are shipped"
        ) from error
    _quicken(network, device, fast_dtype(device), fast_dtype(device))
    labels = [c if c in COCO_LABELS else None for c in categories[1:]]
    return RcnnDetector(network, labels, min_score, device, flip=flip)


def _quicken(network: GeneralizedRCNN, device: str, dtype: torch.dtype, wide: torch.dtype) -> None:
    """Make a network quick that only looks from now on; ``wide`` is what the widest layer of its box head computes in."""
    keep_memory()
    fold_batch_norms(network)
    network.eval().requires_grad_(requires_grad=False).to(device, memory_format=torch.channels_last)
    if isinstance(network.backbone, MobileNetV2FPN):
        network.backbone.body = Shortened(network.backbone.body, (), dtype)
    if torch.device(device).type == "cpu":
        _bound_memory(network)
    if wide != dtype:
        head = network.roi_heads.box_head
        head.fc6 = Shortened(nn.Sequential(head.fc6), (), wide)


def _bound_memory(network: GeneralizedRCNN) -> None:
    """Have the largest maps computed a few at a time, as quickly: memory follows neither a batch nor what is in it."""
    if isinstance(network.backbone, MobileNetV2FPN):
        first_in_parts(network.backbone.body, *_WIDE)
    heads = network.roi_heads
    if heads.mask_predictor is not None:
        heads.mask_predictor = InParts(nn.Sequential(heads.mask_head, heads.mask_predictor), _MASKS)
        heads.mask_head = nn.Identity()


def read_detector(path: Path, min_score: float = 0.5, device: str = "cpu", *, flip: bool = False) -> RcnnDetector:
    """A detector from a checkpoint file of the user's own, written by ``weights.save``."""
    from weights import read  # noqa: PLC0415

    return from_checkpoint(read(path), min_score, device, flip=flip)


def _resized(image: Image, size: Size) -> NDArray[np.float32]:
    """As torchvision does it, in value; but where little is left of a photo, its pixels are averaged."""
    height, width = size
    if image.shape[:2] == size:
        return image.astype(np.float32)
    if max(height / image.shape[0], width / image.shape[1]) < _LEAST_BILINEAR:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _padded(size: Size) -> Size:
    height, width = size
    return -height // _STRIDE * -_STRIDE, -width // _STRIDE * -_STRIDE
