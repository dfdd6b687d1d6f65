"""The benchmark of indexes on a few vectors: what it says is true, whatever the machine's speed."""

import inspect
import json
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from cli_runs import run

from pipeline.benchmark import engines, index
from pipeline.benchmark.index import IndexFigures, Plan, benchmark_index
from pipeline.benchmark.index_report import HEADINGS, cells, line
from pipeline.benchmark.timing import middle, slower_pct, take_turns
from pipeline.benchmark.vectors import clustered
from stages.images import read_image
from stages.index import HnswIndex, exact_search


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.gallery.searcher.TAIL", 500)
    monkeypatch.setattr(index, "TAIL", 500)
    monkeypatch.setattr(index, "SINGLE", 10)


def test_vectors_are_unit_rows_in_clusters_and_the_same_for_a_seed() -> None:
    vectors, queries = clustered(3000, 32, seed=3), clustered(200, 32, seed=3, draw=1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, clustered(3000, 32, seed=3))
    assert not np.array_equal(vectors, clustered(3000, 32, seed=4))
    nearest = exact_search(vectors, queries, 1).similarities
    assert np.median(nearest) > 0.6  # around the same centres
    assert abs(vectors @ vectors[0]).mean() < 0.2  # which are apart


def test_every_engine_finds_nearly_all_and_tells_what_it_cost() -> None:
    steps = list(benchmark_index(1500, 16, Plan(queries=100, rounds=1, efs=(10, 200))))
    assert [one.engine for one in steps[0]] == ["gallery", "HnswIndex", "hnswlib"]
    assert [{one.ef for one in step} for step in steps[-2:]] == [{10}, {200}]  # the rest is known before
    figures = list(chain.from_iterable(steps))
    usual = {one.engine: one for one in figures if one.ef in (None, engines.EF)}
    assert {"gallery", "HnswIndex", "hnswlib", "exact"} <= usual.keys()
    assert usual["exact"].recall == 1.0
    for one in figures:
        assert one.vectors == 1500
        assert (one.dim, one.k) == (16, 10)
        assert one.batch_qps > 0
        assert one.single_qps > 0
        assert one.file >= 16 * 4
        assert one.recall > (0.95 if one.ef != 10 else 0.5)
    assert {name for name, one in usual.items() if one.build_s is None} == {"HnswIndex", "hnswlib"}
    assert (usual["gallery"].build_s or 0) > 0
    assert usual["HnswIndex"].recall == usual["hnswlib"].recall  # the same graph
    assert usual["hnswlib"].over_bare_pct is None
    assert usual["exact"].over_bare_pct is not None
    for name in ("HnswIndex", "hnswlib"):
        fast, good = (next(one for one in figures if (one.engine, one.ef) == (name, ef)) for ef in (10, 200))
        assert fast.recall < good.recall


def test_the_settings_are_those_of_our_index() -> None:
    usual = {name: told.default for name, told in inspect.signature(HnswIndex).parameters.items()}
    assert (usual["m"], usual["ef_construction"], usual["ef_search"]) == (
        engines.M,
        engines.EF_CONSTRUCTION,
        engines.EF,
    )


def test_the_same_neighbours_from_every_engine(tmp_path: Path) -> None:
    vectors, queries = clustered(1200, 16, seed=0), clustered(1, 16, seed=0, draw=1)
    wanted = exact_search(vectors, queries, 3).rows
    for engine in engines.available()[0]:
        folder = tmp_path / engine.files_of
        if not folder.exists():
            folder.mkdir()
            engine.build(vectors, folder)
        engine.open(folder, 16)
        np.testing.assert_array_equal(engine.rows(engine.search(queries, 3)), wanted, err_msg=engine.name)


def test_what_cannot_be_measured_is_told() -> None:
    with pytest.raises(ValueError, match="without an index: take more than 500"):
        benchmark_index(500)
    with pytest.raises(ValueError, match="a multiple of it, got 150"):
        Plan(queries=150)
    with pytest.raises(ValueError, match="no engine 'annoy' here; there are gallery, exact"):
        benchmark_index(1000, engines=["gallery", "annoy"])


def test_engines_can_be_chosen() -> None:
    ((alone,),) = benchmark_index(600, 8, Plan(queries=100, rounds=1), engines=["exact"])
    assert (alone.engine, alone.recall, alone.over_bare_pct) == ("exact", 1.0, None)


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    candidates = {name: lambda batch, name=name: calls.append(f"{name}{batch}") for name in "abc"}
    times = take_turns(candidates, [1, 2], rounds=20)
    assert calls[:3] == ["a1", "b1", "c1"]  # not counted
    turns = ["".join(calls[start : start + 3]) for start in range(3, len(calls), 3)]
    assert len(turns) == 40
    assert all(set(turn) == {*"abc", str(1 + place % 2)} for place, turn in enumerate(turns))
    assert len(set(turns[::2])) == 6  # every order
    assert [len(one_round) for one_round in times["a"]] == [2] * 20
    assert [len(one_round) for one_round in take_turns(candidates, [1, 2], rounds=2, most_s=-1)["a"]] == [0, 0]
    assert middle([[1.0, 3.0], [2.0]]) == 2.0
    assert slower_pct([[1.0, 9.0]], [[2.0]]) == -50.0  # the other had no time for a second


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(index, "Plan", partial(Plan, queries=100, efs=(10,)))


@pytest.mark.usefixtures("brief")
def test_the_command_prints_a_table_and_writes_lines_and_a_picture(tmp_path: Path) -> None:
    result = run("benchmark", "index", "--sizes", "600,700", "--dim", "8", "--engines", "gallery,exact",
                 "-o", tmp_path / "out")  # fmt: skip
    told = [json.loads(text) for text in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert {one["vectors"] for one in told} == {600, 700}
    assert [one["engine"] for one in told[:6]] == ["gallery", "HnswIndex", "hnswlib", "exact", "HnswIndex", "hnswlib"]
    assert len(result.stdout.splitlines()) == 1 + 12
    assert "600 vectors: building gallery" in result.stderr
    assert min(read_image(tmp_path / "out" / "index.png").shape[:2]) > 300
    assert "whole numbers" in run("benchmark", "index", "--sizes", "many", status=2).stderr


@pytest.mark.usefixtures("brief")
def test_a_run_that_is_cut_short_has_told_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.ExactEngine, "build", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    result = run("benchmark", "index", "--sizes", "600", "--dim", "8", "-o", tmp_path, status=2)
    assert [text.split()[1] for text in result.stdout.splitlines()[1:]] == ["gallery", "HnswIndex", "hnswlib"]
    told = [json.loads(text) for text in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [one["engine"] for one in told] == ["gallery", "HnswIndex", "hnswlib"]
    assert (tmp_path / "index.png").exists()


def test_absent_engines_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _name: None)
    there, absent = engines.available()
    assert [engine.name for engine in there] == ["gallery", "HnswIndex", "hnswlib", "exact"]
    assert absent == ["faiss", "usearch"]


def test_the_table_has_a_line_for_each_engine() -> None:
    one = IndexFigures("hnswlib", 1_000_000, 128, 10, 64, 0.99512, 12345.6, 2345.6, None, None, 0.1, 680.0, 668.0)
    slow = IndexFigures("exact", 10_000, 128, 10, None, 1.0, 900.0, 99.0, 512.25, 0.5, 0.02, None, 512.0)
    text = [line(HEADINGS), line(cells(one)), line(cells(slow))]
    assert len({len(own) for own in text}) == 1
    assert text[1].split() == [
        "1,000,000",
        "hnswlib",
        "64",
        "0.9951",
        "12,346",
        "2,346",
        "–",
        "–",
        "0.10",
        "680",
        "668",
    ]
    assert text[2].split()[5:9] == ["99", "+512.2", "%", "0.5"]
