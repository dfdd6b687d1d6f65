"""The page of an embedder's evaluation: figures, curves, strips, pairs, neighbours, a map. It opens from disk, offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.embedder_evaluation.atlas import Projection, atlas
from pipeline.embedder_evaluation.curves import numbers, panels
from pipeline.embedder_evaluation.figures import (
    COLLAPSED,
    INTERVALS,
    LABEL_HEAD,
    cost_rows,
    label_rows,
    retrieval_head,
    retrieval_rows,
    verification_rows,
)
from pipeline.embedder_evaluation.pictures import (
    PER_PHOTO,
    Thumbs,
    chosen_queries,
    neighbours_html,
    pairs_html,
    strips_html,
)
from pipeline.embedder_evaluation.style import STYLE
from pipeline.embedder_evaluation.subject import Embedded
from pipeline.evaluation.page import (
    curves_html,
    overview_html,
    part_html,
    table_html,
    troubles_html,
    write_index,
    write_numbers,
)
from pipeline.report_photo import text_html
from stages.embed.evaluation import EmbedderEvaluation
from stages.embed.metrics import SimilarityFunction
from stages.images import write_jpeg
from stages.problems import plural


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows.

    Args:
        examples: strips and pairs of each kind.
        queries: items whose nearest neighbours are shown; some spread over all where there are none.
        projection: of the map.
    """

    examples: int = 12
    queries: tuple[str, ...] = ()
    projection: Projection = "pca"


def write_page(
    folder: Path,
    evaluation: EmbedderEvaluation,
    embedded: Embedded,
    likeness: SimilarityFunction,
    figures: Mapping[str, Any],
    about: Mapping[str, str],
    shown: Shown,
) -> None:
    """Write ``index.html`` with its pictures, ``figures.json`` and ``curves.json`` into a folder made by prepare_page.

    Args:
        folder: of the page.
        evaluation: what to tell.
        embedded: the photos that it is of.
        likeness: of these photos, by row.
        figures: what goes into ``figures.json``.
        about: what was measured and how, by its name.
        shown: what the page shows.

    Raises:
        ValueError: a wanted query is none.
        OutfinderError: the map needs a library that is not installed.
        OSError: a file cannot be written.
    """
    (folder / "photos").mkdir()
    write_numbers(folder, figures, numbers(evaluation.verification.rates), panels(evaluation))
    write_jpeg(folder / "map.jpg", atlas(embedded.images, embedded.vectors, shown.projection))
    thumbs = Thumbs(folder, embedded.samples, embedded.images)
    parts = [
        f'<p class="card collapsed">{COLLAPSED}</p>' if evaluation.collapsed else "",
        overview_html(_tiles(evaluation), about),
        troubles_html([*embedded.photos.notes, *map(str, embedded.photos.problems)]),
        _tables_html(evaluation),
        _CURVES,
        *_picture_parts(thumbs, evaluation, likeness, shown),
        _map_html(shown.projection),
    ]
    counts = f"{plural(evaluation.photos, 'photo')} of {plural(evaluation.items, 'item')}"
    state = counts + (f" among {plural(evaluation.distractors, 'distractor')}" if evaluation.distractors else "")
    write_index(folder, "How good the embedder is", state, parts, STYLE)


def _tiles(evaluation: EmbedderEvaluation) -> dict[str, dict[str, str]]:
    retrieval = {
        f"Same {sort}, recall@{k}": f"{measure.recall[k].value:.3f}"
        for sort, measure in evaluation.retrieval_figures.items()
        for k in (1, 5)
    }
    told = evaluation.verification
    pairs = {"AUC": f"{told.auc.value:.3f}", "Equal error rate": f"{100 * told.eer.value:.1f} %"}
    pairs |= {f"{shot.ways}-way one-shot": f"{shot.accuracy.value:.3f}" for shot in evaluation.one_shot[-2:]}
    return {"Retrieval": retrieval, "Pairs": pairs}


def _tables_html(evaluation: EmbedderEvaluation) -> str:
    shots = [(f"{shot.ways}-way", str(shot.accuracy)) for shot in evaluation.one_shot]
    tables = [
        table_html(["", *retrieval_head(evaluation)], retrieval_rows(evaluation), title="Retrieval"),
        table_html(["", ""], verification_rows(evaluation), title="Verification"),
        "<div>",
        table_html(["", ""], shots, title="One-shot accuracy") if shots else "",
        table_html(["", "recall@1", "loss"], cost_rows(evaluation), title="Smaller vectors")
        if evaluation.compression
        else "",
        "</div>",
    ]
    by_label = label_rows(evaluation) if len(evaluation.labels) > 1 else []
    labels = table_html(LABEL_HEAD, by_label, title="By label", colored=True) if by_label else ""
    notes = "".join(f"<br>{text_html(note)}" for note in evaluation.notes)
    body = f'<div class="tables">{"".join(tables)}</div>{labels}<p class="notes">{INTERVALS}{notes}</p>'
    return part_html("Figures", "", body)


_CURVES: Final = curves_html(
    "Curves",
    "Pairs of photos: of one item, and of two. The dot is the equal error rate.",
    "ROC, precision and recall, error rates, and where similarities lie",
)
_FRAMES: Final = '<p class="frames"><span>same</span><span class="wrong">different</span></p>'


def _picture_parts(
    thumbs: Thumbs, evaluation: EmbedderEvaluation, likeness: SimilarityFunction, shown: Shown
) -> list[str]:
    worst, best = strips_html(thumbs, evaluation, likeness, shown.examples)
    queries = chosen_queries(evaluation, thumbs.samples, shown.queries, shown.examples)
    pairs = [
        (name, pairs_html(thumbs, evaluation.pairs, shown.examples, same=same, most=most))
        for name, same, most in _PAIRS
    ]
    return [
        _part(
            "Anchor, positive, negative",
            "A photo, the most similar one of its own, the most similar other one; one photo of each item.",
            [("Worst", f'<ul class="strips">{worst}</ul>'), ("Best", f'<ul class="strips">{best}</ul>')],
        ),
        _part(
            "Pairs",
            f"A photo is in {PER_PHOTO} pairs of a list at most.",
            [(name, f'<ul class="strips pairs">{strips}</ul>') for name, strips in pairs],
        ),
        _part(
            "Nearest neighbours",
            "Best first.",
            [("", f'<ul class="strips rows">{neighbours_html(thumbs, evaluation, likeness, queries)}</ul>')],
        ),
    ]


_PAIRS: Final = (
    ("The same, least similar", True, False),
    ("Different, most similar", False, True),
    ("The same, most similar", True, True),
    ("Different, least similar", False, False),
)


def _part(title: str, explained: str, lists: Sequence[tuple[str, str]]) -> str:
    body = "".join((f'<h3 class="sub">{name}</h3>' if name else "") + html for name, html in lists)
    return part_html(title, explained, body, _FRAMES)


def _map_html(projection: Projection) -> str:
    how = {
        "pca": "the two directions in which the vectors differ most (PCA)",
        "tsne": "neighbours kept near (t-SNE)",
    }
    return part_html(
        "Map",
        f"All photos in the plane, by {how[projection]}; where there is a crowd, some of it.",
        '<img class="atlas" src="map.jpg" alt="Photos laid out by their vectors" loading="lazy">',
    )
