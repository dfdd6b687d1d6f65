"""The embedders obey the law; losses, pooling and recall agree with naive loops; training resumes exactly."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from pycocotools import mask as coco_mask

import weights
from stages.embed.augment import Tint, garment_colour, view, white_ground
from stages.embed.data import Item, luma_split, percentile_of, read_clothing, read_garments, read_luma, read_shoes
from stages.embed.evaluate import recall_at
from stages.embed.features import FeaturesEmbedder
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD, Normalise
from stages.embed.losses import identity_loss, style_loss
from stages.embed.network import ARCHITECTURE, GeM, SiameseNetwork
from stages.embed.samplers import MixedSampler
from stages.embed.siamese import SiameseEmbedder
from stages.embed.train import Recipe, train
from stages.errors import CatalogueError, WeightsError
from stages.testing import check_embedder

METADATA = {
    "architecture": ARCHITECTURE,
    "input_px": "64",
    "dim": "16",
    "mean": " ".join(map(str, IMAGENET_MEAN)),
    "std": " ".join(map(str, IMAGENET_STD)),
    "crop": "whole",
    "data": "none",
    "licence": "none",
}


def random_images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 5, 4, 3), np.uint8)
    return [cv2.resize(block, (60, 80), interpolation=cv2.INTER_NEAREST) for block in blocks]


def settled(network: torch.nn.Module, side: int) -> torch.nn.Module:
    """A random network whose batch norm knows the spread of its inputs: its outputs differ from image to image."""
    images = [cv2.resize(image, (side, side)) for image in random_images(8, seed=1)]
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(Normalise(IMAGENET_MEAN, IMAGENET_STD)(images))
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> weights.Checkpoint:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    weights.save(path, settled(SiameseNetwork(16), side=64).state_dict(), METADATA)
    return weights.read(path)


def with_metadata(checkpoint: weights.Checkpoint, **changed: str) -> weights.Checkpoint:
    return weights.Checkpoint(checkpoint.name, checkpoint.tensors, checkpoint.metadata | changed, checkpoint.sha256)


class TestSiameseEmbedder:
    def test_obeys_the_law(self, checkpoint):
        check_embedder(SiameseEmbedder(checkpoint, batch_size=2))

    def test_vectors_do_not_depend_on_the_batch(self, checkpoint):
        images = random_images(7)
        together = SiameseEmbedder(checkpoint)(images)
        assert (together[:-1] * together[1:]).sum(axis=1).max() < 0.99
        in_twos = SiameseEmbedder(checkpoint, batch_size=2)(images)
        alone = np.concatenate([SiameseEmbedder(checkpoint)([image]) for image in images])
        assert ((together * in_twos).sum(axis=1) > 0.9999).all()
        assert ((together * alone).sum(axis=1) > 0.9999).all()

    def test_is_described_by_its_checkpoint(self, checkpoint):
        embedder = SiameseEmbedder(checkpoint)
        assert (embedder.dim, embedder.input_px) == (16, 64)
        assert embedder.fingerprint == f"siamese-mobilenet_v2-{checkpoint.sha256[:12]}-64px"

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"architecture": "resnet18"}, "SiameseEmbedder needs"),
            ({"dim": "32"}, "does not fit"),
            ({"dim": "many"}, "no number"),
            ({"input_px": "0"}, "above 0"),
            ({"mean": "0.5"}, "3 channels"),
        ],
    )
    def test_refuses_other_checkpoints(self, checkpoint, changed, message):
        with pytest.raises(WeightsError, match=message):
            SiameseEmbedder(with_metadata(checkpoint, **changed))

    def test_refuses_a_checkpoint_that_says_nothing(self, checkpoint):
        with pytest.raises(WeightsError, match="architecture"):
            SiameseEmbedder(weights.Checkpoint("plain", checkpoint.tensors, {}, "0" * 64))

    def test_refuses_an_impossible_batch_size(self, checkpoint):
        with pytest.raises(ValueError, match="batch_size"):
            SiameseEmbedder(checkpoint, batch_size=0)


class TestFeaturesEmbedder:
    def saved(self, architecture: str, folder: Path, **options: bool) -> tuple[torch.nn.Module, Path]:
        torch.manual_seed(0)
        network = settled(torchvision.models.get_model(architecture, weights=None, **options), side=96)
        path = folder / f"{architecture}.safetensors"
        weights.save(path, network.state_dict(), {})
        network.load_state_dict(weights.read(path).tensors)
        return network.eval(), path

    def test_obeys_the_law(self, tmp_path):
        _, path = self.saved("mobilenet_v2", tmp_path)
        embedder = FeaturesEmbedder("mobilenet_v2", path)
        assert embedder.dim == 1280
        check_embedder(embedder, random_images(3))

    def test_are_what_the_last_layer_sees(self, tmp_path):
        network, path = self.saved("resnet18", tmp_path)
        images = [cv2.resize(image, (224, 224)) for image in random_images(2)]
        with torch.no_grad():
            pooled = torch.nn.Sequential(*list(network.children())[:-1])(Normalise(IMAGENET_MEAN, IMAGENET_STD)(images))
        wanted = F.normalize(pooled.flatten(1)).numpy()
        np.testing.assert_allclose(FeaturesEmbedder("resnet18", path)(images), wanted, atol=1e-5)

    @pytest.mark.parametrize(
        ("architecture", "dim", "options"),
        [("squeezenet1_1", 512, {}), ("googlenet", 1024, {"init_weights": False}), ("mobilenet_v3_small", 1024, {})],
    )
    def test_finds_the_dim_of_each_family(self, tmp_path, architecture, dim, options):
        _, path = self.saved(architecture, tmp_path, **options)
        embedder = FeaturesEmbedder(architecture, path)
        assert embedder.dim == dim
        assert embedder(random_images(1)).shape == (1, dim)
        assert embedder.fingerprint.startswith(f"features-{architecture}-")

    def test_refuses_unknown_names_and_other_weights(self, tmp_path):
        with pytest.raises(ValueError, match="mobilenet_v2"):
            FeaturesEmbedder("mobilnet_v2", tmp_path / "none")
        _, path = self.saved("squeezenet1_1", tmp_path)
        with pytest.raises(WeightsError, match="does not fit"):
            FeaturesEmbedder("mobilenet_v2", path)

    def test_says_what_to_do_without_a_network(self, monkeypatch):
        def unreachable(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(torchvision.models, "get_model", unreachable)
        with pytest.raises(WeightsError, match="safetensors"):
            FeaturesEmbedder("resnet18")


class TestNetwork:
    def test_gem_is_the_generalised_mean(self):
        features = torch.rand(2, 3, 4, 5)
        wanted = [[(sum(float(x) ** 3 for x in c.flatten()) / 20) ** (1 / 3) for c in image] for image in features]
        torch.testing.assert_close(GeM()(features), torch.tensor(wanted))
        torch.testing.assert_close(GeM(p=1.0)(features), features.mean(dim=(2, 3)))

    def test_gem_stays_in_float32_and_learns_its_power(self):
        gem = GeM()
        with torch.autocast("cpu", torch.bfloat16):
            pooled = gem(torch.full((1, 2, 3, 3), 200.0, dtype=torch.bfloat16))
        assert pooled.dtype == torch.float32
        assert pooled.tolist() == [[pytest.approx(200, rel=1e-4)] * 2]
        gem(torch.rand(1, 2, 3, 3)).sum().backward()
        assert gem.p.grad is not None
        assert gem.p.grad != 0

    def test_takes_the_backbone_of_a_classifier(self):
        classifier = torchvision.models.mobilenet_v2(weights=None, num_classes=7)
        network = SiameseNetwork(8)
        network.load_backbone(classifier.state_dict())
        assert torch.equal(network.features[1].conv[0][0].weight, classifier.features[1].conv[0][0].weight)


class TestLosses:
    identities = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    styles = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])

    @staticmethod
    def naive(vectors, positive, negative, temperature):
        """One softmax for each anchor and positive, by the definition."""
        per_anchor = []
        count = len(vectors)
        for i in range(count):
            against = sum(math.exp(vectors[i] @ vectors[j] / temperature) for j in range(count) if negative(i, j))
            terms = [
                -math.log((own := math.exp(vectors[i] @ vectors[j] / temperature)) / (own + against))
                for j in range(count)
                if positive(i, j)
            ]
            if terms:
                per_anchor.append(sum(terms) / len(terms))
        return sum(per_anchor) / len(per_anchor)

    def test_identity_loss_is_the_naive_loop(self):
        vectors = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        ids = self.identities
        wanted = self.naive(
            vectors, lambda i, j: i != j and ids[i] == ids[j], lambda i, j: ids[i] != ids[j], temperature=0.07
        )
        assert identity_loss(vectors, ids).item() == pytest.approx(wanted)

    def test_style_loss_is_the_naive_loop(self):
        vectors = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        ids, styles = self.identities, self.styles
        wanted = self.naive(
            vectors,
            lambda i, j: styles[i] == styles[j] and ids[i] != ids[j],
            lambda i, j: styles[i] != styles[j],
            temperature=0.1,
        )
        assert style_loss(vectors, ids, styles, temperature=0.1).item() == pytest.approx(wanted)

    def test_positives_never_push_each_other_away(self):
        vectors = F.normalize(torch.randn(8, 5)).requires_grad_()
        identity_loss(vectors, torch.zeros(8, dtype=torch.int64)).backward()
        assert torch.equal(vectors.grad, torch.zeros_like(vectors))

    def test_no_pair_is_no_loss(self):
        vectors = F.normalize(torch.randn(4, 5)).requires_grad_()
        loss = identity_loss(vectors, torch.arange(4)) + style_loss(vectors, torch.arange(4), torch.arange(4))
        loss.backward()
        assert loss.item() == 0
        assert torch.isfinite(vectors.grad).all()

    def test_the_two_losses_agree_on_the_order(self):
        """Same item, then its other colours, then the rest: no vector arrangement of another order is better."""
        angles = {"ordered": [0.0, 0.1, 0.6, 0.7, 2.5, 2.6], "colours merged": [0.0, 0.3, 0.1, 0.4, 2.5, 2.6]}
        ids, styles = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
        losses = {}
        for name, angle in angles.items():
            vectors = torch.stack([torch.tensor(angle).cos(), torch.tensor(angle).sin()], dim=1)
            losses[name] = identity_loss(vectors, ids) + 0.5 * style_loss(vectors, ids, styles)
        assert losses["ordered"] < losses["colours merged"]


def shop_photo(colour: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A garment of one colour and a hand of another on a white ground."""
    photo = np.full((90, 60, 3), 255, np.uint8)
    photo[15:75, 10:50] = colour
    photo[60:75, 40:50] = (222, 180, 150)
    noise = np.random.default_rng(seed).integers(0, 4, (60, 40, 3), np.uint8)
    photo[15:75, 10:50] -= np.minimum(noise, photo[15:75, 10:50])
    return photo


class TestAugment:
    def test_views_are_drawn_from_the_generator(self):
        photo, scenery = shop_photo((40, 60, 160)), random_images(1)[0]
        before = photo.copy()
        first, again, other = (view(photo, 64, np.random.default_rng(seed), scenery) for seed in (3, 3, 4))
        assert first.shape == (64, 64, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert np.array_equal(photo, before)

    def test_views_keep_the_colour(self):
        photo = shop_photo((40, 60, 160))
        colours = [garment_colour(view(photo, 64, np.random.default_rng(seed))) for seed in range(40)]
        a, b = np.median([colour[1:] for colour in colours], axis=0)
        assert math.dist((a, b), garment_colour(photo)[1:]) < 12

    def test_white_ground_is_what_the_border_reaches(self):
        photo = shop_photo((40, 60, 160))
        photo[40:45, 25:30] = 255
        ground = white_ground(photo)
        assert ground[0, 0]
        assert not ground[42, 27]
        assert ground.sum() == 90 * 60 - 60 * 40

    def test_a_tint_moves_the_garment_alone(self):
        photo = shop_photo((40, 60, 160))
        tint = Tint.draw(photo, np.random.default_rng(0))
        moved = tint.apply(photo)
        assert math.dist(garment_colour(moved), tint.target) < 20
        assert math.dist(garment_colour(moved), garment_colour(photo)) > 20
        assert (moved[:10] == 255).all()
        hand = moved[66, 45].astype(int) - photo[66, 45]
        assert abs(hand).max() < 12


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Six styles of three colours, four photographers of three pairs, eight photos, eight garments."""
    rng = np.random.default_rng(0)

    def photos(count):
        return tuple(shop_photo(tuple(rng.integers(0, 200, 3).tolist()), seed=count) for _ in range(count))

    luma = [
        Item("luma", f"luma/{s}", c, "", photos(2 if c == "red" else 1)) for s in range(6) for c in ("red", "b", "c")
    ]
    shoes = [Item("shoes", f"shoes/{p}_{k}", "", str(p), photos(2)) for p in range(4) for k in range(3)]
    clothing = [Item("clothing", f"clothing/{k}", "", "", photos(1)) for k in range(8)]
    garments = [Item("garments", f"garments/{k}", "", "", photos(2)) for k in range(8)]
    return [*luma, *shoes, *clothing, *garments]


class TestMixedSampler:
    def test_every_identity_has_positives_and_one_style(self, items):
        sampler = MixedSampler(items, side=32)
        for step in range(12):
            shots = sampler.shots(step)
            assert set(Counter(shot.identity for shot in shots).values()) == {2}
            assert {shot.item.kind for shot in shots} == {"luma", "shoes", "clothing", "garments"}
        batch = sampler(0)
        styles = defaultdict(set)
        for identity, style in zip(batch.identities.tolist(), batch.styles.tolist(), strict=True):
            styles[identity].add(style)
        assert all(len(of_one) == 1 for of_one in styles.values())
        assert batch.views.shape == (len(batch.styles), 32, 32, 3)

    def test_a_batch_holds_all_colours_of_a_style(self, items):
        colours = defaultdict(set)
        for shot in MixedSampler(items, side=32, quota={"luma": 2}).shots(0):
            if shot.tint is None:
                colours[shot.item.style].add(shot.item.colour)
        assert len(colours) == 2
        assert all(found == {"red", "b", "c"} for found in colours.values())

    def test_a_photographer_brings_several_pairs(self, items):
        shots = MixedSampler(items, side=32, quota={"shoes": 2}).shots(0)
        pairs = Counter(shot.item.source for shot in shots)
        assert len(pairs) == 2
        assert all(count == 6 for count in pairs.values())

    def test_two_photos_of_an_item_come_before_one_twice(self, items):
        shots = MixedSampler(items, side=32).shots(1)
        for first, second in zip(shots[::2], shots[1::2], strict=True):
            assert first.item is second.item
            assert (first.photo != second.photo) == (len(first.item.photos) > 1)

    def test_an_epoch_shows_each_group_once(self, items):
        sampler = MixedSampler(items, side=32, quota={"clothing": 2})
        seen = Counter(name for step in range(4) for name in {shot.item.style for shot in sampler.shots(step)})
        assert len(seen) == 8
        assert set(seen.values()) == {1}

    def test_a_batch_depends_on_seed_and_step_alone(self, items):
        sampler, other = MixedSampler(items, side=32, seed=5), MixedSampler(items, side=32, seed=5)
        sampler(0)
        assert np.array_equal(sampler(1).views, other(1).views)
        assert len(MixedSampler(items, side=32, seed=6).shots(1)) > 0
        assert not np.array_equal(sampler(1).views[:4], MixedSampler(items, side=32, seed=6)(1).views[:4])

    def test_refuses_nothing(self):
        with pytest.raises(ValueError, match="needs items"):
            MixedSampler([], side=32)


class TestTraining:
    recipe = Recipe(steps=4, steps_per_epoch=2, frozen_blocks=0, bfloat16=False)

    @staticmethod
    def network(seed: int) -> SiameseNetwork:
        torch.manual_seed(seed)
        return settled(SiameseNetwork(8), side=32)

    def test_resuming_is_not_seen_in_the_result(self, items, tmp_path):
        batches = MixedSampler(items, side=32, quota={"luma": 1})
        whole = train(self.network(0), batches, self.recipe, tmp_path / "whole")

        def killed(step):
            if step == 2:
                raise KeyboardInterrupt
            return batches(step)

        with pytest.raises(KeyboardInterrupt):
            train(self.network(0), killed, self.recipe, tmp_path / "killed")
        lines = []
        resumed = train(self.network(1), batches, self.recipe, tmp_path / "killed", lines.append)
        assert [line["step"] for line in lines] == [4]
        assert len((tmp_path / "killed" / "log.jsonl").read_text().splitlines()) == 2
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
        again = train(self.network(2), batches, self.recipe, tmp_path / "whole")
        torch.testing.assert_close(again.head.weight, whole.head.weight)

    def test_learns_and_leaves_what_is_frozen(self, items, tmp_path):
        recipe = Recipe(steps=6, steps_per_epoch=1, frozen_blocks=2, bfloat16=False, ema=0.0, warmup=0.0)
        batch = MixedSampler(items, side=32, quota={"luma": 2})(0)
        network = self.network(0)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        lines = []
        train(network, lambda _: batch, recipe, tmp_path, lines.append)
        assert lines[-1]["identity_loss"] < lines[0]["identity_loss"]
        after = network.state_dict()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert not any(name.startswith(("features.0.", "features.1.")) for name in changed)
        assert not any("running" in name for name in changed)
        assert {"head.weight", "pool.p", "features.18.0.weight"} <= changed

    def test_refuses_a_state_of_another_run(self, items, tmp_path):
        train(self.network(0), MixedSampler(items, 32, quota={"luma": 1}), Recipe(1, bfloat16=False), tmp_path)
        with pytest.raises(WeightsError, match="remove it"):
            train(SiameseNetwork(4), MixedSampler(items, 32, quota={"luma": 1}), Recipe(2), tmp_path)


class TestEvaluate:
    def test_recall_is_the_naive_loop(self):
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(30, 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = rng.integers(0, 12, 30)
        for k, recall in recall_at(vectors, labels, ranks=(1, 3)).items():
            hits = []
            for i in range(30):
                others = [j for j in range(30) if j != i]
                if any(labels[j] == labels[i] for j in others):
                    nearest = sorted(others, key=lambda j: -vectors[i] @ vectors[j])[:k]
                    hits.append(any(labels[j] == labels[i] for j in nearest))
            assert recall == pytest.approx(sum(hits) / len(hits))

    def test_refuses_a_set_without_pairs(self):
        with pytest.raises(ValueError, match="twice"):
            recall_at(np.eye(3, dtype=np.float32), np.arange(3))


class TestData:
    @staticmethod
    def write(folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            assert cv2.imwrite(str(folder / name), shop_photo((120, 30, 30)))

    def test_luma_items_are_sku_and_colour_and_splits_share_no_sku(self, tmp_path):
        skus = [f"mh{number:02}" for number in range(30)]
        names = [f"{sku}-{end}.jpg" for sku in skus for end in ("red_main", "red_back", "blue-0")]
        self.write(tmp_path, *names, "luma-yoga-strap-set.jpg", "lt01.jpg", "gift-card-virtual-custom.jpg")
        by_split = {split: read_luma(tmp_path, [split]) for split in ("train", "val", "test")}
        of = {split: {item.style for item in items} for split, items in by_split.items()}
        assert set.union(*of.values()) == {f"luma/{sku}" for sku in skus}
        assert sum(map(len, of.values())) == 30
        assert of["test"] == {f"luma/{sku}" for sku in skus if percentile_of(sku) < 40}
        assert {len(item.photos) for item in by_split["train"] if item.colour == "red"} == {2}
        assert {item.colour for item in by_split["train"]} == {"red", "blue"}

    def test_the_test_split_is_the_agreed_one(self):
        assert [luma_split(sku) for sku in ("mh01", "MH01", "wt09", "wp01")] == ["test", "test", "val", "train"]

    def test_shoes_are_pairs_of_a_photographer(self, tmp_path):
        self.write(
            tmp_path, *(f"u00{p}_{k}_{side}_m.jpg" for p in range(3) for k in (1, 2) for side in ("left", "right"))
        )
        pairs = read_shoes(tmp_path)
        assert [item.style for item in pairs] == [f"shoes/u00{p}_{k}" for p in range(3) for k in (1, 2)]
        assert {len(item.photos) for item in pairs} == {2}
        assert [item.source for item in pairs] == ["u000", "u000", "u001", "u001", "u002", "u002"]
        held, kept = read_shoes(tmp_path, ["val"]), read_shoes(tmp_path, ["train"])
        assert not {item.source for item in held} & {item.source for item in kept}

    def test_clothing_is_split_by_its_id(self, tmp_path):
        ids = [f"photo{number}" for number in range(40)]
        self.write(tmp_path / "images", *(f"{name}.jpg" for name in ids))
        rows = [f"{name},7,Shirt,False" for name in [*ids, "absent"]]
        (tmp_path / "images.csv").write_text("\n".join(["image,sender_id,label,kids", *rows]))
        wanted = {f"clothing/{name}" for name in ids if 10 <= percentile_of(name) < 20}
        assert {item.style for item in read_clothing(tmp_path, ["val"])} == wanted
        assert len(read_clothing(tmp_path)) == sum(percentile_of(name) >= 20 for name in ids)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
    def test_garments_are_cut_by_box_and_by_mask(self, tmp_path):
        self.write(tmp_path, "1.jpg")
        masks = {label: np.zeros((90, 60), np.uint8) for label in ("top", "left", "right")}
        masks["top"][20:50, 10:40] = 1
        masks["top"][20, 10] = 0
        masks["left"][60:85, 2:28] = 1
        masks["right"][60:85, 30:58] = 1
        rles = {label: coco_mask.encode(np.asfortranarray(mask)) for label, mask in masks.items()}
        coco = {
            "images": [{"id": 1, "file_name": "1.jpg"}],
            "categories": [{"id": 2, "name": "top"}, {"id": 7, "name": "shoes"}],
            "annotations": [
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": 2 if label == "top" else 7,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "segmentation": rle | {"counts": rle["counts"].decode()},
                }
                for number, (label, rle) in enumerate(rles.items())
            ],
        }
        (tmp_path / "coco.json").write_text(json.dumps(coco))
        top, shoes = read_garments(tmp_path / "coco.json", tmp_path)
        box, on_white = top.photos
        assert box.shape == on_white.shape == (34, 34, 3)
        assert (on_white[:2] == 255).all()
        assert np.array_equal(on_white[10:20, 10:20], box[10:20, 10:20])
        assert len(shoes.photos) == 4

    def test_says_what_is_no_set(self, tmp_path):
        with pytest.raises(CatalogueError, match="jpg"):
            read_luma(tmp_path, ["train"])
        with pytest.raises(CatalogueError, match=r"images\.csv"):
            read_clothing(tmp_path)
        (tmp_path / "coco.json").write_text("[]")
        with pytest.raises(CatalogueError, match="COCO"):
            read_garments(tmp_path / "coco.json", tmp_path)
