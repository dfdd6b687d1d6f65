"""Checkpoints that training starts from, and checks that tensors fit a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import weights
from stages.errors import WeightsError
from stages.types import Vectors
from weights import Checkpoint


def read_start(start: str, alternatives: Sequence[str]) -> Checkpoint:
    """Return the checkpoint of a shipped name or a safetensors file.

    ``alternatives`` are other valid starts, for the error message.

    Raises:
        ValueError: there are no such weights.
        WeightsError: they cannot be read.
    """
    if start in weights.manifest():
        return weights.load(start)
    if (path := Path(start)).is_file():
        return weights.read(path)
    raise ValueError(
        f"cannot start from {start!r}: it is neither a file nor one of"
        f" {', '.join([*sorted(weights.manifest()), *alternatives])}"
    )


def check_fits(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], subject: str) -> None:
    """Raise a WeightsError, which starts with ``subject``, if a tensor is missing, unexpected or of another shape.

    The network is built on torch's meta device, so that no memory is allocated for it.
    """
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wrong := sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)):
        first = wrong[0]
        raise WeightsError(
            f"{subject}: {first[:100]} has the shape {given.get(first, 'of nothing')}, wanted {wanted.get(first, 'none')}"
            f" ({len(wrong)} such tensors)"
        )


def check_unit_rows(vectors: Vectors, fingerprint: str) -> Vectors:
    """Return an embedder's vectors; raise a WeightsError if they are not unit rows, as when weights overflow."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if not (abs(squares - 1) < 0.01).all():  # NaN fails as well
        raise WeightsError(f"the weights of {fingerprint} give vectors that are not finite or have no length")
    return vectors


def copy_fitting(network: nn.Module, tensors: Mapping[str, Tensor], error: str) -> list[str]:
    """Copy the tensors that fit by name and shape into a network, and return the names of its other tensors.

    Raises:
        WeightsError: none fits; its message is ``error``.
    """
    state = network.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in state and state[name].shape == value.shape}
    if not fitting:
        raise WeightsError(error)
    network.load_state_dict(fitting, strict=False)
    return sorted(set(state) - set(fitting))
