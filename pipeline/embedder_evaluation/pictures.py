"""What an embedder sees as pictures: strips of anchor, positive and negative, best and worst pairs, neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.report_photo import text_html
from stages.embed.evaluation import EmbedderEvaluation
from stages.embed.items import Sample
from stages.embed.metrics import Pairs, SimilarityFunction
from stages.images import encode_jpeg
from stages.types import Image

THUMB_PX: Final = 220
NEIGHBOURS: Final = 8
PER_PHOTO: Final = 2
"""A photo is in so many pairs of a list at most, so that one odd photo does not fill it."""

_MOST: Final = 2000
"""Queries that triplets are looked for among; more are thinned evenly."""


class Thumbs:
    """Small pictures of photos, each written into ``folder/photos`` when it is first shown."""

    def __init__(self, folder: Path, samples: Sequence[Sample], images: Sequence[Image]) -> None:
        self._folder, self.samples, self._images = folder, samples, images
        self._written: set[int] = set()

    def html(self, row: int, kind: str, words: str) -> str:
        """A photo with its item below and words on it; ``kind`` is a class of the style sheet."""
        address = f"photos/{row}.jpg"
        if row not in self._written:
            (self._folder / address).write_bytes(encode_jpeg(self._images[row], 85, THUMB_PX))
            self._written.add(row)
        sample = self.samples[row]
        return (
            f'<figure class="thumb {kind}"><div class="view"><img src="{address}" alt="{text_html(sample.path.name)}"'
            f' loading="lazy" decoding="async"></div><figcaption><b>{text_html(words) or "&nbsp;"}</b>'
            f'<bdi class="soft">{text_html(sample.item)}</bdi></figcaption></figure>'
        )


def strips_html(
    thumbs: Thumbs, evaluation: EmbedderEvaluation, likeness: SimilarityFunction, count: int
) -> tuple[str, str]:
    """Triplets of the photos that ask: the ``count`` that fared worst, and the best, one for each item.

    Each is the anchor, its most similar positive and its most similar negative.
    """
    found = _margins(evaluation, likeness)
    margins = np.array([margin for _, _, _, margin, _ in found])
    worst = _one_per_item(np.argsort(margins, kind="stable"), found, thumbs.samples, count)
    best = _one_per_item(np.argsort(-margins, kind="stable"), found, thumbs.samples, count)
    return "".join(_strip(thumbs, found[place]) for place in worst), "".join(
        _strip(thumbs, found[place]) for place in best
    )


def pairs_html(thumbs: Thumbs, pairs: Pairs, count: int, *, same: bool, most: bool) -> str:
    """Pairs of one item, or of two, the most similar first, or the least."""
    rows = np.flatnonzero(pairs.same == same)
    rows = rows if most else rows[::-1]
    used: dict[int, int] = {}
    parts: list[str] = []
    for row in rows.tolist():
        first, second = int(pairs.first[row]), int(pairs.second[row])
        if len(parts) == count:
            break
        if max(used.get(first, 0), used.get(second, 0)) >= PER_PHOTO:
            continue
        used[first], used[second] = used.get(first, 0) + 1, used.get(second, 0) + 1
        kind, score = "right" if same else "wrong", f"{pairs.similarities[row]:.3f}"
        parts.append(f'<li class="strip pair">{thumbs.html(first, kind, score)}{thumbs.html(second, kind, "")}</li>')
    return "".join(parts)


def neighbours_html(
    thumbs: Thumbs, evaluation: EmbedderEvaluation, likeness: SimilarityFunction, queries: Iterable[int]
) -> str:
    """The nearest photos of each query, best first; those that are right have a frame of their own."""
    parts, labels = [], evaluation.row_labels
    for query in queries:
        others = evaluation.gallery[evaluation.gallery != query]
        similarities = likeness(np.array([query]), others)[0]
        shown = [thumbs.html(query, "anchor", "query")]
        for place in np.argsort(-similarities, kind="stable")[:NEIGHBOURS].tolist():
            row = int(others[place])
            kind = "right" if labels[row] == labels[query] else "wrong"
            shown.append(thumbs.html(row, kind, f"{similarities[place]:.3f}"))
        parts.append(f'<li class="strip row">{"".join(shown)}</li>')
    return "".join(parts)


def chosen_queries(
    evaluation: EmbedderEvaluation, samples: Sequence[Sample], wanted: Sequence[str], count: int
) -> list[int]:
    """A photo of each wanted item; where none is wanted, ``count`` spread evenly over all that asked.

    Raises:
        ValueError: no photo of a wanted item asked.
    """
    asked = evaluation.retrieval.queries.tolist()
    if not wanted:
        places = np.linspace(0, len(asked) - 1, min(count, len(asked))).round().astype(int)
        return [asked[place] for place in dict.fromkeys(places.tolist())]
    first = {samples[row].item: row for row in reversed(asked)}
    if missing := [item for item in wanted if item not in first]:
        raise ValueError(
            f"no photo of {', '.join(missing)} can be a query; items with two photos are, such as {next(iter(first))}"
        )
    return [first[item] for item in wanted]


_Triplet = tuple[int, int, int, float, float]


def _strip(thumbs: Thumbs, triplet: _Triplet) -> str:
    anchor, positive, negative, margin, far = triplet
    return (
        f'<li class="strip">{thumbs.html(anchor, "anchor", "anchor")}'
        f"{thumbs.html(positive, 'right', f'positive {margin + far:.3f}')}"
        f"{thumbs.html(negative, 'wrong', f'negative {far:.3f}')}</li>"
    )


def _margins(evaluation: EmbedderEvaluation, likeness: SimilarityFunction) -> list[_Triplet]:
    """Of queries: themselves, their nearest positive and negative, by how much the first is nearer, how near the second is."""
    gallery, found = evaluation.gallery, []
    asked = evaluation.retrieval.queries
    for query in asked[np.linspace(0, len(asked) - 1, min(_MOST, len(asked))).round().astype(np.int64)].tolist():
        others = gallery[gallery != query]
        similarities, right = (
            likeness(np.array([query]), others)[0],
            evaluation.row_labels[others] == evaluation.row_labels[query],
        )
        if right.all():
            continue
        near, far = np.where(right, similarities, -np.inf), np.where(right, -np.inf, similarities)
        best, rival = int(near.argmax()), int(far.argmax())
        margin = float(near[best] - far[rival])
        found.append((query, int(others[best]), int(others[rival]), margin, float(far[rival])))
    return found


def _one_per_item(
    order: NDArray[np.int64], found: Sequence[_Triplet], samples: Sequence[Sample], count: int
) -> list[int]:
    first: dict[str, int] = {}
    for place in order.tolist():
        first.setdefault(samples[found[place][0]].item, place)
    return list(first.values())[:count]
