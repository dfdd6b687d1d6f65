"""Train the shipped Siamese embedder, and write its weights; `outfinder evaluate embedder` judges them.

Luma's test articles are left out; all others are trained on, or half of them, and evaluated on the other half, which is how
the recipe was chosen. The same command resumes a run that was killed. Usage:

    python scripts/train_embedder.py DATA --init IMAGENET.safetensors --ccp-coco TRAIN.json --out RUN
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import cv2
import numpy as np
import torch

import public_sets
import weights
from mixed import Item, MixedSampler, in_memory
from pipeline.training import keep_plan
from stages.embed.data import Dataset, Sample, load, numbered, percentile_of
from stages.embed.losses import InfoNCE
from stages.embed.metrics import cosine, retrieve
from stages.embed.network import Design, SiameseNetwork
from stages.embed.siamese import SiameseEmbedder
from stages.embed.training import EmbedderRecipe, EmbedderTrainer, fit_colours, start_from, whiten
from stages.protocols import Embedder
from stages.training import STATE, fastest_precision
from stages.types import Image

DESIGN = Design(colour_dim=64, colour_share=0.43, trim=True)
COLOUR_SHARE = 0.35
"""The share of colours in a similarity once vectors are whitened, chosen by training on halves."""

WHITENED_BY = 800
"""At most so many photos of each kind whiten the vectors."""

TRAIN_PX = 176
"""Views are zoomed in while training, which a larger input afterwards makes up for (Touvron et al. 2019)."""

KEPT_PX = 336
"""The long side of photos in memory; close-ups show half of it."""

STEPS_PER_EPOCH = 50
WEIGHTS = "siamese.safetensors"
ABOUT = {
    "crop": "whole, box and mask",
    "data": "Luma (AFL-3.0), Shoes-Pair-Classification (MIT), clothing-dataset (CC0), Clothing Co-Parsing (Apache-2.0);"
    " started from MobileNetV2 of ImageNet (Apache-2.0)",
    "licence": "Apache-2.0",
}

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--init", type=FILE, required=True, help="torchvision's mobilenet_v2, trained on ImageNet.")
@click.option("--ccp-coco", type=FILE, required=True, help="COCO instances of CCP's training photos.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--epochs", default=20, show_default=True, help=f"Train so many epochs of {STEPS_PER_EPOCH} steps.")
@click.option("--train-px", default=TRAIN_PX, show_default=True, help="Side of the views.")
@click.option("--half", type=click.Choice(["0", "1"]), help="Train on one half of Luma's articles, judge by the other.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    data: Path,
    init: Path,
    ccp_coco: Path,
    out: Path,
    epochs: int,
    train_px: int,
    half: str | None,
    seed: int,
    threads: int,
) -> None:
    """Train on the photo sets in DATA; write OUT/siamese.safetensors, and with --half OUT/figures.json."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    network = SiameseNetwork(DESIGN)
    start_from(network, str(init))
    luma = public_sets.luma(data / "luma" / "product", ("train", "val"))
    items = read_items(data, ccp_coco, out / "garments", luma.only(lambda sample: _half(sample) != half))
    sampler = MixedSampler(items, train_px, seed)
    if not (out / STATE).exists():
        fit_colours(network, (list(sampler(step).views) for step in range(10)))
    steps = STEPS_PER_EPOCH * epochs
    recipe = EmbedderRecipe(
        steps=steps,
        warmup_steps=round(0.05 * steps),
        style_weight=1.0,
        shape_weight=0.3,
        colour_weight=0.5,
        frozen_blocks=3,
        batch_norm=False,
        precision=fastest_precision("cpu"),
        seed=seed,
    )
    plan = asdict(recipe) | {"design": asdict(DESIGN), "train_px": train_px, "half": half}
    keep_plan(out, plan)
    network.to(memory_format=torch.channels_last)
    trainer = EmbedderTrainer(network, InfoNCE(), sampler, recipe, out)
    for line in trainer.run():
        click.echo(" ".join(f"{name} {value:g}" for name, value in line.items()))
    with trainer.averaged():
        whiten(network, _some_of_each_kind(items, seed))
        weights.save(out / WEIGHTS, network.state_dict(), replace(DESIGN, colour_share=COLOUR_SHARE).metadata() | ABOUT)
    if half is not None:
        judged = load(luma.only(lambda sample: _half(sample) == half), KEPT_PX, trim=True)
        figures = json.dumps(figures_of(SiameseEmbedder(weights.read(out / WEIGHTS)), judged))
        click.echo(figures)
        (out / "figures.json").write_text(figures + "\n", encoding="utf-8")


def _some_of_each_kind(items: Sequence[Item], seed: int) -> list[list[Image]]:
    photos: defaultdict[str, list[Image]] = defaultdict(list)
    for item in items:
        photos[item.kind] += item.photos
    rng = np.random.default_rng(seed)
    return [[of_kind[row] for row in rng.permutation(len(of_kind))[:WHITENED_BY]] for of_kind in photos.values()]


def _half(sample: Sample) -> str:
    return str(percentile_of(f"half {sample.style}") % 2)


def read_items(data: Path, ccp_coco: Path, crops: Path, luma: Dataset) -> list[Item]:
    """Everything that is trained on, in memory."""
    sets = (
        luma,
        public_sets.shoes(data / "shoe-pairs" / "train"),
        public_sets.clothing(data / "clothing", ("train",)),
        public_sets.garments(ccp_coco, data / "ccp" / "photos", crops),
    )
    for photos in sets:
        click.echo(photos.describe())
    return [item for photos in sets for item in in_memory(photos, KEPT_PX, trim=True)]


def figures_of(embedder: Embedder, data: Dataset) -> dict[str, float]:
    """Recall@1, 5 and 10 for the identity (the item in its colour) and for the style (in any colour)."""
    vectors = embedder(data.images)
    names = {
        "identity": [sample.item for sample in data.samples],
        "style": [sample.style_or_item for sample in data.samples],
    }
    results = {sort: retrieve(cosine(vectors), numbered(labels)) for sort, labels in names.items()}
    return {"photos": float(len(data))} | {
        f"{sort}_recall@{k}": round(float(found.hits(k).mean()), 4)
        for sort, found in results.items()
        for k in (1, 5, 10)
    }


if __name__ == "__main__":
    main()
