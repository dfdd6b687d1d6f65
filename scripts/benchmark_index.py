"""Measure the gallery and its index beside bare hnswlib, exact search, faiss and usearch.

python scripts/benchmark_index.py --help
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import hnswlib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.cli.common import FOLDER, friendly
from pipeline.gallery import Gallery, Row
from pipeline.gallery.search import TAIL
from pipeline.plots import Line, Panel, draw, require_matplotlib
from stages.cores import cores
from stages.crop import BoxCrop
from stages.files import write_whole
from stages.index import HnswIndex, exact_search
from stages.testing import FakeEmbedder
from stages.types import Box, Match, Vectors
from timing import Times, middle, resident_bytes, slower_pct, take_turns, timed

Ids = NDArray[np.int64]
Searcher = Callable[[Vectors, int], Any]

M: Final = 16
EF_CONSTRUCTION: Final = 200
EF: Final = 128
"""The defaults of :class:`stages.index.HnswIndex`, which every other engine is given too."""

EFS: Final = (16, 32, 64, EF, 256)
"""Candidates that a search keeps, from fast to accurate."""

K: Final = 10
BATCH: Final = 100
"""Queries of one batch."""

SINGLE: Final = 200
"""Queries that are answered one by one."""

GALLERY: Final = "gallery"
BARE: Final = "hnswlib"
CENTRES: Final = 2000
SPREAD: Final = 0.6
"""Length of what a vector adds to the centre of its cluster, which has length 1: two of a cluster have cosine 0.74."""

DRAWN: Final = 1 << 16
"""Vectors that are drawn at once."""

ADDED: Final = 100_000
"""Photos that are added to the gallery at once."""


def clustered(count: int, dim: int, *, seed: int, draw: int = 0) -> Vectors:
    """Return ``(count, dim)`` float32 unit rows in clusters, as garments are.

    Args:
        count: of the vectors.
        dim: of each vector.
        seed: fixes the centres.
        draw: another number gives other vectors around the same centres: queries.

    >>> clustered(3, 8, seed=1, draw=2).shape
    (3, 8)
    """
    centres = _unit(np.random.default_rng([seed, dim]).standard_normal((CENTRES, dim), np.float32))
    return around(centres, count, SPREAD, np.random.default_rng([seed, dim, draw]))


def around(centres: Vectors, count: int, spread: float, rng: Generator) -> Vectors:
    """Return ``(count, dim)`` float32 unit rows: a centre each, plus normal noise of about the length ``spread``."""
    dim = centres.shape[1]
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, DRAWN):
        part = vectors[start : start + DRAWN]
        noise = rng.standard_normal(part.shape, np.float32)
        part[:] = _unit(centres[rng.integers(len(centres), size=len(part))] + noise * np.float32(spread / dim**0.5))
    return vectors


def _unit(vectors: NDArray[np.float32]) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill(gallery: Gallery, vectors: Vectors) -> None:
    """Add an item for each vector, whose id is its number, and save."""
    for start in range(0, len(vectors), ADDED):
        part = vectors[start : start + ADDED]
        numbers = range(start, start + len(part))
        gallery.add([Row(str(n), f"{n}.jpg", "", "whole", "top", 1.0, Box(0, 0, 1, 1)) for n in numbers], part)
    gallery.save()


def graph_file(folder: Path) -> Path:
    """Return the graph of a gallery."""
    graph = Gallery.open(folder).kept_index
    if graph is None:
        raise ValueError(f"gallery {folder} is small enough to be searched without an index")
    return graph


@dataclass(frozen=True)
class Engine:
    """An index of vectors 0, 1, 2 …: built into a folder (by the gallery, if None), opened for vectors so wide at an ef.

    It is searched for the k nearest of each query; ``rows`` returns their numbers ``(n, k)``.
    """

    name: str
    build: Callable[[Vectors, Path], object] | None
    open: Callable[[Path, int, int], Any]
    search: Callable[[Any, Vectors, int], Any]
    rows: Callable[[Any], Ids]
    has_ef: bool = True

    @property
    def files_of(self) -> str:
        """The name of the engine whose files it opens."""
        return self.name if self.build else GALLERY


def _build_gallery(vectors: Vectors, folder: Path) -> None:
    embedder = FakeEmbedder()
    embedder.dim = vectors.shape[1]
    fill(Gallery.create(folder, embedder, BoxCrop()), vectors)


def _items(found: list[list[Match]]) -> Ids:
    return np.array([[int(match.item) for match in matches] for matches in found], np.int64)


def _open_hnsw(folder: Path, dim: int, ef: int) -> HnswIndex:
    index = HnswIndex(dim, ef_search=ef)
    index.load(graph_file(folder), Gallery.open(folder).ids)
    return index


def _open_hnswlib(folder: Path, dim: int, ef: int) -> Any:
    index = hnswlib.Index(space="ip", dim=dim)
    index.load_index(os.fsencode(graph_file(folder)))
    index.set_num_threads(cores())
    index.set_ef(ef)
    return index


def _build_faiss(vectors: Vectors, folder: Path) -> None:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(cores())
    index = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))


def _open_faiss(folder: Path, _dim: int, ef: int) -> Any:
    index = importlib.import_module("faiss").read_index(str(folder / "index.faiss"))
    index.hnsw.efSearch = ef
    return index


def _usearch(dim: int, ef: int = EF) -> Any:
    return importlib.import_module("usearch.index").Index(
        ndim=dim, metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION, expansion_search=ef
    )


def _build_usearch(vectors: Vectors, folder: Path) -> None:
    index = _usearch(vectors.shape[1])
    index.add(np.arange(len(vectors)), vectors, threads=cores())
    index.save(str(folder / "index.usearch"))


def _open_usearch(folder: Path, dim: int, ef: int) -> Any:
    index = _usearch(dim)
    index.load(str(folder / "index.usearch"))
    index.expansion_search = ef
    return index


ENGINES: Final = {
    engine.name: engine
    for engine in (
        Engine(GALLERY, _build_gallery, lambda folder, _dim, _ef: Gallery.open(folder), Gallery.search, _items, has_ef=False),
        Engine("HnswIndex", None, _open_hnsw, HnswIndex.search, lambda found: found.rows),
        Engine(BARE, None, _open_hnswlib, lambda index, queries, k: index.knn_query(queries, k=k),
               lambda found: found[0].astype(np.int64)),
        Engine("exact", lambda vectors, folder: np.save(folder / "vectors.npy", vectors),
               lambda folder, _dim, _ef: np.load(folder / "vectors.npy"), exact_search, lambda found: found.rows,
               has_ef=False),
        Engine("faiss", _build_faiss, _open_faiss, lambda index, queries, k: index.search(queries, k),
               lambda found: found[1]),
        Engine("usearch", _build_usearch, _open_usearch,
               lambda index, queries, k: index.search(queries, k, threads=cores()),
               lambda found: np.atleast_2d(np.asarray(found.keys)).astype(np.int64)),  # of a single query flat
    )
}  # fmt: skip
"""In the order in which they are measured: those that open the gallery's files after it."""


def available() -> tuple[list[Engine], list[str]]:
    """Return the engines that can be measured, and the names of those that are not installed."""
    absent = [name for name in ("faiss", "usearch") if find_spec(name) is None]
    return [engine for name, engine in ENGINES.items() if name not in absent], absent


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """The figures of one engine at one size and one ef.

    ``recall`` is the share of the k true neighbours that are found. ``batch_qps`` and ``single_qps`` are medians of
    queries per second in batches of 100 and one by one; ``over_bare_pct`` by how many percent a batch takes longer
    than with bare hnswlib on the same graph. ``build_s`` lasts until everything is on disk, ``open_s`` from the files
    to the first answer; ``memory`` is what opening adds to a process, ``file`` the size of the files, both in bytes
    per vector. None: not measured, because the engine opens the files of another, or has no ef.
    """

    engine: str
    vectors: int
    dim: int
    k: int
    ef: int | None
    recall: float
    batch_qps: float
    single_qps: float
    over_bare_pct: float | None
    build_s: float | None
    open_s: float
    memory: float | None
    file: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How engines are measured.

    ``queries`` is a multiple of 100; ``rounds`` how often the engines take turns; ``efs`` the values of ef to try
    besides the default; ``seed`` that of vectors and queries.

    Raises:
        ValueError: there is no full batch of queries.
    """

    queries: int = 1000
    rounds: int = 5
    efs: Sequence[int] = EFS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.queries < BATCH or self.queries % BATCH:
            raise ValueError(f"queries come in batches of {BATCH}: wanted a multiple of it, got {self.queries}")


@dataclass(frozen=True, slots=True)
class _Trial:
    """Queries with their true neighbours, and the number of rounds."""

    queries: Vectors
    truth: Ids
    rounds: int

    def open(self, engine: Engine, folder: Path, ef: int = EF) -> Searcher:
        """Open an engine and answer a query with it."""
        search = partial(engine.search, engine.open(folder, self.queries.shape[1], ef))
        search(self.queries[:1], K)
        return search

    def recall(self, engine: Engine, search: Searcher) -> float:
        rows = engine.rows(search(self.queries, K))
        hits = sum(len(np.intersect1d(ours, true)) for ours, true in zip(rows, self.truth, strict=True))
        return hits / self.truth.size

    def times(self, searchers: Mapping[str, Searcher], batch: int, most: int) -> dict[str, Times]:
        """Return the seconds of each batch of queries, the engines taking turns."""
        queries = self.queries[: most - most % batch]
        calls = {name: lambda part, search=search: search(part, K) for name, search in searchers.items()}
        return take_turns(calls, np.split(queries, len(queries) // batch), self.rounds)


def benchmark_index(
    count: int,
    dim: int = 128,
    plan: Plan = Plan(),
    engines: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[list[IndexFigures]]:
    """Measure engines on clustered unit vectors; yield figures as soon as they are known.

    Those of the engines that open the same files come together; then, for each ef of the plan, those that have one.

    Args:
        count: of the vectors that are indexed.
        dim: of each vector.
        plan: how much is measured.
        engines: names of those to build; ours and bare hnswlib on its graph go by ``gallery``. All by default.
        report: called with a line about each step.

    Raises:
        ValueError: there are too few vectors for an index, or an engine is not installed.
    """
    if count <= TAIL:
        raise ValueError(f"a gallery of {count} vectors is searched exactly, without an index: take more than {TAIL}")
    installed, _ = available()
    names = list(dict.fromkeys(engine.files_of for engine in installed))
    if unknown := [name for name in engines if name not in names]:
        raise ValueError(f"there is no engine {unknown[0]!r} here; there are {', '.join(names)}")
    groups = [[one for one in installed if one.files_of == name] for name in names if name in (engines or names)]
    report(f"{count:,} vectors: exact answers")
    vectors = clustered(count, dim, seed=plan.seed)
    queries = clustered(plan.queries, dim, seed=plan.seed, draw=1)
    trial = _Trial(queries, exact_search(vectors, queries, K).rows, plan.rounds)
    bare: dict[str, Searcher] = {}
    tuned: list[tuple[Engine, IndexFigures]] = []
    with TemporaryDirectory(prefix="outfinder-") as name:
        folder = Path(name)
        for group in groups:
            report(f"{count:,} vectors: {', '.join(engine.name for engine in group)}")
            built = [_built(engine, vectors, trial, folder / engine.files_of) for engine in group]
            searchers = {engine.name: search for engine, (search, _) in zip(group, built, strict=True)}
            figures = _with_speed([one for _, one in built], searchers, trial, bare)
            bare = bare or {name: search for name, search in searchers.items() if name == BARE}
            tuned += [pair for pair in zip(group, figures, strict=True) if pair[0].has_ef]
            yield figures
        del vectors, bare, searchers
        for ef in sorted({*plan.efs} - {EF}) if tuned else ():
            report(f"{count:,} vectors: ef {ef}")
            searchers = {engine.name: trial.open(engine, folder / engine.files_of, ef) for engine, _ in tuned}
            recalls = [
                replace(one, ef=ef, recall=trial.recall(engine, searchers[engine.name])) for engine, one in tuned
            ]
            yield _with_speed(recalls, searchers, trial)


def _built(engine: Engine, vectors: Vectors, trial: _Trial, folder: Path) -> tuple[Searcher, IndexFigures]:
    """Build and open an engine; return all figures but queries per second."""
    count, dim = vectors.shape
    build_s = None
    if engine.build:
        folder.mkdir()
        _, build_s = timed(partial(engine.build, vectors, folder))
    files = [*(folder.iterdir() if engine.build else []), *([graph_file(folder)] if engine.files_of == GALLERY else [])]
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        memory = fresh.submit(_memory_growth, engine.name, folder, trial).result()
    search, open_s = timed(partial(trial.open, engine, folder))
    recall = trial.recall(engine, search)
    return search, IndexFigures(
        engine.name, count, dim, K, EF if engine.has_ef else None, recall, 0.0, 0.0, None,
        build_s and round(build_s, 2), round(open_s, 3), memory and round(memory / count, 1),
        round(sum(path.stat().st_size for path in files) / count, 1),
    )  # fmt: skip


def _memory_growth(engine: str, folder: Path, trial: _Trial) -> int | None:
    """Return the bytes that a fresh process grows by when it opens an engine a second time."""
    _first = trial.open(ENGINES[engine], folder)
    before = resident_bytes()
    _second = trial.open(ENGINES[engine], folder)
    after = resident_bytes()
    return None if before is None or after is None else after - before


def _with_speed(
    figures: Sequence[IndexFigures],
    searchers: Mapping[str, Searcher],
    trial: _Trial,
    beside: Mapping[str, Searcher] = {},
) -> list[IndexFigures]:
    """Return the figures with queries per second; the engines ``beside`` take turns too."""
    batches = trial.times({**searchers, **beside}, BATCH, len(trial.queries))
    singles = trial.times({**searchers, **beside}, 1, SINGLE)
    return [
        replace(
            one,
            recall=round(one.recall, 4),
            batch_qps=round(BATCH / middle(batches[one.engine]), 1),
            single_qps=round(1 / middle(singles[one.engine]), 1),
            over_bare_pct=slower_pct(batches[one.engine], batches[BARE])
            if one.engine != BARE and BARE in batches
            else None,
        )
        for one in figures
    ]


HEADINGS = ("  vectors", "   engine", " ef", "recall", "q/s by 100", "q/s singly", "over hnswlib",
            "build s", "open s", "memory B", "file B")  # fmt: skip
"""As wide as their columns."""


def line(cells: Sequence[str]) -> str:
    """Align headings or cells as a line of the table."""
    return "  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, HEADINGS, strict=True))


def cells(one: IndexFigures) -> tuple[str, ...]:
    """Return the cells of an engine's line."""
    over, build, memory = one.over_bare_pct, one.build_s, one.memory
    return (
        f"{one.vectors:,}",
        one.engine,
        "–" if one.ef is None else str(one.ef),
        f"{one.recall:.4f}",
        f"{one.batch_qps:,.0f}",
        f"{one.single_qps:,.0f}",
        "–" if over is None else f"{over:+.1f} %",
        "–" if build is None else f"{build:.1f}",
        f"{one.open_s:.2f}",
        "–" if memory is None else f"{memory:.0f}",
        f"{one.file:.0f}",
    )


def write(figures: Sequence[IndexFigures], folder: Path) -> None:
    """Write ``index.jsonl``, every figure, and ``index.png``, recall against queries per second."""
    write_whole(folder / "index.jsonl", "".join(json.dumps(asdict(one)) + "\n" for one in figures))
    sizes = sorted({one.vectors for one in figures})
    draw([_panel([one for one in figures if one.vectors == size]) for size in sizes], folder / "index.png")


def _panel(figures: Sequence[IndexFigures]) -> Panel:
    curves = []
    for engine in dict.fromkeys(one.engine for one in figures):
        points = sorted((one for one in figures if one.engine == engine), key=lambda one: one.ef or 0)
        curves.append(Line(engine, [one.recall for one in points], [one.batch_qps for one in points]))
    return Panel(f"{figures[0].vectors:,} × {figures[0].dim}", f"recall@{K}", "queries per second, by 100", curves)


def _sizes(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("wanted whole numbers such as 10000,100000") from error


@click.command()
@click.option("--sizes", metavar="COUNT,...", callback=_sizes, default="10000,100000,1000000", show_default=True,
              help="How many vectors to index.")  # fmt: skip
@click.option("--engines", metavar="NAME,...",
              help="Some of gallery (with HnswIndex and bare hnswlib on its graph), exact, faiss, usearch."
                   "  [default: all that are installed]")  # fmt: skip
@click.option("--dim", type=click.IntRange(2), default=128, show_default=True, help="Numbers of a vector.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the vectors and queries.")
@click.option("--quick", is_flag=True, help="10,000 vectors, fewer rounds: half a minute, and rough.")
@click.option("-o", "--output", type=FOLDER, help="Write index.jsonl and index.png (recall against speed) there.")
@friendly
def main(sizes: tuple[int, ...], engines: str | None, dim: int, seed: int, quick: bool, output: Path | None) -> None:
    r"""Measure the index on clustered unit vectors.

    The whole gallery, the index by itself, bare hnswlib on the same graph, exact search, and faiss and usearch
    where they are installed (pip install 'outfinder[bench]') answer the same 1,000 queries, in batches of 100 and one
    by one, taking turns; medians count. A line each: recall@10 against the exact answer, queries per second, by how
    much longer a batch takes than with bare hnswlib, seconds to build and to open, memory and files in bytes per
    vector; then the same at other values of ef. Lines and files are written as soon as their figures are known. Two
    cores take about one minute for 10,000 vectors, three for 100,000 and fifteen for 1,000,000, six of them for
    building the gallery.

    \b
    Examples:
      python scripts/benchmark_index.py --quick
      python scripts/benchmark_index.py -o benchmark
      python scripts/benchmark_index.py --sizes 1000000 --engines gallery,exact -o million
      python scripts/benchmark_index.py --sizes 200000 --dim 256
    """
    names = [part.strip() for part in engines.split(",")] if engines else []
    if output:
        require_matplotlib()
        output.mkdir(parents=True, exist_ok=True)
    for name in available()[1]:
        if not names or name in names:
            click.echo(f"{name} is not installed and left out; to have it: pip install 'outfinder[bench]'", err=True)
    runs = [
        benchmark_index(size, dim, Plan(rounds=2 if quick else 5, seed=seed), names, partial(click.echo, err=True))
        for size in ((10_000,) if quick else sizes)
    ]
    click.echo(line(HEADINGS))
    figures: list[IndexFigures] = []
    for measured in chain.from_iterable(runs):
        for one in measured:
            click.echo(line(cells(one)))
        figures += measured
        if output:
            write(figures, output)


if __name__ == "__main__":
    main()
