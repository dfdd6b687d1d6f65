import pickle
import shutil
from pathlib import Path

import pytest
import torch

import weights
from pipeline.config import DETECTORS, EMBEDDERS
from stages.errors import WeightsError

NAMES = sorted(weights.manifest())


@pytest.mark.parametrize("name", NAMES)
def test_each_shipped_checkpoint_is_whole_described_and_small(name: str) -> None:
    checkpoint = weights.load(name)
    assert checkpoint.name == name
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.tensors.values() if tensor.is_floating_point())
    for key in ("architecture", "input_px", "mean", "std", "crop", "data", "licence"):
        assert checkpoint.describes(key)
    file = weights.FOLDER / weights.manifest()[name]["file"]
    assert file.stat().st_size < 60_000_000
    card = (weights.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for part in ("Data", "Figures", "Licence", "Limits"):
        assert f"## {part}" in card


def test_the_names_are_the_defaults_and_others_that_can_be_built() -> None:
    assert {"maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2", "siamese"} <= set(NAMES)
    assert set(NAMES) <= {*DETECTORS, *EMBEDDERS}


def test_what_is_shipped_is_recorded_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights.manifest()
    shutil.copy(weights.FOLDER / "manifest.toml", tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    try:
        for sha256 in ("0" * 64, "1" * 64):
            weights.record("another", sha256, "for a test")
            entry = {"file": "another.safetensors", "sha256": sha256, "summary": "for a test"}
            assert weights.manifest() == before | {"another": entry}
        weights.record("siamese", "2" * 64, before["siamese"]["summary"])
        told = weights.manifest()
        assert told["siamese"] == before["siamese"] | {"sha256": "2" * 64}
        assert told["maskrcnn_mobilenet_v2"] == before["maskrcnn_mobilenet_v2"]
        assert list(told) == [*before, "another"]
    finally:
        weights.manifest.cache_clear()


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'best'; there are fasterrcnn_mobilenet_v2"):
        weights.load("best")


def test_damage_is_told_before_anything_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.manifest()
    path = tmp_path / weights.manifest()["siamese"]["file"]
    data = bytearray((weights.FOLDER / path.name).read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="is damaged: sha256"):
        weights.load("siamese")
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.load("siamese")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match="are a pickle, which could run anything"):
        weights.read(path)
    assert not (tmp_path / "exploded").exists()


def test_what_is_saved_comes_back_in_halves(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    digest = weights.save(path, {"w": torch.tensor([1.0, 2.5]), "n": torch.tensor([3])}, {"dim": "2"})
    back = weights.read(path)
    assert (back.sha256, back.metadata, back.name) == (digest, {"dim": "2"}, "own")
    assert back.tensors["w"].tolist() == [1.0, 2.5]
    assert back.tensors["n"].tolist() == [3]
    with pytest.raises(WeightsError, match="does not say its 'crop'"):
        back.describes("crop")
