"""The command as a process: what help imports, closed pipes, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import draw

from pipeline.gallery import Gallery, is_gallery, verify
from stages.images import encode_jpeg

OUTFINDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pipeline.cli import main
main(sys.argv[1:], prog_name="outfinder")
"""

SLOW = """
from pathlib import Path
from time import sleep
from stages.testing import FakeDetector

class Slow(FakeDetector):
    calls = 0

    def __call__(self, images):
        self.calls += 1
        if self.calls == 3:
            Path("busy").touch()
        sleep(0.05)
        return super().__call__(images)
"""


def outfinder(*arguments: object, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", OUTFINDER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)


def many_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.jpg").write_bytes(encode_jpeg(draw("red", side=16 + number % 16), 80 + number % 16))
    return folder


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'torchvision', 'numpy', 'cv2', 'PIL', 'hnswlib', 'stages', 'weights'} & sys.modules.keys();"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


def test_a_closed_pipe_ends_the_run_quietly(tmp_path: Path) -> None:
    photos = many_photos(tmp_path / ("long name " * 20), 400)  # more lines than a pipe holds
    process = outfinder("detect", photos, "--detector", "stages.testing:FakeDetector", folder=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stderr:
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read().decode()
    assert first["photo"].endswith("0000.jpg")
    assert process.returncode == 0, said
    assert said == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_leaves_a_sound_gallery_that_the_same_command_continues(tmp_path: Path) -> None:
    photos = many_photos(tmp_path / "photos", 200)
    (tmp_path / "slow.py").write_text(SLOW)
    stages = ("--detector", "slow:Slow", "--embedder", "stages.testing:FakeEmbedder")
    process = outfinder("index", "gallery", photos, *stages, folder=tmp_path)
    with process:
        deadline = time.monotonic() + 600
        while not (tmp_path / "busy").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    if is_gallery(tmp_path / "gallery"):  # an empty one is not left behind
        assert verify(tmp_path / "gallery") == []
    for path in sorted(photos.iterdir())[5:]:
        path.unlink()
    again = outfinder("index", "gallery", photos, *stages, folder=tmp_path)
    _, said = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert len(Gallery.open(tmp_path / "gallery")) >= 5
