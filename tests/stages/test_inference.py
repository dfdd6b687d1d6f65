import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from torch import nn
from torchvision.models import mobilenet_v2
from torchvision.ops.misc import FrozenBatchNorm2d

import weights
from stages.detect.rcnn import from_checkpoint
from stages.embed.siamese import SiameseEmbedder
from stages.inference import Shortened, fast_dtype, fold_batch_norms
from stages.types import Image


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@torch.inference_mode()
def test_folded_norms_give_the_same_maps(norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = mobilenet_v2(weights=None, norm_layer=norm).features.eval()
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "running_mean")):
            value.uniform_(0.1, 1.0)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    assert not any(isinstance(part, norm) for part in folded.modules())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)


def test_only_convolutions_with_a_norm_behind_them_are_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    before = [type(part) for part in network]
    fold_batch_norms(network)
    assert [type(part) for part in network] == before


def test_the_first_blocks_compute_in_float32() -> None:
    seen = []
    blocks = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    with torch.inference_mode():
        out = Shortened(blocks, 1, torch.bfloat16)(torch.rand(1, 3, 4, 4))
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert out.dtype == torch.float32


def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False)
        assert fast_dtype("cpu") == dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fast_dtype("cpu") == torch.float32
    assert fast_dtype("cuda:0") == torch.float16


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> list[Image]:
    from pipeline.sample import render_sample
    from stages.images import read_image

    folder = tmp_path_factory.mktemp("rendered") / "sample"
    render_sample(folder, seed=4, items=13, scenes=4)
    return [read_image(path) for path in sorted(Path(folder / "street").glob("*.jpg"))]


def test_short_numbers_find_the_same_garments(street: list[Image]) -> None:
    checkpoint = weights.load("maskrcnn_mobilenet_v2")
    exact = from_checkpoint(checkpoint, 0.5, dtype=torch.float32)(street)
    short = from_checkpoint(checkpoint, 0.3, dtype=torch.bfloat16)(street)
    sure = [(found, others) for found, others in zip(exact, short, strict=True) for found in found if found.score > 0.6]
    assert len(sure) >= 12
    overlaps = [max(one.box.iou(other.box) for other in others if other.label == one.label) for one, others in sure]
    assert np.mean(np.array(overlaps) > 0.9) > 0.95, sorted(overlaps)[:3]


def test_short_numbers_give_nearly_the_same_vectors(street: list[Image]) -> None:
    images = [*street, draw("red", "blue"), *(image[100:300, 100:250] for image in street)]
    checkpoint = weights.load("siamese")
    exact, short = (SiameseEmbedder(checkpoint, dtype=dtype)(images) for dtype in (torch.float32, torch.bfloat16))
    assert not np.array_equal(exact, short)
    assert (exact * short).sum(1).min() > 0.999
