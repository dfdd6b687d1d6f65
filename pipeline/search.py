"""Search a gallery by the garments of photos, and open a gallery with the stages it was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.config import (
    ELSEWHERE,
    EMBEDDERS,
    FEATURES,
    WITH_ATTRIBUTES,
    Config,
    build_cropper,
    build_detector,
    build_embedder,
    check_trusted,
    trust,
)
from pipeline.gallery import Gallery, Manifest, is_gallery
from pipeline.gallery.filters import BUILT_IN, METADATA
from pipeline.kinds import Words, missing_kind, search_garments
from pipeline.pipeline import Analysis, Pipeline
from stages.cores import run_in_turn
from stages.embed.attributes import Attribute, AttributePart
from stages.embed.text import WordEmbedder
from stages.errors import GalleryError, GalleryMismatch, StageError
from stages.protocols import Cropper, Embedder, TextEmbedder
from stages.timing import timed
from stages.types import WHOLE, Box, Image, Mask, Match, Vectors

_SAVED: Final = ("crop", "embedder", "embedder_weights", "detector", "detector_weights", "min_score")
"""The settings that a gallery saves, so that it is always opened with the stages it was made with."""


@dataclass(frozen=True, slots=True, eq=False)
class Garment:
    """One garment of a photo; its box and mask are in pixels of the full-size photo.

    Attributes:
        matches: None if nothing was searched.
        notice: why there are no matches, such as "this shop has no shoes".
        attributes: those that the embedder is sure of.
        colours: up to three names with their shares of the garment's pixels.
    """

    label: str
    score: float
    box: Box
    mask: Mask | None = None
    matches: tuple[Match, ...] | None = None
    notice: str = ""
    attributes: tuple[Attribute, ...] = ()
    colours: tuple[tuple[str, float], ...] = ()


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


def result_of(
    analysis: Analysis, matches: Sequence[Sequence[Match]] | None = None, notices: Sequence[str] = ()
) -> PhotoResult:
    """Return an analysis as a result, with the matches and notices of each detection if it was searched."""
    photo = analysis.photo
    if photo is None:
        return PhotoResult(str(analysis.path), error=analysis.error)
    garments = (
        Garment(
            detection.label,
            detection.score,
            detection.box,
            detection.mask,
            None if matches is None else tuple(matches[number]),
            notices[number] if notices else "",
            analysis.attributes[number] if analysis.attributes else (),
            analysis.colours[number] if analysis.colours else (),
        )
        for number, detection in enumerate(analysis.detections)
    )
    return PhotoResult(str(analysis.path), photo.width, photo.height, tuple(garments))


def search_batch(  # noqa: PLR0913
    gallery: Gallery,
    batch: Sequence[Analysis],
    k: int,
    *,
    kinds: AttributePart | None = None,
    any_kind: bool = False,
    same_label: bool = False,
    where: str | None = None,
    min_similarity: float = -1.0,
    words: Words | None = None,
) -> list[PhotoResult]:
    """Search for the garments of several photos at once, which is faster than photo by photo.

    If the vectors hold kinds, items of a garment's kind come first, and a garment of a kind that the gallery lacks gets
    a notice instead of matches.

    Args:
        gallery: made with the pipeline's embedder.
        batch: analyses of some photos.
        k: matches per garment.
        kinds: the part of the vectors that holds kinds, see :func:`stages.embed.attributes.attribute_part`, or None.
        any_kind: rank by looks alone, without notices.
        same_label: only items with the garment's label.
        where: only items that pass this filter.
        min_similarity: matches below it are left out.
        words: a text that matches should fit as well.

    Raises:
        ValueError: as :meth:`Gallery.search`.
    """
    detections = [detection for analysis in batch for detection in analysis.detections]
    if not detections:
        return [result_of(analysis, ()) for analysis in batch]
    vectors = np.concatenate([analysis.vectors for analysis in batch if analysis.detections])
    labels = [None if one.label == WHOLE else one.label for one in detections] if same_label else None
    present = gallery.labels if kinds else {}
    notices = ["" if any_kind else missing_kind(kinds, present, detection.label) for detection in detections]

    def nearest(queries: Vectors, least: float) -> list[list[Match]]:
        return gallery.search(queries, k, labels=labels, where=where, min_similarity=least)

    def search() -> list[list[Match]]:
        with timed("search"):
            return search_garments(nearest, kinds, vectors, min_similarity, any_kind=any_kind, words=words)

    found = [[] if notice else matches for matches, notice in zip(run_in_turn(search), notices, strict=True)]
    results, start = [], 0
    for analysis in batch:
        end = start + len(analysis.detections)
        results.append(result_of(analysis, found[start:end], notices[start:end]))
        start = end
    return results


def similar_items(  # noqa: PLR0913
    gallery: Gallery,
    item: str | None,
    words: Words | None,
    k: int,
    *,
    kinds: AttributePart | None = None,
    any_kind: bool = False,
    where: str | None = None,
    min_similarity: float = -1.0,
) -> list[Match]:
    """Return the k items most similar to any photo of an item of the gallery, or to words alone if that is None.

    Arguments are those of :func:`search_batch`.

    Raises:
        ValueError: there is no such item; or as :meth:`Gallery.search`.
    """

    def nearest(queries: Vectors, least: float) -> list[list[Match]]:
        return gallery.search(queries, k + (item is not None), where=where, min_similarity=least)

    if item is None:
        return nearest(words.vector, min_similarity)[0] if words else []
    vectors = gallery.vectors_of(item)
    if not len(vectors):
        raise ValueError(f"gallery {gallery.folder} has no item {item}")
    found = search_garments(nearest, kinds, vectors, min_similarity, any_kind=any_kind, words=words)
    return best_others(found, item, k)


def best_others(found: Sequence[Sequence[Match]], item: str, k: int) -> list[Match]:
    """Merge the matches of an item's photos: the k best items by their best match, without the item itself."""
    best: dict[str, Match] = {}
    for match in (match for matches in found for match in matches if match.item != item):
        if match.item not in best or best[match.item].similarity < match.similarity:
            best[match.item] = match
    return sorted(best.values(), key=lambda match: -match.similarity)[:k]


def read_words(reader: TextEmbedder | None, text: str) -> tuple[Vectors, str]:
    """Return a text as a vector, ``(1, dim)``, and a notice of its unknown words, or an empty string.

    Raises:
        ValueError: the embedder reads no text (``reader`` is None), or knows none of the words.
    """
    if reader is None:
        raise ValueError(
            "the gallery's embedder reads no text; index the catalogue with the default embedder, or with one of your own"
            " that has embed_text"
        )
    if not isinstance(reader, WordEmbedder):
        return reader.embed_text([text]), ""
    reading = reader.read(text)
    return reader.embed_reading(reading), reading.notice


def catalogue_columns(gallery: Gallery) -> list[str]:
    """Return the names of the catalogue's columns, without those that every gallery has."""
    return [name.removeprefix(METADATA) for name in gallery.columns if name not in BUILT_IN]


class AbsentEmbedder:
    """Stands for the program that made a gallery's vectors, which outfinder cannot run: it refuses every image."""

    input_px: Final = 1

    def __init__(self, fingerprint: str, dim: int) -> None:
        self.fingerprint, self.dim = fingerprint, dim
        self.reason = (
            f"the gallery's vectors were made elsewhere, by {fingerprint!r}, which outfinder cannot run on photos: search"
            " by item or by its vectors, or name an embedder with that fingerprint by --embedder package.module:Name"
        )

    def __call__(self, images: Sequence[Image]) -> Vectors:
        """Raise a StageError that says what can be searched instead."""
        if images:
            raise StageError(self.reason)
        return np.empty((0, self.dim), np.float32)


def config_for(manifest: Manifest | None, given: Mapping[str, Any], source: str = "the gallery") -> Config:
    """Return the config for a gallery: the given fields, else those it was made with, else the defaults.

    A stage that is given by another name does not inherit the weights of the gallery's. ``source`` is where the manifest
    comes from, for messages.

    Raises:
        StageError: the manifest names code or a database that the caller does not.
        GalleryError: a setting of the manifest is invalid.
    """
    saved: dict[str, Any] = {}
    if manifest:
        saved = {name: value for name, value in manifest.settings.items() if name in _SAVED}
        saved["index"] = manifest.index
    for stage in ("detector", "embedder"):
        if stage in given and given[stage] != saved.get(stage):
            saved.pop(f"{stage}_weights", None)
    for stage in ("detector", "crop", "embedder", "index"):
        if name := given.get(stage):
            trust(name)
        elif stage in saved:
            check_trusted(saved[stage], source, stage)
    inherited = {name: _checked(name, value) for name, value in saved.items() if name not in given}
    return Config(**(inherited | dict(given)))


def _checked(name: str, value: str) -> Any:
    """Return a setting of a manifest, which anyone may have written, as the config's type."""
    if name == "min_score":
        try:
            if 0 <= (score := float(value)) <= 1:
                return score
        except ValueError:
            pass
        raise GalleryError(f"the gallery's min_score is {value[:50]!r}, not a number from 0 to 1; give --min-score")
    if not name.endswith("_weights"):
        return value
    if not value.endswith(".safetensors"):
        raise GalleryError(f"the gallery's {name} is {value[:200]!r}, not a .safetensors file; name your own instead")
    return Path(value)


def open_gallery(folder: str | Path, given: Mapping[str, Any] | None = None) -> tuple[Gallery, Pipeline, Config]:
    """Open a gallery for searching, with the pipeline that analyses query photos for it.

    ``given`` has fields of a :class:`~pipeline.config.Config` that differ from the gallery's. The detector is the given
    one, else the catalogue's; but query photos are not taken whole just because the catalogue's were.

    Raises:
        GalleryError: there is no gallery.
        GalleryMismatch: a given stage is not the one that the gallery was made with.
    """
    folder, given = Path(folder), given or {}
    gallery = Gallery.open(folder)
    config = config_for(gallery.manifest, given)
    check_names(folder, gallery.manifest, given)
    config = query_config(config, given)
    pipeline, embedder, cropper = _build_pipeline(config, gallery.manifest)
    gallery.check_made_with(embedder, cropper)
    return gallery, pipeline, config


def query_config(config: Config, given: Mapping[str, Any]) -> Config:
    """Return a gallery's config for query photos: they are not taken whole just because the catalogue's were."""
    is_inherited = config.detector == "whole" and "detector" not in given
    return replace(config, detector=Config().detector) if is_inherited else config


def open_or_create(
    folder: str | Path, given: Mapping[str, Any] | None = None, storage: str | None = None
) -> tuple[Gallery, Pipeline, Config]:
    """Open a gallery for indexing, or create it, with the pipeline that analyses catalogue photos for it.

    Args:
        folder: of the gallery.
        given: fields of a :class:`~pipeline.config.Config` that were asked for.
        storage: how vectors are stored, if that was asked for: float32 (the default), float16 or int8.

    Raises:
        GalleryMismatch: a given stage, index or storage is not the one that the gallery was made with.
    """
    folder, given = Path(folder), given or {}
    gallery = Gallery.open(folder) if is_gallery(folder) else None
    config = config_for(None if gallery is None else gallery.manifest, given)  # an empty gallery is false
    if gallery is not None:
        check_names(folder, gallery.manifest, {**given, **({"vectors": storage} if storage else {})})
        if config.embedder == ELSEWHERE:
            raise GalleryMismatch(
                f"gallery {folder} holds vectors made elsewhere, by {gallery.manifest.embedder!r}; add more with"
                " outfinder import vectors, or index the catalogue into another gallery"
            )
    pipeline, embedder, cropper = _build_pipeline(config, main_garment=True)
    if gallery is None:
        gallery = Gallery.create(folder, embedder, cropper, config.index, saved_settings(config), storage or "float32")
    gallery.check_made_with(embedder, cropper)
    return gallery, pipeline, config


def saved_settings(config: Config) -> dict[str, str]:
    """Return the settings that a new gallery saves."""
    chosen = {name: value for name in _SAVED if (value := getattr(config, name)) is not None}
    return {name: str(value.absolute() if isinstance(value, Path) else value) for name, value in chosen.items()}


def check_names(folder: Path, manifest: Manifest, given: Mapping[str, Any]) -> None:
    """Refuse names that differ from the gallery's before any network is loaded or downloaded.

    An embedder whose weights are a file's, or that is not built in, is compared by its fingerprint once it is loaded.
    """
    made_with = {"index": manifest.index, "vectors": manifest.storage}
    embedder = manifest.settings.get("embedder", "")
    has_file = "embedder_weights" in {*given, *manifest.settings}
    if not has_file and _is_built_in(embedder) and _is_built_in(given.get("embedder") or ""):
        made_with["embedder"] = embedder
    for name, value in made_with.items():
        asked = given.get(name, value)
        if asked != value and {asked, value} != {"features", f"{FEATURES}mobilenet_v2"}:
            raise GalleryMismatch(
                f"gallery {folder} was made with {name} {value!r}, not {asked!r};"
                f" leave --{name} out, or make another gallery"
            )


def _is_built_in(embedder: str) -> bool:
    name = embedder.removesuffix(WITH_ATTRIBUTES)
    return name in EMBEDDERS or name.startswith(FEATURES)


def _build_pipeline(
    config: Config, manifest: Manifest | None = None, *, main_garment: bool = False
) -> tuple[Pipeline, Embedder, Cropper]:
    """Build the stages; the manifest is that of a gallery whose vectors may have been made elsewhere."""
    cropper, detector = build_cropper(config), build_detector(config)
    embedder = (
        AbsentEmbedder(manifest.embedder, manifest.dim)
        if manifest and config.embedder == ELSEWHERE
        else build_embedder(config)
    )
    pipeline = Pipeline(detector, cropper, embedder, batch_size=config.batch_size, workers=config.workers,
                        main_garment=main_garment)  # fmt: skip
    return pipeline, embedder, cropper
