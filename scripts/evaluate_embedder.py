"""Recall of an embedder on the test items of Luma and the test folders of the shoe pairs, as JSON.

Usage:

    python scripts/evaluate_embedder.py siamese DATA
    python scripts/evaluate_embedder.py features DATA --embedder-weights IMAGENET.safetensors
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.build import Config, build_embedder
from stages.embed.data import read_luma, read_shoes
from stages.embed.evaluate import retrieval_figures

PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("embedder")
@click.argument("data", type=PATH)
@click.option("--embedder-weights", type=PATH, help="Weights of your own.")
def main(embedder: str, data: Path, embedder_weights: Path | None) -> None:
    """Evaluate EMBEDDER on the photo sets in DATA (luma/ and shoe-pairs/), whole photos as they are."""
    stage = build_embedder(Config(embedder=embedder, embedder_weights=embedder_weights))
    shoes = data / "shoe-pairs"
    sets = {
        "luma_test": read_luma(data / "luma" / "product", ("test",)),
        "shoes_test_m": read_shoes(shoes / "test_m"),
        "shoes_test_w": read_shoes(shoes / "test_w"),
    }
    click.echo(json.dumps({name: retrieval_figures(stage, items) for name, items in sets.items()}, indent=2))


if __name__ == "__main__":
    main()
