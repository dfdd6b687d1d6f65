"""The command as a whole, ``detect``, ``embed``, ``compare`` and ``sample``, in-process, with fake stages."""

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

from pipeline.cli import COMMANDS, LazyGroup, main
from stages.images import enough_px, read_image, read_photo, write_jpeg
from stages.testing import FakeDetector, FakeEmbedder

ROOT = Path(__file__).parents[2]
DOCUMENTATION = "".join(
    page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_is_in_the_readme(name: str) -> None:
    assert "Example" in run(name, "--help").stdout
    assert f"outfinder {name}" in DOCUMENTATION
    command = main.get_command(click.Context(main), name)
    assert command is not None
    if isinstance(command, click.Group):
        for part in command.list_commands(click.Context(command)):
            told = run(name, part, "--help").stdout
            assert told.startswith("Usage: ")
            assert "Example" in told or not isinstance(command, LazyGroup)  # a lazy group's are commands of their own
            assert f"{name} {part}" in DOCUMENTATION


def test_help_and_version_and_unknown_commands() -> None:
    told = run("--help").stdout
    assert all(name in told and says in told for name, says in COMMANDS.items())
    assert run("--version").stdout.startswith("outfinder, version ")
    assert "No such command" in run("serach", status=2).stderr
    assert "Evaluate an embedder" in run("evaluate", "--help").stdout
    assert "No such command" in run("evaluate", "detectr", status=2).stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'torchvision', 'numpy', 'cv2', 'PIL', 'hnswlib', 'stages', 'weights'} & sys.modules.keys();"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


class TestDetect:
    def test_lines(self, street: Path) -> None:
        two, none = lines(run("detect", street, *DETECTOR))
        assert list(two) == ["photo", "width", "height", "garments"]
        assert [list(garment) for garment in two["garments"]] == [["label", "score", "box", "matches"]] * 2
        assert none["garments"] == []

    def test_masks_are_those_of_the_detector(self, street: Path) -> None:
        (found,) = lines(run("detect", street / "a two.jpg", "--masks", *DETECTOR))
        image = read_image(street / "a two.jpg")
        (truth,) = FakeDetector()([image])
        for garment, detection in zip(found["garments"], truth, strict=True):
            mask = np.zeros(image.shape[:2], np.bool_)
            mask[detection.box.slices] = detection.mask
            np.testing.assert_array_equal(pycocotools.mask.decode(garment["mask"]).astype(np.bool_), mask)

    def test_coco_loads(self, tmp_path: Path, street: Path) -> None:
        reasons = bad_files(street)
        result = run("detect", street, "--coco", tmp_path / "found.json", *DETECTOR, status=1)
        check_bad_lines(lines(result), street, reasons)
        truth = COCO(tmp_path / "found.json")
        assert {image["file_name"] for image in truth.dataset["images"]} == {
            str(street / "a two.jpg"),
            str(street / "b none.jpg"),
        }
        assert [category["name"] for category in truth.dataset["categories"]] == ["top", "dress"]
        results = truth.loadRes(truth.dataset["annotations"])
        assert len(results.getAnnIds()) == 2

    def test_crops_and_overlays(self, tmp_path: Path, street: Path) -> None:
        long = street / ("c" + "é" * 120 + ".jpg")
        write_jpeg(long, draw("green"))
        run("detect", street, "--crops", tmp_path / "crops", "--overlays", tmp_path / "drawn", *DETECTOR)
        crops = sorted(path.name for path in (tmp_path / "crops").glob("*.jpg"))
        assert crops[:2] == ["00001-a two-1-dress.jpg", "00001-a two-2-dress.jpg"]
        assert [name[:5] for name in crops] == ["00001", "00001", "00003"]
        height, width, _ = read_image(tmp_path / "crops" / crops[0]).shape
        assert (width, height) == pytest.approx((36, 52), abs=4)
        drawn = sorted((tmp_path / "drawn").glob("*.jpg"))
        assert [path.name[:5] for path in drawn] == ["00001", "00002", "00003"]
        assert read_image(drawn[0]).shape == (64, 128, 3)
        assert (read_image(drawn[0]) != read_image(street / "a two.jpg")).any()

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        assert "no photos there" in run("detect", tmp_path, *DETECTOR, status=2).stderr
        (told,) = lines(run("detect", tmp_path / "gone.jpg", *DETECTOR, status=1))
        assert told == {"photo": str(tmp_path / "gone.jpg"), "error": "was not found"}

    def test_no_photo_named_is_a_usage_error(self) -> None:
        assert "Missing argument" in run("detect", status=2).stderr


class TestEmbed:
    def test_arrays(self, tmp_path: Path, shop: Path) -> None:
        (shop / "zero.jpg").write_bytes(b"")
        result = run("embed", shop, *EMBEDDER, "-o", tmp_path / "v.npz", status=1)
        assert f"{shop / 'zero.jpg'}: is empty" in result.stderr
        with np.load(tmp_path / "v.npz") as saved:
            paths, vectors = saved["paths"], saved["vectors"]
        assert vectors.shape == (5, FakeEmbedder.dim)
        assert vectors.dtype == np.float32
        assert paths.dtype.kind == "U"
        assert len(paths) == 5
        images = [read_photo(path, enough_px(FakeEmbedder.input_px)).image for path in paths]
        np.testing.assert_array_equal(vectors, FakeEmbedder()(images))

    def test_bad_calls(self, tmp_path: Path, shop: Path) -> None:
        assert ".npz" in run("embed", shop, *EMBEDDER, "-o", tmp_path / "v.csv", status=2).stderr
        (tmp_path / "empty").mkdir()
        run("embed", tmp_path / "empty", *EMBEDDER, "-o", tmp_path / "v.npz", status=2)
        assert not (tmp_path / "v.npz").exists()


class TestCompare:
    def test_three_views_of_one_similarity(self, shop: Path) -> None:
        (same,) = lines(run("compare", shop / "blue.jpg", shop / "blue.jpg", *EMBEDDER))
        assert list(same) == ["a", "b", "cosine", "angular_percent", "euclidean"]
        assert (same["cosine"], same["angular_percent"], same["euclidean"]) == pytest.approx((1, 100, 0), abs=0.1)
        (other,) = lines(run("compare", shop / "blue.jpg", shop / "black.jpg", *EMBEDDER))
        assert other["cosine"] < 0.99
        assert other["angular_percent"] == pytest.approx(100 * (1 - np.arccos(other["cosine"]) / np.pi), abs=0.1)
        assert other["euclidean"] == pytest.approx(np.sqrt(2 - 2 * other["cosine"]), abs=0.01)

    def test_a_device_that_is_not_there(self, shop: Path) -> None:
        command = ("compare", shop / "blue.jpg", shop / "blue.jpg", "--embedder", "features", "--device", "abacus")
        assert "outfinder: device 'abacus' cannot be used" in run(*command, status=2).stderr

    def test_a_picture_that_cannot_be_read(self, shop: Path) -> None:
        (shop / "zero.jpg").write_bytes(b"")
        told = run("compare", shop / "blue.jpg", shop / "zero.jpg", *EMBEDDER, status=2).stderr
        assert told == f"outfinder: {shop / 'zero.jpg'} is empty (0 bytes)\n"


def test_sample(tmp_path: Path) -> None:
    assert "40 items in 80 photos" in run("sample", tmp_path / "demo").stderr
    with (tmp_path / "demo" / "shop.csv").open(newline="") as file:
        assert len({row["item_id"] for row in csv.DictReader(file)}) == 40
    street = COCO(tmp_path / "demo" / "street.json").dataset["images"]
    assert {image["file_name"] for image in street} == {path.name for path in (tmp_path / "demo" / "street").iterdir()}
    assert not list((tmp_path / "demo").rglob("*.py*"))
    assert "empty" in run("sample", tmp_path / "demo", status=2).stderr
