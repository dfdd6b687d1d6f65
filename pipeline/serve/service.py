"""Answers the API's questions for many clients at once: photos in, garments, vectors and matches out. No HTTP here.

Photos are decoded and cut by a few threads; the networks run in one thread, a batch at a time; galleries are searched
in others, so that a slow filter delays nobody else's search.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import cv2
import numpy as np

from pipeline.config import build_cropper, build_detector
from pipeline.gallery import Gallery, Row
from pipeline.gallery.store import MAX_CATALOGUE_COLUMNS
from pipeline.groups import pair_shoes, style_of
from pipeline.kinds import TRUST, Words, missing_kind, settle
from pipeline.pages import color_of, outlines
from pipeline.pipeline import Analysis, sharp_crops
from pipeline.search import (
    AbsentEmbedder,
    Garment,
    best_others,
    config_for,
    open_gallery,
    open_or_create,
    query_config,
    read_words,
)
from pipeline.serve import schemas
from pipeline.serve.batcher import Batcher
from pipeline.serve.galleries import GalleryView, QueryError, Snapshot
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import Metrics
from pipeline.serve.schemas import from_plain, item_info, to_plain
from pipeline.serve.writer import LOCK_WAIT_S, ItemWriter
from stages.colours import named_colours
from stages.embed.attributes import Attribute, attribute_part
from stages.embed.calibration import Calibration, add_verdicts, find_calibration
from stages.embed.text import text_embedder
from stages.errors import ImageError
from stages.images import Photo, decode_photo, encode_jpeg, enough_px, read_photo
from stages.protocols import Detector, Embedder
from stages.types import WHOLE, Box, Detection, Image, Match, Vectors

_changes = logging.getLogger("pipeline.serve.changes")
T = TypeVar("T")
R = TypeVar("R")

REGION: Final = "region"
"""The label of a box that a visitor drew."""

PHOTO_PX: Final = 2048
"""The longest side of an upload in memory."""

PICTURE_PX: Final = 480
EXAMPLE_PX: Final = 1600
PICTURES_CACHED: Final = 500
"""JPEGs that are kept for the next request, some 30 kB each."""

DECODE_THREADS: Final = 2
SEARCH_THREADS: Final = 4
FILTER_THREADS: Final = 2
PICTURE_THREADS: Final = 2


class NotFoundError(LookupError):
    """Something that the client named does not exist; the message is meant for the client."""


@dataclass(frozen=True, slots=True, eq=False)
class AnalysedUpload:
    """An upload: its photo as decoded, and the garments in pixels of that photo and as the API returns them."""

    data: bytes
    photo: Photo
    detections: Sequence[Detection]
    garments: Sequence[schemas.GarmentInfo]

    @property
    def size(self) -> dict[str, int]:
        """The full-size photo's width and height."""
        return {"width": self.photo.width, "height": self.photo.height}


class Service:
    """Detects, embeds and searches for many clients at once.

    Its methods raise ImageError for a photo that cannot be used, QueryError for a wrong query, NotFoundError for an item,
    a picture or an example that does not exist, and GalleryError if the gallery is damaged.

    Args:
        detector, embedder: loaded.
        views: the galleries to search, by the crop that each is for; the first is the default.
        limits: of photos and batches.
        metrics: times each stage.
        calibration: gives matches their verdicts.
        examples: photos that visitors may start from.
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        views: Sequence[GalleryView],
        limits: Limits,
        metrics: Metrics,
        calibration: Calibration | None = None,
        examples: Sequence[Path] = (),
    ) -> None:
        self.views = {view.crop: view for view in views}
        self.limits, self.metrics = limits, metrics
        self._kinds, self._reader = attribute_part(embedder), text_embedder(embedder)
        self._embedder, self._labels = embedder, detector.labels
        self._calibration, self._examples = calibration, examples
        self._enough_px = None if detector.input_px is None else max(detector.input_px, enough_px(embedder.input_px))
        self.writer: ItemWriter | None = None
        self._pools = {
            "write": ThreadPoolExecutor(1, "outfinder-write"),
            "decode": ThreadPoolExecutor(DECODE_THREADS, "outfinder-decode"),
            "network": ThreadPoolExecutor(1, "outfinder-network"),
            "search": ThreadPoolExecutor(SEARCH_THREADS, "outfinder-search"),
            "filter": ThreadPoolExecutor(FILTER_THREADS, "outfinder-filter"),
            "picture": ThreadPoolExecutor(PICTURE_THREADS, "outfinder-picture"),
        }
        self._detect: Batcher[Image, list[Detection]] = self._batched("detect", detector)
        self._embed: Batcher[list[Image], Vectors] = self._batched("embed", partial(_embed_each, embedder))

    def allow_writing(self, pipeline: Callable[[Iterable[Path]], Iterator[Analysis]], detector: str) -> None:
        """Let clients add items to the default gallery and remove them.

        Args:
            pipeline: analyses catalogue photos for it; it runs where the networks of searches run.
            detector: its detector's name.
        """

        def analyse(path: Path) -> Analysis:
            (analysis,) = self._pools["network"].submit(lambda: list(pipeline([path]))).result()
            return analysis

        self.writer = ItemWriter(self.main.snapshot.gallery.folder, analyse, detector, self._kinds)

    @property
    def main(self) -> GalleryView:
        """The default gallery and crop."""
        return next(iter(self.views.values()))

    def close(self) -> None:
        """Stop the threads once they have finished what they are doing."""
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    async def detect(self, data: bytes) -> schemas.Detected:
        """Find the garments of a photo."""
        analysis = await self._analyse(data)
        return schemas.Detected(**analysis.size, garments=list(analysis.garments))

    async def embed(self, data: bytes) -> schemas.Embedded:
        """Embed a whole photo."""
        self._check_embeds()
        photo = await self._run("decode", partial(_decode, data, None, self.limits.max_pixels))
        (vector,) = await self._embed([photo.image])
        return schemas.Embedded(embedder=self._embedder.fingerprint, dim=len(vector), vector=_rounded(vector))

    async def search(self, data: bytes, query: schemas.PhotoQuery) -> schemas.Searched:
        """Find similar items for every garment of a photo, or for one region of it."""
        self._check_embeds()
        views = [self._view(name) for name in dict.fromkeys(query.crop)] or [self.main]
        analysis = await self._analyse(data, _parse_box(query.box))
        images = await self._run("decode", partial(self._cut, analysis, views), "crop")
        vectors = np.split(await self._embed(images), len(views))
        garments = list(analysis.garments)
        groups = ["" if garment.label in (REGION, WHOLE) else garment.label for garment in garments]
        if self._kinds is not None:
            settled = [settle(self._kinds, of_view, groups, TRUST) for of_view in vectors]
            vectors, groups = [of_view for of_view, _ in settled], settled[0][1]
            garments = [
                garment if garment.label == REGION or not group else garment.model_copy(update={"label": group})
                for garment, group in zip(garments, groups, strict=True)
            ]
        detections = [Garment(garment.label, garment.score, Box(*garment.box)) for garment in garments]
        pairs = [list(map(detections.index, pair)) for pair in pair_shoes(detections)]
        groups = [groups[places[0]] for places in pairs]
        labels = [query.label or (group if query.same_label and group else None) for group in groups]
        results = [
            await self._search(view, _mean_vectors(of_view, pairs), groups, labels, query)
            for view, of_view in zip(views, vectors, strict=True)
        ]
        attributes = [()] * len(pairs) if self._kinds is None else self._kinds.stated(_mean_vectors(vectors[0], pairs))
        first = [analysis.detections[places[0]] for places in pairs]
        colours = [dict(named_colours(analysis.photo.image[one.box.slices], one.mask)) for one in first]
        searched = [
            _searched([garments[place] for place in places], stated, named, list(matches))
            for places, stated, named, *matches in zip(pairs, attributes, colours, *results, strict=True)
        ]
        return schemas.Searched(**analysis.size, garments=searched)

    async def search_vector(self, query: schemas.VectorQuery) -> schemas.Matches:
        """Find similar items for a vector."""
        vector = self._unit(query.vector)
        (matches,) = await self._search(self._view(query.crop), vector, [query.garment], [query.label], query)
        return matches

    async def search_text(self, query: schemas.TextQuery) -> schemas.Matches:
        """Find items that fit a text."""
        words, unknown = self._words(query.text, 1.0)
        (matches,) = await self._search(
            self._view(query.crop), words.vector, [""], [query.label], query, (words, unknown)
        )
        return matches

    async def search_item(self, query: schemas.ItemQuery) -> schemas.Matches:
        """Find items that resemble any photo of an item, without the item itself."""
        view, item = self._view(query.crop), from_plain(query.item)
        work = partial(view.ask, partial(self._more_like, view.crop, item, query))
        return await self._run(_pool_of(query), work, "search")

    async def item(self, item: str) -> schemas.Item:
        """Return what the gallery knows about an item."""
        rows = await self._rows(self.main, item)
        if not rows:
            raise NotFoundError(f"the gallery has no item {item!r}")
        return schemas.Item(**_item_of(rows))

    async def add_item(self, client: str, item: schemas.NewItem, photos: Sequence[bytes]) -> schemas.WrittenItem:
        """Add photos to an item, in a client's name, to be found by the next search.

        Raises:
            GalleryBusy: another process is writing the gallery.
            QueryError: the gallery would have too many columns.
        """
        known = self.main.snapshot.gallery.manifest.columns
        if len({*item.metadata, *(name for name, _ in known)}) > MAX_CATALOGUE_COLUMNS:
            raise QueryError(f"a gallery has at most {MAX_CATALOGUE_COLUMNS} different fields; leave some out")
        for photo in photos:
            await self._run("decode", partial(_decode, photo, None, self.limits.max_pixels))
        until = monotonic() + LOCK_WAIT_S

        def add(writer: ItemWriter) -> tuple[schemas.WrittenItem, str]:
            rows, change = writer.add(from_plain(item.item_id), item.metadata, photos, until)
            return schemas.WrittenItem(**_item_of(rows), change=change), change

        return await self._write(client, item.item_id, add)

    async def remove_item(self, client: str, item: str) -> schemas.RemovedItem:
        """Remove an item; raises as :meth:`add_item`."""
        until = monotonic() + LOCK_WAIT_S

        def remove(writer: ItemWriter) -> tuple[schemas.RemovedItem, str]:
            photos = writer.remove(from_plain(item), until)
            if not photos:
                raise NotFoundError(f"the gallery has no item {item!r}")
            return schemas.RemovedItem(item=item, photos=photos), "removed"

        return await self._write(client, item, remove)

    async def picture(self, item: str, number: int, crop: str | None) -> bytes:
        """Return a photo of an item as a JPEG."""
        rows = await self._rows(self._view(crop), item)
        if number >= len(rows):
            raise NotFoundError("there is no such picture in the gallery")
        data = await self._run("picture", partial(_jpeg, Path(rows[number].photo), PICTURE_PX, 82))
        if data is None:
            raise NotFoundError("the picture's file is gone, or is no photo any more; index the catalogue again")
        return data

    async def example(self, number: int) -> bytes:
        """Return an example photo as a JPEG."""
        paths = self._examples[number : number + 1]
        data = await self._run("picture", partial(_jpeg, paths[0], EXAMPLE_PX, 92)) if paths else None
        if data is None:
            raise NotFoundError("there is no such example, or it is no photo")
        return data

    def about(self) -> schemas.About:
        """Describe what is served, and what a client may send."""
        snapshot = self.main.snapshot
        labels = {to_plain(label): count for label, count in snapshot.labels.items()}
        return schemas.About(
            gallery=to_plain(snapshot.gallery.folder.resolve().name),
            items=snapshot.items,
            photos=len(snapshot.gallery),
            generation=self.main.generation,
            labels=labels,
            colors={label: color_of(label) for label in {*labels, *self._labels}},
            columns=list(snapshot.columns),
            crops=[
                schemas.CropInfo(crop=crop, gallery_crop=view.snapshot.gallery.manifest.settings.get("crop", crop))
                for crop, view in self.views.items()
            ],
            embedder=self._embedder.fingerprint,
            reads_text=self._reader is not None,
            calibrated=self._calibration is not None,
            examples=len(self._examples),
            max_bytes=self.limits.max_body,
            max_pixels=self.limits.max_pixels,
        )

    def _check_embeds(self) -> None:
        if isinstance(self._embedder, AbsentEmbedder):
            raise QueryError(self._embedder.reason)

    async def _analyse(self, data: bytes, region: Box | None = None) -> AnalysedUpload:
        """Decode a photo and find its garments, or take one region of it."""
        photo = await self._run("decode", partial(_decode, data, self._enough_px, self.limits.max_pixels))
        if region is not None:
            detection = _region_detection(region, photo)
            garment = schemas.GarmentInfo(label=REGION, score=1.0, box=region.corners, outline=[])
            return AnalysedUpload(data, photo, [detection], [garment])
        detections = await self._detect(photo.image)
        garments = await self._run("decode", partial(_garments, photo, detections), "outline")
        return AnalysedUpload(data, photo, detections, garments)

    async def _search(
        self,
        view: GalleryView,
        vectors: Vectors,
        groups: Sequence[str],
        labels: Sequence[str | None],
        query: schemas.Query,
        text: tuple[Words | None, str] = (None, ""),
    ) -> list[schemas.Matches]:
        """Search a gallery for each vector; ``groups`` are the garments' own, ``labels`` restrict the matches."""
        kinds = None if query.any_kind else self._kinds
        words, unknown = self._refinement(query) if isinstance(query, schemas.RefinedQuery) else text

        def answer(snapshot: Snapshot) -> list[schemas.Matches]:
            answers = []
            found = snapshot.search(vectors, query.k, labels, query, self._kinds, words)
            for vector, group, label, matches in zip(vectors, groups, labels, found, strict=True):
                notice = snapshot.notice(label) or missing_kind(kinds, snapshot.labels, group)
                shown = [] if notice else matches
                answers.append(self._matches(snapshot, view.crop, vector, group, shown, notice, unknown))
            return answers

        return await self._run(_pool_of(query), partial(view.ask, answer), "search")

    def _more_like(self, crop: str, item: str, query: schemas.ItemQuery, snapshot: Snapshot) -> schemas.Matches:
        rows = snapshot.gallery.of_item(item)
        if not rows:
            raise NotFoundError(f"the gallery has no item {query.item!r}")
        vectors = snapshot.gallery.vectors_of(item)
        words, unknown = self._refinement(query)
        found = snapshot.search(vectors, query.k + 1, [query.label] * len(rows), query, self._kinds, words)
        first = best_others(found, item, query.k)
        return self._matches(snapshot, crop, vectors[0], rows[0].group, first, snapshot.notice(query.label), unknown)

    def _refinement(self, query: schemas.RefinedQuery) -> tuple[Words | None, str]:
        """Return the words that a query adds, and which of them are not known."""
        return (None, "") if query.text is None else self._words(query.text, query.text_weight)

    def _words(self, text: str, weight: float) -> tuple[Words, str]:
        try:
            vector, unknown = read_words(self._reader, text)
        except ValueError as error:
            raise QueryError(str(error)) from error
        return Words(vector, weight), unknown

    def _matches(
        self,
        snapshot: Snapshot,
        crop: str,
        vector: Vectors,
        group: str,
        matches: Sequence[Match],
        notice: str,
        unknown: str = "",
    ) -> schemas.Matches:
        """Return the matches of a vector; ``group`` is the query's own."""
        judged = add_verdicts(self._calibration, group, matches) if self._calibration else matches
        return schemas.Matches(
            crop=crop,
            vector=_rounded(vector),
            matches=[
                schemas.MatchInfo(
                    **item_info(match.item, match.metadata),
                    picture=_picture_address(match.item, snapshot.photo_number(match), crop),
                    similarity=round(match.similarity, 4),
                    label=to_plain(match.label),
                    verdict=match.verdict,
                    style="" if style_of(match)[0] == "item" else to_plain(style_of(match)[1]),
                )
                for match in judged
            ],
            notice=notice,
            unknown=unknown,
        )

    async def _rows(self, view: GalleryView, item: str) -> list[Any]:
        return await self._run("search", partial(view.ask, lambda snapshot: snapshot.gallery.of_item(from_plain(item))))

    async def _write(self, client: str, item: str, change: Callable[[ItemWriter], tuple[R, str]]) -> R:
        """Change the default gallery, count and log that by the client's name, and search the new state from then on."""

        def work() -> R:
            assert self.writer is not None
            result, outcome = change(self.writer)
            self.metrics.items.labels(client, outcome).inc()
            _changes.info("%s: %s item %r", client, outcome, item)
            for view in self.views.values():
                view.refresh()
            return result

        return await self._run("write", work)

    async def _run(self, pool: str, work: Callable[[], R], stage: str = "") -> R:
        """Run work in a pool of threads, timed as a stage."""

        def timed() -> R:
            with self.metrics.timed(stage or pool):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._pools[pool], timed)

    def _batched(self, stage: str, work: Callable[[list[T]], Sequence[R]]) -> Batcher[T, R]:
        def timed(batch: list[T]) -> Sequence[R]:
            with self.metrics.timed(stage):
                return work(batch)

        observe = self.metrics.batches.labels(stage).observe
        return Batcher(timed, self._pools["network"], self.limits.batch, self.limits.batch_wait_s, observe)

    def _cut(self, analysis: AnalysedUpload, views: Sequence[GalleryView]) -> list[Image]:
        """Return the crops of all garments, one view after the other; the photo is decoded again where they are small."""
        larger: dict[int, Photo] = {}

        def read(at_least_px: int) -> Photo:
            if at_least_px not in larger:
                larger.clear()
                larger[at_least_px] = decode_photo(analysis.data, at_least_px, self.limits.max_pixels)
            return larger[at_least_px]

        needed_px = self._embedder.input_px
        return [
            crop.image
            for view in views
            for crop in sharp_crops(analysis.photo, analysis.detections, view.cropper, needed_px, read)
        ]

    def _view(self, crop: str | None) -> GalleryView:
        if crop is None:
            return self.main
        if crop not in self.views:
            raise QueryError(f"there is no crop {crop!r} here; there are {', '.join(self.views)}")
        return self.views[crop]

    def _unit(self, vector: Sequence[float]) -> Vectors:
        """Return a client's vector as ``(1, dim)``, a unit row."""
        if len(vector) != self._embedder.dim:
            raise QueryError(f"a vector here has {self._embedder.dim} numbers, got {len(vector)}; /embed makes one")
        row = np.array([vector], np.float64)
        length = float(np.linalg.norm(row))
        if length < 1e-6:
            raise QueryError("a vector of length 0 has no direction; /embed makes one")
        return np.asarray(row / length, np.float32)


def open_service(
    folder: Path,
    settings: dict[str, Any],
    limits: Limits,
    compare: Path | None = None,
    calibration_file: Path | None = None,
    examples: Sequence[Path] = (),
    *,
    writable: bool = False,
) -> Service:
    """Open a gallery and load the networks that search it.

    Args:
        folder: of the gallery.
        settings: fields of the config that the user chose.
        limits: of photos and batches.
        compare: another gallery of the same items, made with another crop, to be searched beside the first.
        calibration_file: the output of ``outfinder calibrate``.
        examples: photos that visitors may start from.
        writable: let clients add and remove items, and create the gallery if there is none.

    Raises:
        OutfinderError: a gallery or a network cannot be opened, or they do not fit together.
        ValueError: both galleries have the same crop.
    """
    gallery, pipeline, config = (open_or_create if writable else open_gallery)(folder, settings)
    for_queries = query_config(config, settings)
    detector = pipeline.detector if for_queries == config else build_detector(for_queries)
    cropper, embedder = pipeline.cropper, pipeline.embedder
    assert cropper is not None and embedder is not None  # noqa: PT018
    metrics = Metrics()
    gallery.index()
    views = [GalleryView(config.crop, cropper, gallery, embedder, metrics)]
    if compare:
        other = Gallery.open(compare)
        crop = config_for(other.manifest, {}).crop
        if crop == config.crop:
            raise ValueError(f"both galleries are cut by {crop}; --compare takes one that was made with another crop")
        other_cropper = build_cropper(config_for(other.manifest, {}))
        other.check_made_with(embedder, other_cropper)
        other.index()
        views.append(GalleryView(crop, other_cropper, other, embedder, metrics))
    calibration = find_calibration(
        gallery.manifest.embedder, calibration_file, config.embedder_weights, config.embedder
    )
    service = Service(detector, embedder, views, limits, metrics, calibration, examples)
    if writable:
        service.allow_writing(pipeline, config.detector)
    return service


def _pool_of(query: schemas.Query) -> str:
    """Return the threads that answer a query: a slow filter occupies none that others need."""
    return "filter" if query.where else "search"


def _item_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the fields of an item's schema, given its rows."""
    photos = [
        schemas.ItemPhoto(picture=_picture_address(row.item, number), label=to_plain(row.group), score=row.score,
                          box=row.box.corners)
        for number, row in enumerate(rows)
    ]  # fmt: skip
    return {**item_info(rows[-1].item, rows[-1].metadata), "photos": photos}


def _picture_address(item: str, number: int, crop: str | None = None) -> str:
    return "picture?" + urlencode({"item": to_plain(item), "number": number} | ({"crop": crop} if crop else {}))


def _jpeg(path: Path, max_side: int, quality: int) -> bytes | None:
    """Return a photo file as a JPEG of a bounded size; None if the file is gone or is no photo."""
    try:
        return _encoded(path, path.stat().st_mtime_ns, max_side, quality)
    except (ImageError, OSError, ValueError):
        return None


@lru_cache(PICTURES_CACHED)
def _encoded(path: Path, _modified_ns: int, max_side: int, quality: int) -> bytes:
    return encode_jpeg(read_photo(path, max_side).image, quality, max_side)


def _embed_each(embedder: Embedder, batch: list[list[Image]]) -> list[Vectors]:
    """Embed the images of several requests together."""
    vectors = embedder([image for images in batch for image in images])
    return np.split(vectors, np.cumsum([len(images) for images in batch])[:-1])


def _decode(data: bytes, at_least_px: int | None, max_pixels: int) -> Photo:
    """Decode an upload, reduced to :data:`PHOTO_PX`, so that many fit into memory."""
    photo = decode_photo(data, min(at_least_px or PHOTO_PX, PHOTO_PX), max_pixels)
    height, width = photo.image.shape[:2]
    if max(height, width) <= PHOTO_PX:
        return photo
    scale = PHOTO_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced = cv2.resize(photo.image, size, interpolation=cv2.INTER_AREA)
    return Photo(np.asarray(reduced, np.uint8), photo.width, photo.height)


def _garments(photo: Photo, detections: Sequence[Detection]) -> list[schemas.GarmentInfo]:
    """Return detections with boxes and outlines in full-size pixels."""
    height, width = photo.image.shape[:2]
    garments = []
    for detection in detections:
        outline = [] if detection.mask is None else outlines(detection.mask, detection.box)
        full = [[(x * photo.width // width, y * photo.height // height) for x, y in polygon] for polygon in outline]
        box = photo.to_full(detection.box).corners
        garments.append(
            schemas.GarmentInfo(label=detection.label, score=round(detection.score, 4), box=box, outline=full)
        )
    return garments


def _searched(
    parts: Sequence[schemas.GarmentInfo],
    attributes: Sequence[Attribute],
    colours: Mapping[str, float],
    results: list[schemas.Matches],
) -> schemas.SearchedGarment:
    """Return one garment, of one part or of the two shoes of a pair, with its matches for each crop."""
    boxes = np.array([part.box for part in parts])
    return schemas.SearchedGarment(
        label=parts[0].label,
        score=max(part.score for part in parts),
        box=(*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()),
        boxes=[part.box for part in parts],
        outline=[polygon for part in parts for polygon in part.outline],
        attributes=[schemas.Attribute(name=one.name, value=one.value, confidence=one.confidence) for one in attributes],
        colours=dict(colours),
        results=results,
    )


def _mean_vectors(vectors: Vectors, groups: Sequence[Sequence[int]]) -> Vectors:
    """Return the mean vector of each group of rows, as unit rows."""
    if len(groups) == len(vectors):
        return vectors
    means = np.stack([vectors[places].mean(axis=0) for places in groups])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def _parse_box(text: str | None) -> Box | None:
    try:
        return None if text is None else Box(*map(int, text.split(",")))
    except ValueError as error:
        raise QueryError(str(error)) from error


def _region_detection(region: Box, photo: Photo) -> Detection:
    """Return a region of the full-size photo in pixels of the photo as decoded."""
    if region.x2 > photo.width or region.y2 > photo.height:
        raise QueryError(f"the box {region.corners} leaves the photo of {photo.width}x{photo.height} pixels")
    height, width = photo.image.shape[:2]
    across, down = width / photo.width, height / photo.height
    x1, y1, x2, y2 = region.corners
    box = Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)
    if box is None:
        raise QueryError(f"the box {region.corners} covers no pixel of the photo")
    return Detection(REGION, 1.0, box)


def _rounded(vector: Vectors) -> list[float]:
    return [round(number, 7) for number in vector.tolist()]
