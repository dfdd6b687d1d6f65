"""A gallery whose index lives in Milvus: any history of it, and other processes that open it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, run_state_machine_as_test
from test_gallery import new, row, vectors
from test_gallery_history import History

from pipeline.config import build_index
from pipeline.gallery import Gallery, search, verify
from stages.index.milvus import MilvusIndex

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("pymilvus", "milvus_lite")),
        reason="needs pymilvus and milvus-lite: pip install 'outfinder[milvus]'",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of protobuf and grpc within pymilvus
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TAIL", 4)
    monkeypatch.setattr(search, "WALK", 0)


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"milvus+{tmp_path_factory.mktemp('milvus') / 'lite.db'}"


@pytest.mark.slow
def test_any_history(milvus: str) -> None:
    class OnMilvus(History):
        @initialize()
        def create(self) -> None:
            self.gallery = new(self.folder, milvus)

    limits = settings(max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(OnMilvus, settings=limits)


def test_it_is_saved_opened_and_searched_and_grows(milvus: str, tmp_path: Path) -> None:
    gallery = new(tmp_path / "g", milvus)
    gallery.add([row(f"i{number}", "p") for number in range(20)], vectors(*range(20)))
    gallery.save()
    assert verify(tmp_path / "g") == []
    reader, writer = Gallery.open(tmp_path / "g"), Gallery.open(tmp_path / "g")
    assert isinstance(build_index(milvus, 49), MilvusIndex)
    found = reader.index()
    assert found is not None
    assert isinstance(found[0], MilvusIndex)
    assert len(found[0]) == 20
    before = [match.item for match in reader.search(vectors(3), k=5)[0]]
    writer.remove([before[0]])
    writer.add([row(f"n{number}", "p") for number in range(10)], vectors(*range(100, 110)))
    writer.save()
    assert [match.item for match in reader.search(vectors(3), k=5)[0]] == before  # from its own rows alone
    after = Gallery.open(tmp_path / "g")
    assert before[0] not in [match.item for match in after.search(vectors(3), k=5)[0]]
    assert after.search(vectors(105), k=1)[0][0].item == "n5"
    np.testing.assert_array_equal(after.ids, writer.ids)
