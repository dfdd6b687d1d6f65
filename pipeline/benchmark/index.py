"""The benchmark of indexes: recall against the exact answer, queries per second, building, memory and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from pipeline.benchmark.engines import EF, Engine, Ids, available, graph_file
from pipeline.benchmark.timing import Times, middle, resident_bytes, slower_pct, take_turns, timed
from pipeline.benchmark.vectors import clustered
from pipeline.gallery.searcher import TAIL
from stages.index import exact_search
from stages.types import Vectors

EFS: Final = (10, 16, 32, EF, 128, 256)
"""The candidates looked at, from fast to good."""

K: Final = 10
"""Neighbours that are asked for."""

BATCH: Final = 100
"""Queries that are asked at once."""

SINGLE: Final = 200
"""Queries that are asked one by one."""

BARE: Final = "hnswlib"


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """One engine at one size and one ef.

    ``recall`` is the share of the k truly nearest that are found; ``batch_qps`` and ``single_qps`` are queries per
    second asked 100 at once and one by one, by medians; ``over_bare_pct`` by how many percent a batch of 100 takes
    longer than with bare hnswlib on the same graph. ``build_s`` is until all is on disk, ``open_s`` from the files
    to the first answer, ``memory`` what that makes a process grow by, in bytes per vector, and ``file`` the files'
    bytes per vector. None: not measured, because an engine opens another's files, or has no ef.
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
class _Trial:
    """Queries with their true neighbours, and how often they are asked."""

    queries: Vectors
    truth: Ids
    rounds: int

    @property
    def k(self) -> int:
        return int(self.truth.shape[1])

    def recall(self, engine: Engine) -> float:
        """The share of the true neighbours that an engine finds."""
        found = engine.rows(engine.search(self.queries, self.k))
        hits = sum(len(np.intersect1d(ours, true)) for ours, true in zip(found, self.truth, strict=True))
        return hits / self.truth.size

    def times(self, engines: Sequence[Engine], batch: int, most: int) -> dict[str, Times]:
        """Seconds for batches of the queries, the engines taking turns."""
        asked = self.queries[: most - most % batch]
        batches = np.split(asked, len(asked) // batch)
        searches = {engine.name: partial(engine.search, k=self.k) for engine in engines}
        return take_turns(searches, batches, self.rounds)


def benchmark_index(
    vectors: int,
    *,
    dim: int = 128,
    queries: int = 1000,
    rounds: int = 5,
    efs: Sequence[int] = EFS,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> list[IndexFigures]:
    """Measure every engine that is installed on clustered unit vectors, asked for ten neighbours.

    Args:
        vectors: how many are indexed.
        dim: how wide they are.
        queries: how many are asked, a multiple of 100.
        rounds: how often the engines take turns.
        efs: the values of ef to try besides the default.
        seed: of the vectors and queries.
        tell: is told what is being done.

    Returns:
        One for each engine as it comes, then one for each engine that has an ef and each of ``efs``.

    Raises:
        ValueError: too few vectors for an index, or no full batch of queries.
    """
    if vectors <= TAIL:
        raise ValueError(f"a gallery of {vectors} vectors is searched exactly, without an index: take more than {TAIL}")
    if queries < BATCH or queries % BATCH:
        raise ValueError(f"queries are asked {BATCH} at once: wanted a multiple of it, got {queries}")
    stored = clustered(vectors, dim, seed=seed)
    asked = clustered(queries, dim, seed=seed, draw=1)
    tell(f"{vectors:,} vectors: exact answers")
    trial = _Trial(asked, exact_search(stored, asked, K).rows, rounds)
    engines, _ = available()
    with TemporaryDirectory(prefix="outfinder-") as folder:
        figures = [_prepare(engine, stored, trial, Path(folder), tell) for engine in engines]
        del stored
        tell(f"{vectors:,} vectors: queries, the engines taking turns")
        figures = _measured(engines, figures, trial)
        return figures + list(_sweep(engines, figures, trial, efs, tell))


def _prepare(
    engine: Engine, vectors: Vectors, trial: _Trial, folder: Path, tell: Callable[[str], None]
) -> IndexFigures:
    """Build and open an engine; how fast it answers is not known yet."""
    count, dim = vectors.shape
    own, build_s = folder / engine.files_of, None
    if engine.files_of == engine.name:
        tell(f"{count:,} vectors: building {engine.name}")
        own.mkdir()
        _, build_s = timed(lambda: engine.build(vectors, own))
    files = own.iterdir() if engine.files_of == engine.name else [graph_file(own)]
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        memory = apart.submit(_growth, engine, own, trial).result()
    _, open_s = timed(lambda: _open(engine, own, trial))
    return IndexFigures(
        engine.name, count, dim, trial.k, EF if engine.has_ef else None, trial.recall(engine), 0.0, 0.0, None,
        build_s and round(build_s, 2), round(open_s, 3), memory and round(memory / count, 1),
        round(sum(path.stat().st_size for path in files) / count, 1),
    )  # fmt: skip


def _growth(engine: Engine, folder: Path, trial: _Trial) -> int | None:
    """By how many bytes a fresh process grows when it opens an engine, once it has opened another of the same."""
    first = copy(engine)
    _open(first, folder, trial)
    before = resident_bytes()
    _open(engine, folder, trial)
    after = resident_bytes()
    return None if before is None or after is None else after - before


def _open(engine: Engine, folder: Path, trial: _Trial) -> None:
    engine.open(folder, trial.queries.shape[1])
    engine.search(trial.queries[:1], trial.k)


def _measured(engines: Sequence[Engine], figures: Sequence[IndexFigures], trial: _Trial) -> list[IndexFigures]:
    """The same with queries per second."""
    batches, singles = trial.times(engines, BATCH, len(trial.queries)), trial.times(engines, 1, SINGLE)
    return [
        replace(
            one,
            recall=round(one.recall, 4),
            batch_qps=round(BATCH / middle(batches[one.engine]), 1),
            single_qps=round(1 / middle(singles[one.engine]), 1),
            over_bare_pct=None if one.engine == BARE else slower_pct(batches[one.engine], batches[BARE]),
        )
        for one in figures
    ]


def _sweep(
    engines: Sequence[Engine],
    figures: Sequence[IndexFigures],
    trial: _Trial,
    efs: Sequence[int],
    tell: Callable[[str], None],
) -> Iterator[IndexFigures]:
    tuned = [(engine, one) for engine, one in zip(engines, figures, strict=True) if engine.has_ef]
    for ef in sorted({*efs} - {EF}):
        tell(f"{figures[0].vectors:,} vectors: ef {ef}")
        for engine, _ in tuned:
            engine.tune(ef)
        recalls = [replace(one, ef=ef, recall=trial.recall(engine)) for engine, one in tuned]
        yield from _measured([engine for engine, _ in tuned], recalls, trial)
