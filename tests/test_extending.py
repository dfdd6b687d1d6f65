"""The code of docs/extending.md works as it is written there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import draw
from PIL import Image as PillowImage
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from pipeline import writers
from pipeline.config import Config, build_embedder
from pipeline.search import Garment, PhotoResult
from stages.testing import check_embedder
from stages.types import Box

SNIPPETS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8"), re.DOTALL
)


def snippet(name: str) -> str:
    (found,) = (text for text in SNIPPETS if text.startswith(f"# {name}\n"))
    return found


class SmallClip(nn.Module):
    """Encodes images as a CLIP of 512 numbers would."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 8 * 8, 512)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def prepare(image: PillowImage.Image) -> torch.Tensor:
    return pil_to_tensor(image.resize((8, 8))).float() / 255


def test_the_open_clip_embedder_is_a_stage_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(create_model_and_transforms=lambda *_: (SmallClip(), None, prepare))
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    monkeypatch.delitem(sys.modules, "clip_embedder", raising=False)
    (tmp_path / "clip_embedder.py").write_text(snippet("clip_embedder.py"))
    monkeypatch.syspath_prepend(tmp_path)
    embedder = build_embedder(Config(embedder="clip_embedder:ClipEmbedder"))
    check_embedder(embedder)
    assert embedder([draw("red")]).shape == (1, embedder.dim)


def test_the_output_format_writes_a_file_for_each_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "WRITERS", writers.WRITERS.copy())
    exec(snippet("pipeline/writers.py"), vars(writers))
    monkeypatch.delattr(writers, "YoloLabels")
    garment = Garment("bag", 0.9, Box(10, 20, 30, 60))
    options = writers.Options(labels=("top", "bag"))
    with writers.open_outputs(tmp_path / "found.jsonl", {"yolo": tmp_path / "yolo"}, options) as outputs:
        outputs.write(PhotoResult("street/a.jpg", 100, 200, (garment,)))
        outputs.write(PhotoResult("street/b.jpg", 100, 200))
    assert (tmp_path / "yolo" / "00001-a.txt").read_text() == "1 0.2 0.2 0.2 0.2"
    assert (tmp_path / "yolo" / "00002-b.txt").read_text() == ""
