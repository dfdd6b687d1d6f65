"""The state of a training run: network, optimizer and moving average, in one safetensors file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.errors import WeightsError


class State:
    """What a run needs to go on as if it had not been interrupted.

    Args:
        network: trained in place.
        optimizer: of its parameters.
        ema: the share that the moving average keeps at each step, less at first; 0: it is the network itself.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, ema: float) -> None:
        if not 0 <= ema < 1:
            raise ValueError(f"a moving average keeps a share in [0, 1), got {ema}")
        self._network, self._optimizer, self._ema = network, optimizer, ema
        self._averages = {name: value.detach().clone() for name, value in network.named_parameters()}

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Let the moving average follow the parameters after a step, counted from 0."""
        keep = min(self._ema, (1 + step) / (10 + step))
        for name, value in self._network.named_parameters():
            self._averages[name].lerp_(value, 1 - keep)

    @torch.no_grad()
    def take_average(self) -> None:
        """Give the network its moving average as parameters."""
        for name, value in self._network.named_parameters():
            value.copy_(self._averages[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with its moving average as parameters, for as long as the context lasts."""
        own = {name: value.detach().clone() for name, value in self._network.named_parameters()}
        self.take_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._network.named_parameters():
                    value.copy_(own[name])

    def save(self, path: Path, step: int) -> None:
        """Write everything, atomically."""
        tensors = {f"network/{name}": value for name, value in self._network.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self._averages.items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in moments.items()}
        partial = path.with_suffix(".partial")
        contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
        save_file(contiguous, partial, metadata={"step": str(step)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def resume(self, path: Path) -> int:
        """Take over what :meth:`save` wrote, if the file is there; returns the steps that are done.

        Raises:
            WeightsError: the file is not the state of such a run.
        """
        if not path.exists():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                step = int(file.metadata()["step"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._network.load_state_dict(_under("network/", tensors))
            averages = _under("average/", tensors)
            self._averages = {name: averages[name] for name in self._averages}
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _under("optimizer/", tensors).items():
                number, moment = name.split("/")
                moments.setdefault(int(number), {})[moment] = value
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not the state of this training: {error}; remove it to start anew") from error
        return step


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
