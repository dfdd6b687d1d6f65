"""What a training starts from: weights by their name, as far as they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import weights
from stages.errors import WeightsError
from weights import Checkpoint


def read_start(start: str, also: Sequence[str]) -> Checkpoint:
    """The shipped weights of a name, or a safetensors file.

    Args:
        start: the name or the path.
        also: what else could have been named, for the message.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read.
    """
    if start in weights.manifest():
        return weights.load(start)
    if (path := Path(start)).is_file():
        return weights.read(path)
    raise ValueError(
        f"cannot start from {start!r}: it is no file, none of the shipped weights"
        f" ({', '.join(sorted(weights.manifest()))}), nor {' or '.join(also)}"
    )


def check_fits(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], told: str) -> None:
    """Refuse tensors that are not a network's, before memory is taken for the network that they say they are of.

    Args:
        build: makes the network; it is made without memory.
        tensors: by name.
        told: how the error's message begins.

    Raises:
        WeightsError: one is missing, too many, or of another shape.
    """
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wrong := sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)):
        first = wrong[0]
        raise WeightsError(
            f"{told}: {first[:100]} has the shape {given.get(first, 'of nothing')}, wanted {wanted.get(first, 'none')}"
            f" ({len(wrong)} such tensors)"
        )


def take_over(network: nn.Module, tensors: Mapping[str, Tensor], told: str) -> list[str]:
    """Give a network all tensors that fit it by name and shape; the rest stays as it is.

    Args:
        network: changed in place.
        tensors: by name.
        told: the error's message, where none fits.

    Returns:
        The names of the tensors that it was not given.

    Raises:
        WeightsError: nothing fits.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise WeightsError(told)
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
