"""``outfinder evaluate embedder``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pipeline.cli.common import (
    EXISTING,
    FILE_OUT,
    FOLDER,
    SOME_FAILED,
    chosen,
    device_option,
    friendly,
    isolate_option,
    print_figures,
    stage_options,
)
from pipeline.cli.sets import open_told, set_options, tell_problems

if TYPE_CHECKING:
    from stages.embed.evaluation import Protocol
    from stages.embed.items import PhotoSet

DOMAINS = {"garments": ("street", "shop"), "cutouts": ("cutout", "photo")}
"""Whose photos ask, and whose are found, where a layout has two domains."""


@click.command()
@set_options
@click.option("--same", type=click.Choice(["item", "style", "label"]), default="item", show_default=True,
              help="What two photos share to be the same; with item, style figures come too.")  # fmt: skip
@click.option("--query-domain", metavar="NAME", help="Only photos of this domain ask.  [garments: street]")
@click.option("--gallery-domain", metavar="NAME", help="Only photos of this domain are found.  [garments: shop]")
@click.option("--distractors", multiple=True, type=EXISTING,
              help="Photos of other items in the gallery, in the same layout; may be repeated.")  # fmt: skip
@click.option("--ways", multiple=True, type=click.IntRange(2), default=(5, 9, 20), show_default=True,
              help="One-shot trials choose among so many; may be repeated.")  # fmt: skip
@click.option("--trials", default=10_000, show_default=True, type=click.IntRange(1), help="One-shot trials of each.")
@click.option("--seed", default=0, show_default=True, help="Of all that is drawn.")
@stage_options("embedder")
@click.option("--pair-head", is_flag=True,
              help="Compare by the pair head of --embedder-weights, trained to tell same from different.")  # fmt: skip
@device_option
@click.option("-o", "--output", type=FOLDER, help="Write a page with curves and pictures into this folder.")
@click.option("--json", "json_file", type=FILE_OUT, help="Write the figures as JSON; - for standard output.")
@click.option("--examples", type=click.IntRange(1), default=12, show_default=True, help="Of each kind, on the page.")
@click.option("--query", "queries", multiple=True, metavar="ITEM",
              help="Show the neighbours of a photo of this item; may be repeated.")  # fmt: skip
@click.option("--map", "projection", type=click.Choice(["pca", "tsne"]), default="pca", show_default=True,
              help="How the page's map is made; tsne needs scikit-learn.")  # fmt: skip
@isolate_option
@friendly
def embedder(
    data: tuple[Path, ...],
    layout: str,
    item_pattern: str | None,
    splits: tuple[str, ...],
    same: Literal["item", "style", "label"],
    query_domain: str | None,
    gallery_domain: str | None,
    distractors: tuple[Path, ...],
    ways: tuple[int, ...],
    trials: int,
    seed: int,
    embedder: str | None,
    embedder_weights: Path | None,
    pair_head: bool,
    device: str,
    output: Path | None,
    json_file: Path | None,
    examples: int,
    queries: tuple[str, ...],
    projection: Literal["pca", "tsne"],
) -> None:
    """Judge an embedder on the photos of DATA, taken whole: how well it knows items again.

    Each photo asks once, all others are the gallery: recall@k, mAP@R. Pairs of photos: ROC, AUC, equal error rate,
    false non-matches at given false matches. One-shot accuracy among N items; ties are errors. What 64 dimensions
    and int8 cost. All with intervals of 95 %. Exit status 1: some photos could not be used.

    \b
    DATA, by --layout:
      items     a CSV (item_id,image and perhaps style,label,domain,source) or a folder, with a sub-folder for each
                item or class, or --item-pattern
      luma, shoes, clothing, omniglot, cifar10
                the folder that the public set unpacks to; omniglot's trials stay within alphabets, two drawers each
      garments  a COCO file and the folder of its photos: box crops (street) ask for masks on white (shop)
      cutouts   the same: garments set before another photo (cutout) ask for their original (photo)

    \b
    Examples:
      outfinder evaluate embedder shop/ --item-pattern "^[^-]+"
      outfinder evaluate embedder luma/product --layout luma --split test -o evaluation
      outfinder evaluate embedder shoes/test_m shoes/test_w --layout shoes --distractors shoes/train
      outfinder evaluate embedder val.json photos/ --layout cutouts --json - | jq .retrieval.item
      outfinder evaluate embedder shop/ --embedder features --embedder-weights mobilenet.safetensors
    """  # noqa: D301
    from pipeline.config import Config, build_embedder, resolve_device
    from pipeline.embedder_evaluation.figures import figures, table
    from pipeline.embedder_evaluation.page import Shown, write_page
    from pipeline.embedder_evaluation.subject import embed, likeness_by_pair_head
    from pipeline.evaluation.page import prepare_page
    from stages.embed.evaluation import Protocol, evaluate
    from stages.embed.metrics import cosine

    asks, found = DOMAINS.get(layout, ("", ""))
    plan = Protocol(
        same=same,
        query_domain=asks if query_domain is None else query_domain,
        gallery_domain=found if gallery_domain is None else gallery_domain,
        ways=tuple(sorted(set(ways))),
        within_label=layout == "omniglot",
        two_sources=layout == "omniglot",
        trials=trials,
        seed=seed,
    )
    photos = open_told(data, layout, item_pattern, splits)
    others = _found(open_told(distractors, layout, item_pattern, ()), plan) if distractors else None
    if output:
        prepare_page(output)
    device = resolve_device(device)
    config = Config(**chosen(embedder=embedder, embedder_weights=embedder_weights), device=device)
    stage = build_embedder(config)
    embedded = embed(stage, photos, others, keep_large=pair_head)
    tell_problems(embedded.photos)
    likeness = likeness_by_pair_head(embedder_weights, embedded.images, device) if pair_head else None
    evaluation = evaluate(embedded.vectors, embedded.samples, embedded.distractors, plan, likeness)
    about = {
        "embedder": config.embedder,
        "weights": str(embedder_weights or ""),
        "fingerprint": stage.fingerprint,
        "compared by": "pair head" if pair_head else "",
        "device": device,
        "data": " ".join(map(str, data)),
        "layout": layout,
        "split": " ".join(splits),
        "distractors": " ".join(map(str, distractors)),
        **_told(plan),
    }
    numbers: dict[str, Any] = {name: value for name, value in about.items() if value}
    numbers |= {"dim": stage.dim, "seconds_per_photo": round(embedded.seconds / len(embedded.images), 4)}
    numbers |= figures(evaluation) | {"problems": list(map(str, embedded.photos.problems))}
    if output:
        told = {name: value for name, value in about.items() if value}
        shown = Shown(examples, queries, projection)
        write_page(output, evaluation, embedded, likeness or cosine(embedded.vectors), numbers, told, shown)
        click.echo(f"page: {output / 'index.html'}", err=True)
    print_figures(numbers, table(evaluation), json_file)
    sys.exit(SOME_FAILED if embedded.photos.problems else 0)


def _found(distractors: PhotoSet, plan: Protocol) -> PhotoSet:
    """The distractors that are of the domain that is found, or of none."""
    found = distractors.only(lambda sample: plan.gallery_domain in ("", sample.domain) or not sample.domain)
    if not found.samples:
        raise ValueError(f"no distractor is of the domain {plan.gallery_domain}, which is to be found")
    return found


def _told(plan: Protocol) -> dict[str, str]:
    """How it was measured, where that is not the usual."""
    domains = f"{plan.query_domain} asks for {plan.gallery_domain}" if plan.query_domain else ""
    return {"same": plan.same, "domains": domains}
