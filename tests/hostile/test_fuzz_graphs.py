"""Files of HNSW graphs that mean harm: refused, or searched and built on without a trace of it."""

from __future__ import annotations

import os
import struct
from random import Random

import numpy as np
import pytest
from graphs import Graph, damaged, twisted
from hypothesis import given
from hypothesis import strategies as st
from nearly import FUZZ

from stages.errors import GalleryCorrupt, GalleryError, GalleryMismatch
from stages.index import HnswIndex
from stages.index import hnsw as hnsw_module
from stages.index.hnswfile import LAYOUT, empty_header

DIM, M, COUNT = 8, 4, 300


def unit_rows(count, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def made(count=COUNT):
    index = HnswIndex(DIM, m=M, ef_construction=20, ef_search=10, seed=3)
    index.add(np.arange(count), unit_rows(count))
    return index


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A graph's file, and its content; every search walks."""
    path = tmp_path_factory.mktemp("graphs") / "graph"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hnsw_module, "EXACT_BELOW", 1)
        made().save(path)
        yield path, path.read_bytes()


def answers(index, live):
    """Searches find live rows and nothing else."""
    for k in (1, 20):
        found = index.search(unit_rows(5, seed=9), k)
        there = found.rows >= 0
        assert np.isin(found.rows[there], live).all()
        assert (abs(found.similarities[there]) <= 1).all()
        assert (found.rows[:, : min(k, len(live))] >= 0).all() or 2 * k <= len(live)
    assert len(index) == len(live)


def use(path):
    """Search, remove, add, bring back, save: whether the file was taken."""
    index = HnswIndex(DIM, m=M, ef_construction=20, ef_search=10)
    try:
        live = index.load(path)
    except GalleryError:
        return False
    answers(index, live)
    going = live[::2]
    index.remove(going)
    index.add(np.arange(1000, 1200), unit_rows(200, seed=1))
    live = np.concatenate([live[1::2], np.arange(1000, 1200)])
    answers(index, live)
    index.add(going, unit_rows(len(going), seed=2))
    live = np.concatenate([live, going])
    answers(index, live)
    index.save(path)
    again = HnswIndex(DIM, m=M, ef_construction=20, ef_search=10)
    assert again.load(path).tolist() == sorted(live.tolist())
    answers(again, live)
    return True


@FUZZ
@given(seed=st.integers(0, 2**32 - 1), damages=st.integers(0, 1), twists=st.integers(0, 4))
def test_hostile_graphs(saved, seed, damages, twists):
    path, whole = saved
    graph, draw = Graph.of(whole), Random(seed)
    for change in [*[twisted] * twists, *[damaged] * damages]:
        change(graph, draw)
    path.write_bytes(graph.data())
    assert use(path) or damages


def written(path, header):
    path.write_bytes(LAYOUT.pack(*header))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"entry": 900, "max_level": 5}, "damaged header"),  # a search entered memory that was never written
        ({"entry": 0}, "damaged header"),
        ({"max_level": 0}, "damaged header"),
        ({"elements": 1}, "damaged header"),
        ({"elements": 2**61}, "damaged header"),
        ({"m": 5}, "damaged header"),
    ],
)
def test_empty_graphs_that_lie(tmp_path, change, fault):
    written(tmp_path / "graph", empty_header(DIM, M, 20)._replace(max_elements=1000, **change))
    with pytest.raises(GalleryCorrupt, match=fault):
        HnswIndex(DIM, m=M, ef_construction=20).load(tmp_path / "graph")


@pytest.mark.parametrize(("m", "ef_construction"), [(10**6, 10**6), (M, 10**6), (M, 21), (M + 1, 20)])
def test_graphs_built_with_other_parameters_are_refused(tmp_path, m, ef_construction):
    """Edges by the million would take gigabytes for a few rows more, candidates by the million hours."""
    written(tmp_path / "graph", empty_header(DIM, m, ef_construction))
    with pytest.raises(GalleryMismatch, match=f"m={m} and ef_construction={ef_construction}, wanted m=4"):
        HnswIndex(DIM, m=M, ef_construction=20).load(tmp_path / "graph")


def test_a_graph_without_elements_has_nothing_after_its_header(tmp_path):
    written(tmp_path / "graph", empty_header(DIM, M, 20))
    with (tmp_path / "graph").open("ab") as file:
        file.write(bytes(8))
    with pytest.raises(GalleryCorrupt, match="damaged header"):
        HnswIndex(DIM, m=M, ef_construction=20).load(tmp_path / "graph")


def test_a_graph_that_leads_to_removed_rows_alone(saved):
    """hnswlib links a new element to the nearest that are not removed: where it found none it died by SIGSEGV."""
    path, whole = saved
    graph = Graph.of(whole)
    assert graph.level(0) == 0
    assert graph.header.max_level >= 3
    for links, at, _, level in graph.lists():
        if level in (1, 2):
            struct.pack_into("<H", links, at, 0)
    for element, record in enumerate(graph.records):
        record[2] |= element != graph.header.entry
    path.write_bytes(graph.data())
    index = HnswIndex(DIM, m=M, ef_construction=20)
    live = index.load(path)
    assert len(live) == 1
    index.add(np.arange(1000, 1500), unit_rows(500, seed=1))
    answers(index, np.concatenate([live, np.arange(1000, 1500)]))


@pytest.mark.skipif(os.name != "posix", reason="FIFOs are POSIX's")
def test_a_pipe_is_no_graph(tmp_path):
    os.mkfifo(tmp_path / "graph")
    with pytest.raises(GalleryCorrupt, match="not a regular file"):
        HnswIndex(DIM).load(tmp_path / "graph")


def test_the_graph_of_these_tests_is_sound(saved):
    path, whole = saved
    graph = Graph.of(whole)
    assert graph.data() == whole
    assert graph.header.max_level >= 3
    assert sum(not above for above in graph.above) > COUNT // 2
    path.write_bytes(whole)
    assert use(path)
