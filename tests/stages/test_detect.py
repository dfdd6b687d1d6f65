"""Detectors with torchvision's networks: protocol, masks, scores, pooling, flip averaging and box voting."""

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from conftest import draw
from rfdetr_like import RfDetrDetector
from rounding import round_by_batch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign, box_iou

import weights
from pipeline.cli import main
from pipeline.config import Config, build_detector
from stages.detect import ONE_STAGE, OURS
from stages.detect.adapter import TorchvisionDetector, mask_in_box
from stages.detect.networks import ARCHITECTURES, MobileNetV2FPN, PyramidRoIAlign, _folded, build_network
from stages.detect.rcnn import (
    MIN_VOTE_IOU,
    TIE_BREAK,
    RcnnDetector,
    detect_both_ways,
    from_checkpoint,
    from_torchvision,
    mirror_boxes,
    mirror_image,
    read_detector,
    vote,
)
from stages.errors import WeightsError
from stages.images import write_jpeg
from stages.testing import check_detector, example_images
from stages.types import LABELS, Box


def lively(architecture: str, labels: int, input_px: int) -> GeneralizedRCNN:
    """A network with random weights whose activations neither vanish nor grow, so that no two scores are equal."""
    torch.manual_seed(0)
    network = build_network(architecture, labels, input_px)
    for name, value in network.named_buffers():
        if name.endswith("running_var"):
            value.fill_(0.1)
    network.roi_heads.detections_per_img = 20  # masks are slow
    return network


def saved(architecture: str, folder: Path, network: nn.Module | None = None) -> Path:
    path = folder / "random.safetensors"
    about = {"architecture": architecture, "labels": "\n".join(LABELS), "input_px": "128"}
    weights.save(path, (network or lively(architecture, 13, 128)).state_dict(), about)
    return path


PHOTOS = example_images()[:3]
FAST = ("fasterrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")


@pytest.mark.parametrize(
    "architecture", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES[1:]]
)
def test_detectors_of_every_architecture_keep_their_protocol(architecture: str) -> None:
    detector = RcnnDetector(lively(architecture, 3, 128), ["top", None, "bag"], min_score=0.0)
    check_detector(detector, PHOTOS)
    assert detector.labels == ("top", "bag")


@pytest.mark.parametrize("architecture", OURS)
def test_detections_do_not_depend_on_the_batch_where_short_numbers_round_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    detector = read_detector(saved(architecture, tmp_path), min_score=0.0)
    detector._network.roi_heads.detections_per_img = 20
    round_by_batch(detector._network)
    check_detector(detector, PHOTOS)
    assert detector.labels == LABELS
    masks = [detection.mask is not None for detection in detector([draw("red", "blue")])[0]]
    assert any(masks) == architecture.startswith("mask")


def one_stage(kind: str, num_classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"min_size": 128, "max_size": 128}
    if kind == "RetinaNet":
        anchors = AnchorGenerator(((16, 24), (48, 64), (96, 120)), ((0.5, 1.0, 2.0),) * 3)
        return RetinaNet(MobileNetV2FPN(), num_classes=num_classes, anchor_generator=anchors, **sizes)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    return FCOS(MobileNetV2FPN(), num_classes=num_classes, anchor_generator=anchors, **sizes)


@pytest.mark.parametrize("kind", ["RetinaNet", "FCOS"])
def test_detectors_of_one_stage_networks_keep_their_protocol(kind: str) -> None:
    detector = TorchvisionDetector(one_stage(kind), ["top", None, "bag"], min_score=0.0)
    check_detector(detector, PHOTOS)
    assert detector.labels == ("top", "bag")
    assert detector.input_px == 128
    assert len(detector([draw("red", "blue")])[0]) > 10


def test_one_stage_detections_are_those_of_the_network() -> None:
    network, image = one_stage("RetinaNet").eval(), draw("red", "blue")
    (detections,) = TorchvisionDetector(network, ["top", "bag", "hat"], min_score=0.0)([image])
    with torch.inference_mode():
        raw = network([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    np.testing.assert_allclose([one.score for one in detections], raw["scores"].sort(descending=True)[0], atol=1e-6)


def detected(path: Path, *options: object) -> list[dict[str, Any]]:
    write_jpeg(path / "photo.jpg", draw("red", "blue"))
    result = CliRunner().invoke(main, ["detect", str(path / "photo.jpg"), *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    garments: list[dict[str, Any]] = json.loads(result.stdout)["garments"]
    return garments


@pytest.mark.parametrize("kind", ["RetinaNet", pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow)])
def test_the_command_runs_a_one_stage_network_with_weights_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = "retinanet_resnet50_fpn"
    if kind == name:
        network = build_network(name, 13, 128)
    else:  # a small backbone under the name of a large one
        monkeypatch.setattr(
            torchvision.models.detection, name, lambda **options: one_stage(kind, options["num_classes"])
        )
        network = one_stage(kind, 14)
    file = saved(name, tmp_path, network)
    garments = detected(tmp_path, "--detector", name, "--detector-weights", file, "--min-score", 0)
    assert garments
    assert {garment["label"] for garment in garments} <= set(LABELS)
    with pytest.raises(WeightsError, match="only R-CNNs can"):
        read_detector(file, flip=True)


def test_a_detector_of_another_package_works_through_the_protocol(tmp_path: Path) -> None:
    check_detector(RfDetrDetector())
    garments = detected(tmp_path, "--detector", "rfdetr_like:RfDetrDetector", "--masks")
    assert [(garment["label"], garment["box"]) for garment in garments] == [
        ("handbag", [0, 0, 64, 64]),
        ("person", [0, 0, 128, 64]),
    ]
    assert all("mask" in garment for garment in garments)


def test_our_networks_have_the_documented_size() -> None:
    sizes = [sum(p.numel() for p in build_network(name, 13).parameters()) / 1e6 for name in OURS]
    assert sizes == pytest.approx([6.5, 5.9], abs=0.1)


def test_every_architecture_of_torchvision_can_be_built() -> None:
    ours, names = set(OURS), {*ARCHITECTURES, *ONE_STAGE}
    assert names - ours <= set(torchvision.models.list_models(torchvision.models.detection))
    with torch.device("meta"):
        for name in ("fasterrcnn_mobilenet_v3_large_fpn", "fcos_resnet50_fpn"):
            assert build_network(name, 13, 320).transform.max_size == 320
    with pytest.raises(ValueError, match="'yolo' is unknown"):
        build_network("yolo", 13)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    about = {"architecture": "maskrcnn_mobilenet_v2", "labels": "top\nbag", "input_px": "128"}
    weights.save(path, {"nothing": torch.zeros(1)}, about)
    with pytest.raises(WeightsError, match="does not fit its architecture"):
        read_detector(path)
    weights.save(path, {"nothing": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match="does not say its 'labels'"):
        from_checkpoint(weights.read(path))
    weights.save(path, {"nothing": torch.zeros(1)}, about | {"architecture": "yolo"})
    with pytest.raises(WeightsError, match="'yolo' is unknown"):
        read_detector(path)


@pytest.mark.parametrize("architecture", ["fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"])
def test_weights_that_cannot_be_downloaded_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    def offline(*_args: object, **_options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match="--detector-weights"):
        from_torchvision(architecture)
    with pytest.raises(ValueError, match="not one of torchvision's"):
        from_torchvision("maskrcnn_mobilenet_v2")


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_mask_is_sampled_at_the_centres_of_pixels_and_an_empty_one_fills_its_box(shift: float) -> None:
    grid = np.zeros((28, 28), np.float32)
    corners = np.array([10 + shift, 20, 66 + shift, 48], np.float32)
    box = Box.clipped(*map(float, corners), width=100, height=100)
    assert box is not None
    assert mask_in_box(grid, corners, box).all()
    grid[:, 14:] = 1  # the right half
    mask = mask_in_box(grid, corners, box)
    assert mask.shape == (box.height, box.width)
    columns = box.x1 + 0.5 + np.arange(box.width)
    np.testing.assert_array_equal(mask.all(axis=0), columns > 10 + shift + 28)


@pytest.mark.parametrize("cells", [7, 14])
def test_pooling_and_its_gradient_are_torchvisions(cells: int) -> None:
    torch.manual_seed(0)
    strides, size = (8, 16, 32), (256, 192)
    maps = {
        str(level): torch.randn(2, 5, size[0] // stride, size[1] // stride, requires_grad=True)
        for level, stride in enumerate(strides)
    }
    sides = torch.exp(torch.rand(2, 40, 1) * 6.6) * (0.8 + 0.4 * torch.rand(2, 40, 2))  # of every level
    centres = torch.rand(2, 40, 2) * torch.tensor([192.0, 256.0])
    boxes = list(torch.cat([centres - sides / 2, centres + sides / 2], 2))
    pooled, gradients = [], []
    for pooler in (MultiScaleRoIAlign(list(maps), cells, 2), PyramidRoIAlign(strides, cells)):
        for level in maps.values():
            level.grad = None
        pooled.append(pooler(maps, boxes, [size, size]))
        (pooled[-1] * torch.linspace(-1, 1, pooled[-1].numel()).view_as(pooled[-1])).sum().backward()
        gradients.append([level.grad for level in maps.values()])
    torch.testing.assert_close(pooled[1], pooled[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-3, rtol=1e-3)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[1])
    assert PyramidRoIAlign(strides, cells)(maps, [torch.zeros(0, 4)] * 2, [size, size]).shape == (0, 5, cells, cells)


def test_folded_batch_norm_gives_the_same_maps_and_gradients() -> None:
    torch.manual_seed(0)
    body = build_network("maskrcnn_mobilenet_v2", 3, 64).backbone.body
    for name, value in body.named_buffers():
        value.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else value.uniform_(-0.5, 0.5)
    pixels = torch.randn(1, 3, 64, 64)
    gradients = []
    for run in (body, lambda x: reduce(lambda value, layer: _folded(layer, value), body, x)):
        body.zero_grad()
        out = run(pixels)
        out.square().mean().backward()
        gradients.append((out.detach(), body[2].conv[0][0].weight.grad.clone()))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def test_thresholds_change_scores_and_lose_no_detection() -> None:
    network = lively("fasterrcnn_mobilenet_v2", 2, 128)
    image = draw("red", "blue", side=128)
    plain = RcnnDetector(network, ["top", "bag"], min_score=0.0)([image])[0]
    scaled = RcnnDetector(network, ["top", "bag"], min_score=0.0, thresholds=[0.3, 0.5])([image])[0]
    assert len(plain) == len(scaled) > 0
    by_box = {(one.label, one.box): one.score for one in plain}
    for one in scaled:
        score, middle = by_box[one.label, one.box], {"top": 0.3, "bag": 0.5}[one.label]
        assert one.score == pytest.approx(
            score * (1 - middle) / (score * (1 - middle) + (1 - score) * middle), abs=1e-6
        )
    for least in (0.4, 0.5, 0.6):
        sure = RcnnDetector(network, ["top", "bag"], min_score=least, thresholds=[0.3, 0.5])([image])[0]
        assert all(one.score >= least for one in sure)
        assert {one.box for one in sure} <= {one.box for one in plain}
    with pytest.raises(ValueError, match="one number in"):
        RcnnDetector(network, ["top", "bag"], thresholds=[0.3])


class InputSeenError(Exception):
    """Ends a detection once the network's input is known."""


def input_of(network: GeneralizedRCNN, image: np.ndarray) -> torch.Tensor:
    def stop(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        raise InputSeenError(inputs[0])

    hook = network.backbone.register_forward_pre_hook(stop)
    with pytest.raises(InputSeenError) as seen:
        RcnnDetector(network, ["top", "bag", "hat"], dtype=torch.float32)([image])
    hook.remove()
    return seen.value.args[0].contiguous()


@pytest.mark.parametrize("input_px", [128, None])
def test_photos_are_resized_as_torchvision_does(input_px: int | None) -> None:
    architecture = "fasterrcnn_mobilenet_v2" if input_px else "fasterrcnn_mobilenet_v3_large_320_fpn"
    network = build_network(architecture, 3, input_px).eval()
    rng = np.random.default_rng(0)
    longest = 2 * network.transform.max_size
    for height, width in [(longest - 90, 170), (150, longest - 35), (64, 64), *rng.integers(60, 250, (9, 2))]:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        theirs, _ = network.transform([torch.from_numpy(image).permute(2, 0, 1) / 255])
        torch.testing.assert_close(input_of(network, image), theirs.tensors, atol=2e-3, rtol=0)


def test_a_photo_that_becomes_much_smaller_is_averaged() -> None:
    network = build_network("fasterrcnn_mobilenet_v2", 3, 64).eval()
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[::4] = 255  # bilinear sampling would see none of them, or nothing else
    mean, std = network.transform.image_mean[0], network.transform.image_std[0]
    grey = input_of(network, lines)[0, 0] * std + mean
    torch.testing.assert_close(grey, torch.full((64, 64), 0.25), atol=0.01, rtol=0)


SIZE = (128, 96)


def proposals_of(count: int, least: float, most: float) -> torch.Tensor:
    corners = torch.rand(count, 2) * 30
    return torch.cat([corners, corners + least + (most - least) * torch.rand(count, 2)], 1)


@torch.inference_mode()
def test_photo_and_mirror_image_count_equally() -> None:
    network = lively("maskrcnn_mobilenet_v2", 3, 128).eval()
    network.roi_heads.score_thresh, network.roi_heads.detections_per_img = 0.0, 100
    batch = torch.zeros(1, 3, 128, 128)
    batch[..., : SIZE[1]] = torch.rand(3, *SIZE)
    proposals = proposals_of(20, 10, 40)
    features, mirrored = network.backbone(batch), network.backbone(mirror_image(batch, SIZE[1]))
    one = detect_both_ways(network.roi_heads, features, mirrored, proposals, SIZE)
    other = detect_both_ways(network.roi_heads, mirrored, features, mirror_boxes(proposals, SIZE[1]), SIZE)
    assert len(one["boxes"]) > 20
    torch.testing.assert_close(one["scores"], other["scores"], atol=TIE_BREAK, rtol=0)
    torch.testing.assert_close(one["boxes"], mirror_boxes(other["boxes"], SIZE[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(one["masks"], other["masks"].flip(-1), atol=1e-3, rtol=0)
    none = detect_both_ways(network.roi_heads, features, mirrored, torch.zeros(0, 4), SIZE)
    assert [len(values) for values in none.values()] == [0, 0, 0, 0]


def test_an_image_and_its_mirror_image_give_mirrored_garments() -> None:
    detector = RcnnDetector(lively("maskrcnn_mobilenet_v2", 3, 128), ["top", "bag", "hat"], 0.3, flip=True)
    image = np.random.default_rng(0).integers(0, 255, (128, 96, 3), np.uint8)
    (found,), (mirrored,) = detector([image]), detector([np.ascontiguousarray(image[:, ::-1])])
    assert len(found) == len(mirrored) > 5
    for one, other in zip(found, mirrored, strict=True):
        assert (one.label, one.score) == (other.label, pytest.approx(other.score, abs=TIE_BREAK))
        assert abs(one.box.x1 - (96 - other.box.x2)) <= 1  # the corners are rounded to whole pixels


def test_flipping_detectors_keep_their_protocol_and_have_other_scores() -> None:
    network = lively("maskrcnn_mobilenet_v2", 13, 128)
    flipping = RcnnDetector(network, LABELS, min_score=0.0, flip=True)
    shapes, _, _, ramp, plain, *_ = example_images()  # the last two are their own mirror images
    check_detector(flipping, [shapes, plain])
    (before,), (after,) = (RcnnDetector(network, LABELS, min_score=0.0)([shapes]), flipping([shapes]))
    assert not np.array_equal([one.score for one in before], [one.score for one in after])
    with_torchvisions_pooling = lively("fasterrcnn_mobilenet_v3_large_320_fpn", 13, 128)
    assert len(RcnnDetector(with_torchvisions_pooling, LABELS, 0.0, flip=True)([shapes, ramp])) == 2


@torch.inference_mode()
def test_of_mirrored_twins_with_the_same_score_the_left_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = lively("fasterrcnn_mobilenet_v2", 1, 128).eval().roi_heads
    heads.score_thresh = 0.0
    monkeypatch.setattr(PyramidRoIAlign, "forward", lambda _, x, boxes, sizes: torch.zeros(len(boxes[0]), 128, 7, 7))
    for values in heads.box_predictor.bbox_pred.parameters():
        values.zero_()
    twins = torch.tensor([[33.0, 10, 73, 50], [23, 10, 63, 50]])  # in a photo 96 pixels wide
    for proposals in (twins, twins.flip(0)):
        assert detect_both_ways(heads, {}, {}, proposals, SIZE)["boxes"].tolist() == [[23, 10, 63, 50]]


def test_a_detector_flips_by_its_name() -> None:
    (plain,), (found,) = (
        build_detector(Config(detector=name, min_score=0.05))([draw("red", "blue")])
        for name in ("fasterrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2+flip")
    )
    assert [one.score for one in plain] != [one.score for one in found]
    with pytest.raises(ValueError, match="leave \\+flip out"):
        build_detector(Config(detector="whole+flip"))
    with pytest.raises(ValueError, match="no detector is called 'yolo'"):
        build_detector(Config(detector="yolo+flip"))


def test_a_box_becomes_the_score_weighted_mean_of_its_candidates() -> None:
    torch.manual_seed(1)
    candidates = torch.stack([proposals_of(30, 40, 60) for _ in range(4)], 1)
    scores = F.softmax(torch.randn(30, 4), -1)
    boxes, labels = candidates[:12, 1:].reshape(-1, 4), torch.tensor([1, 2, 3]).repeat(12)
    moved = vote(boxes, labels, candidates, scores)
    assert not torch.allclose(moved, boxes, atol=0.5)
    for box, label, result in zip(boxes, labels.tolist(), moved, strict=True):
        total, weight = torch.zeros(4), 0.0
        for candidate, score in zip(candidates[:, label], scores[:, label].tolist(), strict=True):
            if box_iou(box[None], candidate[None]).item() >= MIN_VOTE_IOU:
                total, weight = total + score * candidate, weight + score
        torch.testing.assert_close(result, total / weight, atol=1e-2, rtol=1e-4)
    alone = torch.tensor([[160.0, 160.0, 190.0, 190.0]])
    torch.testing.assert_close(vote(alone, torch.tensor([2]), candidates, scores), alone)
    assert vote(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), candidates, scores).shape == (0, 4)
