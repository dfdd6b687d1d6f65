"""The trainer: resumed to the step, frozen where told, for any loss and sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from embed_cases import random_images

from stages.embed.augmentation import VIEWS
from stages.embed.data import Dataset, Sample
from stages.embed.losses import InfoNCE, LossPlan, Relations
from stages.embed.network import Design, SiameseNetwork
from stages.embed.sampling import Batches, SamplerPlan
from stages.embed.training import METRICS, EmbedderRecipe, EmbedderTrainer, Validator
from stages.errors import TrainingError, WeightsError

DESIGN = Design("small", "average", "linear", 8, 16)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Six items with four photos each: one picture with noise of its own."""
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


def trainer(
    data: Dataset, folder: Path, recipe: EmbedderRecipe, loss: str = "infonce", design: Design = DESIGN, seed: int = 0
) -> EmbedderTrainer:
    torch.manual_seed(seed)
    network = SiameseNetwork(design).to(memory_format=torch.channels_last)
    sampler = SamplerPlan(batch_size=12, photos=3).build(data)
    batches = Batches(data, sampler, {"": VIEWS["flip"]}, design.input_px)
    return EmbedderTrainer(network, LossPlan(loss).build(network, len(data.items)), batches, recipe, folder)


def values(one: EmbedderTrainer) -> dict[str, torch.Tensor]:
    with one.averaged():
        return {name: value.clone() for name, value in one._network.state_dict().items()}


class TestTrainer:
    @pytest.mark.parametrize("loss", ["infonce", "proxy-anchor"])
    def test_resuming_is_not_seen_in_the_result(self, data, tmp_path, loss):
        recipe = EmbedderRecipe(steps=7, warmup_steps=2, ema=0.5)
        straight = trainer(data, tmp_path / "straight", recipe, loss)
        list(straight.run())
        first = trainer(data, tmp_path / "killed", recipe, loss)
        list(first.run(stop=3))
        assert first.done == 3
        resumed = trainer(data, tmp_path / "killed", recipe, loss, seed=1)
        assert resumed.done == 3
        lines = list(resumed.run(workers=0))
        assert [line["step"] for line in lines] == [7]
        assert (tmp_path / "killed" / "log.jsonl").read_text().count("\n") == 2
        torch.testing.assert_close(values(resumed), values(straight))

    def test_learns_and_leaves_what_is_frozen(self, data, tmp_path):
        recipe = EmbedderRecipe(steps=40, warmup_steps=0, frozen_blocks=2, batch_norm=False, ema=0.0)
        one = trainer(data, tmp_path, recipe)
        before = {name: value.clone() for name, value in one._network.state_dict().items()}
        lines = list(one.run())
        assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
        assert lines[-1]["same"] > lines[-1]["different"] + 0.3
        after = one._network.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert not any(name.startswith(("features.0.", "features.1.")) for name in changed)
        assert not any("running" in name for name in changed)
        assert {"head.weight", "features.3.0.weight"} <= changed

    def test_batch_norm_follows_where_it_may(self, data, tmp_path):
        one = trainer(data, tmp_path, EmbedderRecipe(steps=1))
        before = one._network.features[0][1].running_mean.clone()
        list(one.run())
        assert not torch.equal(one._network.features[0][1].running_mean, before)

    def test_proxies_and_pair_heads_learn(self, data, tmp_path):
        one = trainer(data, tmp_path / "proxies", EmbedderRecipe(steps=2), "proxy-nca")
        proxies = one._loss.proxies.detach().clone()
        list(one.run())
        assert not torch.equal(one._loss.proxies, proxies)
        design = Design("small", "average", "sigmoid", 8, 16, "relu")
        pair = trainer(data, tmp_path / "pair", EmbedderRecipe(steps=2), "bce", design)
        layer = pair._network.pair_head.layers[0].weight.detach().clone()
        list(pair.run())
        assert not torch.equal(pair._network.pair_head.layers[0].weight, layer)

    def test_each_term_of_a_loss_is_reported(self, data, tmp_path):
        (line,) = trainer(data, tmp_path, EmbedderRecipe(steps=1, style_weight=0.5)).run()
        assert line["loss"] == pytest.approx(line["loss_item"] + 0.5 * line["loss_style"], abs=1e-4)

    def test_shapes_and_colours_learn_by_themselves_too(self, data, tmp_path):
        design = Design("small", "average", "linear", 8, 32, colour_dim=3)
        one = trainer(data, tmp_path, EmbedderRecipe(steps=2, shape_weight=0.3, colour_weight=0.5), design=design)
        batch = one._source(0)
        pixels = one._normalise(list(batch.views))
        with torch.no_grad():  # batch norm follows the batch, as in training
            parts = one._network.train().parts(pixels)
            shape = InfoNCE()(parts.shapes, Relations.of(torch.from_numpy(batch.styles)))
            colour = InfoNCE()(parts.colours, Relations.of(torch.from_numpy(batch.identities)))
        told = one.step(batch)
        assert told["loss_shape"] == pytest.approx(shape.item(), abs=1e-3)
        assert told["loss_colour"] == pytest.approx(colour.item(), abs=1e-3)
        wanted = told["loss_item"] + 0.3 * told["loss_shape"] + 0.5 * told["loss_colour"]
        assert told["loss"] == pytest.approx(wanted, abs=1e-4)

    @pytest.mark.parametrize("weight", ["shape_weight", "colour_weight"])
    def test_shapes_need_colours_beside_them(self, data, tmp_path, weight):
        with pytest.raises(ValueError, match="colour_dim"):
            trainer(data, tmp_path, EmbedderRecipe(steps=1, **{weight: 0.3}))

    def test_refuses_a_state_of_another_run(self, data, tmp_path):
        list(trainer(data, tmp_path, EmbedderRecipe(steps=1)).run())
        with pytest.raises(WeightsError, match="remove it"):
            trainer(data, tmp_path, EmbedderRecipe(steps=1), design=Design("small", "average", "linear", 4, 16))

    def test_a_loss_that_is_not_finite_ends_training(self, data, tmp_path):
        one = trainer(data, tmp_path, EmbedderRecipe(steps=1))
        with torch.no_grad():
            one._network.head.weight.fill_(float("nan"))
        with pytest.raises(TrainingError, match="lower the learning rate"):
            list(one.run())


class TestBatches:
    def test_each_domain_has_its_view(self, data):
        def black(image, side, rng, scenery):
            return np.zeros((side, side, 3), np.uint8)

        sampler = SamplerPlan("triplets", batch_size=12, anchor_domain="street").build(data)
        batch = Batches(data, sampler, {"": VIEWS["plain"], "street": black}, 16)(0)
        assert batch.views.any(axis=(1, 2, 3)).tolist() == [False, True, True] * 4
        relations = batch.relations()
        assert relations.positive.sum() == relations.negative.sum() == 4


class TestJudge:
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("pair_head", ["", "linear"])
    def test_every_metric_is_in_range(self, data, metric, pair_head):
        torch.manual_seed(0)
        design = Design("small", "average", "sigmoid" if pair_head else "linear", 8, 16, pair_head)
        value = Validator(data, metric)(SiameseNetwork(design).train())
        assert value is not None
        assert 0 <= value <= 1

    def test_a_collapse_is_no_number(self, data):
        network = SiameseNetwork(DESIGN)
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.fill_(1.0)
        assert Validator(data)(network) is None

    def test_a_pair_head_of_one_chance_is_a_collapse(self, data):
        network = SiameseNetwork(Design("small", "average", "linear", 8, 16, "linear"))
        assert Validator(data)(network) is not None
        with torch.no_grad():
            network.pair_head.layers.weight.zero_()
        assert Validator(data)(network) is None

    def test_across_domains_queries_are_of_one_and_the_gallery_of_the_other(self, data):
        judge = Validator(data, "recall@1", "street")
        vectors = np.eye(24, dtype=np.float32)
        found = judge.retrieve(lambda one, other: vectors[one] @ vectors[other].T, data.item_ids)
        assert data.in_domain("street")[found.queries].all()
        assert len(found.queries) == 12

    def test_refuses_a_metric_that_is_not_there(self, data):
        with pytest.raises(ValueError, match="no metric is called"):
            Validator(data, "accuracy")
