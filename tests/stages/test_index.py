"""Indexes compared with naive loops and with each other, through additions, removals, save and load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import GalleryCorrupt, GalleryError
from stages.index import ExactIndex, HnswIndex, exact, exact_search
from stages.index import hnsw as hnsw_module
from stages.protocols import Index, StorableIndex
from stages.testing import check_index

INDEXES = [ExactIndex, HnswIndex]


def unit_rows(count, dim=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(kind, count=5, dim=4):
    index = kind(dim)
    index.add(np.arange(count), unit_rows(count, dim))
    return index


def naive(stored, query, k):
    """The k best (row, similarity) of a dict of rows by sorting them all."""
    scores = sorted(((float(np.dot(vector, query)), row) for row, vector in stored.items()), reverse=True)
    return [row for _, row in scores[:k]], [score for score, _ in scores[:k]]


@pytest.fixture(scope="module")
def large():
    """2,000 rows in a graph, beyond the size that is searched exactly."""
    vectors = unit_rows(2000)
    index = HnswIndex(16)
    index.add(np.arange(2000), vectors)
    return index, vectors


def recall(found, wanted):
    return np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(found.rows, wanted.rows, strict=True)])


def test_the_indexes_keep_the_protocol():
    check_index(ExactIndex, min_recall=1.0)
    check_index(HnswIndex)
    check_index(HnswIndex, size=1200)
    assert isinstance(ExactIndex(3), Index)
    assert isinstance(HnswIndex(3), StorableIndex)


@pytest.mark.parametrize("kind", INDEXES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_history_agrees_with_a_dict(kind, data):
    index, stored, vectors = kind(4), {}, unit_rows(40, 4)
    for _ in range(data.draw(st.integers(1, 8))):
        rows = data.draw(st.lists(st.integers(0, 12), unique=True, max_size=6))
        new = [row for row in rows if row not in stored]
        old = [row for row in rows if row in stored]
        picks = [data.draw(st.integers(0, 39)) for _ in new]
        index.remove(np.asarray(old, dtype=np.int64))
        for row in old:
            del stored[row]
        index.add(np.asarray(new, dtype=np.int64), vectors[picks].reshape(-1, 4))
        stored.update({row: vectors[pick] for row, pick in zip(new, picks, strict=True)})
    k = data.draw(st.integers(1, 15))
    queries = unit_rows(3, 4, seed=1)
    found = index.search(queries, k)
    assert len(index) == len(stored)
    assert found.rows.shape == found.similarities.shape == (3, k)
    for query, rows, similarities in zip(queries, found.rows, found.similarities, strict=True):
        _, wanted = naive(stored, query, k)
        there = len(wanted)
        np.testing.assert_allclose(similarities[:there], wanted, atol=1e-5)
        assert (rows[there:] == -1).all()
        assert np.isneginf(similarities[there:]).all()
        assert len(set(rows[:there].tolist())) == there
        np.testing.assert_allclose([stored[row] @ query for row in rows[:there]], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (unit_rows(2, 4) * np.nan, "length nan"),
        (np.zeros((2, 4), dtype=np.float32), "length 0"),
        (unit_rows(2, 4) * np.float32(1.01), "unit rows"),
        (unit_rows(2, 5), r"shape \(n, 4\)"),
        (unit_rows(2, 4).astype(np.float64), "float64"),
        (unit_rows(2, 4)[0], r"vector\[None\]"),
        ([[1.0, 0, 0, 0]] * 2, "list"),
    ],
)
def test_wrong_vectors_are_refused_with_the_reason(vectors, message):
    index = filled(ExactIndex)
    with pytest.raises(ValueError, match=message):
        index.add(np.array([10, 11]), vectors)
    with pytest.raises(ValueError, match=message):
        index.search(vectors, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([10, 10]), "row 10 is given twice"),
        (np.array([10, 2]), "row 2 is in the index already"),
        (np.array([10, -1]), "0 or more"),
        (np.array([10]), "1 rows and 2 vectors"),
        (np.array([[10, 11]]), "int64 array"),
        (np.array([10.0, 11.0]), "float64"),
        ([10, 11], "list"),
    ],
)
def test_wrong_rows_are_refused_with_the_reason(rows, message):
    with pytest.raises(ValueError, match=message):
        filled(HnswIndex).add(rows, unit_rows(2, 4))
    with pytest.raises(ValueError, match="row 7 is not in the index"):
        filled(HnswIndex).remove(np.array([1, 7]))


def test_impossible_parameters_are_refused():
    for make, message in ((lambda: ExactIndex(0), "dim=0"), (lambda: HnswIndex(4, m=1), "m=1")):
        with pytest.raises(ValueError, match=message):
            make()


def test_exact_search_sorts_all_similarities_in_any_number_of_blocks(monkeypatch):
    vectors, queries = unit_rows(300), unit_rows(7, seed=1)
    wanted = np.argsort(-(queries @ vectors.T), axis=1)[:, :20]
    np.testing.assert_array_equal(exact_search(vectors, queries, 20).rows, wanted)
    monkeypatch.setattr(exact, "BLOCK", 30)
    monkeypatch.setattr(exact, "QUERIES", 3)
    np.testing.assert_array_equal(exact_search(vectors, queries, 20).rows, wanted)
    vectors = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    assert exact_search(vectors, vectors[3:4], 6).rows.tolist() == [[3, 4, 5, 0, 1, 2]], "equal ones by position"


def test_hnsw_finds_what_exact_search_finds_without_a_scan(large, monkeypatch):
    index, vectors = large
    monkeypatch.setattr(index, "_search_exactly", None)
    queries = unit_rows(100, seed=2)
    found, wanted = index.search(queries, 10), exact_search(vectors, queries, 10)
    assert recall(found, wanted) > 0.97
    picked = np.einsum("qd,qkd->qk", queries, vectors[found.rows])
    np.testing.assert_allclose(found.similarities, picked, atol=1e-5)


@pytest.mark.parametrize("k", [900, 2500])
def test_large_k_is_complete(large, k, monkeypatch):
    monkeypatch.setattr(hnsw_module, "BLOCK_ROWS", 300)
    index, vectors = large
    found, wanted = index.search(vectors[:3], k), exact_search(vectors, vectors[:3], k)
    assert recall(found, wanted) > 0.99
    assert ((found.rows >= 0).sum(axis=1) == min(k, 2000)).all()


def test_a_search_that_finds_too_few_rows_is_repeated_exactly():
    """With two edges per node much of the graph cannot be reached."""
    vectors = unit_rows(1500)
    index = HnswIndex(16, m=2, ef_construction=2, ef_search=1)
    index.add(np.arange(1500), vectors)
    found, wanted = index.search(vectors[:20], 700), exact_search(vectors, vectors[:20], 700)
    index._graph.set_ef(700)
    with pytest.raises(RuntimeError):
        index._graph.knn_query(vectors[:20], k=700)
    np.testing.assert_array_equal(found.rows, wanted.rows)


def test_a_search_uses_no_more_cores_than_its_thread_may(large, monkeypatch):
    index, vectors = large
    graph, wanted, counts = index._graph, index.search(vectors[:50], 7), []

    class Graph:
        def knn_query(self, queries, k, num_threads):
            counts.append(num_threads)
            return graph.knn_query(queries, k=k, num_threads=num_threads)

    monkeypatch.setattr(hnsw_module, "thread_cores", lambda: 3)
    monkeypatch.setattr(index, "_graph", Graph())
    found = index.search(vectors[:50], 7)
    assert counts == [3]
    np.testing.assert_array_equal(found.rows, wanted.rows)


def test_removed_rows_come_back_with_their_new_vectors():
    vectors, others = unit_rows(2000), unit_rows(2000, seed=3)
    index = HnswIndex(16, ef_construction=100)
    index.add(np.arange(2000), vectors)
    index.remove(np.arange(0, 2000, 2))
    assert len(index) == 1000  # still searched by the graph
    queries = unit_rows(50, seed=4)
    assert (index.search(queries, 10).rows % 2 == 1).all()
    index.add(np.arange(0, 2000, 4), others[::4])
    index.add(np.arange(2000, 2100), unit_rows(100, seed=5))
    now = vectors.copy()
    now[::4] = others[::4]
    live = np.concatenate([np.setdiff1d(np.arange(2000), np.arange(2, 2000, 4)), np.arange(2000, 2100)])
    wanted = exact_search(np.concatenate([now, unit_rows(100, seed=5)])[live], queries, 10)
    found = index.search(queries, 10)
    assert len(index) == len(live)
    assert recall(found, type(found)(live[wanted.rows], wanted.similarities)) > 0.95
    assert index.search(others[:400:4], 1).rows[:, 0].tolist() == list(range(0, 400, 4))


@pytest.mark.parametrize("side", [1, -1])
def test_neighbors_that_rounding_makes_equal_are_ordered_by_row(side):
    """Similarities are clipped to 1 and −1, so that the graph's order beyond is not theirs."""
    lengths = 1 + np.float32(1e-5) * np.random.default_rng(0).permutation(1500)[:, None].astype(np.float32) / 100
    index = HnswIndex(16)
    index.add(np.arange(1500), unit_rows(1) * lengths)
    found = index.search(side * unit_rows(1) * np.float32(1 + 1e-5), 20)
    assert (found.similarities == side).all()
    assert (np.diff(found.rows, axis=1) > 0).all()


def test_small_builds_are_deterministic():
    indexes = [HnswIndex(16, ef_construction=50, seed=7) for _ in range(2)]
    for index in indexes:
        index.add(np.arange(1000), unit_rows(1000))
        index.add(np.arange(1000, 1100), unit_rows(100, seed=1))
    first, second = (index.search(unit_rows(20, seed=2), 5) for index in indexes)
    np.testing.assert_array_equal(first.rows, second.rows)


def test_a_saved_index_is_loaded_as_it_was(tmp_path):
    index, name = HnswIndex(16, ef_construction=50), "größe.hnsw"
    index.add(np.arange(100, 1250), unit_rows(1150))
    index.remove(np.arange(100, 200))
    index.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    other = HnswIndex(16, ef_construction=50, ef_search=200)
    other.load(tmp_path / name, np.arange(200, 1250))
    queries = unit_rows(20, seed=1)
    np.testing.assert_array_equal(index.search(queries, 7).rows, other.search(queries, 7).rows)
    assert len(other) == 1050
    other.add(np.arange(100, 300, 2)[:50], unit_rows(50, seed=6))
    other.add(np.arange(5000, 5500), unit_rows(500, seed=5))
    assert other.search(unit_rows(1, seed=5), 1).rows.tolist() == [[5000]]
    with pytest.raises(ValueError, match="row 200 is in the index"):
        other.add(np.array([200]), unit_rows(1))


def test_a_file_that_cannot_be_used_is_refused_and_the_index_stays_as_it_was(tmp_path):
    index = filled(HnswIndex, count=3)
    with pytest.raises(GalleryError, match="cannot write the index"):
        index.save(tmp_path / "no" / "index")
    with pytest.raises(GalleryCorrupt, match="cannot load"):
        index.load(tmp_path / "nowhere", np.arange(3))
    filled(HnswIndex, count=50).save(tmp_path / "index")
    with pytest.raises(GalleryCorrupt, match="lacks rows"):
        index.load(tmp_path / "index", np.arange(51))
    assert index.search(unit_rows(3, 4), 1).rows[:, 0].tolist() == [0, 1, 2]
    HnswIndex(4).save(tmp_path / "empty")
    index.load(tmp_path / "empty", np.arange(0))
    index.add(np.arange(3), unit_rows(3, 4))
    assert len(index) == 3
