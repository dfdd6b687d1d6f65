"""``outfinder benchmark crops``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import ANYWHERE, FILE_OUT, FOLDER, SOME_FAILED, friendly, print_figures

if TYPE_CHECKING:
    from pipeline.benchmark.crops import CropSet, Subject

IN_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
COCO = (click.Path(exists=True, dir_okay=False, path_type=Path), IN_FOLDER)


@click.command()
@click.option("--scenes", type=IN_FOLDER, metavar="DIR",
              help="Rendered scenes, as scripts/render_sample writes.  [default: the packaged ones, unless other data is named]")  # fmt: skip
@click.option("--ccp", type=COCO, metavar="COCO PHOTOS",
              help="Street photos with outlines, such as Clothing Co-Parsing: pairs of shoes, and garments cut out.")  # fmt: skip
@click.option("--luma", type=IN_FOLDER, metavar="DIR", help="Luma's shop photos: fronts find backs.")
@click.option("--data", multiple=True, type=ANYWHERE, metavar="CSV|DIR",
              help="Photos of your own: a CSV photo,box,mask,item_id, or a folder for each item; may be repeated.")  # fmt: skip
@click.option("--detector", "detectors", multiple=True, metavar="NAME",
              help="May be repeated.  [default: maskrcnn_mobilenet_v2 and fasterrcnn_mobilenet_v2]")  # fmt: skip
@click.option("--embedder", "embedders", multiple=True, metavar="NAME[=WEIGHTS]",
              help="May be repeated; the first is told of first.  [default: all that are shipped; quick: siamese]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is drawn.")
@click.option("--quick", is_flag=True, help="Fewer photos and one embedder: under two minutes, and rough.")
@click.option("-o", "--output", type=FOLDER, help="Write a page with curves and pictures into this folder.")
@click.option("--json", "json_file", type=FILE_OUT, help="Write the figures as JSON; - for standard output.")
@friendly
def crops(
    scenes: Path | None,
    ccp: tuple[Path, Path] | None,
    luma: Path | None,
    data: tuple[Path, ...],
    detectors: tuple[str, ...],
    embedders: tuple[str, ...],
    seed: int,
    quick: bool,
    output: Path | None,
    json_file: Path | None,
) -> None:
    """Compare mask crops with box crops: which find the same garment again, and what they cost.

    Each photo is detected once by each detector, its garments are cut in every way (whole photo, box, box with context,
    mask on white, on the mean colour, on a blurred ground, and the mean of the vectors of mask and box), every crop is
    embedded by every embedder, and every garment asks for its like. Detections are the annotations, where there are
    some, and those of each detector; what a detector misses is a failure, and recall over garments that all detectors
    found is told apart. Differences are paired, over the same queries, with intervals of 95 %; the verdict follows
    from them. The same seed gives the same figures; from machine to machine only times and roundings differ.

    Without data of any kind, the twelve packaged scenes are used; scripts/render_sample makes more. In a CSV a box is `x1 y1 x2 y2` in
    pixels, a mask a picture that is white where the garment is; both may be empty, and a column label may be there. In
    a folder for each item, photos show one garment each. Untrained ImageNet features need their weights:
    --embedder features=FILE. All data and five embedders take two idle cores about 12 minutes. Exit status 1: some
    photos could not be used.

    \b
    Examples:
      outfinder benchmark crops --quick
      outfinder benchmark crops --data mine.csv -o comparison
      outfinder benchmark crops --scenes graded/ --ccp val.json photos/ --luma luma/product -o comparison
      outfinder benchmark crops --embedder mine=run/weights.safetensors --embedder siamese --json crops.json
    """  # noqa: D301
    from pipeline.benchmark.crops import Plan, Subject, benchmark_crops
    from pipeline.benchmark.crops.page import write_page
    from pipeline.benchmark.crops.report import figures_of, table
    from pipeline.benchmark.crops.subject import DETECTORS
    from pipeline.demo import FOLDER
    from pipeline.evaluation_pages import prepare_page

    if output:
        prepare_page(output)
    subject = Subject.of(detectors or DETECTORS, embedders or (("siamese",) if quick else ()))
    if not (scenes or ccp or luma or data):
        scenes = FOLDER
    sets = _sets(subject, ccp, luma, data, scenes, seed, quick)
    plan = Plan(seed, cost_photos=4 if quick else 12, cost_rounds=1 if quick else 3, memory=True)
    comparison = benchmark_crops(sets, subject, plan, lambda doing: click.echo(doing, err=True))
    told = figures_of(comparison)
    if output:
        write_page(output, comparison, subject.detectors, told)
        click.echo(f"page: {output / 'index.html'}", err=True)
    for problem in dict.fromkeys(text for one in sets for text in one.problems):
        click.echo(problem, err=True)
    print_figures(told, table(comparison), json_file)
    sys.exit(SOME_FAILED if any(one.problems for one in sets) else 0)


def _sets(
    subject: Subject,
    ccp: tuple[Path, Path] | None,
    luma: Path | None,
    data: tuple[Path, ...],
    scenes: Path | None,
    seed: int,
    quick: bool,
) -> list[CropSet]:
    """The data that was asked for, small where that was asked for too."""
    from pipeline.benchmark.crops import cutouts, fronts_and_backs, own_photos, rendered, shoe_pairs

    labels = {label for detector in subject.detectors.values() for label in detector.labels}
    sets: list[CropSet] = []
    if scenes:
        sets += [one.only(labels) for one in rendered(scenes)]
    if ccp:
        sets.append(shoe_pairs(*ccp, most=20 if quick else 100, seed=seed).only(labels))
        sets.append(cutouts(*ccp, most=20 if quick else 120, seed=seed).only(labels))
    if luma:
        sets.append(fronts_and_backs(luma, others=0 if quick else 150, seed=seed))
    return sets + [own_photos(source) for source in data]
