"""Sums of exponentials over masks, with gradients that stay finite where a mask is empty."""

from __future__ import annotations

import torch
from torch import Tensor


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits of which those outside of a mask count as nothing."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def softplus_sum(logits: Tensor, mask: Tensor) -> Tensor:
    """``log(1 + Σ exp(logits))`` over each row's mask, ``(n, m)`` → ``(n,)``; 0 where it is empty."""
    return torch.cat([torch.zeros_like(logits[:, :1]), masked(logits, mask)], dim=1).logsumexp(dim=1)
