"""Whitening: what it makes of vectors, and that it is nothing but other weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.embed.inputs import Normalise, letterboxed
from stages.embed.network import Design, SiameseNetwork
from stages.embed.training import LEAST_VARIANCE, check_whitens, whiten

DESIGN = Design("small", dim=8, input_px=32, colour_dim=3, trim=True)


def photos(count, seed):
    rng = np.random.default_rng(seed)
    return [
        np.clip(rng.normal(rng.uniform(40, 200, 3), 30, (*rng.integers(20, 50, 2), 3)), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def seeded(design=DESIGN):
    torch.manual_seed(0)
    return SiameseNetwork(design).eval()


@torch.no_grad()
def parts(network, images):
    return network.parts(letterboxed(images, 32, Normalise(*network.design.stats), trim=network.design.trim))


@torch.no_grad()
def unscaled(network, images):
    """What both ends give before it is scaled to unit length, one photo after the other."""
    ends = {"shapes": network.head, "colours": network.colours.project}
    found = {name: [] for name in ends}
    hooks = [
        end.register_forward_hook(lambda _, __, out, name=name: found[name].append(out[0]))
        for name, end in ends.items()
    ]
    for image in images:
        parts(network, [image])
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(rows).double().numpy() for name, rows in found.items()}


def test_whitening_of_two_sets_evens_out_and_orders_variances():
    """By the definition, written out: each set counts alike, however many photos it has."""
    sets = [photos(30, seed=1), photos(11, seed=2)]
    network = seeded()
    before = [unscaled(network, images) for images in sets]
    whiten(network, sets, 0.3)
    for part in ("shapes", "colours"):
        rows = [found[part] for found in before]
        middle = (rows[0].mean(0) + rows[1].mean(0)) / 2
        spread = sum((r - middle).T @ (r - middle) / len(r) for r in rows) / 2
        variances = np.linalg.eigvalsh(spread)[::-1]
        after = [unscaled(network, images)[part] for images in sets]
        evened = sum(r.T @ r / len(r) for r in after) / 2
        wanted = np.diag(variances * (variances / variances[0] + LEAST_VARIANCE) ** -0.6)
        np.testing.assert_allclose(evened, wanted, atol=1e-3 * wanted.max())
        assert (np.diff(np.diag(evened)) <= 1e-9).all()


def test_a_power_of_half_whitens_fully():
    """With 0.5, what varied at all varies alike in all directions, but for the least that is added."""
    network, images = seeded(), photos(80, seed=3)
    whiten(network, [images], 0.5)
    spread = np.linalg.eigvalsh(np.cov(unscaled(network, images)["colours"].T, bias=True))
    assert spread.max() / spread.min() < 1.5


def test_whitening_leaves_a_network_with_nan_unchanged():
    network = seeded()
    with torch.no_grad():
        network.head.bias[0] = float("nan")
    weight = network.head.weight.clone()
    assert not np.isfinite(whiten(network, [photos(20, seed=9)])).all()
    assert torch.equal(network.head.weight, weight)


def test_whitening_changes_the_last_layers_alone():
    network = seeded()
    start = copy.deepcopy(network.state_dict())
    whiten(network, [photos(20, seed=5)])
    ends = {"head.weight", "head.bias", "colours.project.weight", "colours.project.bias"}
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == ends
    found = parts(network, photos(3, seed=6))
    for rows in found:
        torch.testing.assert_close(rows, F.normalize(rows))
    assert not network.head._forward_hooks
    assert not network.colours.project._forward_hooks


def test_a_head_with_a_hidden_layer_is_whitened_at_its_end():
    network = seeded(Design("small", head="elu", dim=8, input_px=32))
    start = copy.deepcopy(network.state_dict())
    whiten(network, [photos(20, seed=7)])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == {"head.2.weight", "head.2.bias"}


@pytest.mark.parametrize(
    ("design", "count", "told"),
    [
        (Design("small", dim=8), 8, "more than 8 photos, got 8"),
        (Design("small", head="sigmoid", dim=8, pair_head="linear"), 100, "no pair head compares"),
        (Design("small", dim=8, pair_head="linear"), 100, "no pair head compares"),
    ],
)
def test_networks_that_cannot_be_whitened_are_refused(design, count, told):
    with pytest.raises(ValueError, match=told):
        check_whitens(design, count)
