"""The benchmark of speed on a few photos: what it says is true, whatever the machine's speed."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from time import sleep, thread_time

import numpy as np
import pytest
from cli_runs import run

from pipeline.benchmark.speed import apart, photos, report
from pipeline.benchmark.speed import run as speed
from pipeline.benchmark.speed.contenders import CONTENDERS, MASK, NAIVE, Answer, Setup, make_gallery
from pipeline.benchmark.speed.sameness import compare
from pipeline.benchmark.vectors import clustered
from pipeline.sample import render_sample
from pipeline.search import Garment, PhotoResult
from stages.errors import CatalogueError, OutfinderError
from stages.images import read_image
from stages.inference import keep_memory
from stages.parts import listening, part
from stages.types import Box


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered") / "sample"
    render_sample(folder, seed=5, items=13, scenes=2)
    return folder / "street"


@pytest.fixture
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own are left to the slow tests; large photos are a little larger."""

    @contextmanager
    def here(setup: Setup) -> Iterator[apart.Living]:
        def peak_bytes(chosen: Sequence[Path]) -> int:
            return 1_000_000 * len(chosen)

        def turn(chosen: Sequence[Path]) -> apart.Turn:
            return replace(apart.take_turn(setup, chosen), peak_bytes=peak_bytes(chosen))

        yield apart.Living(turn, peak_bytes)

    monkeypatch.setattr(speed, "apart", here)
    monkeypatch.setattr(speed, "seconds_to_first_result", lambda _gallery, _photo: 1.5)
    monkeypatch.setattr(photos, "PIXELS", 800_000)


@pytest.mark.usefixtures("_apart")
def test_all_contenders_are_timed_and_find_the_same(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "FEW", 1)
    told: list[str] = []
    plan = speed.Plan(photos=3, items=200, rounds=1, many=2)
    found = speed.benchmark_speed(sorted(street.glob("*.jpg")), plan, told.append)
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
    assert any("12 megapixels" in line for line in told)
    report.write(found, tmp_path)
    assert json.loads((tmp_path / "speed.json").read_text())["figures"][1]["contender"] == MASK
    assert read_image(tmp_path / "speed.png").shape[1] > 600
    assert len(report.table(found).splitlines()) == 7 + 1 + 7


@pytest.mark.usefixtures("_apart")
def test_memory_is_measured_by_itself(street: Path) -> None:
    done = run("benchmark", "speed", street, "--many", 250, "--memory-only", "--items", 5000)
    assert done.stdout.splitlines() == [
        f"{name}: at most 250 MB for 250 photos, 100 MB for 100: 2.500 times as much." for name in CONTENDERS[1:]
    ]
    for wrong in (["--memory-only"], ["--memory-only", "--many", "9", "-o", street]):
        assert "--memory-only goes with --many" in run("benchmark", "speed", street, *wrong, status=2).stderr


def test_enlarged_photos_have_the_size_of_a_camera_s(street: Path, tmp_path: Path) -> None:
    first, second = sorted(street.glob("*.jpg"))
    large = photos.enlarged([first, second, first], tmp_path / "large")
    assert large[0] == large[2] != large[1]
    height, width = read_image(large[0]).shape[:2]
    assert height * width == pytest.approx(12e6, rel=0.001)


def test_no_photos_are_refused() -> None:
    with pytest.raises(CatalogueError, match="no photos"):
        speed.benchmark_speed([])


def test_what_differs_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*garments: Garment) -> Answer:
        return PhotoResult("", 100, 100, garments), np.eye(len(garments), 4, dtype=np.float32)

    monkeypatch.setattr("pipeline.benchmark.speed.sameness._least", lambda _answers: 1.0)
    sure, doubtful = Garment("top", 0.9, Box(0, 0, 50, 50)), Garment("bag", 0.6, Box(50, 50, 90, 90))
    near, far = Garment("top", 0.8, Box(0, 0, 50, 49)), Garment("top", 0.8, Box(0, 0, 50, 40))
    found = compare([answer(sure, doubtful), answer(sure)], [answer(near), answer(far)])
    assert (found.garments, found.same, found.cosine) == (2, 0.5, 1.0)


def test_parts_are_told_from_every_thread_and_only_while_heard() -> None:
    told: list[tuple[str, float]] = []
    with part("before"):
        pass
    with listening(lambda name, seconds, _cpu_s: told.append((name, seconds))):
        with pytest.raises(RuntimeError), part("failing"):
            raise RuntimeError
        with part("outer"), part("inner"):
            pass
    with part("after"):
        pass
    assert [name for name, _ in told] == ["failing", "inner", "outer"]
    assert told[1][1] <= told[2][1]


def test_a_part_that_waits_does_not_compute() -> None:
    told: dict[str, tuple[float, float]] = {}
    with listening(lambda name, seconds, cpu_s: told.update({name: (seconds, cpu_s)})):
        with part("waiting"):
            sleep(0.05)
        with part("computing"):
            end = thread_time() + 0.02
            while thread_time() < end:
                pass
    (waited, idle), (took, computed) = told["waiting"], told["computing"]
    assert waited >= 0.05
    assert idle < 0.02
    assert 0.02 <= computed <= took + 0.01


def test_the_baseline_has_none_of_our_settings(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "gallery", clustered(200, 128, seed=0))
    for name, ours in ((NAIVE, 0), (MASK, 1)):
        keep_memory.cache_clear()
        Setup(name, gallery, tmp_path / "out.jsonl").build()
        assert keep_memory.cache_info().currsize == ours


@pytest.mark.slow
def test_a_contender_has_a_process_of_its_own(street: Path, tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path / "gallery", clustered(200, 128, seed=0))
    first = min(street.glob("*.jpg"))
    before = active_children()
    with apart.apart(Setup(MASK, gallery, tmp_path / "out.jsonl")) as contender:
        turns = [contender.turn([first] * count) for count in (1, 2)]
        (process,) = {*active_children()} - {*before}
        with pytest.raises(TypeError):  # whatever goes wrong
            contender.turn([1])  # type: ignore[list-item]
        assert [len(turn.answers) for turn in turns] == [1, 2]
        assert 1e8 < turns[0].peak_bytes <= turns[1].peak_bytes < 4e9
        assert turns[1].peak_bytes <= contender.peak_bytes([first]) < 4e9
        assert 0 < turns[1].parts["search"] < turns[1].wall_s
        process.terminate()
        with pytest.raises(OutfinderError, match=f"the process of {MASK} has ended"):
            contender.turn([first])
    with apart.apart(Setup(NAIVE, gallery, tmp_path / "out.jsonl")) as contender:
        contender.turn([first])
        (process,) = {*active_children()} - {*before}
    assert not process.is_alive()
    assert apart.seconds_to_first_result(gallery, first) > 0.1


LEFT = """
import sys
from pathlib import Path
from pipeline.benchmark.speed.apart import apart
from pipeline.benchmark.speed.contenders import Setup
if __name__ == "__main__":
    photo, gallery, written = map(Path, sys.argv[1:])
    with apart(Setup("naive", gallery, written)) as contender:
        contender.turn([photo])
        print("looking", flush=True)
        contender.turn([photo] * 300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_contenders_go_with_whoever_started_them(street: Path, tmp_path: Path, how: signal.Signals) -> None:
    gallery = make_gallery(tmp_path / "gallery", clustered(200, 128, seed=0))
    script = tmp_path / "left.py"
    script.write_text(LEFT)
    command = [sys.executable, script, min(street.glob("*.jpg")), gallery, tmp_path / "out.jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "looking\n"
        parent.send_signal(how)
        parent.communicate(timeout=20)  # until nobody can write to it any more, the contender neither


@pytest.mark.slow
def test_the_command_tells_and_draws(street: Path, tmp_path: Path) -> None:
    done = run("benchmark", "speed", street, "--quick", "-o", tmp_path / "out")
    assert "× naive" in done.stdout
    assert (tmp_path / "out" / "speed.png").exists()
