"""Train the shipped Siamese embedder, choose by validation, and write its weights; test is evaluate_embedder.py.

Run it again with the same options after a kill: it goes on. Usage:

    python scripts/train_embedder.py DATA --init IMAGENET.safetensors --ccp-coco TRAIN.json --out RUN
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import cv2
import torch

import weights
from pipeline.runs import keep_plan
from stages.embed.data import Item, Split, read_clothing, read_garments, read_luma, read_shoes
from stages.embed.evaluate import retrieval_figures
from stages.embed.losses.softmax import InfoNCE
from stages.embed.mixed import MixedSampler
from stages.embed.network import Design, SiameseNetwork
from stages.embed.siamese import SiameseEmbedder
from stages.embed.start import start_from
from stages.embed.train import Recipe, Trainer
from stages.training import fastest_precision

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
    validation = read_luma(data / "luma" / "product", ("val",))
    trainer = Trainer(network.to(memory_format=torch.channels_last), InfoNCE(), sampler, recipe, out)
    path = out / "siamese.safetensors"
    while trainer.done < trainer.steps:
        for line in trainer.run(trainer.done - trainer.done % STEPS_PER_EPOCH + STEPS_PER_EPOCH):
            click.echo(" ".join(f"{name} {value:g}" for name, value in line.items()))
        with trainer.averaged():
            sha256 = weights.save(path, network.state_dict(), network.design.metadata() | ABOUT)
        figures = retrieval_figures(SiameseEmbedder(weights.read(path)), validation)
        click.echo(json.dumps(figures))
        about = {"sha256": sha256, "seed": seed, "validation_too": validation_too, "recipe": asdict(recipe)}
        told = json.dumps(about | {"figures": {"luma_val": figures}}, indent=2)
        (out / "figures.json").write_text(told + "\n", encoding="utf-8")


def read_items(data: Path, ccp_coco: Path, splits: tuple[Split, ...]) -> list[Item]:
    """Everything that is trained on, in memory."""
    sets = {
        "luma": read_luma(data / "luma" / "product", splits),
        "shoes": read_shoes(data / "shoe-pairs" / "train", splits),
        "clothing": read_clothing(data / "clothing", splits),
        "garments": read_garments(ccp_coco, data / "ccp" / "photos"),
    }
    click.echo("training items: " + ", ".join(f"{name} {len(items)}" for name, items in sets.items()))
    return [item for items in sets.values() for item in items]


if __name__ == "__main__":
    main()
