import numpy as np
import pytest
import torch
from conftest import draw
from test_detect import lively

from pipeline.config import Config, build_detector
from stages.detect.flip import found_both_ways, mirror_boxes, mirror_images
from stages.detect.rcnn import RcnnDetector
from stages.testing import check_detector
from stages.types import LABELS

SIZES = [(128, 96), (100, 128)]


@torch.inference_mode()
def test_photo_and_mirror_image_have_equal_say() -> None:
    network = lively("maskrcnn_mobilenet_v2", 3, 128).eval()
    network.roi_heads.score_thresh = 0.0
    batch = torch.zeros(2, 3, 128, 128)
    for image, (height, width) in zip(batch, SIZES, strict=True):
        image[:, :height, :width] = torch.rand(3, height, width)
    corners = torch.rand(2, 20, 2) * 50
    proposals = list(torch.cat([corners, corners + 10 + 30 * torch.rand(2, 20, 2)], 2))
    features, mirrored = network.backbone(batch), network.backbone(mirror_images(batch, SIZES))
    one = found_both_ways(network.roi_heads, features, mirrored, proposals, SIZES)
    other = found_both_ways(network.roi_heads, mirrored, features, mirror_boxes(proposals, SIZES), SIZES)
    for mine, theirs, size in zip(one, other, SIZES, strict=True):
        assert len(mine["boxes"]) > 20
        torch.testing.assert_close(mine["scores"], theirs["scores"])
        (back,) = mirror_boxes([theirs["boxes"]], [size])
        torch.testing.assert_close(mine["boxes"], back, atol=1e-3, rtol=0)
        torch.testing.assert_close(mine["masks"], theirs["masks"].flip(-1), atol=1e-3, rtol=0)


def test_an_image_and_its_mirror_image_give_mirrored_garments() -> None:
    detector = RcnnDetector(lively("maskrcnn_mobilenet_v2", 3, 128), ["top", "bag", "hat"], 0.3, flip=True)
    image = np.random.default_rng(0).integers(0, 255, (128, 96, 3), np.uint8)
    (found,), (mirrored,) = detector([image]), detector([np.ascontiguousarray(image[:, ::-1])])
    assert len(found) == len(mirrored) > 5
    for one, other in zip(found, mirrored, strict=True):
        assert (one.label, one.score) == (other.label, pytest.approx(other.score, abs=1e-4))
        assert abs(one.box.x1 - (96 - other.box.x2)) <= 1  # the corners are rounded to whole pixels


def test_mirroring_twice_changes_nothing() -> None:
    batch = torch.rand(2, 3, 8, 8)
    batch[0, :, :, 5:] = batch[1, :, 6:] = 0
    sizes = [(8, 5), (6, 8)]
    assert mirror_images(mirror_images(batch, sizes), sizes).equal(batch)
    boxes = [torch.tensor([[1.0, 2, 4, 5]]), torch.zeros(0, 4)]
    assert mirror_boxes(boxes, sizes)[0].tolist() == [[1, 2, 4, 5]]
    assert mirror_boxes(boxes, [(8, 6), (6, 8)])[0].tolist() == [[2, 2, 5, 5]]


def test_a_flipping_detector_keeps_the_law_and_sees_otherwise() -> None:
    network = lively("maskrcnn_mobilenet_v2", 13, 128)
    flipping = RcnnDetector(network, LABELS, min_score=0.0, flip=True)
    check_detector(flipping)
    photo = draw("red", "blue")
    (plain,), (found,) = (RcnnDetector(network, LABELS, min_score=0.0)([photo]), flipping([photo]))
    assert not np.array_equal([one.score for one in plain], [one.score for one in found])


def test_torchvision_s_own_pooling_is_flipped_too() -> None:
    check_detector(RcnnDetector(lively("fasterrcnn_mobilenet_v3_large_320_fpn", 13, 128), LABELS, 0.0, flip=True))


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
