"""``outfinder benchmark crops``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import ANYWHERE, FOLDER, FigureOutputs, figure_options, friendly


@click.group()
def benchmark() -> None:
    """Compare ways to crop garments.

    \b
    Examples:
      outfinder benchmark crops --quick
    """  # noqa: D301


@benchmark.command()
@click.option("--data", multiple=True, type=ANYWHERE, metavar="CSV|DIR",
              help="Your photos: a CSV photo,item_id,box,mask, or a folder for each item; may be repeated.")  # fmt: skip
@click.option("--scenes", type=FOLDER, metavar="DIR",
              help="Scenes that scripts/render_sample wrote.  [default: the packaged ones, unless --data is given]")  # fmt: skip
@click.option("--detector", "detectors", multiple=True, metavar="NAME",
              help="May be repeated.  [default: maskrcnn_mobilenet_v2 and fasterrcnn_mobilenet_v2]")  # fmt: skip
@click.option("--embedder", "embedders", multiple=True, metavar="NAME[=WEIGHTS]",
              help="May be repeated; the verdict is about the first.  [default: all that are shipped; quick: siamese]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the intervals.")
@click.option("--quick", is_flag=True, help="One embedder, and less timing: under two minutes.")
@figure_options
@friendly
def crops(
    data: tuple[Path, ...],
    scenes: Path | None,
    detectors: tuple[str, ...],
    embedders: tuple[str, ...],
    seed: int,
    quick: bool,
    outputs: FigureOutputs,
) -> None:
    """Compare mask crops with box crops: which find a garment again, and what they cost.

    Each detector analyses each photo once. Its garments are cropped in every way (whole photo, box, box with context,
    mask on white, on the mean colour, on a blurred background, and the mean of the vectors of mask and box), embedded by
    every embedder, and searched for. Annotations, if there are any, count as a detector. A garment that a detector misses
    is a failure; recall over the garments that all detectors found is given too. Differences are paired by query, with
    95 % intervals, and the verdict follows from them. The same seed gives the same figures.

    Without --data, rendered scenes are compared, which need no download. In a CSV, a box is `x1 y1 x2 y2` in pixels and a
    mask is a picture that is white where the garment is; both may be empty. Optional columns are label, role (query or
    gallery) and unit (items that fail together). In a folder with a sub-folder for each item, each photo shows one
    garment. scripts/crop_sets.py writes such CSVs from public data sets. Untrained ImageNet features need weights:
    --embedder features=FILE. Exit status 1: some photos could not be used.

    \b
    Examples:
      outfinder benchmark crops --quick
      outfinder benchmark crops --data mine.csv -o comparison
      outfinder benchmark crops --embedder mine=run/weights.safetensors --embedder siamese --json crops.json
    """  # noqa: D301
    from pipeline.crop_benchmark import DETECTORS, CropStages, benchmark_crops
    from pipeline.crop_benchmark_data import load_photos, rendered_scenes
    from pipeline.crop_benchmark_report import figures_of, text_report, write_crop_page

    outputs.prepare()
    stages = CropStages.build(detectors or DETECTORS, embedders or (("siamese",) if quick else ()))
    sets = [load_photos(source) for source in data]
    if scenes or not data:
        sets = [*(rendered_scenes(scenes) if scenes else rendered_scenes()), *sets]
    comparison = benchmark_crops(
        sets, stages, seed=seed, timed_photos=4 if quick else 12, progress=lambda step: click.echo(step, err=True)
    )
    figures = figures_of(comparison)
    if outputs.page:
        write_crop_page(outputs.page, comparison, figures)
    problems = dict.fromkeys(text for one in sets for text in one.problems)
    for problem in problems:
        click.echo(problem, err=True)
    outputs.finish(figures, text_report(comparison), failed=bool(problems))
