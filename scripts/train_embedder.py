"""Train the shipped Siamese embedder, choose by validation, and write its weights; test is evaluate_embedder.py.

Run it again with the same options after a kill: it goes on. Usage:

    python scripts/train_embedder.py DATA --init IMAGENET.safetensors --ccp-coco TRAIN.json --out RUN --minutes 20
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import click
import cv2
import torch

import weights
from stages.embed.data import Item, Split, read_clothing, read_garments, read_luma, read_shoes
from stages.embed.evaluate import retrieval_figures
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD
from stages.embed.network import ARCHITECTURE, SiameseNetwork
from stages.embed.samplers import MixedSampler
from stages.embed.siamese import SiameseEmbedder
from stages.embed.train import Recipe, optimizer_for, train, train_step

TRAIN_PX = 192
INPUT_PX = 224
"""Views are zoomed in while training; looking at more pixels afterwards makes up for it (Touvron et al. 2019)."""

METADATA = {
    "architecture": ARCHITECTURE,
    "input_px": str(INPUT_PX),
    "mean": " ".join(map(str, IMAGENET_MEAN)),
    "std": " ".join(map(str, IMAGENET_STD)),
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
@click.option("--minutes", type=float, help="Train about so long, timed at the start.")
@click.option("--epochs", type=int, help="Train so many epochs of 50 steps.")
@click.option("--style-weight", default=Recipe.__dataclass_fields__["style_weight"].default, show_default=True)
@click.option("--validation-too", is_flag=True, help="Train on the validation SKUs as well, for the last run.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    data: Path,
    init: Path,
    ccp_coco: Path,
    out: Path,
    minutes: float | None,
    epochs: int | None,
    style_weight: float,
    validation_too: bool,
    seed: int,
    threads: int,
) -> None:
    """Train on the photo sets in DATA; write OUT/siamese.safetensors and OUT/figures.json."""
    if (minutes is None) == (epochs is None):
        raise click.UsageError("say either --minutes or --epochs")
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    network = SiameseNetwork()
    network.load_backbone(weights.read(init).tensors)
    splits: tuple[Split, ...] = ("train", "val") if validation_too else ("train",)
    items = read_items(data, ccp_coco, splits)
    sampler = MixedSampler(items, TRAIN_PX, seed)
    steps = 50 * epochs if epochs else round((minutes or 0) * 60 / seconds_per_step(network, sampler))
    recipe = planned(out, Recipe(steps=max(1, steps), style_weight=style_weight))
    validation = read_luma(data / "luma" / "product", ("val",))

    def report(line: dict[str, float]) -> None:
        figures = retrieval_figures(embedder_of(network), validation)
        told = " ".join(f"{name} {value:g}" for name, value in line.items())
        click.echo(f"{told} | val identity {figures['identity_recall@1']:.3f} style {figures['style_recall@1']:.3f}")

    train(network, sampler, recipe, out, report)
    path = out / "siamese.safetensors"
    sha256 = weights.save(path, network.state_dict(), METADATA | {"dim": str(network.dim)})
    figures = {"luma_val": retrieval_figures(SiameseEmbedder(weights.read(path)), validation)}
    about = {"sha256": sha256, "seed": seed, "validation_too": validation_too, "recipe": asdict(recipe)}
    (out / "figures.json").write_text(json.dumps(about | {"figures": figures}, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(figures, indent=2))


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


def planned(out: Path, recipe: Recipe) -> Recipe:
    """The recipe of this run; one that goes on keeps what it began with."""
    plan = out / "plan.json"
    if plan.exists():
        recipe = Recipe(**json.loads(plan.read_text(encoding="utf-8")))
        click.echo(f"going on with {plan}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    click.echo(f"{recipe.steps} steps")
    return recipe


def seconds_per_step(network: SiameseNetwork, sampler: MixedSampler) -> float:
    """Timed on a copy, the first of five steps left out."""
    trial, recipe = copy.deepcopy(network).to(memory_format=torch.channels_last), Recipe(steps=5)
    optimizer = optimizer_for(trial, recipe)
    train_step(trial, optimizer, sampler(0), recipe)
    began = perf_counter()
    for step in range(1, 5):
        train_step(trial, optimizer, sampler(step), recipe)
    return (perf_counter() - began) / 4


def embedder_of(network: SiameseNetwork) -> SiameseEmbedder:
    """The network as it stands, as an embedder."""
    metadata = METADATA | {"dim": str(network.dim)}
    return SiameseEmbedder(weights.Checkpoint("training", network.state_dict(), metadata, "0" * 64))


if __name__ == "__main__":
    main()
