import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw

import weights
from stages.detect.ccp import GROUPS, instances
from stages.detect.data import CocoScenes, Scene, TrainingSet, augment, to_target
from stages.detect.evaluate import evaluate
from stages.detect.networks import ARCHITECTURES, OURS, build_network
from stages.detect.rcnn import RcnnDetector, from_checkpoint, from_torchvision, mask_in_box, read_detector
from stages.detect.train import Recipe, rate, train
from stages.errors import CatalogueError, WeightsError
from stages.images import write_jpeg
from stages.testing import FakeDetector, check_detector
from stages.types import LABELS, Box


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mask R-CNN with random weights."""
    torch.manual_seed(0)
    network = build_network("maskrcnn_mobilenet_v2", 13, 128)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    about = {"architecture": "maskrcnn_mobilenet_v2", "labels": " ".join(LABELS), "input_px": "128"}
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
    torch.manual_seed(0)
    detector = RcnnDetector(build_network(architecture, 3, 128), ["top", None, "bag"], min_score=0.0)
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
    about = {"architecture": "maskrcnn_mobilenet_v2", "labels": "top bag", "input_px": "128"}
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


def test_ccp_classes_become_groups_and_shoes_two_pieces() -> None:
    label_map = np.zeros((40, 40), np.uint8)
    label_map[5:20, 5:35] = 1  # blouse
    label_map[30:38, 2:14] = label_map[30:38, 24:36] = 2  # shoes, apart
    label_map[0:3, 0:3] = 3  # a crumb of a bag
    groups = np.array([0, *(1 + LABELS.index(name) for name in ("top", "shoes", "bag"))], np.uint8)
    found = [(LABELS[group - 1], int(mask.sum())) for group, mask in instances(label_map, groups)]
    assert found == [("top", 450), ("shoes", 96), ("shoes", 96)]
    assert set(GROUPS) == set(LABELS)
    assert len({name for members in GROUPS.values() for name in members}) == sum(map(len, GROUPS.values()))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two photos; segmentations as polygon and as uncompressed runs; a category that is no garment."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        write_jpeg(photos / name, draw("red", "blue"))
    runs = np.zeros((64, 128), np.uint8)
    runs[8:56, 80:112] = 1
    flat = runs.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    made = {
        "images": [
            {"id": n, "file_name": name, "width": 128, "height": 64} for n, name in ((1, "a.jpg"), (2, "b.jpg"))
        ],
        "categories": [{"id": 1, "name": "dress"}, {"id": 2, "name": "person"}],
        "annotations": [
            {
                "id": n,
                "image_id": 1 + n // 4,
                "category_id": category,
                "bbox": [0, 0, 1, 1],
                "area": 1536,
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            for n, category, segmentation in (
                (1, 1, [[16, 8, 48, 8, 48, 56, 16, 56]]),
                (2, 1, {"size": [64, 128], "counts": counts}),
                (3, 2, [[0, 0, 9, 0, 9, 9]]),
            )
        ],
    }
    for annotation in made["annotations"][:2]:
        x = 16 if annotation["id"] == 1 else 80
        annotation["bbox"] = [x, 8, 32, 48]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(made))
    return path


def test_coco_scenes_are_read_with_every_kind_of_mask(coco: Path) -> None:
    scenes = CocoScenes(coco, coco.parent / "photos")
    first, second = scenes[0], scenes[1]
    assert first.masks.shape == (2, 64, 128)
    assert first.masks.sum(axis=(1, 2)).tolist() == [1536, 1536]
    assert first.labels.tolist() == [1 + LABELS.index("dress")] * 2
    assert second.masks.shape == (0, 64, 128)
    coco.write_text("{}")
    with pytest.raises(CatalogueError, match="not a COCO instances file"):
        CocoScenes(coco, coco.parent)


def test_masks_follow_the_pixels_through_augmentation() -> None:
    image = draw("red")
    red = (np.abs(image.astype(int) - (200, 30, 30)).max(axis=2) < 9).astype(np.uint8)
    overlaps = []
    for seed in range(30):
        scene = augment(Scene(image, red[None], np.array([1])), 96, np.random.default_rng(seed))
        assert scene.image.shape[:2] == scene.masks.shape[1:]
        assert max(scene.image.shape) <= 96
        inside, outside = scene.image[scene.masks[0] > 0], scene.image[scene.masks[0] == 0]
        if len(inside) > 100 and len(outside) > 100 and np.ptp(scene.image.mean((0, 1))) > 5:  # not the grey ones
            overlaps.append(outside[:, 1].mean() - inside[:, 1].mean())  # green: white ground against red cloth
    assert len(overlaps) > 15
    assert min(overlaps) > 20


def test_targets_have_tight_boxes_and_no_slivers() -> None:
    masks = np.zeros((2, 50, 50), np.uint8)
    masks[0, 10:30, 5:25] = 1
    masks[1, 0:2, 0:40] = 1
    image, target = to_target(Scene(np.zeros((50, 50, 3), np.uint8), masks, np.array([3, 4])))
    assert image.shape == (3, 50, 50)
    assert target["boxes"].tolist() == [[5, 10, 25, 30]]
    assert target["labels"].tolist() == [3]


def test_a_perfect_detector_has_perfect_precision_and_a_blind_one_none(coco: Path) -> None:
    class Sees(FakeDetector):
        labels = ("dress",)

    perfect = evaluate(Sees(), coco, coco.parent / "photos")
    assert perfect.photos == 2
    assert perfect.box.ap50 == pytest.approx(0.5, abs=0.2), "both in the first photo; two false alarms in the second"
    assert perfect.mask is not None

    class Blind(FakeDetector):
        def __call__(self, images):
            return [[] for _ in images]

    blind = evaluate(Blind(), coco, coco.parent / "photos")
    assert (blind.box.ap, blind.mask) == (0, None)


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    recipe = Recipe(warmup_steps=10, decay=0.5)
    rates = [rate(step, 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:51] == [1.0] * 41
    assert rates[-1] < 0.01
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rate(99, 100, Recipe(decay=0, warmup_steps=1)) == 1


def test_training_learns_and_goes_on_after_a_stop_as_if_it_had_not(coco: Path, tmp_path: Path) -> None:
    def run(folder: Path, epochs: int) -> torch.Tensor:
        torch.manual_seed(0)
        network = build_network("fasterrcnn_mobilenet_v2", 13, 64)
        data = TrainingSet([CocoScenes(coco, coco.parent / "photos")], 64, seed=0)
        recipe = Recipe(epochs=epochs, batch_size=2, warmup_steps=1, decay=0)
        train(network, data, recipe, folder, workers=0, log=lambda _: None)
        return network.rpn.head.cls_logits.weight.detach()

    straight = run(tmp_path / "straight", 10)
    run(tmp_path / "stopped", 4)
    resumed = run(tmp_path / "stopped", 10)
    torch.testing.assert_close(resumed, straight)
    lines = [json.loads(line) for line in (tmp_path / "straight" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 11))
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
