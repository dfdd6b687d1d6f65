"""Any history of a gallery gives what a dictionary and an exact search would."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_gallery import new, row, vectors

from pipeline.gallery import Gallery, search, verify
from stages.index import hnsw

ITEMS, PHOTOS, SEEDS = st.integers(0, 6), st.integers(0, 3), st.integers(0, 60)


class History(RuleBasedStateMachine):
    """Adds, replaces, redescribes, removes, searches, saves, compacts and reopens, in any order.

    The index takes over from the exact search at five rows, and is walked however few it holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "g"
        self.truth: dict[tuple[str, str], tuple[int, str]] = {}  # seed of the vector, and price
        self.gone: set[int] = set()
        self.before: set[int] = set()

    @initialize(index=st.sampled_from(["exact", "hnsw", "hnsw", "stages.index:ExactIndex"]))
    def create(self, index: str) -> None:
        self.gallery = new(self.folder, index)

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent)

    @rule(photos=st.lists(st.tuples(ITEMS, PHOTOS, SEEDS), min_size=1, max_size=6), price=st.integers(0, 9))
    def add(self, photos: list[tuple[int, int, int]], price: int) -> None:
        rows = [row(f"i{item}", f"p{photo}", price=str(price)) for item, photo, _ in photos]
        self.gallery.add(rows, vectors(*(seed for *_, seed in photos)))
        self.truth |= {(f"i{item}", f"p{photo}"): (seed, str(price)) for item, photo, seed in photos}

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), price=st.integers(10, 19))
    def redescribe(self, data: st.DataObject, price: int) -> None:
        item, photo = data.draw(st.sampled_from(sorted(self.truth)))
        self.gallery.redescribe(row(item, photo), row(item, photo, price=str(price)))
        self.truth[item, photo] = self.truth[item, photo][0], str(price)

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        going = data.draw(st.sets(st.sampled_from(sorted({item for item, _ in self.truth})), max_size=3))
        assert self.gallery.remove(going) == sum(item in going for item, _ in self.truth)
        self.truth = {key: value for key, value in self.truth.items() if key[0] not in going}

    @rule()
    def save(self) -> None:
        self.gallery.save()

    @rule()
    def compact(self) -> None:
        self.gallery.compact()
        assert self.gallery.removed == 0

    @rule(rebuilt=st.booleans())
    def reopen(self, rebuilt: bool) -> None:
        self.gallery.save()
        assert verify(self.folder) == []
        self.gallery = Gallery.open(self.folder)
        if rebuilt:
            self.gallery.rebuild()

    @rule(
        seed=SEEDS, k=st.integers(1, 12), price=st.integers(0, 20) | st.none(), floor=st.sampled_from([-1.0, 0.0, 0.5])
    )
    def search(self, seed: int, k: int, price: int | None, floor: float) -> None:
        query, best = vectors(seed), dict[str, float]()
        for (item, _), (own, told) in self.truth.items():
            if price is None or int(told) < price:
                best[item] = max(best.get(item, -1.0), float((query @ vectors(own).T).item()))
        wanted = sorted((near for near in best.values() if near >= floor), reverse=True)
        where = None if price is None or not self.truth else f"price < {price}"
        (matches,) = self.gallery.search(query, k, where=where, min_similarity=floor)
        assert [match.similarity for match in matches] == pytest.approx(wanted[:k], abs=1e-5)
        assert all(match.similarity == pytest.approx(best[match.item], abs=1e-5) for match in matches)
        (within,) = self.gallery.search(query, max(1, len(self.gallery)), where=where, min_similarity=floor)
        assert [match.similarity for match in within] == pytest.approx(wanted, abs=1e-5)

    @invariant()
    def rows_are_those_of_the_dictionary(self) -> None:
        if not hasattr(self, "gallery"):
            return
        prices = {(live.item, live.photo): dict(live.metadata)["price"] for live in self.gallery.rows}
        assert prices == {key: price for key, (_, price) in self.truth.items()}
        for (item, photo), (seed, _) in list(self.truth.items())[:2]:
            found = self.gallery.photo_of(item, photo)
            assert found is not None
            assert (found.item, found.photo) == (item, photo)
            assert vectors(seed).shape == (1, 49)

    @invariant()
    def ids_never_come_back(self) -> None:
        if hasattr(self, "gallery"):
            live = set(self.gallery.ids.tolist())
            assert not live & self.gone
            self.gone |= self.before - live
            self.before = live


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TAIL", 4)
    monkeypatch.setattr(search, "WALK", 0)
    monkeypatch.setattr(hnsw, "EXACT_BELOW", 2)


def run(examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    limits = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(History, settings=limits)


def test_any_history() -> None:
    run(15, 25)


@pytest.mark.slow
def test_any_long_history() -> None:
    run(300, 60)


def test_ids_of_rows_that_were_gone_before_a_save_do_not_come_back(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g", "exact")
    gallery.add([row("i", "p")], vectors(0))
    gallery.remove({"i"})
    gallery.save()
    gallery = Gallery.open(tmp_path / "g")
    gallery.add([row("i", "p")], vectors(0))
    assert gallery.ids.tolist() == [1]


def test_the_machine_walks_the_index(tmp_path: Path) -> None:
    """Otherwise it would prove the exact search alone."""
    gallery = new(tmp_path / "g", "hnsw")
    gallery.add([row(f"i{number}", "p") for number in range(20)], vectors(*range(20)))
    found = gallery.index()
    assert found is not None
    walked = []
    search = found[0].search
    found[0].search = lambda queries, k: walked.append(k) or search(queries, k)  # type: ignore[method-assign]
    gallery.search(vectors(3), k=2)
    assert walked
    assert np.array_equal(found[1], gallery.ids)
