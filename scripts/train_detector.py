"""Train a detector on COCO instances; see scripts/train_weights.sh for the runs that made the shipped weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

import weights
from stages.detect.data import CocoScenes, TrainingSet
from stages.detect.evaluate import evaluate
from stages.detect.networks import ARCHITECTURES, build_network
from stages.detect.rcnn import RcnnDetector
from stages.detect.train import Recipe, train
from stages.types import LABELS

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FROZEN_BLOCKS = 4  # of MobileNetV2: stem to stride 4, whose gradients cost most and change least


def start_from(network: GeneralizedRCNN, path: Path) -> list[str]:
    """Copy what fits from an ImageNet classifier or a detector; returns the parameters left as they were."""
    tensors = weights.read(path).tensors
    prefix = "" if any(name.startswith("backbone.") for name in tensors) else "backbone.body."
    renamed = {prefix + name.removeprefix("features."): tensor for name, tensor in tensors.items()}
    own = network.state_dict()
    fitting = {name: value for name, value in renamed.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


@click.command()
@click.option("--architecture", type=click.Choice(ARCHITECTURES), default="maskrcnn_mobilenet_v2", show_default=True)
@click.option("--data", nargs=2, type=click.Path(exists=True, path_type=Path), multiple=True, required=True,
              help="A COCO file and the folder of its photos; may be repeated.")  # fmt: skip
@click.option("--val", nargs=2, type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--init", type=FILE, required=True, help="Safetensors to start from: ImageNet MobileNetV2 or a detector.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--input-px", default=512, show_default=True)
@click.option("--epochs", default=12, show_default=True)
@click.option("--decay", default=1.0, show_default=True, help="Fraction of the steps with falling learning rate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--described-data", default="Clothing Co-Parsing (Apache-2.0), rendered scenes", show_default=True)
def main(architecture: str, data: tuple[tuple[Path, Path], ...], val: tuple[Path, Path], init: Path, output: Path,
         input_px: int, epochs: int, decay: float, seed: int, described_data: str) -> None:  # fmt: skip
    """Train, evaluate on VAL at the end, and write OUTPUT/weights.safetensors (float16)."""
    torch.manual_seed(seed)
    network = build_network(architecture, len(LABELS), input_px)
    fresh = start_from(network, init)
    click.echo(f"{len(fresh)} tensors start fresh: {sorted({name.rsplit('.', 1)[0] for name in fresh})}")
    if hasattr(network.backbone, "body"):
        for parameter in network.backbone.body[:FROZEN_BLOCKS].parameters():
            parameter.requires_grad_(requires_grad=False)
    network.to(memory_format=torch.channels_last)
    recipe = Recipe(epochs=epochs, decay=decay, seed=seed)

    def finish(epoch: int) -> dict[str, Any]:
        description = {"architecture": architecture, "labels": " ".join(LABELS), "input_px": str(input_px),
                       "mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225", "crop": "none",
                       "data": described_data, "licence": "Apache-2.0", "seed": str(seed)}  # fmt: skip
        weights.save(output / "weights.safetensors", network.state_dict(), description)
        if epoch % 4 and epoch < epochs:
            return {}
        result = evaluate(RcnnDetector(network, LABELS, min_score=0.02), *val)
        return {"val": asdict(result)}

    train(
        network, TrainingSet([CocoScenes(*pair) for pair in data], input_px, seed), recipe, output, after_epoch=finish
    )


if __name__ == "__main__":
    main()
