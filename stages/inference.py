"""What makes a network quick that only looks: batch norms folded into convolutions, and shorter numbers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d


def fast_dtype(device: str) -> torch.dtype:
    """What a device multiplies fastest: float16 on CUDA, bfloat16 on a processor that has it, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.float16
    if kind == "cpu":
        able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Give each convolution that a batch norm follows in a ``Sequential`` that norm's scale and shift, in place.

    The same values as those of the network in evaluation, without the norms' passes over every map. It cannot be
    trained any more.
    """
    for sequence in [part for part in network.modules() if isinstance(part, nn.Sequential)]:
        for (_, conv), (place, norm) in pairwise(list(sequence.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                mean, variance = norm.running_mean, norm.running_var
                assert isinstance(mean, Tensor) and isinstance(variance, Tensor)  # noqa: PT018
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
                )
                setattr(sequence, place, nn.Identity())


class Shortened(nn.Module):
    """A sequence of blocks of which the first compute in float32 and the others in a shorter type.

    Args:
        blocks: the sequence, which is converted in place.
        exact: how many compute in float32.
        dtype: of the others.
    """

    def __init__(self, blocks: nn.Sequential, exact: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.exact, self.others = blocks[:exact], blocks[exact:].to(dtype)
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Float32 in, float32 out."""
        out: Tensor = self.others(self.exact(x).to(self._dtype))
        return out.float()
