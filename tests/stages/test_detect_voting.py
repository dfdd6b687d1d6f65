"""Box voting against a loop over boxes and candidates."""

import torch
from test_detect import lively
from torch.nn import functional as F
from torchvision.ops import box_iou

from stages.detect.voting import VOTES_FROM_IOU, voted

SIZES = [(128, 96), (100, 128)]


@torch.inference_mode()
def test_a_box_is_the_mean_of_its_candidates_by_their_scores() -> None:
    torch.manual_seed(1)
    heads = lively("fasterrcnn_mobilenet_v2", 3, 128).eval().roi_heads
    heads.score_thresh = 0.0
    corners = torch.rand(2, 30, 2) * 30
    proposals = list(torch.cat([corners, corners + 40 + 20 * torch.rand(2, 30, 2)], 2))
    logits, deltas = torch.randn(60, 4), 0.3 * torch.randn(60, 16)
    boxes, _, labels = heads.postprocess_detections(logits, deltas, proposals, SIZES)
    found = voted(heads, list(zip(boxes, labels, strict=True)), (logits, deltas), proposals, SIZES)
    for image, (height, width) in enumerate(SIZES):
        rows = slice(30 * image, 30 * image + 30)
        own = heads.box_coder.decode(deltas[rows], [proposals[image]])
        scores = F.softmax(logits[rows], -1)
        assert len(found[image]) == len(boxes[image]) > 5
        assert not torch.allclose(found[image], boxes[image], atol=0.5)
        for box, label, moved in zip(boxes[image], labels[image].tolist(), found[image], strict=True):
            total, weight = torch.zeros(4), 0.0
            for candidate, score in zip(own[:, label], scores[:, label].tolist(), strict=True):
                x1, y1, x2, y2 = candidate.tolist()
                clipped = torch.tensor(
                    [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
                )
                if box_iou(box[None], clipped[None]).item() >= VOTES_FROM_IOU:
                    total, weight = total + score * clipped, weight + score
            torch.testing.assert_close(moved, total / weight, atol=1e-2, rtol=1e-4)


def test_a_box_without_candidates_and_a_photo_without_boxes_stay_as_they_are() -> None:
    heads = lively("fasterrcnn_mobilenet_v2", 3, 128).eval().roi_heads
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    alone = torch.tensor([[60.0, 60.0, 90.0, 90.0]]), torch.tensor([2])
    proposals = [torch.tensor([[0.0, 0.0, 20.0, 20.0]]), torch.tensor([[0.0, 0.0, 20.0, 20.0]])]
    opinions = torch.zeros(2, 4), torch.zeros(2, 16)
    empty, kept = voted(heads, [none, alone], opinions, proposals, SIZES)
    assert empty.shape == (0, 4)
    torch.testing.assert_close(kept, alone[0])
