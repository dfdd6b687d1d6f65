"""Make the start of a koch network for 105 px from a trained koch_half for 53 px.

    python scripts/recipes/enlarge_koch.py runs/omniglot-half/weights.safetensors runs/omniglot-start.safetensors

Kernels are stretched to the width of the larger ones, so that what a feature responded to in a drawing of half the size it
responds to in the drawing itself. The result is near enough to the small network to learn the rest in a few hundred steps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor

import weights
from stages.embed.network import SiameseNetwork, read_network

SMALL_PX, LARGE_PX = 53, 105


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """Write TARGET, a koch network like the koch_half of SOURCE."""
    small = read_network(weights.read(source))
    if small.design.backbone != "koch_half" or small.design.input_px != SMALL_PX:
        raise click.UsageError(f"{source} is not a koch_half for {SMALL_PX} px")
    large = SiameseNetwork(replace(small.design, backbone="koch", input_px=LARGE_PX))
    tensors = {name: enlarged(value, large.state_dict()[name]) for name, value in small.state_dict().items()}
    weights.save(target, tensors, large.design.metadata() | {"crop": "whole"})
    click.echo(f"{len(tensors)} tensors -> {target}")


def enlarged(small: Tensor, like: Tensor) -> Tensor:
    """Return a small network's tensor in the shape of the large network's."""
    if small.shape == like.shape:
        return small
    if small.ndim == 2:  # the head, which reads 3 x 3 positions of 256 channels, and then 6 x 6
        places = enlarged(small.unflatten(1, (256, 3, 3)), like.unflatten(1, (256, 6, 6)))
        return places.flatten(1)
    stretch = stretching(small.shape[-1], like.shape[-1])
    return torch.einsum("ya,oiab,xb->oiyx", stretch, small, stretch)


def stretching(small: int, large: int) -> Tensor:
    """Return ``(large, small)``: how much each tap of a kernel gets of those of a kernel for half the resolution.

    A small tap is spread over two pixels; a large kernel is in the middle of the spread one.

    >>> stretching(2, 4).tolist()
    [[0.5, 0.0], [0.5, 0.0], [0.0, 0.5], [0.0, 0.5]]
    """
    first = (2 * small - large) / 2
    left = first + torch.arange(large)[:, None]
    start = 2 * torch.arange(small)[None, :]
    return (torch.minimum(left + 1, start + 2) - torch.maximum(left, start)).clamp(min=0) / 2


if __name__ == "__main__":
    main()
