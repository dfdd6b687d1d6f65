"""Train a shipped detector further, on street photos, product photos and photos of single garments together.

    python scripts/train_detector.py RUN --street runs/ccp/train.json DATA/ccp/photos \
        --products runs/products/instances.json runs/products --clothing runs/clothing-all/instances.json DATA/clothing/images

The two last sets come from scripts/recipes/shop_photos.py. Of the samples, 62 % are street photos, some with garments of
other photos pasted in; 20 % are mosaics of four single garments, which cost as much as one photo; 18 % are single
garments. Product photos get another ground than white now and then, and another width. A run that was killed continues
when the command is given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

import weights
from pipeline.training import keep_plan
from stages.detect.coco import read_annotations
from stages.detect.networks import build_network
from stages.detect.training import (
    DetectorRecipe,
    DetectorTrainer,
    Draw,
    LabelledPhotos,
    Scene,
    Target,
    TrainingSet,
    freeze_first_blocks,
    jitter,
    paste,
    recolour,
    start_from,
    to_target,
)
from stages.training import fastest_precision
from stages.types import LABELS, Image

STREET, MOSAICS = 0.62, 0.20
PASTED = 0.4
ABOUT = (
    "Clothing Co-Parsing (Apache-2.0), clothing-dataset (CC0), Fashion Product Images Small (stated as MIT by its"
    " publisher), rendered scenes"
)
STREET_WEIGHTS = {"scarf": 2.0, "belt": 1.5, "shorts": 2.2, "skirt": 1.4, "hat": 1.5, "hosiery": 1.4, "dress": 1.2}
PRODUCT_WEIGHTS = {
    "outerwear": 2.5, "dress": 6.0, "skirt": 6.0, "scarf": 5.0, "hosiery": 2.5, "shorts": 2.5, "hat": 2.5, "belt": 1.5,
    "pants": 1.2, "eyewear": 1.3, "shoes": 0.6, "top": 0.55,
}  # fmt: skip
CLOTHING_WEIGHTS = {
    "top": 0.7, "pants": 0.9, "dress": 1.2, "skirt": 2.2, "hat": 2.0, "shorts": 1.3, "outerwear": 1.3, "shoes": 0.8,
}  # fmt: skip
OFTEN_PASTED = ("scarf", "belt", "hosiery", "bag", "skirt", "hat", "shorts")

PAIR = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option("--street", nargs=2, type=PAIR, required=True, metavar="ANNOTATIONS PHOTOS")
@click.option("--products", nargs=2, type=PAIR, required=True, metavar="ANNOTATIONS PHOTOS")
@click.option("--clothing", nargs=2, type=PAIR, required=True, metavar="ANNOTATIONS PHOTOS")
@click.option("--architecture", default="maskrcnn_mobilenet_v2", show_default=True)
@click.option("--start", default="maskrcnn_mobilenet_v2", show_default=True)
@click.option("--photos", default=2800, show_default=True, help="Length of the run.")
@click.option("--train-px", default=544, show_default=True, help="Long side in training.")
@click.option("--input-px", default=608, show_default=True, help="Long side that the weights are used with.")
@click.option("--seed", default=7, show_default=True)
def main(
    run: Path,
    street: tuple[Path, Path],
    products: tuple[Path, Path],
    clothing: tuple[Path, Path],
    architecture: str,
    start: str,
    photos: int,
    train_px: int,
    input_px: int,
    seed: int,
) -> None:
    """Train into the folder RUN, whose weights.safetensors scripts/ship_detector.py calibrates and ships."""
    torch.manual_seed(seed)
    network = build_network(architecture, len(LABELS), train_px)
    start_from(network, architecture, start, LABELS)
    freeze_first_blocks(network)
    network.roi_heads.fg_bg_sampler.batch_size_per_image = 96
    network.to(memory_format=torch.channels_last)
    data = Mixture(*(open_photos(*pair) for pair in (street, products, clothing)), photos, train_px, seed)
    recipe = DetectorRecipe(
        rounds=1,
        lr=2.5e-4,
        lr_backbone=6.25e-5,
        warmup_steps=60,
        ema=0.997,
        seed=seed,
        precision=fastest_precision("cpu"),
    )
    keep_plan(run, asdict(recipe) | {"architecture": architecture, "photos": photos, "train_px": train_px})
    trainer = DetectorTrainer(network, data, recipe, run)
    for line in trainer.run():
        click.echo(" ".join(f"{name} {value:g}" for name, value in line.items()))
    metadata = {
        "architecture": architecture,
        "labels": "\n".join(LABELS),
        "input_px": str(input_px),
        "mean": " ".join(map(str, network.transform.image_mean)),
        "std": " ".join(map(str, network.transform.image_std)),
        "crop": "none",
        "data": ABOUT,
        "seed": str(seed),
    }
    with trainer.averaged():
        weights.save(run / "weights.safetensors", network.state_dict(), metadata)


def open_photos(annotations: Path, photos: Path) -> LabelledPhotos:
    """Return the photos of a COCO file."""
    return LabelledPhotos(read_annotations(annotations, photos), photos)


class Mixture(TrainingSet):
    """Street photos, mosaics and single garments; a sample is a function of the seed and its position.

    Args:
        street: photos of people.
        products: photos of one product on white.
        clothing: photos of one garment on any ground.
        photos: how many samples a run has.
        input_px: the longest side of a sample.
        seed: of everything random.
    """

    def __init__(
        self,
        street: LabelledPhotos,
        products: LabelledPhotos,
        clothing: LabelledPhotos,
        photos: int,
        input_px: int,
        seed: int,
    ) -> None:
        super().__init__([street, products, clothing], input_px, seed)
        self._photos = photos
        self._street, self._products, self._clothing = (
            (source, shares(source, by_label))
            for source, by_label in (
                (street, STREET_WEIGHTS), (products, PRODUCT_WEIGHTS), (clothing, CLOTHING_WEIGHTS),
            )
        )  # fmt: skip
        self._odds = np.array([0.35, *(0.7 if label in OFTEN_PASTED else 0.35 for label in LABELS)])

    @property
    def draws_per_round(self) -> int:
        """How many samples the run has."""
        return self._photos

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Target]:
        rng = np.random.default_rng((self._seed, draw[0]))
        choice = rng.random()
        if choice < STREET:
            scene = jitter(drawn(*self._street, rng), self._input_px, rng)
            if rng.random() < PASTED:
                scene = paste(scene, self._to_paste(rng), self._odds, rng)
        elif choice < STREET + MOSAICS:
            scene = self._mosaic(rng)
        else:
            scene = self._single(self._input_px, rng)
        return to_target(Scene(recolour(scene.image, rng), scene.masks, scene.labels))

    def _to_paste(self, rng: Generator) -> Scene:
        if rng.random() < 0.35:
            return self._single(int(self._input_px * rng.uniform(0.4, 0.9)), rng)
        return jitter(drawn(*self._street, rng), self._input_px, rng)

    def _single(self, input_px: int, rng: Generator) -> Scene:
        if rng.random() < 0.6:
            scene = drawn(*self._products, rng)
            scene = Scene(grounded(scene.image, rng), scene.masks, scene.labels) if rng.random() < 0.35 else scene
        else:
            scene = drawn(*self._clothing, rng)
        return jitter(squeezed(scene, rng) if rng.random() < 0.3 else scene, input_px, rng)

    def _mosaic(self, rng: Generator) -> Scene:
        side = self._input_px // 2
        image = np.full((self._input_px, self._input_px, 3), rng.integers(120, 256), np.uint8)
        masks, labels = [np.zeros((0, *image.shape[:2]), np.uint8)], [np.zeros(0, np.int64)]
        for y, x in ((0, 0), (0, side), (side, 0), (side, side)):
            scene = self._single(side, rng)
            height, width = scene.image.shape[:2]
            image[y : y + height, x : x + width] = scene.image
            seen = scene.masks.sum((1, 2), dtype=np.int64) >= 40
            moved = np.zeros((int(seen.sum()), *image.shape[:2]), np.uint8)
            moved[:, y : y + height, x : x + width] = scene.masks[seen]
            masks.append(moved)
            labels.append(scene.labels[seen])
        return Scene(image, np.concatenate(masks), np.concatenate(labels))


def shares(source: LabelledPhotos, by_label: dict[str, float]) -> NDArray[np.float64]:
    """Return how often each photo is drawn, by the rarest of its labels."""
    wanted = [
        max((by_label.get(LABELS[label - 1], 1.0) for label in source.labels(place)), default=0.5)
        for place in range(len(source))
    ]
    return np.array(wanted) / np.sum(wanted)


def drawn(source: LabelledPhotos, odds: NDArray[np.float64], rng: Generator) -> Scene:
    """Return a photo, drawn by the odds."""
    return source[int(rng.choice(len(odds), p=odds))]


def grounded(image: Image, rng: Generator) -> Image:
    """Return a photo with another ground than white, brighter to one side; as it is where little of it is ground."""
    _, pieces = cv2.connectedComponents((image.min(2) >= 238).astype(np.uint8))
    border = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    ground = np.isin(pieces, border[border > 0])
    if ground.mean() <= 0.1:
        return image
    colour = rng.uniform(60, 250, 3) * 0.35 + rng.uniform(90, 250) * 0.65
    light = 1 + 0.15 * np.linspace(-1, 1, image.shape[0])[:, None, None] * rng.uniform(-1, 1)
    soft = cv2.GaussianBlur(ground.astype(np.float32), (3, 3), 0)[..., None]
    return np.asarray(np.clip(image * (1 - soft) + colour * light * soft, 0, 255), np.uint8)


def squeezed(scene: Scene, rng: Generator) -> Scene:
    """Return a photo with another width."""
    height, width = scene.image.shape[:2]
    size = max(16, round(width * float(np.exp(rng.uniform(-0.28, 0.28))))), height
    masks: Sequence[NDArray[np.uint8]] = [
        np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8) for mask in scene.masks
    ]
    stacked = np.stack(masks) if masks else np.zeros((0, height, size[0]), np.uint8)
    return Scene(np.asarray(cv2.resize(scene.image, size), np.uint8), stacked, scene.labels)


if __name__ == "__main__":
    main()
