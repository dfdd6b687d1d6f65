"""Train the shipped Siamese embedder, and write its weights; `outfinder evaluate embedder` judges them.

Run it again with the same options after a kill: it goes on. Usage:

    python scripts/train_embedder.py DATA --init IMAGENET.safetensors --ccp-coco TRAIN.json --out RUN
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import cv2
import torch

import weights
from pipeline.photosets import garments
from pipeline.runs import keep_plan
from stages.embed import sources
from stages.embed.items import PhotoSet
from stages.embed.loading import Item, in_memory, load
from stages.embed.losses.softmax import InfoNCE
from stages.embed.mixed import MixedSampler
from stages.embed.network import Design, SiameseNetwork
from stages.embed.retrieval import recall_at
from stages.embed.rows import numbered
from stages.embed.siamese import SiameseEmbedder
from stages.embed.splits import Split
from stages.embed.start import start_from
from stages.embed.train import Recipe, Trainer
from stages.protocols import Embedder
from stages.training import fastest_precision
from stages.types import Image

TRAIN_PX = 192
"""Views are zoomed in while training; looking at more pixels afterwards makes up for it (Touvron et al. 2019)."""

STEPS_PER_EPOCH = 50
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
@click.option("--epochs", default=14, show_default=True, help=f"Train so many epochs of {STEPS_PER_EPOCH} steps.")
@click.option("--style-weight", default=0.5, show_default=True)
@click.option("--validation-too", is_flag=True, help="Train on the validation SKUs as well, for the last run.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    data: Path,
    init: Path,
    ccp_coco: Path,
    out: Path,
    epochs: int,
    style_weight: float,
    validation_too: bool,
    seed: int,
    threads: int,
) -> None:
    """Train on the photo sets in DATA; write OUT/siamese.safetensors and OUT/figures.json."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    network = SiameseNetwork(Design())
    start_from(network, str(init))
    splits: tuple[Split, ...] = ("train", "val") if validation_too else ("train",)
    sampler = MixedSampler(read_items(data, ccp_coco, splits), TRAIN_PX, seed)
    steps = STEPS_PER_EPOCH * epochs
    recipe = Recipe(
        steps,
        warmup_steps=round(0.05 * steps),
        style_weight=style_weight,
        frozen_blocks=3,
        batch_norm=False,
        precision=fastest_precision("cpu"),
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    keep_plan(out / "plan.json", asdict(recipe))
    validation = load(sources.luma(data / "luma" / "product", ("val",)))
    trainer = Trainer(network.to(memory_format=torch.channels_last), InfoNCE(), sampler, recipe, out)
    path = out / "siamese.safetensors"
    while trainer.done < trainer.steps:
        for line in trainer.run(trainer.done - trainer.done % STEPS_PER_EPOCH + STEPS_PER_EPOCH):
            click.echo(" ".join(f"{name} {value:g}" for name, value in line.items()))
        with trainer.averaged():
            sha256 = weights.save(path, network.state_dict(), network.design.metadata() | ABOUT)
        figures = figures_of(SiameseEmbedder(weights.read(path)), *validation)
        click.echo(json.dumps(figures))
        about = {"sha256": sha256, "seed": seed, "validation_too": validation_too, "recipe": asdict(recipe)}
        told = json.dumps(about | {"figures": {"luma_val": figures}}, indent=2)
        (out / "figures.json").write_text(told + "\n", encoding="utf-8")


def read_items(data: Path, ccp_coco: Path, splits: tuple[Split, ...]) -> list[Item]:
    """Everything that is trained on, in memory."""
    sets = (
        sources.luma(data / "luma" / "product", splits),
        sources.shoes(data / "shoe-pairs" / "train", splits),
        sources.clothing(data / "clothing", splits),
        garments(ccp_coco, data / "ccp" / "photos"),
    )
    for photos in sets:
        click.echo(photos.describe())
    return [item for photos in sets for item in in_memory(photos)]


def figures_of(embedder: Embedder, photos: PhotoSet, images: Sequence[Image]) -> dict[str, float]:
    """Recall@1, 5 and 10 for the identity (the item in its colour) and for the style (in any colour)."""
    vectors = embedder(images)
    names = {
        "identity": [sample.item for sample in photos.samples],
        "style": [sample.thing for sample in photos.samples],
    }
    return {"photos": float(len(images))} | {
        f"{sort}_recall@{k}": round(recall, 4)
        for sort, own in names.items()
        for k, recall in recall_at(vectors, numbered(own), (1, 5, 10)).items()
    }


if __name__ == "__main__":
    main()
