"""Losses on a batch of unit vectors in which every row is an anchor once."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_loss(vectors: Tensor, positive: Tensor, negative: Tensor, temperature: float = 0.07) -> Tensor:
    """In-batch softmax: each positive has to win against all negatives of its anchor.

    The InfoNCE of van den Oord et al. 2018, eq. 4, for several positives: each has a softmax of its own, from
    which the anchor's other positives, and whatever is in neither mask, are left out. It is symmetric: of a
    pair, each is the anchor once. Anchors count alike, however many positives they have.

    Args:
        vectors: ``(n, dim)`` unit rows.
        positive: ``(n, n)`` bool, whether the column is a positive of the row.
        negative: ``(n, n)`` bool, whether the column is a negative of the row.
        temperature: what similarities are divided by.

    Returns:
        The mean over anchors that have a positive; 0 where none has.
    """
    logits = vectors @ vectors.T / temperature
    rivals = logits.masked_fill(~negative, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    per_pair = torch.logaddexp(logits, rivals) - logits
    positives = positive.sum(dim=1)
    per_anchor = per_pair.masked_fill(~positive, 0.0).sum(dim=1) / positives.clamp(min=1)
    return per_anchor.sum() / (positives > 0).sum().clamp(min=1)


def identity_loss(vectors: Tensor, identities: Tensor, temperature: float = 0.07) -> Tensor:
    """Photos of one item against those of all others, its own other colours among them.

    Args:
        vectors: ``(n, dim)`` unit rows.
        identities: ``(n,)`` integers, the item of each row.
        temperature: what similarities are divided by.
    """
    same = identities[:, None] == identities[None, :]
    itself = torch.eye(len(identities), dtype=torch.bool, device=same.device)
    return softmax_loss(vectors, same & ~itself, ~same, temperature)


def style_loss(vectors: Tensor, identities: Tensor, styles: Tensor, temperature: float = 0.07) -> Tensor:
    """The other colours of an item against all other styles.

    Photos of the item itself take no part, so this never pulls against :func:`identity_loss`; together they ask
    for one order: the same item, then its other colours, then the rest.

    Args:
        vectors: ``(n, dim)`` unit rows.
        identities: ``(n,)`` integers, the item of each row.
        styles: ``(n,)`` integers, the style of each row; an item has one style.
        temperature: what similarities are divided by.
    """
    same_item = identities[:, None] == identities[None, :]
    same_style = styles[:, None] == styles[None, :]
    return softmax_loss(vectors, same_style & ~same_item, ~same_style, temperature)
