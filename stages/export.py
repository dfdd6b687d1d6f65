"""Networks as ONNX graphs, which run without PyTorch.

The graph of an embedder takes photos that are letterboxed already; the graph of a detector takes a photo of any size. Both
take RGB pixels as uint8, so that only the resizing remains to be done outside.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from stages.detect.networks import PyramidRoIAlign
from stages.embed.attributes import AttributePart
from stages.embed.classifier import AttributeNetwork
from stages.errors import StageError

OPSET: Final = 17
"""The version of ONNX's operators: onnxruntime has them since 1.12, from 2022."""


class EmbedderGraph(nn.Module):
    """From ``images``, ``(n, side, side, 3)`` uint8 RGB, to ``vectors``, ``(n, dim)`` float32 unit rows.

    Args:
        looks: from normalised images ``(n, 3, side, side)`` to vectors of any length, or to maps of 1 x 1.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
        attributes: the network that gives the attributes, and where vectors hold them; None for vectors without.
    """

    mean: Tensor
    std: Tensor
    kind_of_type: Tensor

    def __init__(
        self,
        looks: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        attributes: tuple[AttributeNetwork, AttributePart] | None = None,
    ) -> None:
        super().__init__()
        self.looks, self.classifier = looks, attributes[0] if attributes else None
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self._shares = dict(attributes[1].shares) if attributes else {}
        if attributes:
            self.register_buffer("kind_of_type", torch.from_numpy(attributes[1].kind_of_type))

    def forward(self, images: Tensor) -> Tensor:
        """Embed images."""
        pixels = (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        looks = F.normalize(self.looks(pixels).flatten(1))
        if self.classifier is None:
            return looks
        probabilities = {name: logits.softmax(dim=1) for name, logits in self.classifier(pixels).items()}
        probabilities["kind"] = probabilities["type"] @ self.kind_of_type
        roots = [(probabilities[name] * share).sqrt() for name, share in self._shares.items()]
        return F.normalize(torch.cat([looks * (1 - sum(self._shares.values())) ** 0.5, *roots], dim=1))


class DetectorGraph(nn.Module):
    """From an ``image``, ``(h, w, 3)`` uint8 RGB, to its garments by falling score.

    These are ``boxes`` ``(n, 4)`` float32 as x1, y1, x2, y2 in pixels, ``labels`` ``(n,)`` int64 from 0, ``scores``
    ``(n,)`` float32, and from a Mask R-CNN ``masks`` ``(n, h, w)``, the probability of each pixel.

    Args:
        network: an R-CNN of :mod:`stages.detect.networks` with its weights; it is changed.
        thresholds: for each label the score of the network that becomes 0.5.
        min_score: garments with lower scores are left out.
    """

    thresholds: Tensor

    def __init__(self, network: Any, thresholds: Sequence[float], min_score: float) -> None:
        super().__init__()
        for name, pool in list(network.roi_heads.named_children()):
            if isinstance(pool, PyramidRoIAlign):  # computes the same as torchvision's, which ONNX has an operator for
                setattr(
                    network.roi_heads,
                    name,
                    MultiScaleRoIAlign(pool.featmap_names, pool.output_size, pool.sampling_ratio),
                )
        self.network, self._min_score = network, min_score
        self.register_buffer("thresholds", torch.tensor(thresholds))
        lowest = min_score * self.thresholds / (min_score * self.thresholds + (1 - min_score) * (1 - self.thresholds))
        network.roi_heads.score_thresh = float(lowest.min())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect garments."""
        found = self.network([image.permute(2, 0, 1).float() / 255])[0]
        middle = self.thresholds[found["labels"] - 1]
        likely, unlikely = found["scores"] * (1 - middle), (1 - found["scores"]) * middle
        scores = likely / (likely + unlikely)
        scores, order = scores.sort(descending=True)
        enough = scores >= self._min_score
        order = order[enough]
        results = found["boxes"][order], found["labels"][order] - 1, scores[enough]
        return (*results, found["masks"][order, 0]) if "masks" in found else results


def write_onnx(graph: nn.Module, example: Tensor, path: Path, names: Sequence[str], sizes: Mapping[int, str]) -> None:
    """Write a graph as an ONNX file.

    Args:
        graph: in evaluation mode.
        example: an input by which the graph is traced.
        path: of the file.
        names: of the input and of the outputs.
        sizes: the input's dimensions that may vary, with their names.

    Raises:
        StageError: ONNX has no operator for a part of the network.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad(), _silent_output():
            warnings.simplefilter("ignore")  # of tracing: the sizes that vary are named
            torch.onnx.export(
                graph.eval(),
                (example,),
                str(path),
                dynamo=False,  # the newer exporter cannot follow an R-CNN, whose garments are as many as it finds
                opset_version=OPSET,
                input_names=list(names[:1]),
                output_names=list(names[1:]),
                dynamic_axes={names[0]: dict(sizes), **{name: {0: "n"} for name in names[1:]}},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = re.split(r"\. |\[Caused", " ".join(str(error).split()))[0][:300]
        raise StageError(f"this network cannot be written as ONNX: {reason}") from error


@contextmanager
def _silent_output() -> Iterator[None]:
    """Discard what is written to standard output, also by C++: a failed export prints its whole graph."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)
