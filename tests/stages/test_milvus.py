"""The Milvus index on milvus-lite and on a server: its protocol, saving and loading, and processes that share a saved index."""

import gc
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from stages.errors import GalleryCorrupt, StageError
from stages.index.milvus import MOST, MilvusIndex
from stages.protocols import StorableIndex
from stages.testing import check_index

needs_client = pytest.mark.skipif(
    importlib.util.find_spec("pymilvus") is None, reason="needs pymilvus: pip install 'outfinder[milvus]'"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of protobuf and grpc within pymilvus
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def unit_rows(count, dim=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.slow)])
def uri(request, tmp_path_factory):
    if request.param == "server":
        return request.getfixturevalue("milvus_server").uri
    pytest.importorskip("milvus_lite", reason="needs milvus-lite: pip install 'outfinder[milvus]'")
    return str(tmp_path_factory.mktemp("milvus") / "lite.db")


@pytest.fixture
def filled(uri):
    index = MilvusIndex(16, uri)
    index.add(np.arange(0, 1000, 5), unit_rows(200))
    return index


@needs_client
def test_the_index_keeps_its_protocol(uri):
    check_index(lambda dim: MilvusIndex(dim, uri))  # which compares it with brute force
    assert isinstance(MilvusIndex(3, uri), StorableIndex)


@needs_client
def test_a_saved_collection_is_loaded_and_an_unsaved_one_is_dropped(filled, uri, tmp_path):
    filled.remove(np.array([0, 5]))
    filled.save(tmp_path / "graph")
    queries, kept = unit_rows(3, seed=1), filled.search(unit_rows(3, seed=1), 300)
    client, saved = filled._client, filled._collection
    again = MilvusIndex(16, uri)
    again.load(tmp_path / "graph", np.arange(10, 1000, 5))
    assert len(again) == 198
    np.testing.assert_array_equal(again.search(queries, 300).rows, kept.rows)
    with pytest.raises(ValueError, match="row 5 is not in the index"):
        again.remove(np.array([5]))
    passing = MilvusIndex(16, uri)
    passing.add(np.arange(3), unit_rows(3))
    unsaved = passing._collection
    del passing, filled, again
    gc.collect()  # pymilvus keeps references
    assert client.has_collection(saved)
    assert not client.has_collection(unsaved)


@needs_client
def test_each_process_sees_its_own_rows_of_a_shared_collection(filled, uri, tmp_path):
    filled.save(tmp_path / "graph")
    reader = MilvusIndex(16, uri)
    reader.load(tmp_path / "graph", np.arange(0, 1000, 5))
    queries = unit_rows(5, seed=1)
    before = reader.search(queries, 10)
    filled.add(np.arange(1001, 1401), np.repeat(queries, 80, axis=0))  # nearer than any
    found = reader.search(queries, 10)
    np.testing.assert_array_equal(found.rows, before.rows)
    filled.remove(np.unique(before.rows))
    assert not np.isin(reader.search(queries, 10).rows, before.rows).any()
    gone = np.unique(before.rows)[:1]
    reader.remove(gone)  # already gone from the server
    reader.add(gone, queries[:1])


HOLD = """
import sys, numpy as np
from stages.index.milvus import MilvusIndex
index = MilvusIndex(16, sys.argv[1])
index.add(np.arange(1), np.eye(1, 16, dtype=np.float32))
print("held", flush=True)
sys.stdin.read()
"""


@needs_client
@pytest.mark.slow
def test_a_file_that_another_process_holds_is_reported(tmp_path):
    pytest.importorskip("milvus_lite", reason="needs milvus-lite: pip install 'outfinder[milvus]'")
    file = str(tmp_path / "held.db")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StageError, match="another process may be using the file"):
            MilvusIndex(16, file).add(np.arange(1), unit_rows(1))
        holder.stdin.close()


@needs_client
def test_a_file_without_a_collection_of_ours_is_refused(uri, tmp_path):
    (tmp_path / "words").write_text("words")
    with pytest.raises(GalleryCorrupt, match="cannot read the index words"):
        MilvusIndex(16, uri).load(tmp_path / "words", np.arange(2))
    index = MilvusIndex(16, uri)
    index.add(np.arange(2), unit_rows(2))
    index.save(tmp_path / "graph")
    index._client.drop_collection(index._collection)
    with pytest.raises(GalleryCorrupt, match="is gone from"):
        MilvusIndex(16, uri).load(tmp_path / "graph", np.arange(2))


@needs_client
def test_more_neighbours_than_milvus_gives_are_padding(filled):
    found = filled.search(unit_rows(1, seed=1), MOST + 5)
    assert (found.rows[:, 200:] == -1).all()
    assert (found.rows[:, :200] >= 0).all()


@needs_client
def test_a_server_that_does_not_answer_is_a_stage_error(monkeypatch):
    monkeypatch.setattr("stages.index.milvus.TIMEOUT_S", 0.5)
    with pytest.raises(StageError, match=r"Milvus at http://127\.0\.0\.1:9 "):
        MilvusIndex(16, "http://127.0.0.1:9")


@needs_client
@pytest.mark.slow
def test_a_server_that_is_killed_loses_nothing_and_its_index_goes_on(milvus_server, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.index.milvus.ADD_BYTES", 500 * 4 * 16)
    vectors = unit_rows(4000)
    index = MilvusIndex(16, milvus_server.uri)
    index.add(np.arange(2000), vectors[:2000])
    index.save(tmp_path / "index")
    upsert, calls = index._client.upsert, iter(range(10))

    def dying(*arguments, **options):
        if next(calls) == 2:
            milvus_server.kill()
        return upsert(*arguments, **options)

    monkeypatch.setattr(index._client, "upsert", dying)
    for _ in range(2):  # the server dies in the middle, and is gone
        with pytest.raises(StageError, match=rf"^Milvus at {milvus_server.uri} [^\n]+$"):
            index.add(np.arange(2000, 4000), vectors[2000:])
    with pytest.raises(StageError, match="does not answer"):
        index.search(vectors[:1], 1)
    milvus_server.start()
    assert len(index) == 2000
    saved = MilvusIndex(16, milvus_server.uri)
    saved.load(tmp_path / "index", np.arange(2000))
    np.testing.assert_array_equal(saved.search(vectors[:100], 1).rows[:, 0], np.arange(100))
    index.add(np.arange(2000, 4000), vectors[2000:])  # half of them for the second time
    index.save(tmp_path / "index")
    milvus_server.kill()
    milvus_server.start()
    again = MilvusIndex(16, milvus_server.uri)
    again.load(tmp_path / "index", np.arange(4000))
    for each in (index, again):
        np.testing.assert_array_equal(each.search(vectors, 1).rows[:, 0], np.arange(4000))
    (count,) = again._client.query(again._collection, filter="", output_fields=["count(*)"])
    assert count["count(*)"] == 4000


def test_without_pymilvus_the_error_says_what_to_install(monkeypatch):
    def refuse(name, *rest):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(StageError, match=r"pip install 'outfinder\[milvus\]'"):
        MilvusIndex(16, "lite.db")


def test_a_uri_is_a_server_or_a_file():
    with pytest.raises(ValueError, match=r"ends in \.db"):
        MilvusIndex(16, "localhost:19530")
