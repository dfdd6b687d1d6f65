"""``outfinder calibrate``: thresholds of similarity."""

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
              help="Target false match rate: the share of pairs of different items that are called the same.")  # fmt: skip
@click.option("--fnmr", default=0.05, show_default=True, type=click.FloatRange(0, 0.5, min_open=True),
              help="Target false non-match rate: the share of pairs of the same item that are called different.")  # fmt: skip
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
    """Find the similarities at which two photos show the same item, on photos of DATA that training has not seen.

    A pair with a similarity of at least `same` is called the same item, which at most --fmr of the pairs of different
    items are. A pair below `different` is called different, which at most --fnmr of the pairs of the same item are. Any
    other pair is not sure. Thresholds have 95 % intervals, for all photos and for each label with enough photos. They
    are valid for this embedder only, and for pairs: among 1000 items, a rate of 0.01 means ten false matches.

    `compare` and `search` use them for verdicts. DATA is as for `evaluate embedder`.

    \b
    Examples:
      outfinder calibrate shop/ --item-pattern "^[^-]+" -o shop.calibration.json
      outfinder calibrate shop.csv --fmr 0.001 -o strict.calibration.json
      outfinder compare left.jpg right.jpg --calibration shop.calibration.json
    """  # noqa: D301
    from pipeline.catalogue import open_set
    from pipeline.config import Config, build_embedder
    from pipeline.evaluation import Table, embed_photos
    from pipeline.outputs import check_file
    from stages.embed import calibration
    from stages.embed.attributes import attribute_part
    from stages.embed.calibration import calibration_path
    from stages.embed.data import numbered
    from stages.embed.metrics import cosine, sample_pairs

    checkpoint = settings.get("embedder_weights")
    target = output or (calibration_path(checkpoint) if checkpoint else None)
    if target is None:
        raise ValueError(
            "say where to write the calibration: give -o FILE.json, or --embedder-weights to write it beside them"
        )
    check_file(target, overwrite=overwrite)
    photos = open_set(data, item_pattern)
    stage = build_embedder(Config(**settings))
    embedded = embed_photos(stage, photos)
    print_problems(embedded.photos)
    samples, part = embedded.samples, attribute_part(stage)
    vectors = part.comparable(embedded.vectors) if part else embedded.vectors
    result = calibration.calibrate(
        sample_pairs(cosine(vectors), numbered([sample.item for sample in samples])),
        numbered([sample.style_or_item for sample in samples]),
        [sample.label for sample in samples],
        stage.fingerprint,
        fmr,
        fnmr,
        f"{len(samples)} photos of {' '.join(map(str, data))}",
    )
    result.save(target)
    rows = [
        (name, str(one.same), str(one.different), f"{one.fmr:.4f}", f"{one.fnmr:.4f}", str(one.different_pairs))
        for name, one in {"all": result.every, **result.labels}.items()
    ]
    click.echo(Table(("", "same from", "different below", "FMR", "FNMR at same", "different pairs"), rows))
    for note in result.notes:
        click.echo(note, err=True)
    click.echo(f"calibration: {json.dumps(str(target))}", err=True)
    sys.exit(SOME_FAILED if embedded.photos.problems else 0)
