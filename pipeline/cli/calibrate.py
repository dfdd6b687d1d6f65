"""``outfinder calibrate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import (
    FILE_OUT,
    SOME_FAILED,
    config_options,
    friendly,
    overwrite_option,
    print_problems,
    set_options,
)


@click.command()
@set_options
@click.option("--fmr", default=0.01, show_default=True, type=click.FloatRange(0, 0.5, min_open=True),
              help="Wanted false match rate: different items that are called the same.")  # fmt: skip
@click.option("--fnmr", default=0.05, show_default=True, type=click.FloatRange(0, 0.5, min_open=True),
              help="Wanted false non-match rate: photos of one item that are called different.")  # fmt: skip
@config_options("embedder")
@click.option("-o", "--output", type=FILE_OUT,
              help="The JSON file.  [default: beside --embedder-weights, as NAME.calibration.json]")  # fmt: skip
@overwrite_option
@friendly
def calibrate(
    data: tuple[Path, ...],
    item_pattern: str,
    fmr: float,
    fnmr: float,
    settings: dict[str, Any],
    output: Path | None,
    overwrite: bool,
) -> None:
    """Find from which similarity on two photos show the same item, on the photos of DATA that training never saw.

    From `same` on a pair is called the same item: of pairs of two items at most --fmr are. Below `different` it is
    called different: of pairs of one item at most --fnmr are. Between them it is not sure. Thresholds come with
    intervals of 95 %, for all photos and for each label that has enough of them. They hold for this embedder only,
    and are refused for others; and they hold for pairs: among 1000 items, a rate of 0.01 is ten false matches.

    `compare` says what a similarity means then. DATA is as for `evaluate embedder`.

    \b
    Examples:
      outfinder calibrate shop/ --item-pattern "^[^-]+" -o shop.calibration.json
      outfinder calibrate shop.csv --fmr 0.001 -o strict.calibration.json
      outfinder compare left.jpg right.jpg --calibration shop.calibration.json
    """  # noqa: D301
    from pipeline.catalogue import open_set
    from pipeline.config import Config, build_embedder
    from pipeline.evaluation import Table, embed_photos
    from pipeline.outputs import check_absent
    from stages.embed import calibration
    from stages.embed.attributes import attribute_part
    from stages.embed.calibration import calibration_path
    from stages.embed.data import numbered
    from stages.embed.metrics import cosine, sample_pairs

    checkpoint = settings.get("embedder_weights")
    target = output or (calibration_path(checkpoint) if checkpoint else None)
    if target is None:
        raise ValueError(
            "say where to write the calibration: -o FILE.json, or --embedder-weights to have it beside them"
        )
    check_absent(target, overwrite=overwrite)
    photos = open_set(data, item_pattern)
    stage = build_embedder(Config(**settings))
    embedded = embed_photos(stage, photos)
    print_problems(embedded.photos)
    samples, part = embedded.samples, attribute_part(stage)
    vectors = part.comparable(embedded.vectors) if part else embedded.vectors
    found = calibration.calibrate(
        sample_pairs(cosine(vectors), numbered([sample.item for sample in samples])),
        numbered([sample.style_or_item for sample in samples]),
        [sample.label for sample in samples],
        stage.fingerprint,
        fmr,
        fnmr,
        f"{len(samples)} photos of {' '.join(map(str, data))}",
    )
    found.save(target)
    rows = [
        (name, str(one.same), str(one.different), f"{one.fmr:.4f}", f"{one.fnmr:.4f}", str(one.different_pairs))
        for name, one in {"all": found.every, **found.labels}.items()
    ]
    click.echo(Table(("", "same from", "different below", "FMR", "FNMR at same", "different pairs"), rows))
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(f"calibration: {json.dumps(str(target))}", err=True)
    sys.exit(SOME_FAILED if embedded.photos.problems else 0)
