"""The benchmark of speed on a few photos: its figures are true, whatever the machine's speed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import active_children
from pathlib import Path
from time import sleep, thread_time

import numpy as np
import pytest
from conftest import few_scenes
from script_runs import run_script

import benchmark_speed as speed
from benchmark_index import clustered
from benchmark_speed import CONTENDERS, MASK, NAIVE, Answer, Setup, make_gallery
from pipeline.config import Config, build_embedder
from pipeline.search import Garment, PhotoResult
from stages.cpu import keep_memory
from stages.errors import CatalogueError, OutfinderError
from stages.images import read_image
from stages.timing import listening, timed
from stages.types import Box

DIM = build_embedder(Config(device="cpu")).dim


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few_scenes(tmp_path_factory.mktemp("few"), 2) / "street"


@pytest.fixture
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders run in this process, each loaded once, and large photos are only a little larger."""
    load = cache(speed.in_this_process)

    @contextmanager
    def here(setup: Setup) -> Iterator[speed.TakeTurn]:
        contender = load(setup)

        def turn(chosen: Sequence[Path], keep: bool) -> speed.Turn:
            return replace(contender(chosen, keep), peak_bytes=1_000_000 * len(chosen))

        yield turn

    monkeypatch.setattr(speed, "in_own_process", here)
    monkeypatch.setattr(speed, "seconds_to_first_result", lambda _gallery, _photo: 1.5)
    monkeypatch.setattr(speed, "LARGE_PX", 800_000)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_process")
def test_all_contenders_are_timed_and_find_the_same(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "FEW", 1)
    plan = speed.Plan(photos=3, items=200, rounds=1, many=2)
    found = speed.benchmark_speed(sorted(street.glob("*.jpg")), plan)
    assert [(one.contender, one.size) for one in found.figures] == [
        (name, size) for size in (speed.AS_THEY_ARE, speed.LARGE) for name in CONTENDERS
    ]
    for one in found.figures:
        assert one.photos == 3
        assert one.photos_per_s > 0
        assert all(one.ms[part] > 0 for part in speed.PARTS if (part, one.contender) != ("mask", CONTENDERS[2]))
        assert (one.over_naive == 1) == (one.contender == NAIVE)
        assert 0 < one.search_cpu_share < 1
    assert found.sameness.garments >= 5
    assert found.sameness.same > 0.8
    assert found.sameness.cosine_of_crops > 0.999
    assert found.growth
    assert found.growth.ratios == {MASK: 2.0, CONTENDERS[2]: 2.0}
    assert 0 < found.search_share < 1
    speed.write(found, tmp_path)
    assert json.loads((tmp_path / "speed.json").read_text())["figures"][1]["contender"] == MASK
    assert read_image(tmp_path / "speed.png").shape[1] > 600
    assert len(speed.table(found).splitlines()) == 7 + 1 + 7


@pytest.mark.slow
def test_only_memory_is_measured_on_request(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def sized(_setup: Setup) -> Iterator[speed.TakeTurn]:
        yield lambda chosen, _keep: speed.Turn([], len(chosen), 1.0, 1.0, {}, 0.0, 1_000_000 * len(chosen))

    monkeypatch.setattr(speed, "in_own_process", sized)
    done = run_script(speed.main, street, "--many", 250, "--memory-only", "--items", 5000)
    assert done.stdout.splitlines() == [
        f"{name}: at most 250 MB for 250 photos, 100 MB for 100: 2.500 times as much." for name in CONTENDERS[1:]
    ]
    for wrong in (["--memory-only"], ["--memory-only", "--many", 9, "-o", street]):
        assert "--memory-only goes with --many" in run_script(speed.main, street, *wrong, status=2).stderr


def test_enlarged_photos_have_12_megapixels(street: Path, tmp_path: Path) -> None:
    first, second = sorted(street.glob("*.jpg"))
    large = speed.enlarged([first, second, first], tmp_path / "large")
    assert large[0] == large[2] != large[1]
    height, width = read_image(large[0]).shape[:2]
    assert height * width == pytest.approx(12e6, rel=0.001)


def test_no_photos_are_refused() -> None:
    with pytest.raises(CatalogueError, match="no photos"):
        speed.benchmark_speed([])


def test_differences_of_the_outputs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*garments: Garment) -> Answer:
        return PhotoResult("", 100, 100, garments), np.eye(len(garments), 4, dtype=np.float32)

    monkeypatch.setattr(speed, "_least_cosine", lambda _answers: 1.0)
    sure, doubtful = Garment("top", 0.9, Box(0, 0, 50, 50)), Garment("bag", 0.6, Box(50, 50, 90, 90))
    near, far = Garment("top", 0.8, Box(0, 0, 50, 49)), Garment("top", 0.8, Box(0, 0, 50, 40))
    found = speed.compare([answer(sure, doubtful), answer(sure)], [answer(near), answer(far)])
    assert (found.garments, found.same, found.cosine) == (2, 0.5, 1.0)


def test_parts_are_told_from_every_thread_and_only_while_heard() -> None:
    told: list[tuple[str, float]] = []
    with timed("before"):
        pass
    with listening(lambda name, seconds, _cpu_s: told.append((name, seconds))):
        with pytest.raises(RuntimeError), timed("failing"):
            raise RuntimeError
        with timed("outer"), timed("inner"):
            pass
    with timed("after"):
        pass
    assert [name for name, _ in told] == ["failing", "inner", "outer"]
    assert told[1][1] <= told[2][1]


def test_a_part_that_waits_does_not_compute() -> None:
    told: dict[str, tuple[float, float]] = {}
    with listening(lambda name, seconds, cpu_s: told.update({name: (seconds, cpu_s)})):
        with timed("waiting"):
            sleep(0.05)
        with timed("computing"):
            end = thread_time() + 0.02
            while thread_time() < end:
                pass
    (waited, idle), (took, computed) = told["waiting"], told["computing"]
    assert waited >= 0.05
    assert idle < 0.02
    assert 0.02 <= computed <= took + 0.01


def test_the_baseline_has_none_of_our_settings(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "gallery", clustered(200, DIM, seed=0))
    for name, ours in ((NAIVE, 0), (MASK, 1)):
        keep_memory.cache_clear()
        Setup(name, gallery, tmp_path / "out.jsonl").build()
        assert keep_memory.cache_info().currsize == ours


@pytest.mark.slow
def test_a_contender_has_a_process_of_its_own(street: Path, tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "gallery", clustered(200, DIM, seed=0))
    first = min(street.glob("*.jpg"))
    before = active_children()
    with speed.in_own_process(Setup(MASK, gallery, tmp_path / "out.jsonl")) as turn:
        turns = [turn([first] * count, True) for count in (1, 2)]
        (process,) = {*active_children()} - {*before}
        with pytest.raises(AttributeError):  # errors in the process are raised here
            turn([1], True)  # type: ignore[list-item]
        assert [len(one.answers) for one in turns] == [1, 2]
        assert 1e8 < turns[0].peak_bytes <= turns[1].peak_bytes < 4e9
        assert not turn([first], False).answers
        assert 0 < turns[1].parts["search"] < turns[1].wall_s
        process.terminate()
        with pytest.raises(OutfinderError, match=f"the process of {MASK} has ended"):
            turn([first], True)
    assert not process.is_alive()
    assert speed.seconds_to_first_result(gallery, first) > 0.1


@pytest.mark.slow
def test_the_script_prints_and_draws(street: Path, tmp_path: Path) -> None:
    command = [sys.executable, speed.__file__, street, "--quick", "-o", tmp_path / "out"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "× naive" in done.stdout
    assert (tmp_path / "out" / "speed.png").exists()
