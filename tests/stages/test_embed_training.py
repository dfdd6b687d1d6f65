"""Training of embedders: exact resuming, frozen layers, loss terms, views, validation and whitening."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from embed_cases import random_images

from stages.embed.augmentation import VIEWS
from stages.embed.data import Dataset, Sample
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.losses import InfoNCE, LossPlan, Relations
from stages.embed.network import Design, SiameseNetwork
from stages.embed.sampling import Batches, SamplerPlan
from stages.embed.training import (
    LEAST_VARIANCE,
    METRICS,
    EmbedderRecipe,
    EmbedderTrainer,
    Validator,
    check_whitens,
    whiten,
)
from stages.errors import TrainingError, WeightsError

DESIGN = Design("small", "average", "linear", 8, 16)
COLOURED = Design("small", dim=8, input_px=32, colour_dim=3, trim=True)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Six items with four photos each: one picture with different noise."""
    rng = np.random.default_rng(0)
    images = [
        np.clip(image.astype(int) + rng.integers(-30, 30, image.shape), 0, 255).astype(np.uint8)
        for image in random_images(6)
        for _ in range(4)
    ]
    samples = [
        Sample(Path(f"{item}-{photo}"), f"{item}", style=f"{item // 2}", domain="street" if photo < 2 else "shop")
        for item in range(6)
        for photo in range(4)
    ]
    return Dataset("items", tuple(samples), images=images)


def seeded(design: Design = DESIGN, seed: int = 0) -> SiameseNetwork:
    torch.manual_seed(seed)
    return SiameseNetwork(design)


def trainer(
    data: Dataset, folder: Path, recipe: EmbedderRecipe, loss: str = "infonce", design: Design = DESIGN, seed: int = 0
) -> EmbedderTrainer:
    network = seeded(design, seed).to(memory_format=torch.channels_last)
    sampler = SamplerPlan(batch_size=12, photos=3).build(data)
    batches = Batches(data, sampler, {"": VIEWS["flip"]}, design.input_px)
    return EmbedderTrainer(network, LossPlan(loss).build(network, len(data.items)), batches, recipe, folder)


def values(one: EmbedderTrainer) -> dict[str, torch.Tensor]:
    with one.averaged():
        return {name: value.clone() for name, value in one._network.state_dict().items()}


def changed(network: SiameseNetwork, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


class TestTrainer:
    @pytest.mark.parametrize("loss", ["infonce", "proxy-anchor"])
    def test_a_resumed_run_ends_with_the_same_weights(self, data, tmp_path, loss):
        recipe = EmbedderRecipe(steps=7, warmup_steps=2, ema=0.5)
        straight = trainer(data, tmp_path / "straight", recipe, loss)
        list(straight.run())
        list(trainer(data, tmp_path / "killed", recipe, loss).run(stop=3))
        resumed = trainer(data, tmp_path / "killed", recipe, loss, seed=1)
        assert resumed.done == 3
        assert [line["step"] for line in resumed.run(workers=0)] == [7]
        assert (tmp_path / "killed" / "log.jsonl").read_text().count("\n") == 2
        torch.testing.assert_close(values(resumed), values(straight))

    def test_a_network_learns_except_for_what_is_frozen(self, data, tmp_path):
        recipe = EmbedderRecipe(steps=40, warmup_steps=0, frozen_blocks=2, batch_norm=False, ema=0.0)
        one = trainer(data, tmp_path, recipe)
        before = copy.deepcopy(one._network.state_dict())
        lines = list(one.run())
        assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
        assert lines[-1]["same"] > lines[-1]["different"] + 0.3
        names = changed(one._network, before)
        assert not any(name.startswith(("features.0.", "features.1.")) or "running" in name for name in names)
        assert {"head.weight", "features.3.0.weight"} <= names

    def test_proxies_pair_heads_and_batch_norm_learn(self, data, tmp_path):
        one = trainer(data, tmp_path / "proxies", EmbedderRecipe(steps=2), "proxy-nca")
        proxies, before = one._loss.proxies.detach().clone(), copy.deepcopy(one._network.state_dict())
        list(one.run())
        assert not torch.equal(one._loss.proxies, proxies)
        assert "features.0.1.running_mean" in changed(one._network, before)
        pair = trainer(data, tmp_path / "pair", EmbedderRecipe(steps=2), "bce",
                       Design("small", "average", "sigmoid", 8, 16, "relu"))  # fmt: skip
        before = copy.deepcopy(pair._network.state_dict())
        list(pair.run())
        assert "pair_head.layers.0.weight" in changed(pair._network, before)

    def test_terms_of_styles_shapes_and_colours_are_added_and_reported(self, data, tmp_path):
        design = Design("small", "average", "linear", 8, 32, colour_dim=3)
        recipe = EmbedderRecipe(steps=2, style_weight=0.7, shape_weight=0.3, colour_weight=0.5)
        one = trainer(data, tmp_path, recipe, design=design)
        batch = one._source(0)
        with torch.no_grad():  # with batch statistics, as in training
            parts = one._network.train().parts(one._normalise(list(batch.views)))
            shape = InfoNCE()(parts.shapes, Relations.of(torch.from_numpy(batch.styles)))
            colour = InfoNCE()(parts.colours, Relations.of(torch.from_numpy(batch.identities)))
        line = one.step(batch)
        assert line["loss_shape"] == pytest.approx(shape.item(), abs=1e-3)
        assert line["loss_colour"] == pytest.approx(colour.item(), abs=1e-3)
        terms = (("item", 1), ("style", 0.7), ("shape", 0.3), ("colour", 0.5))
        assert line["loss"] == pytest.approx(sum(weight * line[f"loss_{name}"] for name, weight in terms), abs=1e-4)

    @pytest.mark.parametrize("weight", ["shape_weight", "colour_weight"])
    def test_shapes_and_colours_need_a_network_with_colours(self, data, tmp_path, weight):
        with pytest.raises(ValueError, match="colour_dim"):
            trainer(data, tmp_path, EmbedderRecipe(steps=1, **{weight: 0.3}))

    def test_the_state_of_another_run_is_refused(self, data, tmp_path):
        list(trainer(data, tmp_path, EmbedderRecipe(steps=1)).run())
        with pytest.raises(WeightsError, match="remove it"):
            trainer(data, tmp_path, EmbedderRecipe(steps=1), design=Design("small", "average", "linear", 4, 16))

    def test_a_loss_that_is_not_finite_ends_training(self, data, tmp_path):
        one = trainer(data, tmp_path, EmbedderRecipe(steps=1))
        with torch.no_grad():
            one._network.head.weight.fill_(float("nan"))
        with pytest.raises(TrainingError, match="lower the learning rate"):
            list(one.run())


def test_each_domain_has_its_view(data):
    sampler = SamplerPlan("triplets", batch_size=12, anchor_domain="street").build(data)
    views = {"": VIEWS["plain"], "street": lambda _image, side, _rng, _scenery: np.zeros((side, side, 3), np.uint8)}
    batch = Batches(data, sampler, views, 16)(0)
    assert batch.views.any(axis=(1, 2, 3)).tolist() == [False, True, True] * 4
    assert batch.relations().positive.sum() == batch.relations().negative.sum() == 4


def test_all_photos_of_a_batch_are_turned_alike(data):
    plan, corner = SamplerPlan(batch_size=8, photos=2), np.zeros((16, 16, 3), np.uint8)
    corner[:4, :8] = 255
    data = replace(data, images=[corner] * len(data))
    batches = Batches(data, plan.build(data), {"": VIEWS["plain"]}, 16, turned=True)
    seen = set()
    for step in range(40):
        views = batches(step).views
        assert (views == views[0]).all()
        seen.add(views[0].tobytes())
    assert len(seen) == 8


class TestValidator:
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("pair_head", ["", "linear"])
    def test_every_metric_is_in_range(self, data, metric, pair_head):
        design = Design("small", "average", "sigmoid" if pair_head else "linear", 8, 16, pair_head)
        value = Validator(data, metric)(seeded(design).train())
        assert value is not None
        assert 0 <= value <= 1

    @pytest.mark.parametrize("pair_head", ["", "linear"])
    def test_a_collapse_has_no_metric(self, data, pair_head):
        network = seeded(Design("small", "average", "linear", 8, 16, pair_head))
        assert Validator(data)(network) is not None
        with torch.no_grad():
            if pair_head:
                network.pair_head.layers.weight.zero_()
            else:
                network.head.weight.zero_()
                network.head.bias.fill_(1.0)
        assert Validator(data)(network) is None

    def test_queries_are_of_one_domain_and_the_gallery_of_the_others(self, data):
        vectors = np.eye(24, dtype=np.float32)
        validator = Validator(data, "recall@1", "street")
        found = validator.retrieve(lambda one, other: vectors[one] @ vectors[other].T, data.item_ids)
        assert data.in_domain("street")[found.queries].all()
        assert len(found.queries) == 12

    def test_an_unknown_metric_is_refused(self, data):
        with pytest.raises(ValueError, match="no metric is called"):
            Validator(data, "accuracy")


def photos(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.clip(rng.normal(rng.uniform(40, 200, 3), 30, (*rng.integers(20, 50, 2), 3)), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


@torch.no_grad()
def unscaled(network: SiameseNetwork, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the last layers for each image, before they are scaled to unit length."""
    ends = {"shapes": network.head, "colours": network.colours.project}
    rows = {name: [] for name in ends}
    hooks = [
        end.register_forward_hook(lambda _, __, out, name=name: rows[name].append(out[0])) for name, end in ends.items()
    ]
    for image in images:
        network.eval()(letterboxed([image], 32, Normalise(*network.design.stats), trim=True))
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(values).double().numpy() for name, values in rows.items()}


class TestWhitening:
    def test_whitening_evens_out_and_sorts_the_variances_of_two_sets_with_equal_weight(self):
        sets, network = [photos(30, seed=1), photos(11, seed=2)], seeded(COLOURED)
        before = [unscaled(network, images) for images in sets]
        whiten(network, sets, 0.3)
        after = [unscaled(network, images) for images in sets]
        for part in ("shapes", "colours"):
            rows = [one[part] for one in before]
            middle = (rows[0].mean(0) + rows[1].mean(0)) / 2
            spread = sum((r - middle).T @ (r - middle) / len(r) for r in rows) / 2
            variances = np.linalg.eigvalsh(spread)[::-1]
            evened = sum(one[part].T @ one[part] / len(one[part]) for one in after) / 2
            expected = np.diag(variances * (variances / variances[0] + LEAST_VARIANCE) ** -0.6)
            np.testing.assert_allclose(evened, expected, atol=1e-3 * expected.max())
            assert (np.diff(np.diag(evened)) <= 1e-9).all()

    def test_a_power_of_half_gives_all_directions_the_same_variance(self):
        network, images = seeded(COLOURED), photos(80, seed=3)
        whiten(network, [images], 0.5)
        spread = np.linalg.eigvalsh(np.cov(unscaled(network, images)["colours"].T, bias=True))
        assert spread.max() / spread.min() < 1.5

    def test_a_network_with_nan_is_unchanged(self):
        network = seeded(COLOURED)
        with torch.no_grad():
            network.head.bias[0] = float("nan")
        weight = network.head.weight.clone()
        assert not np.isfinite(whiten(network, [photos(20, seed=9)])).all()
        assert torch.equal(network.head.weight, weight)

    @pytest.mark.parametrize(
        ("design", "ends"),
        [(COLOURED, ("head", "colours.project")), (Design("small", head="elu", dim=8, input_px=32), ("head.2",))],
    )
    def test_only_the_last_layers_change_and_vectors_keep_unit_length(self, design, ends):
        network = seeded(design).eval()
        before = copy.deepcopy(network.state_dict())
        whiten(network, [photos(20, seed=5)])
        assert changed(network, before) == {f"{end}.{name}" for end in ends for name in ("weight", "bias")}
        assert not any(network.get_submodule(end)._forward_hooks for end in ends)
        with torch.no_grad():
            vectors = network(letterboxed(photos(3, seed=6), 32, Normalise(*design.stats)))
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))

    @pytest.mark.parametrize(
        ("design", "count", "message"),
        [
            (Design("small", dim=8), 8, "more than 8 photos, got 8"),
            (Design("small", head="sigmoid", dim=8, pair_head="linear"), 100, "no pair head compares"),
            (Design("small", dim=8, pair_head="linear"), 100, "no pair head compares"),
        ],
    )
    def test_networks_that_cannot_be_whitened_are_refused(self, design, count, message):
        with pytest.raises(ValueError, match=message):
            check_whitens(design, count)
