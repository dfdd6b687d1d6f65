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

EFS: Final = (16, 32, 64, EF, 256)
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
class Plan:
    """How engines are measured.

    ``queries`` is a multiple of 100; ``rounds`` is how often the engines take turns; ``efs`` are the values of ef to
    try besides the default; ``seed`` is that of vectors and queries.

    Raises:
        ValueError: no full batch of queries.
    """

    queries: int = 1000
    rounds: int = 5
    efs: Sequence[int] = EFS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.queries < BATCH or self.queries % BATCH:
            raise ValueError(f"queries are asked {BATCH} at once: wanted a multiple of it, got {self.queries}")


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
    dim: int = 128,
    plan: Plan = Plan(),
    engines: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[list[IndexFigures]]:
    """Measure engines on clustered unit vectors, asked for ten neighbours; figures come as soon as they are known.

    Args:
        vectors: how many are indexed.
        dim: how wide they are.
        plan: how much is asked.
        engines: the names of those to build; ours and bare hnswlib on its graph go by ``gallery``. All by default.
        tell: is told what is being done.

    Returns:
        Engines as they come, those together that open the same files; then, for each ef of the plan, those that have one.

    Raises:
        ValueError: too few vectors for an index, or an engine that is not here.
    """
    if vectors <= TAIL:
        raise ValueError(f"a gallery of {vectors} vectors is searched exactly, without an index: take more than {TAIL}")
    there, _ = available()
    names = list(dict.fromkeys(engine.files_of for engine in there))
    if unknown := [name for name in engines or () if name not in names]:
        raise ValueError(f"there is no engine {unknown[0]!r} here; there are {', '.join(names)}")
    chosen = [[engine for engine in there if engine.files_of == name] for name in names if name in (engines or names)]
    return _measure((vectors, dim), chosen, plan, tell)


def _measure(
    shape: tuple[int, int], groups: Sequence[Sequence[Engine]], plan: Plan, tell: Callable[[str], None]
) -> Iterator[list[IndexFigures]]:
    count, dim = shape
    tell(f"{count:,} vectors: exact answers")
    vectors = clustered(count, dim, seed=plan.seed)
    queries = clustered(plan.queries, dim, seed=plan.seed, draw=1)
    trial = _Trial(queries, exact_search(vectors, queries, K).rows, plan.rounds)
    bare: list[Engine] = []
    tuned: list[tuple[Engine, IndexFigures]] = []
    with TemporaryDirectory(prefix="outfinder-") as folder:
        for group in groups:
            built = [_prepare(engine, vectors, trial, Path(folder), tell) for engine in group]
            tell(f"{count:,} vectors: {', '.join(engine.name for engine in group)} answer")
            figures = _measured(group, built, trial, bare)
            bare = bare or [engine for engine in group if engine.name == BARE]
            tuned += [pair for pair in zip(group, figures, strict=True) if pair[0].has_ef]
            yield figures
        del vectors
        for ef in sorted({*plan.efs} - {EF}) if tuned else ():
            tell(f"{count:,} vectors: ef {ef}")
            for engine, _ in tuned:
                engine.tune(ef)
            recalls = [replace(one, ef=ef, recall=trial.recall(engine)) for engine, one in tuned]
            yield _measured([engine for engine, _ in tuned], recalls, trial)


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


def _measured(
    engines: Sequence[Engine], figures: Sequence[IndexFigures], trial: _Trial, beside: Sequence[Engine] = ()
) -> list[IndexFigures]:
    """The same with queries per second; engines beside them take turns too."""
    batches = trial.times([*engines, *beside], BATCH, len(trial.queries))
    singles = trial.times([*engines, *beside], 1, SINGLE)
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
