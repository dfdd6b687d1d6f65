"""Faults of the world while a command runs: each ends in order, in one line, and leaves what was whole as it was."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import DETECTOR, EMBEDDER, run
from conftest import draw

from pipeline.gallery import Gallery, is_gallery, verify
from stages.images import read_image, write_jpeg

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and devices as Linux has them")
COUNT = 12
FAKES = (*DETECTOR, *EMBEDDER)
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pipeline.__main__ import main
main()
"""
SEVERAL = """
import json, sys
from pipeline.__main__ import main
for sys.argv[1:] in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as end:
        print("status", end.code, file=sys.stderr)
"""
SLOW = """
from os.path import exists
from time import sleep
from stages.testing import FakeDetector

class Slow(FakeDetector):
    calls = 0

    def __call__(self, images):
        self.calls += 1
        if self.calls == 3:
            open("busy", "a").close()
        sleep(0.3)
        while exists("hold") and self.calls >= 3:
            sleep(0.02)
        return super().__call__(images)
"""
SLOWLY = ("--detector", "slow:Slow", "--batch-size", 2)


def start(*arguments, folder, code=MAIN, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=folder, text=True, errors="replace", **piped)


def run_alone(*arguments, folder, status=0, **options):
    """A process that ends with a status, and says at most one line that begins with its name."""
    with start(*arguments, folder=folder, **options) as process:
        out, said = process.communicate(timeout=300)
    assert process.returncode == status, (process.returncode, said)
    clean(said or "")
    return out, said


def with_small_files(*commands, size, folder):
    """Commands on a disk on which no file can be larger: their statuses, and what they said."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    told = json.dumps([[*map(str, command), "--no-isolate"] for command in commands])
    with start(told, folder=folder, code=SEVERAL, preexec_fn=limit) as process:
        _, said = process.communicate(timeout=300)
    parts = re.split(r"^status (\d)\n", said, flags=re.MULTILINE)
    for part in parts[::2]:
        clean(part)
    return [*map(int, parts[1::2])], parts[:-1:2]


def wait_until_busy(process, folder):
    deadline = time.monotonic() + 600
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
def photos(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        write_jpeg(folder / f"{number:02}.jpg", draw("red", side=70 + number), quality=95)
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    return folder


# --- a full disk ---


def test_a_full_disk_is_told_and_leaves_what_was_whole(tmp_path, photos):
    for name in ("a.json", "a.npz"):
        (tmp_path / name).write_text("as it was")
    statuses, said = with_small_files(
        ("detect", photos, *DETECTOR, "-o", "a.jsonl"),
        ("detect", photos, *DETECTOR, "-o", "a.csv"),
        ("detect", photos, *DETECTOR, "--coco", "a.json", "--overwrite"),
        ("embed", photos, *EMBEDDER, "-o", "a.npz", "--overwrite"),
        ("detect", photos, *DETECTOR, "--crops", "crops"),
        size=1000,
        folder=tmp_path,
    )
    assert statuses == [2] * 5
    assert all("outfinder: " in one and "file too large" in one.lower() for one in said), said
    assert set(left(tmp_path)) <= {".a.json.part"}  # from which --resume continues
    for name in ("a.json", "a.npz"):
        assert (tmp_path / name).read_text() == "as it was"
    for line in (tmp_path / "a.jsonl").read_text().splitlines()[:-1]:
        json.loads(line)


@pytest.mark.slow
def test_a_full_disk_behind_a_pipe_or_a_link_is_told(tmp_path, photos):
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    assert "No space left on device" in run("detect", photos, *DETECTOR, "-o", "full.jsonl", status=2).stderr
    with Path("/dev/full").open("w") as full:
        _, said = run_alone("detect", photos, *DETECTOR, folder=tmp_path, status=2, stdout=full)
    assert "No space left on device" in said


def test_a_full_disk_leaves_the_gallery_of_before(tmp_path, photos):
    run("index", "g", photos / "00.jpg", *FAKES)
    before = {path.name for path in (tmp_path / "g").iterdir()}
    again, query = ("index", "g", photos, *FAKES), ("search", "g", photos / "00.jpg", *FAKES)
    statuses, said = with_small_files(again, query, size=1500, folder=tmp_path)
    assert statuses == [2, 0]
    assert "cannot be written: disk I/O error (is the disk full?); what was saved before is unharmed" in said[0]
    assert verify(tmp_path / "g") == []
    assert Gallery.open(tmp_path / "g").items == ["00"]
    after = {path.name for path in (tmp_path / "g").iterdir()}
    assert before <= after <= before | {"gallery.sqlite-wal", "gallery.sqlite-shm"}
    run(*again)
    assert len(Gallery.open(tmp_path / "g")) == COUNT


# --- closed pipes ---


@pytest.mark.parametrize("command", ["detect", pytest.param("search", marks=pytest.mark.slow), "gallery"])
def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path, photos, command):
    if command != "detect":
        run("index", "g", photos, *FAKES)
    arguments = {
        "detect": ("detect", *[photos] * 130, *DETECTOR),  # more lines than a pipe holds
        "search": ("search", "g", *[photos] * 65, *FAKES, "-k", COUNT),
        "gallery": ("gallery", "list", "g"),
    }[command]
    with start(*arguments, folder=tmp_path) as process:
        if command != "gallery":
            assert json.loads(process.stdout.readline())["photo"].endswith("00.jpg")
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")


def test_closed_standard_streams_are_no_surprise(tmp_path, photos):
    command = ("detect", photos, *DETECTOR)
    _, said = run_alone(*command, folder=tmp_path, status=2, stdout=None, preexec_fn=lambda: os.close(1))
    assert said == "outfinder: standard output is closed; name a file for the results with -o\n"
    out, _ = run_alone(*command, folder=tmp_path, stderr=None, preexec_fn=lambda: os.close(2))
    assert len(out.splitlines()) == COUNT


# --- outputs that cannot be written ---


def test_read_only_places_are_told(tmp_path, photos):
    for option, name in (("-o", "a.jsonl"), ("--coco", "a.json"), ("--crops", "crops"), ("--overlays", "drawn")):
        said = run("detect", photos, *DETECTOR, option, f"/proc/{name}", status=2).stderr
        assert said.startswith("outfinder: /proc/")
        assert len(said.splitlines()) == 1
    said = run("embed", photos, *EMBEDDER, "-o", "/proc/a.npz", status=2).stderr
    assert said.splitlines()[-1].startswith("outfinder: /proc/")
    said = run("index", "/proc/g", photos, *FAKES, status=2).stderr
    assert said.startswith("outfinder: gallery /proc/g cannot be written")
    (tmp_path / "file").write_text("")
    said = run("detect", photos, *DETECTOR, "-o", "file/a.jsonl", status=2).stderr
    assert said == "outfinder: file/a.jsonl: Not a directory\n"


# --- signals ---


def stopped(name, *arguments, folder, delay_s=None):
    """A command that gets a signal: once it is busy, or after some seconds."""
    hold = folder / "hold"
    if delay_s is None:
        hold.touch()
    with start(*arguments, folder=folder) as process:
        wait_until_busy(process, folder) if delay_s is None else time.sleep(delay_s)
        process.send_signal(name)
        hold.unlink(missing_ok=True)
        _, said = process.communicate(timeout=600)
    return process.returncode, said


def ends_in_order(tmp_path, photos, name, delay_s):
    """Whenever a signal comes, there is no trace, every line is whole, and the gallery is sound if there is one."""
    wanted = {130 if name == signal.SIGINT else 143, 0, -name}
    arguments = ("detect", photos, *SLOWLY, "-o", "a.jsonl", "--coco", "a.json", "--crops", "crops")
    status, said = stopped(name, *arguments, folder=tmp_path, delay_s=delay_s)
    assert status in wanted, (delay_s, status, said)
    if "Traceback" not in said or "pipeline/__main__" in said:  # before that, Python speaks
        clean(said)
    lines = (tmp_path / "a.jsonl").read_text().splitlines() if (tmp_path / "a.jsonl").exists() else []
    assert all("photo" in json.loads(line) for line in lines)
    assert status == -name or set(left(tmp_path)) <= {".a.json.part"}
    status, said = stopped(name, "index", "g", photos, *SLOWLY, *EMBEDDER, folder=tmp_path, delay_s=delay_s)
    assert status in wanted, (delay_s, status, said)
    assert not is_gallery(tmp_path / "g") or verify(tmp_path / "g") == []


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
        (signal.SIGKILL, -signal.SIGKILL, None),
    ],
)
def test_a_stopped_run_is_resumed(tmp_path, photos, name, status, told):
    command = ("detect", photos, "-o", "a.jsonl", "--coco", "a.json", "--crops", "crops")
    ended, said = stopped(name, *command, *SLOWLY, folder=tmp_path)
    assert ended == status, said
    assert not (tmp_path / "a.json").exists()
    assert set(left(tmp_path)) <= {".a.json.part"}
    finished = (tmp_path / "a.jsonl").read_bytes().count(b"\n")
    assert 0 < finished < COUNT
    if told:
        clean(said)
        assert said.splitlines()[-1] == f"outfinder: {told}"
        counted = re.search(r"detected garments in (\d+) photo", said)
        assert finished - int(counted[1]) in (0, 1)  # one may have been written and not yet counted
        assert "--resume continues" in said
    run(*command, *DETECTOR, "--resume")
    assert (tmp_path / "a.jsonl").read_text() == run("detect", photos, *DETECTOR).stdout
    assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == COUNT


@pytest.mark.parametrize(
    ("name", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_stopped_index_leaves_a_sound_gallery_that_goes_on(tmp_path, photos, name, status):
    command = ("index", "g", photos, *SLOWLY, *EMBEDDER)
    ended, said = stopped(name, *command, folder=tmp_path)
    assert ended == status, said
    clean(said)
    assert not is_gallery(tmp_path / "g") or verify(tmp_path / "g") == []  # an empty one is not left behind
    assert not (tmp_path / "g" / "writer.json").exists()
    run_alone(*command, folder=tmp_path)
    assert len(Gallery.open(tmp_path / "g")) == COUNT


def test_ctrl_c_before_there_is_a_command_ends_without_a_word(tmp_path):
    (tmp_path / "click.py").write_text("import time\nopen('busy', 'w').close()\ntime.sleep(60)\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    with start("--help", folder=tmp_path, env=env) as process:
        wait_until_busy(process, tmp_path)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=600)
    assert (process.returncode, out, said) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_point(tmp_path, photos, name):
    dice = random.Random(int(name))
    for _ in range(15):
        ends_in_order(tmp_path, photos, name, dice.uniform(0.3, 6))


# --- clocks ---


def test_a_clock_that_goes_back_changes_nothing(photos, monkeypatch):
    now, back = time.time, iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "time", lambda: now() - next(back))
    for number, moment in enumerate((0, 1, 4_000_000_000, 2**31)):
        os.utime(photos / f"{number:02}.jpg", (moment, moment))
    assert f"{COUNT} added" in run("index", "g", photos, *FAKES).stderr
    assert f"{COUNT} unchanged" in run("index", "g", photos, *FAKES).stderr
    assert len(run("search", "g", photos, *FAKES, "--report", "report").stdout.splitlines()) == COUNT


# --- two runs at once ---


@pytest.mark.parametrize("name", [pytest.param("a.jsonl", marks=pytest.mark.slow), "g"])
def test_two_runs_never_write_one_place(tmp_path, photos, name):
    command = ("index", name, photos, *EMBEDDER) if name == "g" else ("detect", photos, "-o", name)
    (tmp_path / "hold").touch()
    with start(*command, *SLOWLY, folder=tmp_path) as first:
        wait_until_busy(first, tmp_path)
        said = run(*command, *DETECTOR, status=2).stderr
        (tmp_path / "hold").unlink()
        first.communicate(timeout=600)
    assert first.returncode == 0
    if name == "g":
        assert "is being written by process" in said
        assert len(Gallery.open(tmp_path / "g")) == COUNT
        return
    busy, there = "is being written by another run; name another file", "exists; give --overwrite to replace it"
    assert said.startswith((f"outfinder: a.jsonl {busy}", f"outfinder: a.jsonl {there}")), "there once it has a photo"
    told = [json.loads(line)["photo"] for line in (tmp_path / name).read_text().splitlines()]
    assert told == [str(path) for path in sorted(photos.iterdir())]


def test_two_runs_that_write_one_file_at_the_end_leave_one_of_them(tmp_path, photos):
    arguments = ("detect", photos, *SLOWLY, "--coco", "a.json", "--crops", "crops")
    both = [start(*arguments, "-o", f"{number}.jsonl", folder=tmp_path) for number in range(2)]
    for process in both:
        with process:
            _, said = process.communicate(timeout=600)
        assert process.returncode == 0 or "outfinder: a.json " in said, said
    assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == COUNT
    first = next(path for path in sorted(tmp_path.glob("?.jsonl")) if path.stat().st_size)
    crops = sum(len(json.loads(line)["garments"]) for line in first.read_text().splitlines())
    assert len([read_image(path) for path in (tmp_path / "crops").glob("*.*g")]) == crops > 0
    assert set(left(tmp_path)) <= {".a.json.part"}
