import hashlib
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import weights
from pipeline.config import DETECTORS, EMBEDDERS
from stages.errors import WeightsError

NAMES = sorted(weights.manifest())


@pytest.mark.parametrize("name", NAMES)
def test_each_shipped_checkpoint_is_whole_described_and_small(name: str) -> None:
    checkpoint = weights.load(name)
    assert checkpoint.name == name
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.tensors.values() if tensor.is_floating_point())
    of_images = ("input_px", "mean", "std", "crop") if name != "words" else ("embedder",)
    for key in ("architecture", "data", "licence", *of_images):
        assert checkpoint.describes(key)
    file = weights.FOLDER / weights.manifest()[name]["file"]
    assert file.stat().st_size < 60_000_000
    card = (weights.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for part in ("Data", "Figures", "Licence", "Limits"):
        assert f"## {part}" in card


def test_the_names_are_the_defaults_and_others_that_can_be_built() -> None:
    assert {"maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2", "siamese"} <= set(NAMES)
    assert set(NAMES) <= {*DETECTORS, *EMBEDDERS, "attributes", "words"}


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
    with pytest.raises(ValueError, match=r"'best'; there are attributes"):
        weights.load("best")


def test_damage_is_told_before_anything_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.manifest()
    path = tmp_path / weights.manifest()["siamese"]["file"]
    data = bytearray((weights.FOLDER / path.name).read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="is damaged: its sha256"):
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


def test_metadata_may_name_files_of_any_bytes_and_paths_may_be_text(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    weights.save(str(path), {"a": torch.ones(2, 2)}, {"data": os.fsdecode(b"photos\xe9")})
    assert weights.read(str(path)).describes("data") == r"photos\udce9"
    with pytest.raises(WeightsError, match="rename it"):
        weights.read(path.rename(tmp_path / os.fsdecode(b"net\xe9.safetensors")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0])
def test_weights_of_no_trained_network_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "broken.safetensors"
    save_file({"w": torch.full((3, 4), value), "n": torch.tensor([3])}, path)
    with pytest.raises(WeightsError, match="all zero" if value == 0 else "not finite.*'w'"):
        weights.read(path)
    with pytest.raises(WeightsError, match="all zero" if value == 0 else "not finite"):
        weights.save(path, {"w": torch.full((3, 4), value)}, {})


def test_what_float16_cannot_hold_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not finite in float16"):
        weights.save(tmp_path / "large.safetensors", {"w": torch.full((3, 4), 1e6)}, {})
    assert not list(tmp_path.iterdir())


class TestTorchvisionsCache:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", self._download)
        return tmp_path / "checkpoints"

    def _download(self, _url: str, path: str, _prefix: str | None, **_options: object) -> None:
        torch.save({"w": torch.ones(2)}, path)

    def entry(self, data: bytes) -> SimpleNamespace:
        return SimpleNamespace(url=f"https://example.org/net-{hashlib.sha256(data).hexdigest()[:8]}.pth")

    def test_tensors_are_downloaded_once(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entry = SimpleNamespace(url="https://example.org/net.pth")
        assert weights.read_torchvision(entry)["w"].tolist() == [1, 1]
        monkeypatch.delattr(torch.hub, "download_url_to_file")
        assert weights.read_torchvision(entry)["w"].tolist() == [1, 1]
        assert [path.name for path in cache.iterdir()] == ["net.pth"]

    def test_a_half_download_is_named(self, cache: Path) -> None:
        cache.mkdir()
        path = cache / self.entry(b"whole").url.rpartition("/")[2]
        path.write_bytes(b"who")
        with pytest.raises(WeightsError, match=f"{path.name} is incomplete or damaged; delete it"):
            weights.read_torchvision(self.entry(b"whole"))

    def test_code_in_the_cache_is_not_run(self, cache: Path, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        cache.mkdir()
        data = pickle.dumps(Bomb(), protocol=2)  # torch.load warns of others
        for entry in (self.entry(data), SimpleNamespace(url="https://example.org/net.pth")):
            (cache / entry.url.rpartition("/")[2]).write_bytes(data)
            with pytest.raises(WeightsError, match="delete it"):
                weights.read_torchvision(entry)
        assert not (tmp_path / "exploded").exists()
