"""``outfinder evaluate``: how good a stage, or a whole search, is on photos with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    """Measure how good a stage is on photos with known answers.

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
@click.option("--mistakes", type=click.IntRange(0), default=24, show_default=True,
              help="Mistakes of each kind on the page.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Evaluate only the first so many photos.")
@friendly
def detector(
    annotations: Path, photos: Path, settings: dict[str, Any], outputs: FigureOutputs, mistakes: int, limit: int | None
) -> None:
    """Evaluate a detector on ANNOTATIONS, a COCO instances file, of the photos in the folder PHOTOS.

    Prints COCO's average precision and recall; the garments found, the garments missed and the false alarms at
    --min-score; and the seconds per photo. Categories are matched with the detector's labels by name. Exit status 1:
    some photos or annotations could not be used.

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
              help="What two photos share if they count as the same; item adds the figures by style.")  # fmt: skip
@click.option("--query-domain", metavar="NAME", default="", help="Only photos of this domain are queries.")
@click.option("--gallery-domain", metavar="NAME", default="", help="Only photos of this domain can be found.")
@click.option("--distractors", multiple=True, type=EXISTING,
              help="Photos of other items in the gallery; may be repeated.")  # fmt: skip
@click.option("--ways", multiple=True, type=click.IntRange(2), default=(5, 9, 20), show_default=True,
              callback=lambda _ctx, _parameter, ways: tuple(sorted(set(ways))),
              help="Number of classes in a one-shot trial; may be repeated.")  # fmt: skip
@click.option("--within-labels", "within_label", is_flag=True,
              help="A one-shot trial stays within a label, as Omniglot's do within an alphabet.")  # fmt: skip
@click.option("--two-sources", is_flag=True,
              help="The examples and the query of a one-shot trial come from two sources, such as Omniglot's drawers.")  # fmt: skip
@click.option("--trials", default=10_000, show_default=True, type=click.IntRange(1),
              help="One-shot trials for each number of classes.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all random draws.")
@config_options("embedder")
@click.option("--pair-head", is_flag=True,
              help="Compare by the pair head of --embedder-weights, trained to tell same from different.")  # fmt: skip
@figure_options
@click.option("--examples", type=click.IntRange(1), default=12, show_default=True,
              help="Examples of each kind on the page.")  # fmt: skip
@click.option("--query", "queries", multiple=True, metavar="ITEM",
              help="Show the neighbours of a photo of this item; may be repeated.")  # fmt: skip
@friendly
def embedder(
    data: tuple[Path, ...],
    item_pattern: str,
    distractors: tuple[Path, ...],
    settings: dict[str, Any],
    pair_head: bool,
    outputs: FigureOutputs,
    examples: int,
    queries: tuple[str, ...],
    **options: Any,
) -> None:
    """Evaluate how well an embedder recognises items on DATA, photos that are not cropped.

    Retrieval: each photo is a query among all others; recall@k and mAP@R. Verification of pairs of photos: ROC, AUC,
    equal error rate, false non-matches at given false matches. One-shot accuracy among N items; ties are errors. The
    cost of 64 dimensions and of int8. All have 95 % intervals. Exit status 1: some photos could not be used.

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

    protocol = Protocol(**options)
    photos, others = open_set(data, item_pattern), None
    if distractors:
        domains = {"", protocol.gallery_domain}
        others = open_set(distractors, item_pattern).only(lambda one: domains == {""} or one.domain in domains)
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
        "same": protocol.same,
        "domains": f"{protocol.query_domain} searches {protocol.gallery_domain}" if protocol.query_domain else "",
    }
    figures: dict[str, Any] = {name: value for name, value in about.items() if value}
    figures |= {"dim": stage.dim, "seconds_per_photo": round(embedded.seconds / len(embedded.images), 4)}
    figures |= embedder_figures(evaluation) | {"problems": list(map(str, embedded.photos.problems))}
    if outputs.page:
        write_embedder_page(outputs.page, evaluation, embedded, figures, examples, queries)
    outputs.finish(rounded(figures), embedder_text(figures), failed=bool(embedded.photos.problems))


@evaluate.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.argument("truth", type=FILE_IN)
@click.argument("photos", type=FOLDER)
@click.option("--kind-column", "kind", metavar="NAME",
              help="The catalogue's column of kinds of garments.  [default: by type]")  # fmt: skip
@click.option("--type-column", "type", metavar="NAME", help="The catalogue's column of types of articles.")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1), help="Matches of each garment.")
@config_options("detector")
@figure_options
@friendly
def search(
    folder: Path, truth: Path, photos: Path, k: int, settings: dict[str, Any], outputs: FigureOutputs, **options: Any
) -> None:
    """Evaluate search in GALLERY by TRUTH, a COCO instances file of the garments in the folder PHOTOS.

    Prints how many catalogue photos have the right label, how many garments are found (boxes with an IoU of at least
    0.5), and the share of right matches, by kind and by type, in the first match and in the first -k: P@1, P@5. A
    missed garment has no right match. All have 95 % intervals. Exit status 1: some photos or annotations could not be
    used.

    Columns of the catalogue say what an item is: --kind-column with kinds such as shoes or top, --type-column with
    types such as jeans or boots. Categories of TRUTH name kinds or types; an annotation may also name its type:
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
    columns, progress = Columns(**options), Progress("searched")
    evaluation = evaluate_search(gallery, pipeline, truth, photos, columns=columns, k=k, progress=_counter(progress))
    progress.finish()
    for line in evaluation.problems:
        click.echo(line, err=True)
    about = {
        "gallery": str(folder),
        "truth": str(truth),
        "photos": str(photos),
        "kind column": columns.kind or "",
        "type column": columns.type or "",
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
    """Evaluate the attributes that an embedder predicts for the photos of CATALOGUE.

    CATALOGUE is a table with the columns item_id and image, and any of type, colour, pattern, gender and usage, in the
    words of a shop. Prints how often the most probable value is right, how often it is confident enough to be stated
    and then right, and the recall and precision of each value, with 95 % intervals. Exit status 1: some photos could
    not be used.

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
    progress = Progress("evaluated")
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


def _counter(progress: Progress) -> Callable[[str, str | None, int], None]:
    """Return a callback that counts photos."""

    def count(photo: str, error: str | None, photos: int) -> None:
        progress.total = photos
        progress.count(error, photo)

    return count
