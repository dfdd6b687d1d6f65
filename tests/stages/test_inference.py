import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.ops.misc import FrozenBatchNorm2d

import weights
from pipeline.demo import FOLDER
from stages import fusing
from stages.detect.rcnn import dtype_of, from_checkpoint
from stages.embed.siamese import SiameseEmbedder
from stages.images import read_image
from stages.inference import InParts, Shortened, fast_dtype, fold_batch_norms
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


def test_blocks_compute_in_the_type_that_is_asked_for() -> None:
    seen = []
    convolutions = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
    blocks = nn.Sequential(*(nn.Sequential(each, nn.Sigmoid()) for each in convolutions))
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    with torch.inference_mode():
        short = Shortened(blocks, (0,), torch.bfloat16)
        out = short(torch.rand(1, 3, 4, 4))
        with torch.autocast("cpu", torch.bfloat16):  # which is no business of theirs
            short(torch.rand(1, 3, 4, 4))
    assert seen[:3] == seen[3:]
    seen = seen[:3]
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert out.dtype == torch.float32


@pytest.mark.parametrize(("rows", "seen"), [(0, [0]), (1, [1]), (4, [4]), (11, [4, 4, 2, 1])])
def test_rows_are_looked_at_a_few_at_a_time(rows: int, seen: list[int]) -> None:
    counts = []
    network = nn.Conv2d(3, 2, 3)
    x = torch.rand(rows, 3, 8, 8).to(memory_format=torch.channels_last)
    whole = network(x)
    network.register_forward_hook(lambda _module, _inputs, out: counts.append(len(out)))
    torch.testing.assert_close(InParts(network, 4)(x), whole)
    assert counts == seen


def whole_blocks() -> nn.Sequential:
    """MobileNetV2's blocks without norms, with weights that let values through to the end."""
    torch.manual_seed(0)
    blocks = mobilenet_v2(weights=None).features.eval().requires_grad_(requires_grad=False)
    for norm in (part for part in blocks.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_var.uniform_(0.1, 1.0)
        norm.running_mean.uniform_(-0.5, 0.5)
    fold_batch_norms(blocks)
    return blocks


@pytest.mark.parametrize("side", [64, 63])
def test_fused_blocks_compute_the_same(side: int) -> None:
    for block in whole_blocks():
        width = next(part for part in block.modules() if isinstance(part, nn.Conv2d)).in_channels
        x = torch.rand(2, width, side // 4, side // 4).to(memory_format=torch.channels_last)
        before = x.clone()
        quick = fusing.fused(block)
        assert quick is not block, "this PyTorch has no fused convolutions any more; see stages.fusing"
        torch.testing.assert_close(quick(x), block(x), rtol=1e-4, atol=1e-4)
        assert torch.equal(x, before)


def test_what_cannot_be_fused_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(2, 2, 3)
    others = [
        nn.Sequential(conv, nn.Sigmoid()),
        nn.Sequential(nn.ReLU6(), conv),
        nn.Sequential(conv, nn.ReLU6(), nn.ReLU6()),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, device="meta"),
        nn.Identity(),
    ]
    assert all(fusing.fused(other) is other for other in others)
    assert fusing.fused(conv) is not conv
    monkeypatch.setattr(fusing, "_can_fuse", lambda: False)
    assert fusing.fused(conv) is conv


@pytest.mark.parametrize("wrong", [None, lambda *_: torch.zeros(1, 2, 4, 4)])
def test_operators_that_are_gone_or_do_something_else_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Tensor] | None
) -> None:
    def operators(*_: object) -> Tensor:
        if wrong is None:
            raise AttributeError("no such operator")
        return wrong()

    monkeypatch.setattr(fusing._FusedConv2d, "forward", operators)
    assert not fusing._can_fuse.__wrapped__()


def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False)
        assert fast_dtype("cpu") == dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fast_dtype("cpu") == torch.float32
    assert fast_dtype("cuda:0") == torch.float16


def test_mask_rcnn_computes_in_float32_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert dtype_of("maskrcnn_mobilenet_v2", "cpu") == torch.float32
    assert dtype_of("fasterrcnn_mobilenet_v2", "cpu") == torch.bfloat16
    assert dtype_of("maskrcnn_mobilenet_v2", "cuda") == torch.float16


@pytest.fixture(scope="module")
def street() -> list[Image]:
    return [read_image(path) for path in sorted((FOLDER / "street").glob("*.jpg"))[:4]]


def test_the_largest_maps_are_few_however_many_photos_there_are(street: list[Image]) -> None:
    detector = from_checkpoint(weights.load("maskrcnn_mobilenet_v2"), min_score=0.05)
    images, masks = [], []
    network: Any = detector._network
    network.backbone.body[0].network.register_forward_hook(lambda _module, _inputs, out: images.append(len(out)))
    network.roi_heads.mask_predictor.network.register_forward_hook(lambda _module, _inputs, out: masks.append(len(out)))
    found = detector(street * 2)
    assert images == [1] * 8
    assert sum(masks) >= sum(map(len, found)) > 16
    assert {*masks} <= {1, 2, 4, 8, 16}


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
