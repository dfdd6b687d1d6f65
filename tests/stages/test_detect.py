from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign

import weights
from stages.detect.networks import ARCHITECTURES, OURS, _folded, build_network
from stages.detect.pooling import PyramidRoIAlign
from stages.detect.rcnn import RcnnDetector, from_checkpoint, from_torchvision, mask_in_box, read_detector
from stages.errors import WeightsError
from stages.testing import check_detector
from stages.types import LABELS, Box


def lively(architecture: str, labels: int, input_px: int) -> GeneralizedRCNN:
    """Random weights whose activations neither vanish nor grow, so that no two scores are the same."""
    torch.manual_seed(0)
    network = build_network(architecture, labels, input_px)
    for name, value in network.named_buffers():
        if name.endswith("running_var"):
            value.fill_(0.1)
    return network


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mask R-CNN with random weights."""
    network = lively("maskrcnn_mobilenet_v2", 13, 128)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    about = {"architecture": "maskrcnn_mobilenet_v2", "labels": "\n".join(LABELS), "input_px": "128"}
    weights.save(path, network.state_dict(), about)
    return path


def test_our_mask_rcnn_keeps_the_law(checkpoint_file: Path) -> None:
    detector = read_detector(checkpoint_file, min_score=0.0)
    check_detector(detector)
    assert detector.labels == LABELS
    assert any(found.mask is not None for found in detector([draw("red", "blue")])[0])


QUICK = ("fasterrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")


@pytest.mark.parametrize(
    "architecture",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES[1:]],
)
def test_every_architecture_keeps_the_law(architecture: str) -> None:
    detector = RcnnDetector(lively(architecture, 3, 128), ["top", None, "bag"], min_score=0.0)
    check_detector(detector)
    assert detector.labels == ("top", "bag")


def test_our_networks_are_the_size_that_is_told() -> None:
    sizes = [sum(p.numel() for p in build_network(name, 13).parameters()) / 1e6 for name in OURS]
    assert sizes == pytest.approx([6.5, 5.9], abs=0.1)


def test_every_architecture_of_torchvision_can_be_built() -> None:
    with torch.device("meta"):
        for name in set(ARCHITECTURES) - set(OURS):
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


def test_torchvision_weights_without_a_network_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(WeightsError, match="--detector-weights"):
        from_torchvision("fasterrcnn_mobilenet_v3_large_320_fpn")
    with pytest.raises(ValueError, match="not one of torchvision's"):
        from_torchvision("maskrcnn_mobilenet_v2")


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_mask_is_sampled_where_its_pixels_are(shift: float) -> None:
    grid = np.zeros((28, 28), np.float32)
    grid[:, 14:] = 1  # the right half
    corners = np.array([10 + shift, 20, 66 + shift, 48], np.float32)
    box = Box.clipped(*map(float, corners), width=100, height=100)
    assert box is not None
    mask = mask_in_box(grid, corners, box)
    assert mask.shape == (box.height, box.width)
    middle = 10 + shift + 28
    columns = box.x1 + 0.5 + np.arange(box.width)
    np.testing.assert_array_equal(mask.all(axis=0), columns > middle)


def test_an_empty_mask_becomes_its_box() -> None:
    assert mask_in_box(np.zeros((28, 28), np.float32), np.array([0, 0, 5, 5], np.float32), Box(0, 0, 5, 5)).all()


@pytest.mark.parametrize("cells", [7, 14])
def test_pooling_is_torchvision_s_with_its_gradient(cells: int) -> None:
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


def test_pooling_no_boxes_gives_none() -> None:
    maps = {str(level): torch.ones(1, 3, 8, 8) for level in range(3)}
    assert PyramidRoIAlign((8, 16, 32), 7)(maps, [torch.zeros(0, 4)], [(64, 64)]).shape == (0, 3, 7, 7)


def test_folded_batch_norm_gives_the_same_maps_and_gradients() -> None:
    torch.manual_seed(0)
    body = build_network("maskrcnn_mobilenet_v2", 3, 64).backbone.body
    for name, value in body.named_buffers():
        value.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else value.uniform_(-0.5, 0.5)
    pixels = torch.randn(1, 3, 64, 64)
    gradients = []
    for run in (body, lambda x: _in_turn(body, x)):
        body.zero_grad()
        out = run(pixels)
        out.square().mean().backward()
        gradients.append((out.detach(), body[2].conv[0][0].weight.grad.clone()))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def _in_turn(body: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    for layer in body:
        x = _folded(layer, x)
    return x


def test_thresholds_make_scores_honest_and_lose_no_detection() -> None:
    network = lively("fasterrcnn_mobilenet_v2", 2, 128)
    image = draw("red", "blue", side=128)
    plain = RcnnDetector(network, ["top", "bag"], min_score=0.0)([image])[0]
    honest = RcnnDetector(network, ["top", "bag"], min_score=0.0, thresholds=[0.3, 0.5])([image])[0]
    assert len(plain) == len(honest) > 0
    by_box = {(one.label, one.box): one.score for one in plain}
    for one in honest:
        score, at = by_box[one.label, one.box], {"top": 0.3, "bag": 0.5}[one.label]
        assert one.score == pytest.approx(score * (1 - at) / (score * (1 - at) + (1 - score) * at), abs=1e-6)
    for least in (0.4, 0.5, 0.6):
        sure = RcnnDetector(network, ["top", "bag"], min_score=least, thresholds=[0.3, 0.5])([image])[0]
        assert all(one.score >= least for one in sure)
        assert {one.box for one in sure} <= {one.box for one in plain}
    with pytest.raises(ValueError, match="one number in"):
        RcnnDetector(network, ["top", "bag"], thresholds=[0.3])


@pytest.mark.parametrize("input_px", [128, None])
def test_photos_are_resized_as_torchvision_does(input_px: int | None) -> None:
    architecture = "fasterrcnn_mobilenet_v2" if input_px else "fasterrcnn_mobilenet_v3_large_320_fpn"
    network = build_network(architecture, 3, input_px).eval()
    detector = RcnnDetector(network, ["top", "bag", "hat"], dtype=torch.float32)
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    draw_pixels = np.random.default_rng(0)
    longest = 2 * detector.input_px
    for height, width in [(longest - 90, 170), (150, longest - 35), (64, 64), *draw_pixels.integers(60, 250, (12, 2))]:
        image = draw_pixels.integers(0, 256, (height, width, 3), np.uint8)
        detector([image])
        theirs, _ = network.transform([torch.from_numpy(image).permute(2, 0, 1) / 255])
        assert seen[-1].shape == theirs.tensors.shape, (height, width)
        torch.testing.assert_close(seen[-1].contiguous(), theirs.tensors, atol=2e-3, rtol=0)


def test_a_photo_that_shrinks_much_is_averaged() -> None:
    network = build_network("fasterrcnn_mobilenet_v2", 3, 64).eval()
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[::4] = 255  # bilinear sampling would see none of them, or nothing else
    RcnnDetector(network, ["top", "bag", "hat"], dtype=torch.float32)([lines])
    mean, std = network.transform.image_mean[0], network.transform.image_std[0]
    torch.testing.assert_close(seen[0][0, 0] * std + mean, torch.full((64, 64), 0.25), atol=0.01, rtol=0)
