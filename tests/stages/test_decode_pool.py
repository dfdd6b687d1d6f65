"""Decoding in worker processes: the results are those of this process, and a hostile photo loses only its own result."""

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

from stages import decode_pool
from stages.cores import cores
from stages.decode_pool import isolated
from stages.errors import ImageError
from stages.images import decode_photo, encode_jpeg, read_image, read_photo, write_jpeg

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers are used on POSIX systems only")
JPEG = encode_jpeg(draw("red", "blue"))
SHAPE = (64, 128, 3)
ACTIONS = {
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "exit": "os._exit(7)",
    "hang": "time.sleep(600)",
    "pause": "time.sleep(1)",
    "memory": "return decode(bytes(2_000_000_000), at_least_px)",
    "print": "os.write(1, b'{}'); os.write(2, b'oh'); print('more', flush=True)",
    "killed-once": "os.path.exists('killed') or (open('killed', 'w').close(), os.kill(os.getpid(), signal.SIGKILL))",
}
MISBEHAVING = f"""
import os, signal, sys, time
sys.path += sys.argv[3:]
from stages import decode_pool, images
decode = images.decode_in_process
def act_and_decode(source, at_least_px, max_pixels=None):
    name = os.path.basename(str(source))
{"".join(f"    if name == '{name}.jpg': {action}{chr(10)}" for name, action in ACTIONS.items())}
    return decode(source, at_least_px, max_pixels)
images.decode_in_process = act_and_decode
decode_pool.serve()
"""


@pytest.fixture
def new_pool(monkeypatch):
    """A pool without workers, and a monkeypatch that is undone before its workers are ended."""
    pool = decode_pool._Pool()
    with monkeypatch.context() as patch:
        patch.setattr(decode_pool, "_pool", pool)
        patch.setattr(decode_pool, "_IDLE_WORKERS", 1)
        yield patch
    pool.stop()


@pytest.fixture
def photo(tmp_path, new_pool):
    """Makes a photo with which a worker misbehaves as the action of its name says."""
    new_pool.setattr(decode_pool, "_BOOTSTRAP", MISBEHAVING)
    new_pool.chdir(tmp_path)

    def make(name):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(JPEG)
        return path

    return make


def refusal(path):
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def idle_pids():
    return [worker._process.pid for worker in decode_pool._pool._idle]


def test_photos_and_refusals_are_those_of_this_process(tmp_path, monkeypatch):
    path = tmp_path / "a ü\n.jpg"
    write_jpeg(path, draw("red", "green", "blue", side=300))
    odd = tmp_path / os.fsdecode(b"caf\xe9\xff.jpg")
    odd.write_bytes(path.read_bytes())
    (tmp_path / "cut.jpg").write_bytes(path.read_bytes()[:2000])
    sources = [(path, None), (path, 100), (odd, None), (JPEG, None), (JPEG, 20)]
    bad = [tmp_path / "cut.jpg", tmp_path, "nul\0.jpg", tmp_path / "gone.jpg"]
    photos = [(decode_photo if isinstance(source, bytes) else read_photo)(source, px) for source, px in sources]
    refusals = [refusal(one) for one in bad]
    with isolated():
        for (source, px), wanted in zip(sources, photos, strict=True):
            photo = (decode_photo if isinstance(source, bytes) else read_photo)(source, px)
            np.testing.assert_array_equal(photo.image, wanted.image)
            assert (photo.width, photo.height, photo.scale) == (wanted.width, wanted.height, wanted.scale)
            assert photo.image.flags.writeable
        assert [refusal(one) for one in bad] == refusals
        with pytest.raises(ImageError, match="empty"):
            decode_photo(b"")
        monkeypatch.chdir(tmp_path)  # relative paths start where the caller is now
        assert read_image(path.name).shape == photos[0].image.shape
    assert not decode_pool.is_isolated()


def test_many_threads_share_the_workers(tmp_path):
    pictures = [draw("red", side=32 + number) for number in range(12)]
    for number, picture in enumerate(pictures):
        write_jpeg(tmp_path / f"{number}.jpg", picture)
    with isolated(), ThreadPoolExecutor(6) as threads:
        shapes = list(threads.map(lambda number: read_image(tmp_path / f"{number}.jpg").shape, range(12)))
    assert shapes == [picture.shape for picture in pictures]
    assert len(idle_pids()) <= max(2, cores())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segfault", "cannot be decoded: its decoder ended while it decoded the photo (signal 11: "),
        ("exit", "cannot be decoded: its decoder ended while it decoded the photo (exit status 7"),
        ("hang", "takes longer than 0.5 seconds to decode"),
        ("memory", "does not fit into memory"),
    ],
)
def test_a_photo_that_ends_its_workers_loses_only_its_own_result(photo, name, message):
    if name == "memory" and not Path("/proc/self/statm").exists():
        pytest.skip("memory is limited on Linux only")
    with isolated():
        assert read_image(photo("sound")).shape == SHAPE
        with isolated(time_s=0.5 if name == "hang" else decode_pool.TIME_S):
            assert refusal(photo(name)).startswith(message)
        assert read_image(photo("sound")).shape == SHAPE


def test_a_photo_whose_worker_is_killed_is_decoded_by_another(photo, tmp_path):
    with isolated():
        assert read_image(photo("killed-once")).shape == SHAPE
        assert (tmp_path / "killed").exists()
        for pid in idle_pids():
            os.kill(pid, signal.SIGKILL)  # while it is idle
        assert read_image(photo("sound")).shape == SHAPE


def test_what_a_worker_prints_is_not_an_answer(photo, capfd):
    with isolated():
        assert read_image(photo("print")).shape == SHAPE
    assert capfd.readouterr() == ("", "")


def test_the_answer_to_an_interrupted_request_is_not_given_to_the_next(photo):
    def interrupt(_signal, _frame):
        raise KeyboardInterrupt

    with isolated():
        read_image(photo("sound"))
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                read_image(photo("pause"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert read_image(photo("sound")).shape == SHAPE


@pytest.mark.parametrize(
    ("executable", "reason"), [("/nowhere/python", "no decoder can be started"), ("/bin/false", "as it started")]
)
def test_a_worker_that_cannot_start_is_an_error_of_each_photo(new_pool, executable, reason):
    new_pool.setattr(sys, "executable", executable)
    with isolated():
        for _ in range(2):
            with pytest.raises(ImageError, match=rf"^cannot be decoded: .*{reason}.*--no-isolate"):
                decode_photo(JPEG)


def test_a_worker_that_dies_as_it_starts_is_started_once_more(tmp_path, new_pool):
    new_pool.chdir(tmp_path)
    once = "import os\ntry: os.mkdir('died')\nexcept FileExistsError: pass\nelse: os._exit(3)\n"
    new_pool.setattr(decode_pool, "_BOOTSTRAP", once + decode_pool._BOOTSTRAP)
    assert decode_pool.decode(JPEG, None, None)[0].shape == SHAPE
    assert (tmp_path / "died").exists()


def test_a_forked_process_has_its_own_workers():
    with isolated():
        decode_photo(JPEG)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert idle_pids() == []
                assert decode_photo(JPEG).image.shape == SHAPE
                decode_pool.stop()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert decode_photo(JPEG).image.shape == SHAPE


@pytest.mark.parametrize("ending", ["returns", "is killed"])
def test_workers_end_with_the_process_that_started_them(tmp_path, ending):
    script = """
import os, signal, sys
from stages.images import read_image
from stages.decode_pool import _pool, isolated
with isolated():
    read_image(sys.argv[1])
    print(*(worker._process.pid for worker in _pool._idle), flush=True)
    if sys.argv[2] == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "a.jpg").write_bytes(JPEG)
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "a.jpg", ending], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0 if ending == "returns" else -signal.SIGKILL, b"")
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_workers_import_neither_from_the_current_folder_nor_packages_in_place_of_the_standard_library(
    tmp_path, new_pool
):
    for name in ("json.py", "numpy.py", "stages.py"):
        (tmp_path / name).write_text("open('imported', 'w')\n")
    new_pool.chdir(tmp_path)
    site_packages = tmp_path / "site-packages"
    site_packages.mkdir()
    for name in ("dataclasses.py", "enum.py", "typing.py"):  # back-ports for old versions of Python
        (site_packages / name).write_text("raise ImportError('made for another Python')\n")
    new_pool.setenv("PYTHONPATH", str(site_packages))
    search_path = [str(site_packages), *decode_pool._search_path()]
    new_pool.setattr(decode_pool, "_search_path", lambda: search_path)
    with isolated():
        assert decode_photo(JPEG).image.shape == SHAPE
    assert not (tmp_path / "imported").exists()
