"""Decoding in processes of their own: what a hostile file costs, and that everything else is as without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import draw

from stages import isolation
from stages.cores import cores
from stages.errors import ImageError, StageError
from stages.images import decode_photo, encode_jpeg, read_image, read_photo, write_jpeg
from stages.isolation import isolated

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
JPEG = encode_jpeg(draw("red", "blue"))


def workers():
    """The processes that are idle."""
    return [worker._process.pid for worker in isolation._pool._idle]


@pytest.fixture
def fresh(monkeypatch):
    """Processes of the test's own."""
    pool = isolation._Pool()
    with monkeypatch.context() as patch:
        patch.setattr(isolation, "_pool", pool)
        yield patch
    pool.stop()


def acting(patch, tmp_path, act):
    """Processes that do something before they decode a file called bad.jpg."""
    script = f"""
import os, signal, sys, time
from stages import _decoder, images
decode = images.decode_here
def acting(source, at_least_px, max_pixels=None):
    if str(source).endswith("bad.jpg"):
        {act}
    return decode(source, at_least_px, max_pixels)
images.decode_here = acting
_decoder.main()
"""
    started = subprocess.Popen

    def popen(command, **options):
        assert command[4:6] == ["-m", "stages._decoder"]
        return started([*command[:4], "-c", script, *command[6:]], **options)

    patch.setattr(subprocess, "Popen", popen)
    for name in ("bad.jpg", "good.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    return tmp_path / "bad.jpg", tmp_path / "good.jpg"


def refusal(path):
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_photos_and_refusals_are_those_of_this_process(tmp_path):
    path = tmp_path / "a ü\n.jpg"
    write_jpeg(path, draw("red", "green", "blue", side=300))
    (tmp_path / "cut.jpg").write_bytes(path.read_bytes()[:2000])
    cases = [(path, None), (path, 100), (JPEG, None), (JPEG, 20)]
    alone = [(decode_photo if isinstance(source, bytes) else read_photo)(source, px) for source, px in cases]
    told = [refusal(one) for one in (tmp_path / "cut.jpg", tmp_path, "nul\0.jpg", tmp_path / "gone.jpg")]
    with isolated():
        for (source, px), wanted in zip(cases, alone, strict=True):
            photo = (decode_photo if isinstance(source, bytes) else read_photo)(source, px)
            np.testing.assert_array_equal(photo.image, wanted.image)
            assert (photo.width, photo.height, photo.scale) == (wanted.width, wanted.height, wanted.scale)
            assert photo.image.flags.writeable
        assert [refusal(one) for one in (tmp_path / "cut.jpg", tmp_path, "nul\0.jpg", tmp_path / "gone.jpg")] == told
        with pytest.raises(ImageError, match="empty"):
            decode_photo(b"")
        with pytest.raises(ValueError, match="at least 1"):
            decode_photo(JPEG, 0)
    assert isolation.decoder() is None


def test_paths_are_relative_to_where_they_are_asked_for(tmp_path, monkeypatch):
    with isolated():
        read_image(_written(tmp_path / "first.jpg"))
        monkeypatch.chdir(tmp_path)
        assert read_image("first.jpg").shape == (64, 128, 3)


def _written(path):
    path.write_bytes(JPEG)
    return path


def test_many_threads_share_the_processes(tmp_path):
    pictures = [draw("red", side=32 + number) for number in range(24)]
    for number, picture in enumerate(pictures):
        write_jpeg(tmp_path / f"{number}.jpg", picture, quality=95)
    with isolated(), ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda number: read_image(tmp_path / f"{number}.jpg").shape, range(24)))
    assert read == [picture.shape for picture in pictures]
    assert len(workers()) <= max(2, cores())


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_a_decoder_that_dies_costs_its_photo_alone(tmp_path, fresh, name):
    bad, good = acting(fresh, tmp_path, f"os.kill(os.getpid(), signal.{name})")
    with isolated():
        for _ in range(2):
            assert refusal(bad).startswith(f"makes its decoder end ({name.lower()}: ")
            assert read_image(good).shape == (64, 128, 3)


def test_a_decoder_that_exits_or_says_nonsense_costs_its_photo_alone(tmp_path, fresh):
    bad, good = acting(fresh, tmp_path, "os._exit(7)")
    with isolated():
        assert refusal(bad) == "makes its decoder end (exit status 7)"
        assert read_image(good).shape == (64, 128, 3)


def test_a_decoder_that_hangs_is_ended_in_time(tmp_path, fresh):
    bad, good = acting(fresh, tmp_path, "time.sleep(600)")
    with isolated():
        read_image(good)  # the start is not counted
    with isolated(time_s=0.5):
        start = time.monotonic()
        assert refusal(bad) == "takes longer than 0.5 seconds to decode"
        assert time.monotonic() - start < 30
    with isolated():
        assert read_image(good).shape == (64, 128, 3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux alone")
def test_a_decoder_cannot_take_more_memory_than_it_is_given(tmp_path, fresh):
    bad, good = acting(fresh, tmp_path, "return decode(bytes(2_000_000_000), at_least_px)")
    with isolated():
        assert refusal(bad) == "does not fit into memory"
        assert read_image(good).shape == (64, 128, 3)


def test_what_decoders_print_is_no_answer(tmp_path, fresh, capfd):
    bad, _ = acting(fresh, tmp_path, "os.write(1, b'{}'); os.write(2, b'warning'); print('more', flush=True)")
    with isolated():
        assert read_image(bad).shape == (64, 128, 3)
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_answer_is_not_the_next_ones(tmp_path, fresh):
    bad, good = acting(fresh, tmp_path, "time.sleep(1)")

    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    with isolated():
        read_image(good)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                read_image(bad)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert read_image(good).shape == (64, 128, 3)


def test_a_process_that_cannot_start_is_told(fresh):
    fresh.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StageError, match="no process to decode photos can be started"), isolated():
        decode_photo(JPEG)
    fresh.setattr(sys, "executable", "/bin/false")
    with isolated(), pytest.raises(StageError, match=r"ends as it starts \(exit status 1\)"):
        decode_photo(JPEG)


def test_a_child_has_processes_of_its_own(tmp_path):
    path = _written(tmp_path / "a.jpg")
    with isolated():
        read_image(path)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert workers() == []
                assert read_image(path).shape == (64, 128, 3)
                isolation._pool.stop()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert read_image(path).shape == (64, 128, 3)


def test_the_processes_end_with_whoever_started_them(tmp_path):
    script = """
import os, signal, sys
from stages.images import read_image
from stages.isolation import _pool, isolated
with isolated():
    read_image(sys.argv[1])
    print(*(worker._process.pid for worker in _pool._idle), flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    path = _written(tmp_path / "a.jpg")
    for how in ("returns", "killed"):
        done = subprocess.run([sys.executable, "-c", script, path, how], capture_output=True, check=False)
        assert done.returncode == (0 if how == "returns" else -signal.SIGKILL), done.stderr
        assert done.stderr == b""
        pids = [int(pid) for pid in done.stdout.split()]
        assert pids
        deadline = time.monotonic() + 30
        while any(map(_runs, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_runs, pids))


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_modules_of_the_current_folder_are_not_run(tmp_path, fresh):
    fresh.chdir(tmp_path)
    for name in ("json.py", "numpy.py", "stages.py"):
        (tmp_path / name).write_text("open('ran', 'w')\n")
    with isolated():
        assert decode_photo(JPEG).image.shape == (64, 128, 3)
    assert not (tmp_path / "ran").exists()
