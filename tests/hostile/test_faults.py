"""Faults of the world while a command runs: each ends in order, in one line, and leaves what was whole as it was."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import draw

from pipeline.gallery import Gallery, is_gallery, verify
from stages.images import read_image, write_jpeg

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and devices as Linux has them")
DETECTOR = ("--detector", "stages.testing:FakeDetector")
EMBEDDER = ("--embedder", "stages.testing:FakeEmbedder")
COUNT = 12
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pipeline.__main__ import main
main()
"""
SLOW = """
from os.path import exists
from time import sleep
from stages.testing import FakeDetector

class Slow(FakeDetector):
    def __call__(self, images):
        open("busy", "a").close()
        sleep(0.1)
        while exists("hold"):
            sleep(0.02)
        return super().__call__(images)
"""
STEPS_BACK = """
import time
now, back = time.time, [0]
def earlier():
    back[0] += 3600
    return now() - back[0]
time.time = earlier
"""


def start(*arguments, folder, **options):
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=folder, text=True, errors="replace", **piped)


def run(*arguments, folder, status, **options):
    """A command that ends with a status, and says at most one line that begins with its name."""
    with start(*arguments, folder=folder, **options) as process:
        out, said = process.communicate(timeout=300)
    assert process.returncode == status, (process.returncode, said)
    clean(said or "")
    return out, said


def wait_until_busy(process, folder):
    deadline = time.monotonic() + 120
    while not (folder / "busy").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def clean(said):
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    assert sum(line.startswith("outfinder: ") for line in said.splitlines()) <= 1, said


def left(folder):
    """What a run has left that is no result."""
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith((".part", ".partial")))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        write_jpeg(folder / f"{number:02}.jpg", draw("red", side=70 + number), quality=95)
    (tmp_path / "slow.py").write_text(SLOW)
    return folder


def small_files(size):
    """A disk on which no file can be larger."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


# --- a full disk ---


def test_a_full_disk_is_told_and_leaves_what_was_whole(tmp_path, photos):
    outputs = {
        "a.jsonl": ("detect", photos, *DETECTOR, "--no-isolate", "-o", "a.jsonl"),
        "a.csv": ("detect", photos, *DETECTOR, "--no-isolate", "-o", "a.csv"),
        "a.json": ("detect", photos, *DETECTOR, "--no-isolate", "--coco", "a.json", "--overwrite"),
        "a.npz": ("embed", photos, *EMBEDDER, "--no-isolate", "-o", "a.npz", "--overwrite"),
        "crops": ("detect", photos, *DETECTOR, "--no-isolate", "--crops", "crops"),
    }
    for name in ("a.json", "a.npz"):
        (tmp_path / name).write_text("as it was")
    for name, arguments in outputs.items():
        _, said = run(*arguments, folder=tmp_path, status=2, preexec_fn=small_files(1000))
        assert "outfinder: " in said, name
        assert "file too large" in said.lower(), name
        assert set(left(tmp_path)) <= {".a.json.part"}  # from which --resume continues
    for name in ("a.json", "a.npz"):
        assert (tmp_path / name).read_text() == "as it was"
    for line in (tmp_path / "a.jsonl").read_text().splitlines()[:-1]:
        json.loads(line)


def test_a_full_disk_behind_a_pipe_or_a_link_is_told(tmp_path, photos):
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    _, said = run("detect", photos, *DETECTOR, "-o", "full.jsonl", folder=tmp_path, status=2)
    assert "No space left on device" in said
    with Path("/dev/full").open("w") as full:
        _, said = run("detect", photos, *DETECTOR, folder=tmp_path, status=2, stdout=full)
    assert "No space left on device" in said


def test_a_full_disk_leaves_the_gallery_of_before(tmp_path, photos):
    run("index", "g", photos / "00.jpg", *DETECTOR, *EMBEDDER, folder=tmp_path, status=0)
    before = sorted(path.name for path in (tmp_path / "g").iterdir())
    again = ("index", "g", photos, *DETECTOR, *EMBEDDER, "--no-isolate")
    _, said = run(*again, folder=tmp_path, status=2, preexec_fn=small_files(1500))
    assert "cannot be written: disk I/O error (is the disk full?); nothing was changed" in said
    query = ("search", "g", photos / "00.jpg", *DETECTOR, *EMBEDDER, "--no-isolate")
    run(*query, folder=tmp_path, status=0, preexec_fn=small_files(1500))
    assert verify(tmp_path / "g") == []
    assert Gallery.open(tmp_path / "g").items == ["00"]
    allowed = {*before, "unfinished.json", "gallery.sqlite-wal", "gallery.sqlite-shm"}
    assert set(before) <= {path.name for path in (tmp_path / "g").iterdir()} <= allowed
    run(*again, folder=tmp_path, status=0)
    assert len(Gallery.open(tmp_path / "g")) == COUNT


# --- closed pipes ---


@pytest.mark.parametrize("command", ["detect", "search", "gallery"])
def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path, photos, command):
    run("index", "g", photos, *DETECTOR, *EMBEDDER, folder=tmp_path, status=0)
    arguments = {
        "detect": ("detect", *[photos] * 130, *DETECTOR),
        "search": ("search", "g", *[photos] * 65, *DETECTOR, *EMBEDDER, "-k", COUNT),
        "gallery": ("gallery", "list", "g"),
    }[command]
    with start(*arguments, folder=tmp_path) as process:
        if command != "gallery":
            json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert said == ""


def test_closed_standard_streams_are_no_surprise(tmp_path, photos):
    _, said = run("detect", photos, *DETECTOR, folder=tmp_path, status=2, stdout=None, preexec_fn=lambda: os.close(1))
    assert said == "outfinder: standard output is closed; name a file for the results with -o\n"
    out, _ = run("detect", photos, *DETECTOR, folder=tmp_path, status=0, stderr=None, preexec_fn=lambda: os.close(2))
    assert len(out.splitlines()) == COUNT


# --- outputs that cannot be written ---


def test_read_only_places_are_told(tmp_path, photos):
    for option, name in (
        ("-o", "a.jsonl"),
        ("--coco", "a.json"),
        ("--crops", "crops"),
        ("--overlays", "drawn"),
    ):
        _, said = run("detect", photos, *DETECTOR, option, f"/proc/{name}", folder=tmp_path, status=2)
        assert said.startswith("outfinder: /proc/")
        assert len(said.splitlines()) == 1
    _, said = run("embed", photos, *EMBEDDER, "-o", "/proc/a.npz", folder=tmp_path, status=2)
    assert said.splitlines()[-1].startswith("outfinder: /proc/")
    _, said = run("index", "/proc/g", photos, *DETECTOR, *EMBEDDER, folder=tmp_path, status=2)
    assert said.startswith("outfinder: gallery /proc/g cannot be written")
    (tmp_path / "file").write_text("")
    _, said = run("detect", photos, *DETECTOR, "-o", "file/a.jsonl", folder=tmp_path, status=2)
    assert said == "outfinder: file/a.jsonl: Not a directory\n"


# --- signals ---


def interrupted(arguments, folder, name, delay_s):
    with start(*arguments, folder=folder) as process:
        time.sleep(delay_s)
        process.send_signal(name)
        out, said = process.communicate(timeout=120)
    return process.returncode, out, said


def ends_in_order(tmp_path, photos, name, delay_s):
    """Whenever a signal comes, there is no trace, every line is whole, and the gallery is sound if there is one."""
    wanted = {130 if name == signal.SIGINT else 143, 0, -name}
    arguments = ("detect", photos, "--detector", "slow:Slow", "-o", "a.jsonl", "--coco", "a.json", "--crops", "crops")
    status, _, said = interrupted(arguments, tmp_path, name, delay_s)
    assert status in wanted, (delay_s, status, said)
    if "Traceback" not in said or "pipeline/__main__" in said:  # before that, Python speaks
        clean(said)
    lines = (tmp_path / "a.jsonl").read_text().splitlines() if (tmp_path / "a.jsonl").exists() else []
    assert all("photo" in json.loads(line) for line in lines)
    assert status == -name or set(left(tmp_path)) <= {".a.json.part"}
    arguments = ("index", "g", photos, "--detector", "slow:Slow", *EMBEDDER)
    status, _, said = interrupted(arguments, tmp_path, name, delay_s)
    assert status in wanted, (delay_s, status, said)
    assert not is_gallery(tmp_path / "g") or verify(tmp_path / "g") == []


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_photos_are_looked_at(tmp_path, photos, name):
    arguments = ("detect", photos, "--detector", "slow:Slow", "-o", "a.jsonl", "--coco", "a.json", "--crops", "crops")
    with start(*arguments, folder=tmp_path) as process:
        wait_until_busy(process, tmp_path)
        process.send_signal(name)
        _, said = process.communicate(timeout=120)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[name], said
    told = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[name]
    assert said.splitlines()[-1] == f"outfinder: {told}"
    clean(said)
    assert not (tmp_path / "a.json").exists()
    assert set(left(tmp_path)) <= {".a.json.part"}


def test_ctrl_c_before_there_is_a_command_ends_without_a_word(tmp_path):
    (tmp_path / "click.py").write_text("import time\nopen('busy', 'w').close()\ntime.sleep(60)\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    with start("--help", folder=tmp_path, env=env) as process:
        wait_until_busy(process, tmp_path)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=120)
    assert (process.returncode, out, said) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_point(tmp_path, photos, name):
    dice = random.Random(int(name))
    for _ in range(15):
        ends_in_order(tmp_path, photos, name, dice.uniform(0.3, 6))


def test_sigterm_leaves_a_sound_gallery_that_goes_on(tmp_path, photos):
    arguments = ("index", "g", photos, "--detector", "slow:Slow", *EMBEDDER)
    with start(*arguments, folder=tmp_path) as process:
        wait_until_busy(process, tmp_path)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    clean(said)
    assert not is_gallery(tmp_path / "g") or verify(tmp_path / "g") == []  # an empty one is not left behind
    assert not (tmp_path / "g" / "writer.json").exists()
    run(*arguments, folder=tmp_path, status=0)
    assert len(Gallery.open(tmp_path / "g")) == COUNT


# --- clocks ---


def test_a_clock_that_goes_back_changes_nothing(tmp_path, photos):
    (tmp_path / "sitecustomize.py").write_text(STEPS_BACK)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    for number, moment in enumerate((0, 1, 4_000_000_000, 2**31)):
        os.utime(photos / f"{number:02}.jpg", (moment, moment))
    _, said = run("index", "g", photos, *DETECTOR, *EMBEDDER, folder=tmp_path, status=0, env=env)
    assert f"{COUNT} added" in said
    _, said = run("index", "g", photos, *DETECTOR, *EMBEDDER, folder=tmp_path, status=0, env=env)
    assert f"{COUNT} unchanged" in said
    out, _ = run("search", "g", photos, *DETECTOR, *EMBEDDER, "--report", "report", folder=tmp_path, status=0, env=env)
    assert len(out.splitlines()) == COUNT


# --- two runs at once ---


def test_two_runs_never_write_one_file_of_results(tmp_path, photos):
    arguments = ("detect", photos, "--detector", "slow:Slow", "-o", "a.jsonl")
    (tmp_path / "hold").touch()
    with start(*arguments, folder=tmp_path) as first:
        wait_until_busy(first, tmp_path)
        _, said = run(*arguments, folder=tmp_path, status=2)
        (tmp_path / "hold").unlink()
        first.communicate(timeout=120)
    assert said == "outfinder: a.jsonl is being written by another run; name another file\n"
    assert first.returncode == 0
    assert [json.loads(line)["photo"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        str(path) for path in sorted(photos.iterdir())
    ]


def test_two_runs_that_write_one_file_at_the_end_leave_one_of_them(tmp_path, photos):
    arguments = ("detect", photos, "--detector", "slow:Slow", "--coco", "a.json", "--crops", "crops")
    both = [start(*arguments, "-o", f"{number}.jsonl", folder=tmp_path) for number in range(2)]
    for process in both:
        with process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0 or "outfinder: a.json " in said, said
    assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == COUNT
    results = next(
        path for path in sorted(tmp_path.glob("?.jsonl")) if path.stat().st_size
    )  # of the run that was first
    crops = sum(len(json.loads(line)["garments"]) for line in results.read_text().splitlines())
    assert len([read_image(path) for path in (tmp_path / "crops").glob("*.*g")]) == crops > 0
    assert set(left(tmp_path)) <= {".a.json.part"}


def test_two_runs_that_index_into_one_gallery(tmp_path, photos):
    arguments = ("index", "g", photos, "--detector", "slow:Slow", *EMBEDDER)
    (tmp_path / "hold").touch()
    with start(*arguments, folder=tmp_path) as first:
        wait_until_busy(first, tmp_path)
        _, said = run(*arguments, folder=tmp_path, status=2)
        (tmp_path / "hold").unlink()
        first.communicate(timeout=120)
    assert "is being written by process" in said
    assert first.returncode == 0
    assert len(Gallery.open(tmp_path / "g")) == COUNT
