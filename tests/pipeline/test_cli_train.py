from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import few_scenes

from pipeline.cli import main


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return few_scenes(tmp_path_factory.mktemp("few"), 3)


def train(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["train", "detector", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_detector_is_trained_and_used(street: Path, tmp_path: Path) -> None:
    options = ["--architecture", "fasterrcnn_mobilenet_v2", "--input-px", 96, "--workers", 0, "--rounds", 1]
    data = [street / "street.json", street / "street"]
    status, told = train(*data, "--val", *data, "-o", tmp_path / "run", *options)
    assert status == 0, told
    assert "garments in 3 photos can be used" in told
    assert "min left" in told
    assert "validation box AP50" in told
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 1e6
    again, told = train(*data, "--val", *data, "-o", tmp_path / "run", *options)
    assert again == 0
    assert "going on after step" in told
    arguments = ["detect", str(street / "street" / "0001.jpg"), "--detector", "fasterrcnn_mobilenet_v2"]
    arguments += ["--detector-weights", str(tmp_path / "run" / "weights.safetensors"), "--min-score", "0.1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert '"label"' in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["street.json"], "wanted pairs of a COCO file and the folder of its photos"),
        (["street", "street.json"], "wanted pairs"),
        (["street.json", "street", "--architecture", "yolo", "--start", "imagenet"], "'yolo' is unknown"),
        (["street.json", "street", "--start", "nowhere"], "cannot start from 'nowhere'"),
        (["shop.csv", "street"], "is not a COCO instances file"),
        (["street.json", "street", "--labels", "kilt"], "none of its categories"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(
    street: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    places = [street / name if name.startswith(("street", "shop")) else name for name in arguments]
    status, output = train(*places, "-o", tmp_path / "run")
    assert status == 2
    assert told in output
    assert "Traceback" not in output
