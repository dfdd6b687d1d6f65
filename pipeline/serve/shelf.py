"""A gallery that stays current: what others save into its folder is taken up while searches go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from pipeline.gallery import Gallery, read_manifest
from pipeline.serve.facets import Facet, facets_of
from pipeline.serve.metrics import Metrics
from stages.errors import GalleryCorrupt, GalleryError
from stages.protocols import Cropper, Embedder

R = TypeVar("R")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Stock:
    """A generation, with what takes long to count."""

    gallery: Gallery
    items: int
    labels: Mapping[str, int]
    facets: Sequence[Facet]

    @classmethod
    def of(cls, gallery: Gallery) -> Stock:
        """A gallery's."""
        return cls(gallery, len(gallery.items), gallery.labels, facets_of(gallery))


class Shelf:
    """The current generation of a gallery's folder, for searches by one embedder and crop.

    Args:
        gallery: as it was opened.
        embedder, cropper: what searches it; a generation made with others is not taken up.
        crop: its name, for metrics.
        metrics: are told of new generations.
    """

    def __init__(self, gallery: Gallery, embedder: Embedder, cropper: Cropper, crop: str, metrics: Metrics) -> None:
        self.crop, self._folder = crop, gallery.folder
        self._embedder, self._cropper, self._metrics = embedder, cropper, metrics
        self._turning = Lock()
        self._refused: object = ()
        self._put(gallery)

    @property
    def stock(self) -> Stock:
        """The current generation; whoever holds it can go on with it when there is a newer one."""
        return self._stock

    @property
    def generation(self) -> int:
        """Its number."""
        return self._stock.gallery.manifest.generation

    def refresh(self) -> bool:
        """Take up a newer generation if there is one, with its index loaded; whether there was.

        One that is damaged, or made with another embedder or crop, is told once as a warning and left alone.
        """
        with self._turning:
            now: object = None
            try:
                manifest = read_manifest(self._folder)
                now = manifest.identity, manifest.generation
                if now in (self._current, self._refused):
                    return False
                newer = Gallery.open(self._folder)
                newer.check_made_with(self._embedder, self._cropper)
                newer.index()
                self._put(newer)
            except (GalleryError, OSError) as error:
                if now != self._refused:
                    _log.warning("a new generation is not taken up: %s", error)
                    self._metrics.reloads.labels(self.crop, "refused").inc()
                self._refused = now
                return False
            self._refused = ()
            self._metrics.reloads.labels(self.crop, "taken up").inc()
            return True

    def ask(self, question: Callable[[Gallery], R]) -> R:
        """The current generation's answer; where its files prove damaged, a newer one's if there is one."""
        try:
            return question(self._stock.gallery)
        except GalleryCorrupt:
            if not self.refresh():
                raise
            return question(self._stock.gallery)

    def _put(self, gallery: Gallery) -> None:
        self._stock = Stock.of(gallery)
        self._current = gallery.manifest.identity, gallery.manifest.generation
        self._metrics.photos.labels(self.crop).set(len(gallery))
        self._metrics.generation.labels(self.crop).set(gallery.manifest.generation)
