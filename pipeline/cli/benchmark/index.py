"""``outfinder benchmark index``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from pipeline.cli.common import FOLDER, friendly


def _sizes(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("wanted whole numbers such as 10000,100000") from error


def _names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(","))


@click.command()
@click.option(
    "--sizes",
    metavar="COUNT,...",
    callback=_sizes,
    default="10000,100000,1000000",
    show_default=True,
    help="How many vectors to index.",
)
@click.option(
    "--engines",
    metavar="NAME,...",
    callback=_names,
    help="Some of gallery (with HnswIndex and bare hnswlib on its graph), exact, faiss, usearch.  [default: all there are]",
)
@click.option("--dim", type=click.IntRange(2), default=128, show_default=True, help="Numbers of a vector.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the vectors and queries.")
@click.option("--quick", is_flag=True, help="10,000 vectors, fewer rounds: half a minute, and rough.")
@click.option("-o", "--output", type=FOLDER, help="Write index.jsonl and index.png (recall against speed) there.")
@friendly
def index(
    sizes: tuple[int, ...], engines: tuple[str, ...] | None, dim: int, seed: int, quick: bool, output: Path | None
) -> None:
    """Measure the index on clustered unit vectors.

    The whole gallery, the index by itself, bare hnswlib on the same graph, exact search, and faiss and usearch
    where they are installed (pip install 'outfinder[bench]') answer the same 1,000 queries, 100 at once and one by
    one, taking turns; medians count. A line each: recall@10 against the exact answer, queries per second, by how
    much longer a batch takes than with bare hnswlib, seconds to build and to open, memory and files in bytes per
    vector; then the same with other values of ef. Lines and files come as soon as their figures are known, so that
    a run that is cut short has told all that it measured. Two cores take about one minute for 10,000 vectors, three
    for 100,000 and fifteen for 1,000,000, six of them for the gallery.

    \b
    Examples:
      outfinder benchmark index --quick
      outfinder benchmark index -o benchmark
      outfinder benchmark index --sizes 1000000 --engines gallery,exact -o million
      outfinder benchmark index --sizes 200000 --dim 256
    """  # noqa: D301
    from pipeline.benchmark.engines import available
    from pipeline.benchmark.index import Plan, benchmark_index
    from pipeline.benchmark.index_report import HEADINGS, cells, line, write
    from pipeline.plots import require_matplotlib

    if output:
        require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    for name in available()[1]:
        if engines is None or name in engines:
            click.echo(f"{name} is not installed and left out; to have it: pip install 'outfinder[bench]'", err=True)
    plan = Plan(rounds=2 if quick else 5, seed=seed)
    runs = [
        benchmark_index(size, dim, plan, engines, lambda doing: click.echo(doing, err=True))
        for size in ((10_000,) if quick else sizes)
    ]
    click.echo(line(HEADINGS))
    figures = []
    for measured in chain.from_iterable(runs):
        for one in measured:
            click.echo(line(cells(one)))
        figures += measured
        if output:
            write(figures, output)
