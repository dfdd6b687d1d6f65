"""The hostile corpus, file by file and as a folder that every command is run on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from corpus import Case, corpus, large
from judging import GOOD, Outcome, judge
from pictures import deep, encoded, known, lying, scan_bomb

from stages import decode_pool, formats, srgb
from stages.decode_pool import isolated
from stages.errors import ImageError
from stages.images import FORMATS, decode_photo, read_image, walk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="FIFOs, devices and limits as Linux has them")
STAGES = ("--detector", "stages.testing:FakeDetector")
EMBEDDER = ("--embedder", "stages.testing:FakeEmbedder")
LIMIT_S = 60


def made(cases, folder):
    for number, case in enumerate(cases):
        path = folder / f"{number:04}" / case.name
        path.parent.mkdir(parents=True)
        case.make(path)
        yield case, path


def check(cases, folder):
    """Every case is good, and none takes longer than it may."""
    told = []
    for case, path in made(cases, folder):
        start = time.process_time()
        outcome, why = judge(case, path)
        took = time.process_time() - start
        if outcome not in GOOD or took > LIMIT_S:
            told.append(f"{case.kind}: {case.name!r}: {outcome} in {took:.1f} s: {why}")
    assert not told, "\n".join(told)


@pytest.mark.parametrize("isolate", [True, False], ids=["isolated", "in this process"])
def test_every_hostile_file_is_read_rightly_or_refused_clearly(tmp_path, isolate):
    with isolated() if isolate else nullcontext():
        check(corpus(2 if isolate else 1), tmp_path)


@pytest.mark.slow
def test_many_flipped_bits_and_the_largest_photos(tmp_path):
    with isolated():
        check((case for case in corpus(200) if case.kind == "flipped bits"), tmp_path)
        check(large(), tmp_path / "large")
    decode_pool.stop()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_000_000  # in kB


@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand_entries(tmp_path):
    for number in range(100_000):
        (tmp_path / f"{number}.{'jpg' if number % 2 else 'txt'}").touch()
    start = time.monotonic()
    assert sum(1 for _ in walk([tmp_path])) == 50_000
    assert time.monotonic() - start < LIMIT_S


def test_the_judge_finds_what_is_wrong(tmp_path):
    def judged(picture, data, refusal=None, within=9.0):
        case = Case("", "a.png", lambda path: path.write_bytes(data), picture, refusal, within)
        case.make(tmp_path / case.name)
        return judge(case, tmp_path / case.name)[0]

    assert judged(known(), encoded("PNG", known())) is Outcome.READ
    assert judged(known(), encoded("PNG", known()[..., ::-1])) is Outcome.WRONG
    assert judged(known(), encoded("PNG", known()[::-1])) is Outcome.WRONG
    assert judged(known(), encoded("PNG", known()[:-1])) is Outcome.WRONG
    assert judged(None, encoded("PNG", known()), refusal="") is Outcome.WRONG
    assert judged(known(), b"") is Outcome.UNCLEAR
    assert judged(None, b"", refusal="truncated") is Outcome.UNCLEAR
    assert judged(None, b"", refusal="empty") is Outcome.REFUSED


# --- what the corpus has found, and what is not plain from it ---


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused_at_once():
    data = scan_bomb(2000, 20_000)
    assert len(data) < 400_000
    start = time.process_time()
    with pytest.raises(ImageError, match=r"a JPEG of 200.. scans and 4 megapixels, made to take long"):
        decode_photo(data)
    assert time.process_time() - start < 1


def test_large_photos_are_converted_in_strips_to_the_same_pixels(monkeypatch):
    kinds = ["PNG", "TIFF", *(kind for kind in ("AVIF", "HEIC") if kind in FORMATS)]
    files = [lying(orientation, kind) for kind in kinds for orientation in range(1, 9)]
    files += [deep(".png", grey=True), deep(".tif"), encoded("GIF", known())]
    whole = [decode_photo(data).image for data in files]
    monkeypatch.setattr(srgb, "STRIP_PIXELS", 64 * 5)
    for data, wanted in zip(files, whole, strict=True):
        photo = decode_photo(data)
        np.testing.assert_array_equal(photo.image, wanted)
        assert photo.scale == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_photos_are_reduced_where_smaller_ones_will_do(monkeypatch, orientation):
    monkeypatch.setattr(srgb, "STRIP_PIXELS", 64 * 5)
    photo = decode_photo(lying(orientation, "PNG"), at_least_px=20)
    assert (photo.width, photo.height) == (64, 48)
    assert photo.image.shape == (16, 22, 3)
    assert photo.image[2, 2].tolist() == [220, 20, 20]
    assert photo.image[2, -3].tolist() == [20, 200, 20]
    assert photo.image[-3, 2].tolist() == [20, 20, 220]
    assert decode_photo(lying(orientation, "PNG"), at_least_px=33).image.shape == (48, 64, 3)


def test_heic_and_avif_are_read_or_what_to_do_is_told(monkeypatch):

    heads = {"HEIC": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "AVIF": b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif"}
    for kind, head in heads.items():
        assert formats.sniff(head + bytes(30)) == kind
        monkeypatch.setitem(formats._MISSING, kind, f"is {kind}, which needs something")
        with pytest.raises(ImageError, match=f"^is {kind}, which needs something$"):
            decode_photo(head + bytes(30))


def test_unreadable_files_are_told(tmp_path):
    folder = Path(tempfile.mkdtemp())  # pytest's own is root's alone
    try:
        folder.chmod(0o755)
        path = folder / "secret.jpg"
        path.write_bytes(encoded("JPEG", known()))
        path.chmod(0)
        if os.getuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(ImageError, match=r"^cannot be read: permission denied$"):
                read_image(path)
        finally:
            os.seteuid(os.getuid())
    finally:
        path.unlink()
        folder.rmdir()


# --- the commands ---


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of everything hostile, and how many photos of it are to be refused."""
    folder = tmp_path_factory.mktemp("hostile")
    cases = [case for case in corpus(1) if case.name != "3 GB.jpg"]
    refused = seen = 0
    for case, path in made(cases, folder):
        if path.suffix.lower() == ".txt" or path.name.startswith("."):
            continue
        seen += 1
        refused += judge(case, path)[0] is Outcome.REFUSED
    return folder, len(list(walk([folder]))), seen, refused


def limited(*arguments, folder):
    """The command in a process of its own, which may compute for a minute and a half."""

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (90, 90))

    command = [sys.executable, "-c", "from pipeline.cli import main; main(prog_name='outfinder')", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        cwd=folder,
        check=False,
        preexec_fn=limit,
        timeout=600,
        text=True,
        errors="replace",
    )


@pytest.mark.slow
def test_every_command_goes_through_a_folder_of_everything_hostile(hostile, tmp_path):
    folder, found, seen, refused = hostile
    assert found == seen
    runs = {
        "detect": ("detect", folder, *STAGES),
        "index": ("index", tmp_path / "gallery", folder, *STAGES, *EMBEDDER),
        "search": ("search", tmp_path / "gallery", folder, *STAGES, *EMBEDDER, "--report", tmp_path / "report"),
        "embed": ("embed", folder, *EMBEDDER, "-o", tmp_path / "vectors.npz"),
    }
    for name, arguments in runs.items():
        done = limited(*arguments, folder=tmp_path)
        assert done.returncode == 1, (name, done.stderr[-2000:])
        assert "Traceback" not in done.stderr, name
        assert f"{refused} failed" in done.stderr.splitlines()[-1 if name != "search" else -2] or name == "index"
        assert sum(line.startswith(f"{folder}/") for line in done.stderr.splitlines()) == refused
        if name in ("detect", "search"):
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            assert len(lines) == seen
            assert sum("error" in line for line in lines) == refused
    with np.load(tmp_path / "vectors.npz") as saved:
        assert len(saved["vectors"]) == seen - refused
