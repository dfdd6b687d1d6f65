"""The benchmark of indexes on a few vectors: its figures are true, whatever the machine's speed."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from script_runs import run_script

import benchmark_index as index
from benchmark_index import ENGINES, HEADINGS, IndexFigures, Plan, benchmark_index, cells, clustered, line, main
from stages.images import read_image
from stages.index import HnswIndex, exact_search
from timing import middle, slower_pct, take_turns


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.gallery.search.TAIL", 500)
    monkeypatch.setattr(index, "TAIL", 500)
    monkeypatch.setattr(index, "SINGLE", 10)


def test_vectors_are_unit_rows_in_clusters_and_the_same_for_a_seed() -> None:
    vectors, queries = clustered(3000, 32, seed=3), clustered(200, 32, seed=3, draw=1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, clustered(3000, 32, seed=3))
    assert not np.array_equal(vectors, clustered(3000, 32, seed=4))
    assert np.median(exact_search(vectors, queries, 1).similarities) > 0.6  # around the same centres
    assert abs(vectors @ vectors[0]).mean() < 0.2  # which are far from each other


def test_every_engine_finds_nearly_all_neighbours_and_reports_its_costs() -> None:
    steps = list(benchmark_index(1500, 16, Plan(queries=100, rounds=1, efs=(10, 200))))
    assert [one.engine for one in steps[0]] == ["gallery", "HnswIndex", "hnswlib"]
    assert [{one.ef for one in step} for step in steps[-2:]] == [{10}, {200}]
    figures = list(chain.from_iterable(steps))
    usual = {one.engine: one for one in figures if one.ef in (None, index.EF)}
    assert {"gallery", "HnswIndex", "hnswlib", "exact"} <= usual.keys()
    assert usual["exact"].recall == 1.0
    for one in figures:
        assert (one.vectors, one.dim, one.k) == (1500, 16, 10)
        assert min(one.batch_qps, one.single_qps) > 0
        assert one.file >= 16 * 4
        assert one.recall > (0.95 if one.ef != 10 else 0.5)
    assert {name for name, one in usual.items() if one.build_s is None} == {"HnswIndex", "hnswlib"}
    assert usual["HnswIndex"].recall == usual["hnswlib"].recall  # the same graph
    assert usual["hnswlib"].over_bare_pct is None
    assert usual["exact"].over_bare_pct is not None
    for name in ("HnswIndex", "hnswlib"):
        fast, good = (next(one for one in figures if (one.engine, one.ef) == (name, ef)) for ef in (10, 200))
        assert fast.recall < good.recall


def test_all_engines_have_the_settings_of_our_index() -> None:
    usual = {name: parameter.default for name, parameter in inspect.signature(HnswIndex).parameters.items()}
    assert (usual["m"], usual["ef_construction"], usual["ef_search"]) == (index.M, index.EF_CONSTRUCTION, index.EF)


def test_every_engine_returns_the_same_neighbours(tmp_path: Path) -> None:
    vectors, queries = clustered(1200, 16, seed=0), clustered(1, 16, seed=0, draw=1)
    wanted = exact_search(vectors, queries, 3).rows
    for engine in index.available()[0]:
        folder = tmp_path / engine.files_of
        if engine.build:
            folder.mkdir()
            engine.build(vectors, folder)
        found = engine.search(engine.open(folder, 16, index.EF), queries, 3)
        np.testing.assert_array_equal(engine.rows(found), wanted, err_msg=engine.name)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="without an index: take more than 500"):
        next(benchmark_index(500))
    with pytest.raises(ValueError, match="a multiple of it, got 150"):
        Plan(queries=150)
    with pytest.raises(ValueError, match="no engine 'annoy' here; there are gallery, exact"):
        next(benchmark_index(1000, engines=["gallery", "annoy"]))


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
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(index, "Plan", partial(Plan, queries=100, efs=(10,)))


@pytest.mark.slow
@pytest.mark.usefixtures("_brief")
def test_the_script_prints_a_table_and_writes_lines_and_a_picture(tmp_path: Path) -> None:
    options = ("--dim", 8, "--engines", "gallery,exact", "-o", tmp_path / "out")
    result = run_script(main, "--sizes", "600,700", *options)
    told = [json.loads(text) for text in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert {one["vectors"] for one in told} == {600, 700}
    assert result.stdout.splitlines()[1:] == [line(cells(IndexFigures(**one))) for one in told]
    assert read_image(tmp_path / "out" / "index.png").shape[1] > 600
    assert "whole numbers" in run_script(main, "--sizes", "many", status=2).stderr


@pytest.mark.usefixtures("_brief")
def test_an_interrupted_run_has_written_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setitem(ENGINES, "exact", replace(ENGINES["exact"], build=cut))
    result = run_script(main, "--sizes", 600, "--dim", 8, "-o", tmp_path, status=2)
    assert [text.split()[1] for text in result.stdout.splitlines()[1:]] == ["gallery", "HnswIndex", "hnswlib"]
    told = [json.loads(text) for text in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [one["engine"] for one in told] == ["gallery", "HnswIndex", "hnswlib"]
    assert (tmp_path / "index.png").exists()


def test_engines_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "find_spec", lambda _name: None)
    installed, absent = index.available()
    assert [engine.name for engine in installed] == ["gallery", "HnswIndex", "hnswlib", "exact"]
    assert absent == ["faiss", "usearch"]


def test_lines_of_the_table_are_aligned() -> None:
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
