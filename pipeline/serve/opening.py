"""A gallery as a service: the networks that go with it loaded, and the other way of cutting beside its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import build_cropper
from pipeline.gallery import Gallery
from pipeline.search import config_for, open_for_search
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import Metrics
from pipeline.serve.service import Service, Way
from pipeline.serve.shelf import Shelf
from pipeline.verdicts import calibration_for


def open_service(
    folder: Path,
    given: dict[str, Any],
    limits: Limits,
    compare: Path | None = None,
    calibration_file: Path | None = None,
) -> Service:
    """The service of a gallery.

    Args:
        folder: of the gallery.
        given: fields of a config that were asked for.
        limits: of photos and batches.
        compare: another gallery of the same items, made with the other crop. Without it the other crop of a photo
            searches this gallery too.
        calibration_file: what ``outfinder calibrate`` wrote.

    Raises:
        OutfinderError: a gallery or a network cannot be had, or they do not go together.
        ValueError: both galleries have the same crop.
    """
    gallery, pipeline, config = open_for_search(folder, given)
    detector, cropper, embedder = pipeline.detector, pipeline.cropper, pipeline.embedder
    assert cropper is not None and embedder is not None  # noqa: PT018
    metrics = Metrics()
    gallery.index()
    own = Way(config.crop, cropper, Shelf(gallery, embedder, cropper, config.crop, metrics))
    ways = [own]
    if compare:
        other = Gallery.open(compare)
        made_with = config_for(other.manifest, {})
        if made_with.crop == config.crop:
            raise ValueError(
                f"both galleries are cut by {config.crop}; --compare names one that was made with another crop"
            )
        cutting = build_cropper(made_with)
        other.check_made_with(embedder, cutting)
        other.index()
        ways.append(Way(made_with.crop, cutting, Shelf(other, embedder, cutting, made_with.crop, metrics)))
    elif crop := _counterpart(config.crop):
        ways.append(Way(crop, build_cropper(config_for(None, {"crop": crop})), own.shelf))
    calibration = calibration_for(gallery.manifest.embedder, calibration_file, config.embedder_weights, config.embedder)
    return Service(detector, embedder, ways, limits, metrics, calibration)


def _counterpart(crop: str) -> str | None:
    """The other way of cutting.

    >>> _counterpart("box"), _counterpart("mask-blur"), _counterpart("whole")
    ('mask', 'box', None)
    """
    return "mask" if crop == "box" else "box" if crop.partition("-")[0] == "mask" else None
