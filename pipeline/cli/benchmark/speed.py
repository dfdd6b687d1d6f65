"""``outfinder benchmark speed``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import ANYWHERE, FOLDER, friendly


@click.command()
@click.argument("photos", metavar="[PHOTO]...", nargs=-1, type=ANYWHERE)
@click.option("--count", type=click.IntRange(1), default=96, show_default=True, help="Photos of each size.")
@click.option("--items", type=click.IntRange(5000), default=100_000, show_default=True, help="Items of the gallery.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Turns at the same photos.")
@click.option(
    "--many", type=click.IntRange(0), default=0, help="Measure the memory for so many photos too, such as 10000."
)
@click.option("--memory-only", is_flag=True, help="With --many: measure nothing else.")
@click.option("--quick", is_flag=True, help="12 photos, one turn, 10,000 items: a minute, and rough.")
@click.option("-o", "--output", type=FOLDER, help="Write speed.json and speed.png (where the time goes) there.")
@friendly
def speed(
    photos: tuple[Path, ...],
    count: int,
    items: int,
    rounds: int,
    many: int,
    memory_only: bool,
    quick: bool,
    output: Path | None,
) -> None:
    """Time the pipeline beside what a tutorial would write, each in a process of its own, taking turns.

    Both have the same weights. The baseline decodes each photo whole, runs torchvision's detector in float32 on one
    photo at a time, pastes its masks to the photo's size and calls the embedder for each crop. Photos are searched
    as they are and then enlarged to 12 megapixels; without any PHOTO rendered ones are taken. Each part's
    milliseconds are told, and whether the outputs are the same. Measure on an idle machine: two cores take about
    seven minutes.

    \b
    Examples:
      outfinder benchmark speed --quick
      outfinder benchmark speed photos/ -o benchmark
      outfinder benchmark speed photos/ --many 10000 --memory-only
    """  # noqa: D301
    from tempfile import TemporaryDirectory

    from pipeline.benchmark.speed.report import growth_told, table, write
    from pipeline.benchmark.speed.run import Plan, benchmark_memory, benchmark_speed
    from pipeline.plots import require_matplotlib
    from pipeline.sample import render_sample
    from stages.images import walk

    def tell(doing: str) -> None:
        click.echo(doing, err=True)

    if memory_only and (output or not many):
        raise click.UsageError("--memory-only goes with --many and without --output.")
    if output:
        require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    plan = Plan(12, 10_000, 1, many) if quick else Plan(count, items, rounds, many)
    with TemporaryDirectory(prefix="outfinder-") as folder:
        if not photos:
            click.echo("rendering street scenes", err=True)
            render_sample(Path(folder) / "sample", seed=0, items=24, scenes=min(plan.photos, 48))
            photos = (Path(folder) / "sample" / "street",)
        files = list(walk(photos))
        if memory_only:
            click.echo("\n".join(growth_told(benchmark_memory(files, plan, tell))))
            return
        found = benchmark_speed(files, plan, tell)
    click.echo(table(found))
    if output:
        write(found, output)
        click.echo(f"where the time goes: {output / 'speed.png'}", err=True)
