"""Training of detection networks on annotated photos: augmentation, data, trainer and starting weights.

Large-scale jitter and copy-paste: Ghiasi et al., *Simple Copy-Paste Is a Strong Data Augmentation Method for
Instance Segmentation*, CVPR 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import weights
from stages.checkpoints import copy_fitting, read_start
from stages.detect import OURS
from stages.detect.annotations import Annotations
from stages.detect.networks import MobileNetV2FPN, float32_outputs
from stages.errors import CatalogueError, ImageError, WeightsError
from stages.images import read_image
from stages.training import Recipe, Trainer, ahead
from stages.types import Image

Target = dict[str, Tensor]
Batch = tuple[list[Tensor], list[Target]]
Draw = tuple[int, int]
"""A position in the run, which seeds the augmentation, and the index of the photo drawn there."""

IMAGENET, COCO = "imagenet", "coco"

SCALES = (0.6, 1.7)
"""The smallest and largest scale of a photo, relative to the scale at which it fits the input."""

_VISIBLE = 0.15  # the share of a garment that has to stay visible; others are dropped
_FROZEN_BLOCKS = 4  # of MobileNetV2, up to stride 4: their gradients cost most and change least
_MIN_SIDE_PX = 4  # instances that are smaller after augmentation are dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorRecipe(Recipe):
    """The settings of a detector's training, with defaults that differ from :class:`~stages.training.Recipe`.

    Attributes:
        rounds: how often each photo is drawn on average; photos with rare labels are drawn more often.
        batch_size: photos in a batch.
    """

    rounds: float = 12
    batch_size: int = 4
    lr: float = 4e-4
    lr_backbone: float = 1e-4
    weight_decay: float = 0.03
    warmup_steps: int = 200
    ema: float = 0.998
    max_norm: float = 10.0
    precision: str = "bfloat16"


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A photo with the masks ``(n, h, w)`` uint8 of 0 and 1 and the labels ``(n,)`` int64, from 1, of its garments."""

    image: Image
    masks: NDArray[np.uint8]
    labels: NDArray[np.int64]


def jitter(scene: Scene, input_px: int, rng: np.random.Generator) -> Scene:
    """Scale, crop, slightly rotate and randomly flip a scene, to sides of at most ``input_px``."""
    height, width = scene.image.shape[:2]
    scale = input_px / max(height, width) * float(np.exp(rng.uniform(*np.log(SCALES))))
    out_h, out_w = (min(input_px, max(64, round(side * scale))) for side in (height, width))
    turn = np.deg2rad(rng.normal(0, 4))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[flip * cos, -sin], [flip * sin, cos]])
    spare = np.array([width * scale - out_w, height * scale - out_h])
    centre = np.array([out_w, out_h]) / 2 - spare * rng.uniform(-0.5, 0.5, 2)
    offset = centre - linear @ (np.array([width, height]) / 2)
    warp = np.hstack([linear, offset[:, None]])
    ground = tuple(map(float, scene.image.reshape(-1, 3)[:: max(1, height * width // 1000)].mean(0)))
    shrunk: Image = scene.image
    warp_image = warp
    if scale < 0.75:  # warpAffine does not average, so shrink first
        shrunk = np.asarray(cv2.resize(scene.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        back = np.array([width / shrunk.shape[1], height / shrunk.shape[0]])
        warp_image = np.hstack([linear * back, offset[:, None]])
    size = (out_w, out_h)
    image = np.asarray(cv2.warpAffine(shrunk, warp_image, size, flags=cv2.INTER_LINEAR, borderValue=ground), np.uint8)
    masks = np.zeros((len(scene.masks), out_h, out_w), np.uint8)
    for mask, into in zip(scene.masks, masks, strict=True):
        cv2.warpAffine(mask, warp, size, dst=into, flags=cv2.INTER_NEAREST)
    return Scene(image, masks, scene.labels)


def paste(scene: Scene, other: Scene, odds: NDArray[np.float64], rng: np.random.Generator) -> Scene:
    """Paste garments of one scene onto another, with soft edges.

    Args:
        scene: to paste onto; its garments that become covered are dropped.
        other: the source of the garments, at the size that they are pasted in.
        odds: ``(labels + 1,)``, the probability that a garment of each label is pasted.
        rng: chooses the garments and their place.
    """
    chosen = rng.random(len(other.labels)) < odds[other.labels]
    if not chosen.any():
        return scene
    size = scene.image.shape[1], scene.image.shape[0]
    shift = rng.uniform(-0.25, 0.25, 2) * size + (np.array(size) - other.image.shape[1::-1]) / 2
    move = np.array([[1, 0, round(shift[0])], [0, 1, round(shift[1])]], np.float64)
    pasted = [cv2.warpAffine(mask, move, size, flags=cv2.INTER_NEAREST) for mask in other.masks[chosen]]
    union = np.max(pasted, axis=0)
    if not union.any():
        return scene
    alpha = cv2.GaussianBlur(union.astype(np.float32), (0, 0), 1.0)[:, :, None]
    moved = cv2.warpAffine(other.image, move, size)
    image: Image = (scene.image * (1 - alpha) + moved * alpha).astype(np.uint8)
    left = scene.masks * (1 - union)
    before, after = (masks.sum((1, 2), dtype=np.int64) for masks in (scene.masks, left))
    seen = after > _VISIBLE * before
    return Scene(
        image,
        np.concatenate([left[seen], np.asarray(pasted, np.uint8)]),
        np.concatenate([scene.labels[seen], other.labels[chosen]]),
    )


def recolour(image: Image, rng: np.random.Generator) -> Image:
    """Vary the exposure, white balance, saturation and contrast of an image; sometimes blur it, add noise or make it grey."""
    values = image.astype(np.float32) / 255
    values = np.clip(values, 0, 1) ** float(np.exp(rng.normal(0, 0.2)))
    values *= np.exp(rng.normal(0, 0.07, 3)).astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.15)))
    grey = values.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.05 else float(np.exp(rng.normal(0, 0.25)))
    values = grey + (values - grey) * saturation
    values = (values - values.mean()) * float(np.exp(rng.normal(0, 0.15))) + values.mean()
    if rng.random() < 0.15:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), rng.uniform(0.5, 1.5)), np.float32)
    if rng.random() < 0.15:
        values += rng.normal(0, rng.uniform(0.01, 0.05), values.shape).astype(np.float32)
    recoloured: Image = np.clip(values * 255, 0, 255).astype(np.uint8)
    return recoloured


class LabelledPhotos:
    """The photos of an annotation file as scenes, read from ``folder`` on access."""

    def __init__(self, annotations: Annotations, folder: Path) -> None:
        self._photos, self._folder = annotations.photos, folder

    def __len__(self) -> int:
        return len(self._photos)

    def labels(self, place: int) -> set[int]:
        """Return the labels in a photo, from 1, without reading it."""
        return {instance.label for instance in self._photos[place].instances}

    def __getitem__(self, place: int) -> Scene:
        """Read one photo.

        Raises:
            ImageError: it cannot be read.
        """
        photo = self._photos[place]
        labels = np.array([instance.label for instance in photo.instances], np.int64)
        return Scene(read_image(self._folder / photo.file_name), photo.masks(), labels)


class TrainingSet:
    """Augmented scenes from several sources; a sample depends only on the seed and the draw.

    Args:
        sources: of the photos.
        input_px: the longest side after augmentation.
        seed: of everything random.
        rare: the share of photos below which photos with a label are drawn more often; 0: all are drawn equally often.
        paste: the share of scenes into which garments of another photo are pasted.
    """

    def __init__(
        self, sources: Sequence[LabelledPhotos], input_px: int, seed: int, rare: float = 0.0, paste: float = 0.0
    ) -> None:
        self._places = [(source, place) for source in sources for place in range(len(source))]
        self._input_px, self._seed, self._paste = input_px, seed, paste
        labels = [source.labels(place) for source, place in self._places]
        factors = repeat_factors(labels, rare)
        self.repeats = np.array([max((factors[label] for label in each), default=1.0) for each in labels])
        self._odds = np.zeros(1 + max(factors, default=0))
        for label, factor in factors.items():
            self._odds[label] = min(0.8, 0.3 * factor)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def draws_per_round(self) -> int:
        """The average number of draws in a round."""
        return round(float(self.repeats.sum()))

    def draws(self, start: int = 0) -> Iterator[Draw]:
        """Yield endless draws from a position on, in shuffled rounds in which each photo appears as often as it repeats."""
        position = 0
        for number in itertools.count():
            rng = np.random.default_rng((self._seed, number))
            times = np.floor(self.repeats + rng.random(len(self))).astype(int)
            for place in rng.permutation(np.repeat(np.arange(len(self)), times)):
                if position >= start:
                    yield position, int(place)
                position += 1

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Target]:
        position, place = draw
        rng = np.random.default_rng((self._seed, position))
        scene = self._view(place, rng)
        if rng.random() < self._paste:
            other = int(rng.choice(len(self), p=self.repeats / self.repeats.sum()))
            scene = paste(scene, self._view(other, rng), self._odds, rng)
        return to_target(Scene(recolour(scene.image, rng), scene.masks, scene.labels))

    def _view(self, place: int, rng: np.random.Generator) -> Scene:
        """Return an augmented photo, or the next one if it cannot be read."""
        for other in range(len(self)):
            source, within = self._places[(place + other) % len(self)]
            with suppress(ImageError):
                return jitter(source[within], self._input_px, rng)
        raise CatalogueError("none of the photos can be read; were they moved since training started?")


def repeat_factors(labels: Sequence[set[int]], rare: float) -> dict[int, float]:
    """Return how often photos with each label are drawn: ``max(1, sqrt(rare / f))`` for a label in a share f of photos.

    Repeat-factor sampling: Gupta, Dollár, Girshick, *LVIS*, CVPR 2019.

    >>> repeat_factors([{1}, {1}, {1}, {1, 2}], rare=1.0)
    {1: 1.0, 2: 2.0}
    """
    share = {label: sum(label in each for each in labels) / len(labels) for label in sorted(set().union(*labels))}
    return {label: max(1.0, (rare / share[label]) ** 0.5) for label in share}


def to_target(scene: Scene) -> tuple[Tensor, Target]:
    """Convert a scene for torchvision's detectors: the image ``(3, h, w)`` in [0, 1]; boxes, labels and masks."""
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


class DetectorTrainer(Trainer[Batch]):
    """Trains a detection network in place, except for parameters without gradients; a resumed run needs the same recipe."""

    def __init__(self, network: GeneralizedRCNN, data: TrainingSet, recipe: DetectorRecipe, folder: Path) -> None:
        self._network, self._data, self._batch_size = network, data, recipe.batch_size
        float32_outputs(network)
        self._unresized = _Unresized(network.transform)
        self.steps_per_round = data.draws_per_round / recipe.batch_size
        steps = max(1, round(recipe.rounds * self.steps_per_round))
        super().__init__(network, _groups(network, recipe), recipe, steps, folder)

    def progress(self, step: int) -> dict[str, float]:
        """Return the number of finished rounds."""
        return {"round": round(step / self.steps_per_round, 3)}

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of some steps."""
        cv2.setNumThreads(1)  # leaves the cores to the network
        draws = self._data.draws(start * self._batch_size)
        chunks = (list(itertools.islice(draws, self._batch_size)) for _ in range(start, stop))
        yield from ahead(self._batch, chunks, workers)

    def _batch(self, draws: list[Draw]) -> Batch:
        images, targets = zip(*(self._data[draw] for draw in draws), strict=True)
        return list(images), list(targets)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of the network's losses, and each of them."""
        network = self._network.train()
        images = [image.to(self.device) for image in batch[0]]
        targets = [{key: value.to(self.device) for key, value in target.items()} for target in batch[1]]
        resizing, network.transform = network.transform, self._unresized
        try:
            with self.autocast():
                losses: dict[str, Tensor] = network(images, targets)
        finally:
            network.transform = resizing
        return torch.stack(list(losses.values())).sum(), {name: value.item() for name, value in losses.items()}


class _Unresized(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Normalizes and pads images without resizing them, since the augmentation did."""

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        size = transform.min_size, transform.max_size
        super().__init__(*size, transform.image_mean, transform.image_std, transform.size_divisible)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        return image, target


def _groups(network: GeneralizedRCNN, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the trainable parameters of the backbone and of the heads, with their learning rates."""
    backbone: list[torch.nn.Parameter] = []
    heads: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (backbone if name.startswith("backbone.body") else heads).append(parameter)
    return [{"params": backbone, "lr": recipe.lr_backbone}, {"params": heads, "lr": recipe.lr}]


def start_from(network: GeneralizedRCNN, architecture: str, start: str, labels: Sequence[str]) -> list[str]:
    """Copy all starting weights that fit a network into it; the rest stays random.

    Args:
        network: changed in place.
        architecture: its name.
        start: ``imagenet`` or ``coco`` for torchvision's weights (downloaded on first use), the name of a shipped
            checkpoint, or a safetensors file: a detector's checkpoint, or an ImageNet classifier with torchvision's names.
        labels: of the network; the predictors of a checkpoint with other labels are not copied.

    Returns:
        The names of the tensors that stay random.

    Raises:
        ValueError: there are no such weights for the architecture.
        WeightsError: they cannot be read or downloaded, or none of them fits.
    """
    error = f"nothing in {start} fits {architecture}; name an ImageNet classifier of its backbone instead"
    return copy_fitting(network, _start_tensors(architecture, start, labels), error)


def freeze_first_blocks(network: GeneralizedRCNN) -> None:
    """Freeze the first blocks of our backbone; torchvision's networks freeze their own."""
    if isinstance(network.backbone, MobileNetV2FPN):
        for block in network.backbone.body[:_FROZEN_BLOCKS]:
            block.requires_grad_(requires_grad=False)


def _start_tensors(architecture: str, start: str, labels: Sequence[str]) -> dict[str, Tensor]:
    if start in (IMAGENET, COCO):
        return _torchvision_tensors(architecture, start)
    checkpoint = read_start(start, (IMAGENET, COCO))
    if not any(name.startswith("backbone.") for name in checkpoint.tensors):  # a classifier
        return {f"backbone.body.{name.removeprefix('features.')}": value for name, value in checkpoint.tensors.items()}
    if checkpoint.metadata.get("labels") == "\n".join(labels):
        return checkpoint.tensors
    return {name: value for name, value in checkpoint.tensors.items() if "_predictor." not in name}


def _torchvision_tensors(architecture: str, start: str) -> dict[str, Tensor]:
    if start == COCO and architecture in OURS:
        raise ValueError(f"there are no COCO weights for {architecture}; start from {IMAGENET} or a file")
    backbone = next(name for name in ("mobilenet_v2", "mobilenet_v3_large", "resnet50") if name in architecture)
    try:
        tensors = weights.read_torchvision(get_model_weights(architecture if start == COCO else backbone).DEFAULT)
    except OSError as error:
        raise WeightsError(
            f"torchvision's {start} weights for {architecture} cannot be downloaded ({error}); name a safetensors file"
        ) from error
    if start == COCO:
        return {name: value for name, value in tensors.items() if "_predictor." not in name}
    return {f"backbone.body.{name.removeprefix('features.')}": value for name, value in tensors.items()}
