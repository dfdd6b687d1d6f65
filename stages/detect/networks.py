"""The detection networks by name: ours on MobileNetV2-FPN, and torchvision's own R-CNN models.

Mask R-CNN: He, Gkioxari, Dollár, Girshick, ICCV 2017. Faster R-CNN: Ren, He, Girshick, Sun, NeurIPS 2015.
FPN: Lin et al., CVPR 2017. MobileNetV2: Sandler et al., CVPR 2018.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection, mobilenet_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.misc import FrozenBatchNorm2d

from stages.detect.pooling import PyramidRoIAlign

OURS = ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2")
TORCHVISION = (
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
ARCHITECTURES = OURS + TORCHVISION

LEVELS = {6: 32, 13: 96, 17: 320}
"""The blocks of MobileNetV2 that the pyramid takes, and their channels: at strides 8, 16 and 32."""

_STRIDES = (8, 16, 32)
_WIDTH = 128
_BOX_WIDTH = 512
_ANCHOR_PX = ((16, 26, 42), (64, 96, 140), (200, 270, 360))
_RATIOS = ((0.5, 1.0, 2.0),) * 3


class MobileNetV2FPN(nn.Module):
    """MobileNetV2 with frozen batch norm, and a feature pyramid of 128 channels at strides 8, 16 and 32."""

    out_channels = _WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.body = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features[: max(LEVELS) + 1]
        self.fpn = FeaturePyramidNetwork(list(LEVELS.values()), _WIDTH)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """``(n, 3, h, w)`` to three maps ``(n, 128, h / s, w / s)``, keyed "0", "1", "2" by rising stride s."""
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for block, layer in enumerate(self.body):
            x = _folded(layer, x)
            if block in LEVELS:
                maps[str(len(maps))] = x
        pyramid: OrderedDict[str, Tensor] = self.fpn(maps)
        return pyramid


def _folded(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of MobileNetV2 with each frozen batch norm folded into the convolution before it.

    The same values and gradients as the layer's own forward, without two passes over every map.
    """
    if isinstance(layer, InvertedResidual):
        return x + _folded(layer.conv, x) if layer.use_res_connect else _folded(layer.conv, x)
    if not isinstance(layer, nn.Sequential):
        out: Tensor = layer(x)
        return out
    parts = list(layer)
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        if isinstance(part, nn.Conv2d) and isinstance(after, FrozenBatchNorm2d):
            scale = after.weight * (after.running_var + after.eps).rsqrt()
            weight, bias = part.weight * scale[:, None, None, None], after.bias - after.running_mean * scale
            x = F.conv2d(x, weight, bias, part.stride, part.padding, part.dilation, part.groups)
        elif not isinstance(part, FrozenBatchNorm2d):
            x = _folded(part, x)
    return x


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


def build_network(architecture: str, num_labels: int, input_px: int | None = None) -> GeneralizedRCNN:
    """An untrained network for ``num_labels`` labels besides the background.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        num_labels: labels without the background.
        input_px: the long side that photos are resized to; None leaves torchvision's own sizes.

    Raises:
        ValueError: the architecture is not one of them.
    """
    if architecture in OURS:
        return _mobilenet_v2(num_labels + 1, input_px or 512, masks=architecture.startswith("mask"))
    if architecture not in TORCHVISION:
        raise ValueError(f"detector architecture {architecture!r} is unknown; there are {', '.join(ARCHITECTURES)}")
    builder = getattr(detection, architecture)
    size = {} if input_px is None else {"min_size": input_px, "max_size": input_px}
    network: GeneralizedRCNN = builder(weights=None, weights_backbone=None, num_classes=num_labels + 1, **size)
    return network
