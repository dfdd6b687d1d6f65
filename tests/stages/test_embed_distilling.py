"""The teacher: zero where nothing has changed, and what it says of a batch worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stages.embed.training import Teacher


class Pixels(nn.Module):
    """Features that are the pixels, scaled by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return images * self.weight


def test_vectors_that_agree_cost_nothing_and_others_do():
    images = torch.from_numpy(np.random.default_rng(0).random((6, 3, 4, 5), np.float32))
    teacher = Teacher(Pixels())
    pooled = images.mean(dim=(2, 3))
    agreed = (pooled - pooled.mean(dim=0)).requires_grad_()
    assert teacher.loss(images, agreed).item() == pytest.approx(0, abs=1e-6)
    assert teacher.loss(images, agreed.flip(0)).item() > 0.1
    teacher.loss(images, agreed.flip(0)).backward()
    assert agreed.grad.abs().sum() > 0


def test_is_the_divergence_of_softmaxed_similarities():
    rng = np.random.default_rng(1)
    images, vectors = rng.random((4, 3, 2, 2)), rng.normal(size=(4, 5))

    def neighbours(rows, i):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        weights = np.exp(np.delete(unit @ unit[i], i) / 0.1)
        return weights / weights.sum()

    pooled = images.mean(axis=(2, 3))
    pooled -= pooled.mean(axis=0)
    wanted = np.mean(
        [
            (known * np.log(known / neighbours(vectors, i))).sum()
            for i, known in enumerate(neighbours(pooled, i) for i in range(4))
        ]
    )
    found = Teacher(Pixels()).loss(torch.tensor(images, dtype=torch.float32), torch.tensor(vectors))
    assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_does_not_learn_with_its_network():
    network = Pixels()
    teacher = Teacher(network)
    images = torch.rand(3, 3, 2, 2)
    before = teacher.loss(images, torch.eye(3))
    with torch.no_grad():
        network.weight.fill_(-1.0)
    assert torch.equal(teacher.loss(images, torch.eye(3)), before)
