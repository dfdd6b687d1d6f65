"""Detection networks by name: our R-CNNs on MobileNetV2 with a feature pyramid, and torchvision's networks.

Mask R-CNN: He, Gkioxari, Dollár, Girshick, ICCV 2017. Faster R-CNN: Ren, He, Girshick, Sun, NeurIPS 2015.
Feature pyramids: Lin et al., CVPR 2017. MobileNetV2: Sandler et al., CVPR 2018.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection, mobilenet_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from stages.detect import ONE_STAGE, OURS, TORCHVISION

ARCHITECTURES = OURS + TORCHVISION
"""The networks that can be trained."""

LEVELS = {6: 32, 13: 96, 17: 320}
"""The blocks of MobileNetV2 whose maps the pyramid uses, at strides 8, 16 and 32, and their channels."""

_STRIDES = (8, 16, 32)
_WIDTH = 128
_BOX_WIDTH = 512
_ANCHOR_PX = ((16, 26, 42), (64, 96, 140), (200, 270, 360))
_RATIOS = ((0.5, 1.0, 2.0),) * 3

_SAMPLES = 2  # of RoIAlign, per cell and axis
_CANONICAL_PX, _CANONICAL_LEVEL = 224, 4  # of the rule that assigns boxes to levels


def build_network(architecture: str, num_labels: int, input_px: int | None = None) -> Any:
    """Build an untrained network.

    Args:
        architecture: of :data:`ARCHITECTURES` or :data:`ONE_STAGE`.
        num_labels: labels without the background.
        input_px: the long side that photos are resized to; None keeps torchvision's sizes.

    Raises:
        ValueError: the architecture is unknown.
    """
    if architecture in OURS:
        return _mobilenet_v2(num_labels + 1, input_px or 512, masks=architecture.startswith("mask"))
    if architecture not in TORCHVISION + ONE_STAGE:
        known = ", ".join(ARCHITECTURES + ONE_STAGE)
        raise ValueError(f"detector architecture {architecture!r} is unknown; known are {known}")
    builder = getattr(detection, architecture)
    size = {} if input_px is None else {"min_size": input_px, "max_size": input_px}
    return builder(weights=None, weights_backbone=None, num_classes=num_labels + 1, **size)


def _mobilenet_v2(num_classes: int, input_px: int, *, masks: bool) -> GeneralizedRCNN:
    parts = {
        "backbone": MobileNetV2FPN(),
        "min_size": input_px,
        "max_size": input_px,
        "rpn_anchor_generator": AnchorGenerator(_ANCHOR_PX, _RATIOS),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_post_nms_top_n_train": 1000,
        "rpn_pre_nms_top_n_test": 400 if masks else 150,
        "rpn_post_nms_top_n_test": 300 if masks else 100,
        "box_roi_pool": PyramidRoIAlign(_STRIDES, 7),
        "box_head": TwoMLPHead(_WIDTH * 7**2, _BOX_WIDTH),
        "box_predictor": FastRCNNPredictor(_BOX_WIDTH, num_classes),
        "box_batch_size_per_image": 128,  # RoIAlign's backward is the slowest part of a training step on a CPU
    }
    if not masks:
        return FasterRCNN(**parts)
    return MaskRCNN(
        **parts,
        mask_roi_pool=PyramidRoIAlign(_STRIDES, 14),
        mask_head=MaskRCNNHeads(_WIDTH, (_WIDTH,) * 3, 1),
        mask_predictor=MaskRCNNPredictor(_WIDTH, _WIDTH, num_classes),
    )


class MobileNetV2FPN(nn.Module):
    """MobileNetV2 with frozen batch norm, and a feature pyramid of 128 channels at strides 8, 16 and 32."""

    out_channels = _WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.body = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features[: max(LEVELS) + 1]
        self.fpn = FeaturePyramidNetwork(list(LEVELS.values()), _WIDTH)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Map ``(n, 3, h, w)`` to three maps ``(n, 128, h / s, w / s)``, keyed "0", "1", "2" by rising stride s."""
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for block, layer in enumerate(self.body):
            x = _folded(layer, x)
            if block in LEVELS:
                maps[str(len(maps))] = x
        pyramid: OrderedDict[str, Tensor] = self.fpn(maps)
        return pyramid


def _folded(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer of MobileNetV2 with each frozen batch norm folded into the preceding convolution.

    Values and gradients are those of the layer's ``forward``, without two passes over every map.
    """
    if isinstance(layer, InvertedResidual):
        return x + _folded(layer.conv, x) if layer.use_res_connect else _folded(layer.conv, x)
    if not isinstance(layer, nn.Sequential):
        out: Tensor = layer(x)
        return out
    parts = list(layer)
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        if isinstance(part, nn.Conv2d) and isinstance(following, FrozenBatchNorm2d):
            scale = following.weight * (following.running_var + following.eps).rsqrt()
            weight, bias = part.weight * scale[:, None, None, None], following.bias - following.running_mean * scale
            x = F.conv2d(x, weight, bias, part.stride, part.padding, part.dilation, part.groups)
        elif not isinstance(part, FrozenBatchNorm2d):
            x = _folded(part, x)
    return x


class PyramidRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ``MultiScaleRoIAlign`` as one ``embedding_bag``, whose backward pass is fast on a CPU.

    The maps of all levels and images form one table of feature vectors. By bilinear sampling, each output cell is a weighted
    sum of at most 16 rows of it. Gradients are then computed by vectors, not by single numbers as in torchvision's kernel.

    Args:
        strides: of the pyramid's levels in pixels, rising powers of two.
        output_size: cells per side.
    """

    def __init__(self, strides: tuple[int, ...], output_size: int) -> None:
        super().__init__([str(level) for level in range(len(strides))], output_size, _SAMPLES)
        self.strides = strides

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], _sizes: list[tuple[int, int]]) -> Tensor:
        """Pool boxes ``(k, 4)`` in pixels from maps ``(n, c, h / s, w / s)``: ``(sum of k, c, out, out)`` float32."""
        maps = [x[name] for name in self.featmap_names]
        channels, cells = maps[0].shape[1], self.output_size[0]
        table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps]).float()
        all_boxes = torch.cat(boxes)
        image = torch.cat([torch.full((len(b),), n, device=all_boxes.device) for n, b in enumerate(boxes)])
        if not len(all_boxes):
            return table.new_zeros(0, channels, cells, cells)
        rows, weights = self._samples(all_boxes.detach(), image, [(m.shape[2], m.shape[3]) for m in maps], len(boxes))
        pooled = F.embedding_bag(rows.flatten(1), table, mode="sum", per_sample_weights=weights.flatten(1))
        return pooled.view(-1, cells, cells, channels).permute(0, 3, 1, 2)

    def _samples(
        self, boxes: Tensor, image: Tensor, sizes: list[tuple[int, int]], images: int
    ) -> tuple[Tensor, Tensor]:
        """Return table rows and their weights, each ``(boxes * cells * cells, 4, 4)``."""
        level = self._level(boxes)
        height, width = boxes.new_tensor(sizes, dtype=torch.long)[level].T
        areas = torch.tensor([h * w for h, w in sizes], device=boxes.device)
        starts = (areas.cumsum(0) - areas) * images
        first = starts[level] + image * areas[level]
        scale = 1 / boxes.new_tensor(self.strides)[level]
        x, x_weight = self._axis(boxes[:, 0] * scale, boxes[:, 2] * scale, width)
        y, y_weight = self._axis(boxes[:, 1] * scale, boxes[:, 3] * scale, height)
        row_start = first[:, None, None] + y * width[:, None, None]
        rows = row_start[:, :, None, :, None] + x[:, None, :, None, :]
        weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        return rows.flatten(0, 2), weights.flatten(0, 2)

    def _level(self, boxes: Tensor) -> Tensor:
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        lowest = self.strides[0].bit_length() - 1
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(side / _CANONICAL_PX) + 1e-6)
        return (level - lowest).clamp(0, len(self.strides) - 1).long()

    def _axis(self, low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map positions that one axis of each output cell samples, and their weights: each ``(k, cells, 4)``."""
        cells = self.output_size[0]
        size = (high - low).clamp(min=1.0)
        steps = (torch.arange(cells * _SAMPLES, device=low.device) + 0.5) / (cells * _SAMPLES)
        at = low[:, None] + size[:, None] * steps
        last = (length - 1)[:, None]
        outside = (at < -1) | (at > length[:, None])
        at = at.clamp(min=0).minimum(last)
        below = at.floor().long()
        above = (below + 1).minimum(last)
        fraction = at - below
        inside = (~outside).float() / _SAMPLES
        index = torch.stack([below, above], -1).view(-1, cells, 2 * _SAMPLES)
        weight = torch.stack([(1 - fraction) * inside, fraction * inside], -1).view(-1, cells, 2 * _SAMPLES)
        return index, weight


def float32_outputs(network: GeneralizedRCNN) -> None:
    """Make an R-CNN compute coordinates and scores in float32 under mixed precision, in place.

    torchvision computes anchors, proposals and their targets in the type of the features and heads, but bfloat16 has a
    resolution of only two pixels beyond 256, and four beyond 512.
    """
    heads = (network.roi_heads.box_predictor, network.roi_heads.mask_predictor)
    for module in (network.backbone, network.rpn.head, *heads):
        if module is not None:
            module.register_forward_hook(_to_float32)


def _to_float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, Mapping):
        return OrderedDict((name, value.float()) for name, value in outputs.items())
    return type(outputs)(_to_float32(_module, _inputs, each) for each in outputs)
