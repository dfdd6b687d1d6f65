"""Boxes in float32, whatever a network computes in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN


def exact_coordinates(network: GeneralizedRCNN) -> None:
    """Keep a network's boxes in float32 under mixed precision, from now on.

    torchvision computes anchors, proposals and what is to be learnt of them in whatever the features and the heads
    give; bfloat16 tells pixels beyond 256 only by twos, beyond 512 by fours.
    """
    heads = (network.roi_heads.box_predictor, network.roi_heads.mask_predictor)
    for module in (network.backbone, network.rpn.head, *heads):
        if module is not None:
            module.register_forward_hook(_float32)


def _float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, Mapping):
        return OrderedDict((name, value.float()) for name, value in outputs.items())
    return type(outputs)(_float32(_module, _inputs, each) for each in outputs)
