"""The command as a whole, ``detect``, ``embed``, ``compare`` and ``sample``, in this process, with fake stages."""

import csv
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pycocotools.mask
import pytest
from cli_runs import DETECTOR, EMBEDDER, bad_files, check_bad_lines, lines, run
from conftest import draw
from pycocotools.coco import COCO

from pipeline.cli import COMMANDS, main
from pipeline.cli.progress import Progress
from stages.images import enough_px, read_image, read_photo, write_jpeg
from stages.testing import FakeDetector, FakeEmbedder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTATION = "".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_is_documented(name: str) -> None:
    assert "Example" in run(name, "--help").stdout
    assert f"outfinder {name}" in DOCUMENTATION
    command = main.get_command(click.Context(main), name)
    for part in command.list_commands(click.Context(command)) if isinstance(command, click.Group) else ():
        assert run(name, part, "--help").stdout.startswith("Usage: ")
        assert f"{name} {part}" in DOCUMENTATION


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'torchvision', 'numpy', 'cv2', 'PIL', 'hnswlib', 'stages', 'weights'} & sys.modules.keys();"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout and summary in done.stdout for name, summary in COMMANDS.items())
    assert run("--version").stdout.startswith("outfinder, version ")


def test_commands_import_torch_only_for_stages_that_need_it(street: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pipeline.cli import main
for arguments in (["index", "g", "photos"], ["search", "g", "photos", "--report", "report", "-o", "found.csv"]):
    try:
        main([*arguments, "--no-isolate", *{[*DETECTOR, *EMBEDDER]}])
    except SystemExit as end:
        assert not end.code
assert not {{"torch", "torchvision", "scipy", "matplotlib"}} & sys.modules.keys()
"""
    (tmp_path / "photos").symlink_to(street)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


class TestDetect:
    def test_masks_are_those_of_the_detector(self, street: Path) -> None:
        two, none = lines(run("detect", street, "--masks", *DETECTOR))
        assert list(two) == ["photo", "width", "height", "garments"]
        assert [list(garment) for garment in two["garments"]] == [["label", "score", "box", "mask", "matches"]] * 2
        assert none["garments"] == []
        image = read_image(street / "a two.jpg")
        (truth,) = FakeDetector()([image])
        for garment, detection in zip(two["garments"], truth, strict=True):
            mask = np.zeros(image.shape[:2], np.bool_)
            mask[detection.box.slices] = detection.mask
            np.testing.assert_array_equal(pycocotools.mask.decode(garment["mask"]).astype(np.bool_), mask)

    def test_coco_has_the_photos_that_could_be_read(self, tmp_path: Path, street: Path) -> None:
        reasons = bad_files(street)
        result = run("detect", street, "--coco", tmp_path / "found.json", *DETECTOR, status=1)
        check_bad_lines(lines(result), street, reasons)
        truth = COCO(tmp_path / "found.json")
        names = {image["file_name"] for image in truth.dataset["images"]}
        assert names == {str(street / "a two.jpg"), str(street / "b none.jpg")}
        assert [category["name"] for category in truth.dataset["categories"]] == ["top", "dress"]
        assert len(truth.getAnnIds()) == 2

    def test_crops_and_overlays(self, tmp_path: Path, street: Path) -> None:
        write_jpeg(street / ("c" + "é" * 120 + ".jpg"), draw("green"))
        run("detect", street, "--crops", tmp_path / "crops", "--overlays", tmp_path / "drawn", *DETECTOR)
        crops = sorted(path.name for path in (tmp_path / "crops").glob("*.jpg"))
        assert crops[:2] == ["00001-a two-1-dress.jpg", "00001-a two-2-dress.jpg"]
        assert [name[:5] for name in crops] == ["00001", "00001", "00003"]
        assert read_image(tmp_path / "crops" / crops[0]).shape[:2] == pytest.approx((52, 36), abs=4)
        drawn = sorted((tmp_path / "drawn").glob("*.jpg"))
        assert [path.name[:5] for path in drawn] == ["00001", "00002", "00003"]
        assert (read_image(drawn[0]) != read_image(street / "a two.jpg")).any()

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        assert "no photos found" in run("detect", tmp_path, *DETECTOR, status=2).stderr
        (line,) = lines(run("detect", tmp_path / "gone.jpg", *DETECTOR, status=1))
        assert line == {"photo": str(tmp_path / "gone.jpg"), "error": "was not found"}
        assert "Missing argument" in run("detect", status=2).stderr


def test_embed_writes_arrays_of_paths_and_vectors(tmp_path: Path, shop: Path) -> None:
    (shop / "zero.jpg").write_bytes(b"")
    result = run("embed", shop, *EMBEDDER, "-o", tmp_path / "v.npz", status=1)
    assert f"{shop / 'zero.jpg'}: is empty" in result.stderr
    with np.load(tmp_path / "v.npz") as saved:
        paths, vectors = saved["paths"], saved["vectors"]
    assert (vectors.shape, vectors.dtype, paths.shape, paths.dtype.kind) == (
        (5, FakeEmbedder.dim),
        np.float32,
        (5,),
        "U",
    )
    images = [read_photo(path, enough_px(FakeEmbedder.input_px)).image for path in paths]
    np.testing.assert_array_equal(vectors, FakeEmbedder()(images))
    assert ".npz" in run("embed", shop, *EMBEDDER, "-o", tmp_path / "v.csv", status=2).stderr
    (tmp_path / "empty").mkdir()
    run("embed", tmp_path / "empty", *EMBEDDER, "-o", tmp_path / "none.npz", status=2)
    assert not (tmp_path / "none.npz").exists()


def test_compare_gives_three_measures_of_one_similarity(shop: Path) -> None:
    (same,) = lines(run("compare", shop / "blue.jpg", shop / "blue.jpg", *EMBEDDER))
    assert list(same) == ["a", "b", "cosine", "angular_percent", "euclidean"]
    assert (same["cosine"], same["angular_percent"], same["euclidean"]) == pytest.approx((1, 100, 0), abs=0.1)
    (other,) = lines(run("compare", shop / "blue.jpg", shop / "black.jpg", *EMBEDDER))
    assert other["cosine"] < 0.99
    assert other["angular_percent"] == pytest.approx(100 * (1 - np.arccos(other["cosine"]) / np.pi), abs=0.1)
    assert other["euclidean"] == pytest.approx(np.sqrt(2 - 2 * other["cosine"]), abs=0.01)


def test_compare_names_a_missing_device_and_a_picture_that_cannot_be_read(shop: Path) -> None:
    (shop / "zero.jpg").write_bytes(b"")
    command = ("compare", shop / "blue.jpg", shop / "zero.jpg")
    told = run(*command, "--embedder", "features", "--device", "abacus", status=2).stderr
    assert "outfinder: device 'abacus' cannot be used" in told
    assert run(*command, *EMBEDDER, status=2).stderr == f"outfinder: {shop / 'zero.jpg'} is empty (0 bytes)\n"


def test_sample_copies_the_demo_and_replaces_it_only_when_asked(tmp_path: Path) -> None:
    assert "40 items in 80 photos" in run("sample", tmp_path / "demo").stderr
    with (tmp_path / "demo" / "shop.csv").open(newline="") as file:
        assert len({row["item_id"] for row in csv.DictReader(file)}) == 40
    street = COCO(tmp_path / "demo" / "street.json").dataset["images"]
    assert {image["file_name"] for image in street} == {path.name for path in (tmp_path / "demo" / "street").iterdir()}
    assert not list((tmp_path / "demo").rglob("*.py*"))
    (tmp_path / "demo" / "shop.csv").write_text("")
    assert "exists; give --overwrite to replace it" in run("sample", tmp_path / "demo", status=2).stderr
    run("sample", tmp_path / "demo", "--overwrite")
    assert (tmp_path / "demo" / "shop.csv").stat().st_size


def test_detect_and_search_are_resumed_with_the_outputs_of_an_uninterrupted_run(tmp_path: Path, shop: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b, größe", 'c "x"\nd', "f"):
        write_jpeg(photos / f"{name}.jpg", draw("red", "blue"))
    write_jpeg(photos / "e.jpg", np.full((40, 40, 3), 255, np.uint8))
    (photos / "d.jpg").write_bytes(b"")
    run("index", tmp_path / "gallery", shop, *DETECTOR, *EMBEDDER)
    for file, *command in (
        (tmp_path / "a.csv", "detect", photos, "--crops", tmp_path / "crops", *DETECTOR),
        (tmp_path / "a.jsonl", "search", tmp_path / "gallery", photos, *DETECTOR, *EMBEDDER),
    ):
        run(*command, "-o", file, status=1)
        whole = file.read_bytes()
        crops = sorted(path.name for path in tmp_path.glob("crops/*"))
        file.write_bytes(whole[: len(whole) * 2 // 3])
        for _ in range(2):  # the second time nothing is left to do
            assert "6 photos, 1 failed" in run(*command, "-o", file, "--resume", status=1).stderr
            assert file.read_bytes() == whole
        assert sorted(path.name for path in tmp_path.glob("crops/*")) == crops


def test_outputs_that_cannot_be_resumed_are_refused(tmp_path: Path, shop: Path) -> None:
    assert "name it with -o" in run("detect", shop, *DETECTOR, "--resume", status=2).stderr
    command = ("search", shop, shop, "--resume", "-o", tmp_path / "a.jsonl", "--report", tmp_path / "report")
    assert "--report" in run(*command, status=2).stderr


def test_progress_prints_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.cli.progress.monotonic", lambda: now)
    progress = Progress("saw", 100, done=20)
    for _ in range(30):
        now += 0.5
        progress.count()
    progress.finish()
    printed = capsys.readouterr().err.splitlines()
    assert printed == ["saw 41 of 100 photos, 2.0/s, 0:00:30 left", "saw 50 photos, 2.0/s"]
