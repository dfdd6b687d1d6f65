"""The garments of photos with their matches in a gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.compose import Analysis
from pipeline.gallery import Gallery
from pipeline.results import Garment, PhotoResult
from stages.parallel import in_turn
from stages.parts import part
from stages.types import WHOLE, Match


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
