"""The baseline of ``benchmark_speed.py``: visual search as a tutorial would write it, with the same weights.

One photo at a time, decoded at full size; torchvision's detector in float32, its masks pasted to the size of the photo;
a call of the embedder for each crop; a search of the gallery for each garment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage
from PIL import ImageOps
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms.functional import to_tensor

from pipeline.gallery import Gallery
from pipeline.search import Garment, PhotoResult
from stages.crop import BoxCrop
from stages.detect.adapter import scale_odds
from stages.detect.networks import LEVELS, MobileNetV2FPN, build_network
from stages.embed.attributes import Probabilities
from stages.embed.classifier import AttributeEmbedder, AttributeNetwork, values_of
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.layers import IMAGENET_STATS
from stages.embed.network import read_network
from stages.embed.siamese import stats_of
from stages.timing import timed
from stages.types import Box, Detection, Image, Mask, Vectors
from weights import Checkpoint

MIN_SCORE = 0.5


class Naive:
    """A tutorial's visual search.

    Args:
        detector: weights of a shipped detection network.
        looks: weights of the Siamese network that the gallery was embedded by.
        attributes: weights of the classifier of attributes beside it.
        gallery: to search.
        k: matches per garment.
    """

    def __init__(
        self, detector: Checkpoint, looks: Checkpoint, attributes: Checkpoint, gallery: Gallery, k: int = 5
    ) -> None:
        self._labels = detector.describes("labels").split("\n")
        self._thresholds = np.array([float(number) for number in detector.metadata["thresholds"].split()])
        self._detector = _plain_detector(detector).eval()
        self._embed = AttributeEmbedder(_PlainEmbedder(looks), _PlainClassifier(attributes))
        self._gallery, self._k = gallery, k

    @torch.no_grad()
    def __call__(self, path: Path) -> tuple[PhotoResult, Vectors]:
        """Return the garments of a photo with their matches, and their vectors."""
        with timed("decode"):
            opened = ImageOps.exif_transpose(PillowImage.open(path)).convert("RGB")
            image = np.asarray(opened)
        with timed("detect"):
            found = self._detector([to_tensor(opened)])[0]
        garments, vectors = [], []
        for detection in self._detections(found, image):
            with timed("crop"):
                crop = BoxCrop()([image], [[detection]])[0][0]
            with timed("embed"):
                vector = self._embed([crop.image])
            with timed("search"):
                (matches,) = self._gallery.search(vector, self._k)
            garments.append(Garment(detection.label, detection.score, detection.box, detection.mask, tuple(matches)))
            vectors.append(vector[0])
        height, width = image.shape[:2]
        return PhotoResult(str(path), width, height, tuple(garments)), np.array(vectors, np.float32)

    def _detections(self, found: dict[str, Tensor], image: Image) -> list[Detection]:
        labels = found["labels"].numpy() - 1
        scores = scale_odds(found["scores"].numpy(), self._thresholds[labels])
        height, width = image.shape[:2]
        detections = []
        for place, score in enumerate(scores.tolist()):
            x1, y1, x2, y2 = found["boxes"][place].tolist()
            box = Box.clipped(x1, y1, x2, y2, width=width, height=height)
            if score >= MIN_SCORE and box is not None:
                mask = self._mask(found, place, box)
                detections.append(Detection(self._labels[labels[place]], score, box, mask))
        return detections

    def _mask(self, found: dict[str, Tensor], place: int, box: Box) -> Mask | None:
        if "masks" not in found:
            return None
        mask: Mask = found["masks"][place, 0].numpy()[box.slices] > 0.5
        return mask


class _PlainEmbedder:
    """A Siamese network as it was trained, in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._network = read_network(checkpoint).eval()
        self._normalise = Normalise(*stats_of(checkpoint))
        self.dim, self.input_px = self._network.dim, self._network.design.input_px
        self.fingerprint = checkpoint.sha256

    def __call__(self, images: Sequence[Image]) -> Vectors:
        design = self._network.design
        vectors: Vectors = self._network(
            letterboxed(images, design.input_px, self._normalise, trim=design.trim)
        ).numpy()
        return vectors


class _PlainClassifier:
    """A classifier of attributes as it was trained, in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.values, self.least = values_of(checkpoint)
        backbone = checkpoint.describes("architecture").removeprefix("attributes-")
        self._network = AttributeNetwork(backbone, self.values).eval()
        self._network.load_state_dict(checkpoint.tensors)
        self._normalise, self.input_px = Normalise(*IMAGENET_STATS), int(checkpoint.describes("input_px"))
        self.fingerprint = checkpoint.sha256

    def __call__(self, images: Sequence[Image]) -> dict[str, Probabilities]:
        logits = self._network(letterboxed(images, self.input_px, self._normalise, trim=True))
        return {name: each.softmax(dim=1).numpy() for name, each in logits.items()}


class _PlainBackbone(nn.Module):
    """The backbone without fused layers, as torchvision builds it."""

    def __init__(self, ours: MobileNetV2FPN) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = ours.body, ours.fpn, ours.out_channels

    def forward(self, x: Tensor) -> Any:
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for block, layer in enumerate(self.body):
            x = layer(x)
            if block in LEVELS:
                maps[str(len(maps))] = x
        return self.fpn(maps)


def _plain_detector(checkpoint: Checkpoint) -> GeneralizedRCNN:
    """Build the checkpoint's network from torchvision's parts where ours replace them."""
    labels = checkpoint.describes("labels").split("\n")
    network = build_network(checkpoint.describes("architecture"), len(labels), int(checkpoint.describes("input_px")))
    network.load_state_dict(checkpoint.tensors)
    backbone = network.backbone
    assert isinstance(backbone, MobileNetV2FPN)
    network.backbone = _PlainBackbone(backbone)
    names = [str(place) for place in range(len(LEVELS))]
    network.roi_heads.box_roi_pool = MultiScaleRoIAlign(names, 7, 2)
    if network.roi_heads.has_mask():
        network.roi_heads.mask_roi_pool = MultiScaleRoIAlign(names, 14, 2)
    paste = network.transform.postprocess

    def timed_paste(*arguments: Any) -> Any:
        with timed("mask"):
            return paste(*arguments)

    network.transform.postprocess = timed_paste
    return network
