"""Augmentation of annotated photos: scale, crop, rotation, flip, colour, and garments pasted from other photos.

Large-scale jitter and copy-paste: Ghiasi et al., *Simple Copy-Paste Is a Strong Data Augmentation Method for
Instance Segmentation*, CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.types import Image

SCALES = (0.6, 1.7)
"""The smallest and largest scale of a photo, relative to the scale at which it fits the input."""

_VISIBLE = 0.15  # the share of a garment that has to stay visible; others are dropped


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
