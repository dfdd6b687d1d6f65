"""What is judged on what: for the record of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import weights
from pipeline.config import FLIP, Config


@dataclass(frozen=True, slots=True)
class Subject:
    """What was judged on what; the size of weights that are no file of ours or the user's is None."""

    detector: str
    detector_weights: str | None
    device: str
    weights_bytes: int | None
    parameters: int | None
    annotations: str
    folder: str

    def told(self) -> dict[str, str]:
        """For people, by name."""
        lines = {"detector": self.detector}
        if self.detector_weights:
            lines["weights"] = self.detector_weights
        if self.weights_bytes is not None and self.parameters is not None:
            lines["size"] = f"{self.weights_bytes / 1e6:.1f} MB, {self.parameters / 1e6:.1f} million parameters"
        return lines | {"device": self.device, "annotations": self.annotations, "photos": self.folder}


def subject_of(config: Config, annotations: Path, photos: Path) -> Subject:
    """What a config's detector is, and what it is judged on.

    Raises:
        WeightsError: the weights of the user's own cannot be read.
    """
    own, shipped = config.detector_weights, weights.manifest().get(config.detector.removesuffix(FLIP))
    path = own or (weights.FOLDER / shipped["file"] if shipped else None)
    return Subject(
        detector=config.detector,
        detector_weights=str(own) if own else None,
        device=config.device,
        weights_bytes=path.stat().st_size if path else None,
        parameters=_parameters(path) if path else None,
        annotations=str(annotations),
        folder=str(photos),
    )


def _parameters(path: Path) -> int:
    """How many numbers were learnt: running statistics were not."""
    return sum(
        tensor.numel()
        for name, tensor in weights.read(path).tensors.items()
        if tensor.is_floating_point() and not name.endswith((".running_mean", ".running_var"))
    )
