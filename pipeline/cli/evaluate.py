"""``outfinder evaluate``: how good a stage, or a whole search, is on photos with known answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from pipeline.cli.common import (
    EXISTING,
    FILE_IN,
    FOLDER,
    FigureOutputs,
    config_options,
    figure_options,
    friendly,
    print_problems,
    set_options,
)
from pipeline.cli.progress import Progress


@click.group()
def evaluate() -> None:
    """How good a stage is, on photos with known answers.

    \b
    Examples:
      outfinder evaluate detector val.json photos/ -o evaluation
      outfinder evaluate embedder shop/ -o evaluation
      outfinder evaluate search gallery street.json street/ --kind-column category -o evaluation
    """  # noqa: D301


@evaluate.command()
@click.argument("annotations", type=FILE_IN)
@click.argument("photos", type=FOLDER)
@config_options("detector")
@figure_options
@click.option("--mistakes", type=click.IntRange(0), default=24, show_default=True, help="Of each kind, on the page.")
@click.option("--limit", type=click.IntRange(1), help="Evaluate only so many photos, the first ones.")
@friendly
def detector(
    annotations: Path,
    photos: Path,
    settings: dict[str, Any],
    outputs: FigureOutputs,
    mistakes: int,
    limit: int | None,
) -> None:
    """Evaluate a detector on ANNOTATIONS, a COCO instances file, of the photos in the folder PHOTOS.

    Prints COCO's average precision and recall, what is found, missed and a false alarm at --min-score, and the
    seconds that a photo takes. Categories are matched with the detector's labels by name. Exit status 1: some
    photos or annotations could not be used.

    \b
    Examples:
      outfinder evaluate detector val.json photos/
      outfinder evaluate detector val.json photos/ --detector fasterrcnn_mobilenet_v2 -o evaluation
      outfinder evaluate detector val.json photos/ --detector-weights run/weights.safetensors --json - | jq .box.ap50
    """  # noqa: D301
    from pipeline.config import Config, build_detector, resolve_device
    from pipeline.evaluation import describe_detector, detector_figures, detector_text
    from pipeline.evaluation_pages import write_detector_page
    from stages.detect.evaluation import EVALUATION_MIN_SCORE
    from stages.detect.evaluation import evaluate as evaluate_detector

    config = Config(**settings | {"device": resolve_device(settings["device"])})
    outputs.prepare()
    described = describe_detector(config, annotations, photos)
    progress = Progress("evaluated")
    evaluation = evaluate_detector(
        build_detector(replace(config, min_score=EVALUATION_MIN_SCORE)),
        annotations,
        photos,
        threshold=config.min_score,
        mistakes=mistakes if outputs.page else 0,
        limit=limit,
        progress=_counter(progress),
    )
    progress.finish()
    for line in (*evaluation.problems, *evaluation.notes):
        click.echo(line, err=True)
    figures = described | detector_figures(evaluation)
    if outputs.page:
        write_detector_page(outputs.page, evaluation, photos, figures)
    outputs.finish(figures, detector_text(evaluation), failed=bool(evaluation.failed or evaluation.problems))


@evaluate.command()
@set_options
@click.option("--same", type=click.Choice(["item", "style", "label"]), default="item", show_default=True,
              help="What two photos share to be the same; with item, style figures come too.")  # fmt: skip
@click.option("--query-domain", metavar="NAME", default="", help="Only photos of this domain are queries.")
@click.option("--gallery-domain", metavar="NAME", default="", help="Only photos of this domain can be found.")
@click.option("--distractors", multiple=True, type=EXISTING,
              help="Photos of other items in the gallery; may be repeated.")  # fmt: skip
@click.option("--ways", multiple=True, type=click.IntRange(2), default=(5, 9, 20), show_default=True,
              help="One-shot trials choose among so many; may be repeated.")  # fmt: skip
@click.option("--within-labels", is_flag=True,
              help="One-shot trials stay within a label, as Omniglot's do within an alphabet.")  # fmt: skip
@click.option("--two-sources", is_flag=True,
              help="One-shot examples come from one source and the query from another, as Omniglot's drawers.")  # fmt: skip
@click.option("--trials", default=10_000, show_default=True, type=click.IntRange(1), help="One-shot trials of each.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of all that is drawn.")
@config_options("embedder")
@click.option("--pair-head", is_flag=True,
              help="Compare by the pair head of --embedder-weights, trained to tell same from different.")  # fmt: skip
@figure_options
@click.option("--examples", type=click.IntRange(1), default=12, show_default=True, help="Of each kind, on the page.")
@click.option("--query", "queries", multiple=True, metavar="ITEM",
              help="Show the neighbours of a photo of this item; may be repeated.")  # fmt: skip
@friendly
def embedder(
    data: tuple[Path, ...],
    item_pattern: str,
    same: Literal["item", "style", "label"],
    query_domain: str,
    gallery_domain: str,
    distractors: tuple[Path, ...],
    ways: tuple[int, ...],
    within_labels: bool,
    two_sources: bool,
    trials: int,
    seed: int,
    settings: dict[str, Any],
    pair_head: bool,
    outputs: FigureOutputs,
    examples: int,
    queries: tuple[str, ...],
) -> None:
    """Evaluate an embedder on the photos of DATA, taken whole: how well it recognises items.

    Each photo is a query once, all others are the gallery: recall@k, mAP@R. Pairs of photos: ROC, AUC, equal error
    rate, false non-matches at given false matches. One-shot accuracy among N items; ties are errors. What 64
    dimensions and int8 cost. All with intervals of 95 %. Exit status 1: some photos could not be used.

    DATA is a CSV (item_id,image and perhaps style,label,domain,source) or a folder, with a sub-folder for each item
    or class, or --item-pattern. scripts/public_sets.py makes CSVs of public datasets.

    \b
    Examples:
      outfinder evaluate embedder shop/ --item-pattern "^[^-]+"
      outfinder evaluate embedder shoes.csv --distractors more-shoes.csv -o evaluation
      outfinder evaluate embedder street.csv --query-domain street --gallery-domain shop --json - | jq .retrieval.item
      outfinder evaluate embedder shop/ --embedder features --embedder-weights mobilenet.safetensors
    """  # noqa: D301
    from pipeline.catalogue import open_set
    from pipeline.config import Config, build_embedder, resolve_device
    from pipeline.evaluation import embed_photos, embedder_figures, embedder_text, pair_head_similarity, rounded
    from pipeline.evaluation_pages import write_embedder_page
    from stages.embed.evaluation import Protocol
    from stages.embed.evaluation import evaluate as evaluate_embedder

    protocol = Protocol(
        same=same,
        query_domain=query_domain,
        gallery_domain=gallery_domain,
        ways=tuple(sorted(set(ways))),
        within_label=within_labels,
        two_sources=two_sources,
        trials=trials,
        seed=seed,
    )
    photos, others = open_set(data, item_pattern), None
    if distractors:
        wanted = ("", protocol.gallery_domain) if protocol.gallery_domain else None
        others = open_set(distractors, item_pattern).only(lambda one: not wanted or one.domain in wanted)
        if not others.samples:
            raise ValueError(f"no distractor is of the domain {protocol.gallery_domain}, which is the gallery's")
    outputs.prepare()
    config = Config(**settings | {"device": resolve_device(settings["device"])})
    stage = build_embedder(config)
    embedded = embed_photos(stage, photos, others, keep_large=pair_head)
    print_problems(embedded.photos)
    if pair_head:
        similarity = pair_head_similarity(config.embedder_weights, embedded.images, config.device)
        embedded = replace(embedded, pair_head=similarity)
    evaluation = evaluate_embedder(
        embedded.vectors, embedded.samples, embedded.distractors, protocol, embedded.pair_head
    )
    about = {
        "embedder": config.embedder,
        "weights": str(config.embedder_weights or ""),
        "fingerprint": stage.fingerprint,
        "compared by": "pair head" if pair_head else "",
        "device": config.device,
        "data": " ".join(map(str, data)),
        "distractors": " ".join(map(str, distractors)),
        "same": same,
        "domains": f"{protocol.query_domain} asks for {protocol.gallery_domain}" if protocol.query_domain else "",
    }
    about = {name: value for name, value in about.items() if value}
    figures: dict[str, Any] = dict(about)
    figures |= {"dim": stage.dim, "seconds_per_photo": round(embedded.seconds / len(embedded.images), 4)}
    figures |= embedder_figures(evaluation) | {"problems": list(map(str, embedded.photos.problems))}
    if outputs.page:
        write_embedder_page(outputs.page, evaluation, embedded, figures, examples, queries)
    outputs.finish(rounded(figures), embedder_text(figures), failed=bool(embedded.photos.problems))


@evaluate.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("truth", type=FILE_IN)
@click.argument("photos", type=FOLDER)
@click.option("--kind-column", metavar="NAME", help="The catalogue's column of kinds of garments.  [default: by type]")
@click.option("--type-column", metavar="NAME", help="The catalogue's column of types of articles.")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1), help="Matches of each garment.")
@config_options("detector")
@figure_options
@friendly
def search(
    folder: Path,
    truth: Path,
    photos: Path,
    kind_column: str | None,
    type_column: str | None,
    k: int,
    settings: dict[str, Any],
    outputs: FigureOutputs,
) -> None:
    """Evaluate search in GALLERY by TRUTH, a COCO instances file of the garments in the folder PHOTOS.

    Prints how many catalogue photos have the right label, how many garments are found (IoU of boxes from 0.5 on),
    and the share of right matches, by kind and by type, of the first and of the first -k: P@1, P@5. A missed garment
    has no right match. All with intervals of 95 %. Exit status 1: some photos or annotations could not be used.

    The catalogue's own columns say what an item is: --kind-column with kinds such as shoes or top, --type-column with
    types such as jeans or boots. Categories of TRUTH name kinds or types; an annotation may name its type, too:
    "attributes": {"type": "jeans"}.

    \b
    Examples:
      outfinder evaluate search gallery street.json street/ --kind-column category
      outfinder evaluate search gallery street.json street/ --type-column articleType -o evaluation
      outfinder evaluate search gallery street.json street/ --type-column articleType --json - | jq .search.found_garments
    """  # noqa: D301
    from pipeline.evaluation import rounded
    from pipeline.search import open_gallery
    from pipeline.search_evaluation import Columns, evaluate_search, search_figures, search_text, write_search_page

    outputs.prepare()
    gallery, pipeline, config = open_gallery(folder, settings)
    progress = Progress("searched")
    evaluation = evaluate_search(
        gallery, pipeline, truth, photos, columns=Columns(kind_column, type_column), k=k, progress=_counter(progress)
    )
    progress.finish()
    for line in evaluation.problems:
        click.echo(line, err=True)
    about = {
        "gallery": str(folder),
        "truth": str(truth),
        "photos": str(photos),
        "kind column": kind_column or "",
        "type column": type_column or "",
        "detector": config.detector,
        "crop": gallery.manifest.crop,
        "embedder": gallery.manifest.embedder,
    }
    about = {name: value for name, value in about.items() if value}
    figures = search_figures(evaluation)
    if outputs.page:
        write_search_page(outputs.page, evaluation, photos, figures, about)
    failed = bool(evaluation.failed or evaluation.problems)
    outputs.finish(rounded(about | figures), search_text(figures), failed=failed)


@evaluate.command()
@click.argument("catalogue", type=FILE_IN)
@config_options("embedder")
@figure_options
@friendly
def attributes(catalogue: Path, settings: dict[str, Any], outputs: FigureOutputs) -> None:
    """Evaluate what an embedder sees in the photos of CATALOGUE: type, colour, pattern, gender and usage.

    CATALOGUE is a table with the columns item_id and image, and any of type, colour, pattern, gender and usage, in a
    shop's words. Prints how often the most probable value is right, how often it is sure enough to be stated and right
    then, and the recall and precision of each value, with intervals of 95 %. Exit status 1: some photos could not be used.

    \b
    Examples:
      outfinder evaluate attributes products.csv
      outfinder evaluate attributes products.csv --json - | jq .attributes.colour.right
    """  # noqa: D301
    from pipeline.attribute_evaluation import (
        attribute_figures,
        attribute_tables,
        evaluate_attributes,
        write_attribute_page,
    )
    from pipeline.catalogue import read_catalogue
    from pipeline.config import Config, build_embedder
    from pipeline.evaluation import rounded

    outputs.prepare()
    embedder = build_embedder(Config(**settings))
    progress = Progress("seen")
    evaluations, problems = evaluate_attributes(
        embedder, read_catalogue([catalogue]), lambda entry, error: progress.count(error, str(entry.path))
    )
    progress.finish()
    figures = attribute_figures(evaluations)
    about = {"embedder": embedder.fingerprint, "data": str(catalogue)}
    if outputs.page:
        write_attribute_page(outputs.page, figures, about, problems)
    text = "\n\n".join(map(str, attribute_tables(figures)))
    outputs.finish(rounded({**about, "problems": problems, "attributes": figures}), text, failed=bool(problems))


def _counter(progress: Progress) -> Any:
    """Return a callback that counts photos."""

    def count(photo: str, error: str | None, photos: int) -> None:
        progress.total = photos
        progress.count(error, photo)

    return count
