"""Pictures, and random networks that tell them apart."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD, Normalise


def random_images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 5, 4, 3), np.uint8)
    return [cv2.resize(block, (60, 80), interpolation=cv2.INTER_NEAREST) for block in blocks]


def settled(network: torch.nn.Module, side: int) -> torch.nn.Module:
    """Calibrate the batch norm of a random network, so that its outputs differ from image to image."""
    images = [cv2.resize(image, (side, side)) for image in random_images(8, seed=1)]
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(Normalise(IMAGENET_MEAN, IMAGENET_STD)(images))
    return network.eval()


def shop_photo(colour: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A garment of one colour and a hand of another on a white background."""
    photo = np.full((90, 60, 3), 255, np.uint8)
    photo[15:75, 10:50] = colour
    photo[60:75, 40:50] = (222, 180, 150)
    noise = np.random.default_rng(seed).integers(0, 4, (60, 40, 3), np.uint8)
    photo[15:75, 10:50] -= np.minimum(noise, photo[15:75, 10:50])
    return photo
