"""``outfinder benchmark index``."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import FOLDER, friendly


def _sizes(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("wanted whole numbers such as 10000,100000") from error


@click.command()
@click.option(
    "--sizes",
    metavar="COUNT,...",
    callback=_sizes,
    default="10000,100000,1000000",
    show_default=True,
    help="How many vectors to index.",
)
@click.option("--dim", type=click.IntRange(2), default=128, show_default=True, help="Numbers of a vector.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the vectors and queries.")
@click.option("--quick", is_flag=True, help="10,000 vectors, fewer rounds: half a minute, and rough.")
@click.option("-o", "--output", type=FOLDER, help="Write index.jsonl and index.png (recall against speed) there.")
@friendly
def index(sizes: tuple[int, ...], dim: int, seed: int, quick: bool, output: Path | None) -> None:
    """Measure the index on clustered unit vectors.

    The whole gallery, the index by itself, bare hnswlib on the same graph, exact search, and faiss and usearch
    where they are installed (pip install 'outfinder[bench]') answer the same 1,000 queries, 100 at once and one by
    one, taking turns; medians count. A line each: recall@10 against the exact answer, queries per second, by how
    much longer a batch takes than with bare hnswlib, seconds to build and to open, memory and files in bytes per
    vector.

    \b
    Examples:
      outfinder benchmark index --quick
      outfinder benchmark index -o benchmark
      outfinder benchmark index --sizes 200000 --dim 256
    """  # noqa: D301
    from pipeline.benchmark.engines import available
    from pipeline.benchmark.index import benchmark_index
    from pipeline.benchmark.index_report import table, write
    from pipeline.plots import require_matplotlib

    if output:
        require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    for name in available()[1]:
        click.echo(f"{name} is not installed and left out; to have it: pip install 'outfinder[bench]'", err=True)
    figures = []
    for size in (10_000,) if quick else sizes:
        figures += benchmark_index(
            size, dim=dim, seed=seed, rounds=2 if quick else 5, tell=lambda doing: click.echo(doing, err=True)
        )
        if output:
            write(figures, output)
    click.echo(table(figures))
