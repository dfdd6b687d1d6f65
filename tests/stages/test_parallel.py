"""Parts of a batch side by side: in order, few ahead, each on its share of the cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, current_thread, main_thread
from time import sleep

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.cores import cores, cores_here
from stages.parallel import _pool, few_sizes, in_few_sizes, in_turn, lanes, side_by_side


@pytest.fixture
def threads() -> Iterator[None]:
    """Torch may use five threads, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
class TestSideBySide:
    def test_gives_what_a_loop_would(self) -> None:
        assert list(side_by_side(lambda number: number**2, range(50), "cpu")) == [number**2 for number in range(50)]
        assert list(side_by_side(str, [], "cpu")) == []

    def test_computes_four_parts_at_once_each_with_its_share_of_the_cores(self) -> None:
        meeting = Barrier(lanes("cpu"))

        def meet(_: int) -> tuple[str, int]:
            meeting.wait(timeout=20)
            torch.ones(1000, 100) @ torch.ones(100, 100)
            return current_thread().name, torch.get_num_threads()

        met = list(side_by_side(meet, range(8), "cpu"))
        assert lanes("cpu") == 4
        assert len({name for name, _ in met}) == 4
        assert {share for _, share in met} == {1}
        assert torch.get_num_threads() == 5

    def test_a_part_by_itself_has_all_cores(self) -> None:
        def look(_: int) -> tuple[bool, int]:
            return current_thread() is main_thread(), torch.get_num_threads()

        assert list(side_by_side(look, [0], "cpu")) == [(True, 5)]

    def test_a_gpu_is_given_one_part_after_the_other(self) -> None:
        assert lanes("cuda") == 1
        assert set(side_by_side(lambda _: current_thread() is main_thread(), range(3), "cuda")) == {True}

    def test_takes_few_parts_before_their_turn(self) -> None:
        taken = []

        def parts() -> Iterator[int]:
            for number in range(100):
                taken.append(number)
                yield number

        for number, _ in enumerate(side_by_side(str, parts(), "cpu")):
            assert len(taken) <= number + lanes("cpu") + 1

    def test_whoever_comes_first_at_the_same_time_gets_the_same_threads(self) -> None:
        _pool.cache_clear()

        def ask(_: int) -> set[str]:
            return set(side_by_side(lambda _: current_thread().name, range(40), "cpu"))

        with ThreadPoolExecutor(6) as askers:
            names = set().union(*askers.map(ask, range(6)))
        assert len(names) <= 4
        assert _pool.cache_info().currsize == 1
        assert torch.get_num_threads() == 5

    def test_an_error_reaches_who_asked_and_the_next_is_served(self) -> None:
        with pytest.raises(ZeroDivisionError):
            list(side_by_side(lambda number: 1 // number, [1, 1, 0, 1, 1, 1, 1], "cpu"))
        assert list(side_by_side(str, range(3), "cpu")) == ["0", "1", "2"]


@given(count=st.integers(0, 100), most=st.integers(1, 20))
def test_a_batch_comes_in_parts_of_few_sizes(count: int, most: int) -> None:
    parts = list(in_few_sizes(range(count), most))
    assert [number for part in parts for number in part] == list(range(count))
    assert [len(part) for part in parts] == few_sizes(count, most)
    assert {len(part) for part in parts} <= {most} | {1 << bit for bit in range(5) if 1 << bit < most}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_forked_process_gets_threads_of_its_own(threads: None) -> None:
    list(side_by_side(str, range(8), "cpu"))
    forked = multiprocessing.get_context("fork").Process(target=_in_the_fork)
    forked.start()
    forked.join(20)
    alive = forked.is_alive()
    forked.kill()
    assert not alive
    assert forked.exitcode == 0


def _in_the_fork() -> None:
    assert list(side_by_side(int, range(8), "cpu")) == list(range(8))


@pytest.mark.usefixtures("threads")
class TestInTurn:
    def test_computes_in_one_of_the_threads_that_compute_parts(self) -> None:
        names = set(side_by_side(lambda _: current_thread().name, range(40), "cpu"))
        assert len(names) <= 4
        assert in_turn(lambda: current_thread().name).startswith("outfinder-lane")
        assert in_turn(torch.get_num_threads) == 1
        assert in_turn(cores_here) == 1
        assert cores_here() == cores()

    def test_waits_while_all_of_them_compute(self) -> None:
        done, everyone = [], Barrier(lanes("cpu") + 1)

        def busy(number: int) -> None:
            everyone.wait(timeout=20)
            sleep(0.05)
            done.append(number)

        with ThreadPoolExecutor(1) as other:
            parts = other.submit(lambda: list(side_by_side(busy, range(lanes("cpu")), "cpu")))
            everyone.wait(timeout=20)
            assert in_turn(lambda: len(done)) > 0
            parts.result()

    def test_with_one_core_whoever_asks_computes(self) -> None:
        torch.set_num_threads(1)
        assert in_turn(lambda: current_thread() is main_thread())

    def test_an_error_reaches_who_asked(self) -> None:
        with pytest.raises(ZeroDivisionError):
            in_turn(lambda: 1 // 0)
