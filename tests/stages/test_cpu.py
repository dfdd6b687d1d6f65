"""Fast inference on a CPU gives the same results as plain inference, in any batch and on any number of threads."""

import copy
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, current_thread, main_thread
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from hypothesis import given
from hypothesis import strategies as st
from rounding import round_by_batch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.ops.misc import FrozenBatchNorm2d

import weights
from pipeline.demo import FOLDER
from stages import cpu
from stages.cores import cores, run_in_turn, thread_cores
from stages.cpu import (
    FixedBatch,
    InParts,
    batch_sizes,
    fast_dtype,
    fold_batch_norms,
    fused,
    in_precision,
    parallel_map,
    parallel_parts,
    split_batch,
)
from stages.detect.rcnn import _dtype_of, from_checkpoint
from stages.embed.siamese import SiameseEmbedder
from stages.images import read_image
from stages.testing import check_embedder
from stages.types import Image

# --- threads ---


@pytest.fixture
def five_threads() -> Iterator[None]:
    """Torch may use five threads, however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("five_threads")
class TestParallelMap:
    def test_gives_what_a_loop_would(self) -> None:
        assert list(parallel_map(lambda number: number**2, range(50), "cpu")) == [number**2 for number in range(50)]
        assert list(parallel_map(str, [], "cpu")) == []

    def test_computes_four_parts_at_once_each_with_its_share_of_the_cores(self) -> None:
        meeting = Barrier(parallel_parts("cpu"))

        def meet(_: int) -> tuple[str, int]:
            meeting.wait(timeout=60)
            torch.ones(1000, 100) @ torch.ones(100, 100)
            return current_thread().name, torch.get_num_threads()

        met = list(parallel_map(meet, range(8), "cpu"))
        assert parallel_parts("cpu") == 4
        assert len({name for name, _ in met}) == 4
        assert {share for _, share in met} == {1}
        assert torch.get_num_threads() == 5

    def test_a_single_part_has_all_cores_and_a_gpu_gets_one_part_after_the_other(self) -> None:
        def where(_: int) -> tuple[bool, int]:
            return current_thread() is main_thread(), torch.get_num_threads()

        assert list(parallel_map(where, [0], "cpu")) == [(True, 5)]
        assert parallel_parts("cuda") == 1
        assert set(parallel_map(where, range(3), "cuda")) == {(True, 5)}

    def test_takes_few_parts_before_their_turn(self) -> None:
        taken = []

        def parts() -> Iterator[int]:
            for number in range(100):
                taken.append(number)
                yield number

        for number, _ in enumerate(parallel_map(str, parts(), "cpu")):
            assert len(taken) <= number + parallel_parts("cpu") + 1

    def test_all_callers_share_the_same_threads(self) -> None:
        cpu._start_threads.cache_clear()

        def names(_: int) -> set[str]:
            return set(parallel_map(lambda _: current_thread().name, range(40), "cpu"))

        with ThreadPoolExecutor(6) as callers:
            assert len(set().union(*callers.map(names, range(6)))) <= 4
        assert cpu._start_threads.cache_info().currsize == 1
        assert torch.get_num_threads() == 5

    def test_an_error_reaches_the_caller_and_ends_no_thread(self) -> None:
        with pytest.raises(ZeroDivisionError):
            list(parallel_map(lambda number: 1 // number, [1, 1, 0, 1, 1, 1, 1], "cpu"))
        assert list(parallel_map(str, range(3), "cpu")) == ["0", "1", "2"]


@pytest.mark.usefixtures("five_threads")
class TestRunInTurn:
    def test_runs_on_one_of_the_threads_that_compute_batches(self) -> None:
        assert run_in_turn(lambda: current_thread().name).startswith("outfinder-cpu")
        assert run_in_turn(torch.get_num_threads) == 1
        assert run_in_turn(thread_cores) == 1
        assert thread_cores() == cores()

    def test_waits_while_all_of_them_compute(self) -> None:
        done, everyone = [], Barrier(parallel_parts("cpu") + 1)

        def compute(number: int) -> None:
            everyone.wait(timeout=60)
            sleep(0.05)
            done.append(number)

        with ThreadPoolExecutor(1) as other:
            parts = other.submit(lambda: list(parallel_map(compute, range(parallel_parts("cpu")), "cpu")))
            everyone.wait(timeout=60)
            assert run_in_turn(lambda: len(done)) > 0
            parts.result()

    def test_with_one_core_the_caller_computes(self) -> None:
        with pytest.raises(ZeroDivisionError):
            run_in_turn(lambda: 1 // 0)
        torch.set_num_threads(1)
        assert run_in_turn(lambda: current_thread() is main_thread())


@given(count=st.integers(0, 100), most=st.integers(1, 20))
def test_a_batch_is_split_into_parts_of_few_sizes(count: int, most: int) -> None:
    parts = list(split_batch(range(count), most))
    assert [number for part in parts for number in part] == list(range(count))
    assert [len(part) for part in parts] == batch_sizes(count, most)
    assert {len(part) for part in parts} <= {most} | {1 << bit for bit in range(5) if 1 << bit < most}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.usefixtures("five_threads")
def test_a_forked_process_starts_its_own_threads() -> None:
    list(parallel_map(str, range(8), "cpu"))
    forked = multiprocessing.get_context("fork").Process(target=_map_in_the_fork)
    forked.start()
    forked.join(60)
    alive = forked.is_alive()
    forked.kill()
    assert not alive
    assert forked.exitcode == 0


def _map_in_the_fork() -> None:
    assert list(parallel_map(int, range(8), "cpu")) == list(range(8))


# --- folding and fusing ---


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@torch.inference_mode()
def test_folded_batch_norms_give_the_same_maps(norm: type[nn.Module]) -> None:
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


def test_only_norms_that_follow_a_convolution_are_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    before = [type(part) for part in network]
    fold_batch_norms(network)
    assert [type(part) for part in network] == before


@pytest.mark.parametrize("side", [64, 63])
def test_fused_blocks_compute_the_same(side: int) -> None:
    torch.manual_seed(0)
    blocks = mobilenet_v2(weights=None).features.eval().requires_grad_(requires_grad=False)
    for norm in (part for part in blocks.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_var.uniform_(0.1, 1.0)  # so that values get through to the end
        norm.running_mean.uniform_(-0.5, 0.5)
    fold_batch_norms(blocks)
    for block in blocks:
        width = next(part for part in block.modules() if isinstance(part, nn.Conv2d)).in_channels
        x = torch.rand(2, width, side // 4, side // 4).to(memory_format=torch.channels_last)
        before = x.clone()
        fast = fused(block)
        assert fast is not block, "this PyTorch has no fused convolutions any more; see stages.cpu"
        torch.testing.assert_close(fast(x), block(x), rtol=1e-4, atol=1e-4)
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
    assert all(fused(other) is other for other in others)
    assert fused(conv) is not conv
    monkeypatch.setattr(cpu, "_can_fuse", lambda _: False)
    assert fused(conv) is conv


@pytest.mark.parametrize("wrong", [None, lambda *_: torch.zeros(1, 2, 4, 4)])
def test_fused_operators_that_are_missing_or_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Tensor] | None
) -> None:
    def operators(*_: object) -> Tensor:
        if wrong is None:
            raise AttributeError("no such operator")
        return wrong()

    monkeypatch.setattr(cpu._FusedConv2d, "forward", operators)
    assert not cpu._can_fuse.__wrapped__(torch.float32)


# --- precision and batches ---


def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False)
        assert fast_dtype("cpu") == dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fast_dtype("cpu") == torch.float32
    assert fast_dtype("cuda:0") == torch.float16


def test_our_mask_rcnn_computes_in_float32_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert _dtype_of("maskrcnn_mobilenet_v2", "cpu") == torch.float32
    assert _dtype_of("fasterrcnn_mobilenet_v2", "cpu") == torch.bfloat16
    assert _dtype_of("maskrcnn_mobilenet_v2", "cuda") == torch.float16


def test_blocks_compute_in_the_type_that_is_asked_for() -> None:
    seen = []
    convolutions = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
    blocks = nn.Sequential(*(nn.Sequential(each, nn.Sigmoid()) for each in convolutions))
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    with torch.inference_mode():
        network = in_precision(blocks, torch.bfloat16, exact=(0,))
        network(torch.rand(1, 3, 4, 4))
        with torch.autocast("cpu", torch.bfloat16):  # has no influence
            network(torch.rand(1, 3, 4, 4))
    assert seen == 2 * [torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize(
    ("module", "rows", "seen"),
    [
        (InParts, 0, [0]),
        (InParts, 1, [1]),
        (InParts, 11, [4, 4, 2, 1]),
        (FixedBatch, 1, [4]),
        (FixedBatch, 11, [4, 4, 4]),
    ],
)
def test_rows_are_computed_in_parts(module: type[InParts | FixedBatch], rows: int, seen: list[int]) -> None:
    counts = []
    network = nn.Conv2d(3, 2, 3)
    x = torch.rand(rows, 3, 8, 8).to(memory_format=torch.channels_last)
    whole = network(x)
    network.register_forward_hook(lambda _module, _inputs, out: counts.append(len(out)))
    torch.testing.assert_close(module(network, 4)(x), whole)
    assert counts == seen


def test_rounding_by_batch_changes_results() -> None:
    layer = nn.Linear(8, 8).to(torch.bfloat16)
    round_by_batch(layer)
    x = torch.rand(3, 8, dtype=torch.bfloat16)
    assert not torch.equal(layer(x)[:1], layer(x[:1]))


@pytest.fixture(scope="module")
def street() -> list[Image]:
    return [read_image(path) for path in sorted((FOLDER / "street").glob("*.jpg"))[:4]]


def test_vectors_do_not_depend_on_the_batch_where_short_numbers_round_by_its_size(street: list[Image]) -> None:
    embedder = SiameseEmbedder(weights.load("siamese"), dtype=torch.bfloat16)
    round_by_batch(embedder._network.features)
    check_embedder(embedder, [image[100:300, 100:250] for image in street[:2]])
    images = [*street[:2], draw("red")]
    together, alone = embedder(images), np.concatenate([embedder([image]) for image in images])
    assert (together * alone).sum(1).min() > 1 - 1e-6


def test_vectors_in_bfloat16_are_close_to_those_in_float32(street: list[Image]) -> None:
    images = [*street[:2], draw("red", "blue"), *(image[100:300, 100:250] for image in street[:2])]
    checkpoint = weights.load("siamese")
    exact, short = (SiameseEmbedder(checkpoint, dtype=dtype)(images) for dtype in (torch.float32, torch.bfloat16))
    assert not np.array_equal(exact, short)
    assert (exact * short).sum(1).min() > 0.999


@pytest.mark.slow
def test_detections_in_bfloat16_are_those_in_float32(street: list[Image]) -> None:
    checkpoint = weights.load("maskrcnn_mobilenet_v2")
    exact = from_checkpoint(checkpoint, 0.5, dtype=torch.float32)(street)
    short = from_checkpoint(checkpoint, 0.3, dtype=torch.bfloat16)(street)
    sure = [(one, others) for ones, others in zip(exact, short, strict=True) for one in ones if one.score > 0.6]
    assert len(sure) >= 12
    overlaps = [max(one.box.iou(other.box) for other in others if other.label == one.label) for one, others in sure]
    assert np.mean(np.array(overlaps) > 0.9) > 0.95, sorted(overlaps)[:3]


def test_photos_are_computed_one_at_a_time_and_masks_a_few(street: list[Image]) -> None:
    detector = from_checkpoint(weights.load("maskrcnn_mobilenet_v2"), min_score=0.05)
    images, masks = [], []
    network: Any = detector._network
    network.backbone.register_forward_hook(lambda _module, inputs, _out: images.append(len(inputs[0])))
    network.roi_heads.mask_predictor.network.register_forward_hook(lambda _module, _inputs, out: masks.append(len(out)))
    detections = detector(street[:2])
    assert images == [1] * 2
    assert sum(masks) >= sum(map(len, detections)) > 4
    assert {*masks} <= {1, 2, 4, 8, 16}
