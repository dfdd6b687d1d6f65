"""Search a gallery with the garments of photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config, build_cropper, build_detector, build_embedder, check_trusted, trust
from pipeline.gallery import Gallery, Manifest, is_gallery
from pipeline.pipeline import Analysis, Pipeline
from stages.errors import GalleryError, GalleryMismatch
from stages.parallel import in_turn
from stages.parts import part
from stages.types import WHOLE, Box, Mask, Match


@dataclass(frozen=True, slots=True, eq=False)
class Garment:
    """One garment of a photo, its box and mask in pixels of the full-size photo, with its matches if searched.

    ``notice`` is a sentence for people on why there are no matches, such as "This shop has no shoes."
    """

    label: str
    score: float
    box: Box
    mask: Mask | None = None
    matches: tuple[Match, ...] | None = None
    notice: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PhotoResult:
    """A photo's garments, or the reason why it could not be read.

    ``width`` and ``height`` are the full-size photo's, EXIF orientation applied; both are 0 with an error.
    """

    photo: str
    width: int = 0
    height: int = 0
    garments: tuple[Garment, ...] = ()
    error: str | None = None


_KEPT = ("crop", "embedder", "embedder_weights", "detector", "detector_weights", "min_score")


def config_for(manifest: Manifest | None, given: dict[str, Any]) -> Config:
    """The config of a gallery: what is given, else what it was made with, else the defaults.

    A stage that is given by name does not inherit the weights of the gallery's other one.

    Raises:
        StageError: a manifest names code that was not given.
    """
    kept: dict[str, Any] = dict(manifest.settings) if manifest else {}
    for stage in ("detector", "embedder"):
        if stage in given and given[stage] != kept.get(stage):
            kept.pop(f"{stage}_weights", None)
    kept = {name: Path(value) if name.endswith("_weights") else value for name, value in kept.items() if name in _KEPT}
    for stage in ("detector", "crop", "embedder", "index"):
        if name := given.get(stage):
            trust(name)
        elif (name := manifest.index if manifest and stage == "index" else kept.get(stage)) is not None:
            check_trusted(name, "the gallery", stage)
    if "min_score" in kept:
        kept["min_score"] = _score(kept["min_score"])
    return Config(**(kept | ({"index": manifest.index} if manifest else {}) | given))


def _score(told: str) -> float:
    try:
        score = float(told)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise GalleryError(f"the gallery's manifest says min_score {told[:50]!r}, which is none; give --min-score")
    return score


def open_or_create(folder: Path, given: dict[str, Any], storage: str | None = None) -> tuple[Gallery, Pipeline, Config]:
    """The gallery of a folder, made if absent, and the pipeline that looks at catalogue photos for it.

    Args:
        folder: of the gallery.
        given: fields of a config that were asked for.
        storage: how vectors are kept, likewise: float32 (the default), float16 or int8.

    Raises:
        GalleryMismatch: a given stage, index or storage is not the one that the gallery was made with.
    """
    old = Gallery.open(folder) if is_gallery(folder) else None
    config = config_for(old.manifest if old else None, given)
    cropper, embedder = build_cropper(config), build_embedder(config)
    pipeline = Pipeline(build_detector(config), cropper, embedder, batch_size=config.batch_size, workers=config.workers,
                        main_garment=True)  # fmt: skip
    if old is None:
        chosen = {name: value for name in _KEPT if (value := getattr(config, name)) is not None}
        settings = {name: str(value.absolute() if isinstance(value, Path) else value) for name, value in chosen.items()}
        old = Gallery.create(folder, embedder, cropper, config.index, settings, storage or "float32")
    old.check_made_with(embedder, cropper)
    for what, own, asked in (
        ("index", old.manifest.index, given.get("index")),
        ("vectors as", old.manifest.storage, storage),
    ):
        if asked not in (None, own):
            raise GalleryMismatch(f"gallery {folder} has {what} {own!r}; make another gallery for {asked!r}")
    return old, pipeline, config


def open_for_search(folder: Path, given: dict[str, Any]) -> tuple[Gallery, Pipeline, Config]:
    """A gallery and the pipeline that looks at query photos for it.

    Photos are looked at by the detector that is given, else by the one of the catalogue, but never taken whole
    just because the catalogue was.

    Raises:
        GalleryError: there is no gallery.
        GalleryMismatch: a given stage is not the one that the gallery was made with.
    """
    gallery = Gallery.open(folder)
    config = config_for(gallery.manifest, given)
    if config.index != gallery.manifest.index:
        raise GalleryMismatch(f"gallery {folder} has index {gallery.manifest.index!r}, not {config.index!r}")
    if config.detector == "whole" and "detector" not in given:
        config = replace(config, detector=Config().detector)
    cropper, embedder = build_cropper(config), build_embedder(config)
    pipeline = Pipeline(build_detector(config), cropper, embedder, batch_size=config.batch_size, workers=config.workers)
    gallery.check_made_with(embedder, cropper)
    return gallery, pipeline, config


def search_batch(
    gallery: Gallery,
    batch: Sequence[Analysis],
    k: int,
    *,
    same_label: bool = False,
    where: str | None = None,
    min_similarity: float = -1.0,
) -> list[PhotoResult]:
    """A result for each photo; all garments are searched for at once, which takes less than photo by photo.

    Args:
        gallery: made with the pipeline's embedder.
        batch: what the pipeline found in some photos.
        k: matches of each garment.
        same_label: only items of the garment's own group.
        where: only items that this filter lets through.
        min_similarity: matches below it are left out.

    Raises:
        ValueError: as :meth:`Gallery.search`.
    """
    found = [detection for analysis in batch for detection in analysis.detections]
    if not found:
        return [_result(analysis, ()) for analysis in batch]
    vectors = np.concatenate([analysis.vectors for analysis in batch if analysis.detections])
    labels = [None if one.label == WHOLE else one.label for one in found] if same_label else None

    def search() -> list[list[Match]]:
        with part("search"):
            return gallery.search(vectors, k, labels=labels, where=where, min_similarity=min_similarity)

    matches = in_turn(search)
    every = (
        Garment(one.label, one.score, one.box, one.mask, tuple(own)) for one, own in zip(found, matches, strict=True)
    )
    return [_result(analysis, tuple(next(every) for _ in analysis.detections)) for analysis in batch]


def _result(analysis: Analysis, garments: tuple[Garment, ...]) -> PhotoResult:
    photo = analysis.photo
    if photo is None:
        return PhotoResult(str(analysis.path), error=analysis.error)
    return PhotoResult(str(analysis.path), photo.width, photo.height, garments)
