"""Export of stages as ONNX files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import weights
from pipeline.config import FEATURES, FLIP, WITH_ATTRIBUTES, Config, build_embedder
from stages.background import MARGIN, WHITE, WHITE_LEVEL, trimmed
from stages.detect.rcnn import read_network as read_detector_network
from stages.embed.attributes import attribute_part
from stages.embed.classifier import read_attribute_network
from stages.embed.features import classifier_features
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD
from stages.embed.network import read_network as read_siamese
from stages.embed.siamese import stats_of
from stages.errors import StageError
from stages.export import DetectorGraph, EmbedderGraph, write_onnx
from stages.files import replacing, write_whole
from stages.images import letterbox
from stages.protocols import Embedder
from stages.types import Image

LEAST_COSINE: Final = 0.999
"""How much alike vectors of the exported graph and of the stage have to be."""

_OUTPUTS: Final = {
    "boxes": "(n, 4) float32: x1, y1, x2, y2 in pixels",
    "labels": "(n,) int64: places in the list of labels",
    "scores": "(n,) float32, falling",
    "masks": "(n, h, w) float32: the probability that a pixel belongs to the garment",
}

_TOLERANCES: Final = {"boxes": 0.1, "labels": 0, "scores": 1e-3, "masks": 1e-2}


def export_embedder(config: Config, path: str | Path, photos: Sequence[Image]) -> dict[str, Any]:
    """Write the embedder that a config names as an ONNX file, with the rest of what it does as ``.json`` beside it.

    Args:
        config: ``embedder``, ``embedder_weights``.
        path: of the ONNX file.
        photos: at least one, by which the graph is compared with the stage.

    Returns:
        What the JSON file says, see docs/export.md.

    Raises:
        StageError: the embedder cannot be exported, a package is missing, or its graph gives other vectors.
        WeightsError: the weights are missing or damaged.
    """
    _check_packages()
    path = Path(path)
    embedder = build_embedder(replace(config, device="cpu"))
    graph, side, trim = _embedder_graph(config, embedder)
    batch = np.stack([letterbox(trimmed(photo) if trim else photo, side, WHITE) for photo in photos])
    with replacing(path) as part:
        write_onnx(graph, torch.from_numpy(batch[:2]), part, ("images", "vectors"), {0: "n"})
        (vectors,) = _run(part, "images", batch)
        cosine = float((vectors * embedder(photos)).sum(axis=1).min())
        if not cosine >= LEAST_COSINE:
            raise StageError(
                f"the graph's vectors differ from the embedder's: cosine {cosine:.4f}; nothing was written"
            )
    steps: list[dict[str, Any]] = [
        {"step": "letterbox", "side": side, "fill": WHITE, "shrink": "area", "enlarge": "linear"}
    ]
    if trim:
        steps.insert(0, {"step": "trim", "white": WHITE_LEVEL, "margin": MARGIN})
    part_of = attribute_part(embedder)
    about = {
        "input": {"name": "images", "shape": ["n", side, side, 3], "type": "uint8", "colours": "RGB"},
        "preprocessing": steps,
        "output": {"name": "vectors", "shape": ["n", embedder.dim], "type": "float32", "similarity": "inner product"},
        "attributes": {} if part_of is None else {
            name: {"start": place.start, "values": part_of.names[name]} for name, place in part_of.places.items()
        },
        "fingerprint": embedder.fingerprint,
        "checked": {"photos": len(photos), "least_cosine": round(cosine, 6)},
    }  # fmt: skip
    return _write_sidecar(path, about)


def _embedder_graph(config: Config, embedder: Embedder) -> tuple[EmbedderGraph, int, bool]:
    """Return the graph, the side of its input, and whether white borders are cut away before."""
    name, part = config.embedder.removesuffix(WITH_ATTRIBUTES), attribute_part(embedder)
    classifier = (read_attribute_network(weights.load("attributes")), part) if part else None
    if name == "features" or name.startswith(FEATURES):
        architecture = "mobilenet_v2" if name == "features" else name.removeprefix(FEATURES)
        features = classifier_features(architecture, config.embedder_weights)
        return EmbedderGraph(features, IMAGENET_MEAN, IMAGENET_STD, classifier), embedder.input_px, False
    if config.embedder_weights is None and name not in weights.manifest():
        raise StageError(f"{config.embedder} is not an embedder of outfinder; export it with its own library")
    checkpoint = weights.read(config.embedder_weights) if config.embedder_weights else weights.load(name)
    network = read_siamese(checkpoint)
    return EmbedderGraph(network, *stats_of(checkpoint), classifier), network.design.input_px, network.design.trim


def _check_packages() -> None:
    """Raise a StageError, before a long export, if a package is missing."""
    if not all(map(find_spec, ("onnx", "onnxruntime"))):
        raise StageError("ONNX files need the extra onnx: pip install 'outfinder[onnx]'")


def _run(path: Path, name: str, value: np.ndarray[Any, Any]) -> list[Any]:
    import onnxruntime  # noqa: PLC0415  an extra

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: value}))


def export_detector(config: Config, path: str | Path, photos: Sequence[Image]) -> dict[str, Any]:
    """Write the detector that a config names as an ONNX file, with the rest of what it does as ``.json`` beside it.

    Args:
        config: ``detector``, ``detector_weights``, ``min_score``.
        path: of the ONNX file.
        photos: at least one, by which the graph is compared with the network.

    Returns:
        What the JSON file says, see docs/export.md.

    Raises:
        StageError: the detector cannot be exported, a package is missing, or its graph finds other garments.
        WeightsError: the weights are missing or damaged.
    """
    _check_packages()
    path = Path(path)
    if config.detector.endswith(FLIP) or not (config.detector_weights or config.detector in weights.manifest()):
        raise StageError(f"{config.detector} cannot be exported: wanted a detector of outfinder, or --detector-weights")
    checkpoint = weights.read(config.detector_weights) if config.detector_weights else weights.load(config.detector)
    network, labels, thresholds = read_detector_network(checkpoint)
    if not hasattr(network, "roi_heads"):
        raise StageError(f"{checkpoint.name} cannot be exported: it is no R-CNN")
    graph = DetectorGraph(network, thresholds or [0.5] * len(labels), config.min_score).eval().requires_grad_(False)
    has_masks = checkpoint.describes("architecture").startswith("mask")
    names = [name for name in _OUTPUTS if has_masks or name != "masks"]
    with replacing(path) as part:
        write_onnx(graph, torch.from_numpy(photos[0].copy()), part, ("image", *names), {0: "h", 1: "w"})
        for photo in photos:
            with torch.inference_mode():
                expected = graph(torch.from_numpy(photo.copy()))
            for name, got, wanted in zip(names, _run(part, "image", photo), expected, strict=True):
                if got.shape != tuple(wanted.shape) or not np.allclose(got, wanted, atol=_TOLERANCES[name]):
                    raise StageError(f"the graph finds other {name} than the detector; nothing was written")
    about = {
        "input": {"name": "image", "shape": ["h", "w", 3], "type": "uint8", "colours": "RGB"},
        "output": {name: _OUTPUTS[name] for name in names},
        "labels": labels,
        "min_score": config.min_score,
        "detector": checkpoint.name,
        "sha256": checkpoint.sha256,
        "checked": {"photos": len(photos)},
    }
    return _write_sidecar(path, about)


def _write_sidecar(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write what a graph takes and gives beside it."""
    about = {"outfinder": version("outfinder"), **about}
    write_whole(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    return about
