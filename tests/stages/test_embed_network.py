"""The Siamese network: its parts by name, its checkpoints, and the embedder that they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from embed_cases import random_images, settled

import weights
from stages.embed.layers import HEADS, PAIR_HEADS, UNIT, GeM, backbone_tensors, build_backbone
from stages.embed.network import Design, SiameseNetwork, read_network
from stages.embed.siamese import PairVerifier, SiameseEmbedder
from stages.embed.training import start_from
from stages.errors import WeightsError
from stages.testing import check_embedder

SMALL = Design("small", "average", "linear", 16, 32)


def saved(design: Design, path, side: int | None = None) -> weights.Checkpoint:
    torch.manual_seed(0)
    network = settled(SiameseNetwork(design), side or design.input_px)
    weights.save(path, network.state_dict(), design.metadata())
    return weights.read(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> weights.Checkpoint:
    return saved(Design(dim=16, input_px=64), tmp_path_factory.mktemp("weights") / "random.safetensors")


def with_metadata(checkpoint: weights.Checkpoint, **changed: str) -> weights.Checkpoint:
    return weights.Checkpoint(checkpoint.name, checkpoint.tensors, checkpoint.metadata | changed, checkpoint.sha256)


class TestSiameseEmbedder:
    def test_obeys_the_law(self, checkpoint):
        check_embedder(SiameseEmbedder(checkpoint, batch_size=2))

    def test_vectors_do_not_depend_on_the_batch(self, checkpoint):
        images = random_images(7)
        embedder = SiameseEmbedder(checkpoint)
        together = embedder(images)
        assert (together[:-1] * together[1:]).sum(axis=1).max() < 0.99
        in_twos = SiameseEmbedder(checkpoint, batch_size=2)(images)
        alone = np.concatenate([embedder([image]) for image in images])
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
            ({"architecture": "siamese-resnet81"}, "no backbone is called"),
            ({"dim": "32"}, "does not fit"),
            ({"dim": "many"}, "describes itself wrongly"),
            ({"input_px": "0"}, "at least 1"),
            ({"pooling": "median"}, "no pooling is called 'median'"),
            ({"mean": "0.5"}, "3 channels"),
        ],
    )
    def test_refuses_other_checkpoints(self, checkpoint, changed, message):
        with pytest.raises(WeightsError, match=message):
            SiameseEmbedder(with_metadata(checkpoint, **changed))

    def test_refuses_an_impossible_batch_size(self, checkpoint):
        with pytest.raises(ValueError, match="batch_size"):
            SiameseEmbedder(checkpoint, batch_size=0)


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

    @pytest.mark.parametrize(
        ("design", "width"),
        [
            (Design("koch", "flatten", "sigmoid", 8, 105), 256 * 6 * 6),
            (Design("small", "average", "linear", 8, 64), 512),
            (Design("mobilenet_v3_small", "gem", "elu", 8, 64), 576),
            (Design("shufflenet_v2_x0_5", "average", "linear", 8, 64), 1024),
        ],
    )
    def test_every_family_ends_in_a_map_of_features(self, design, width):
        torch.manual_seed(0)
        network = SiameseNetwork(design).eval()
        head = network.head if design.head == "linear" else network.head[0]
        assert head.in_features == width
        with torch.no_grad():
            vectors = network(torch.randn(2, 3, design.input_px, design.input_px))
        assert vectors.shape == (2, 8)
        assert vectors.dtype == torch.float32
        lengths = vectors.norm(dim=1)
        assert torch.allclose(lengths, torch.ones(2)) == (design.head in UNIT)

    def test_a_map_is_what_the_classifier_pools(self):
        """Of each family, the features averaged are what the classifier's own layers see."""
        for name in ("densenet121", "shufflenet_v2_x0_5", "squeezenet1_1"):
            torch.manual_seed(0)
            classifier = torchvision.models.get_model(name, weights=None).eval()
            body = build_backbone(name).eval()
            body.load_state_dict(backbone_tensors(name, classifier.state_dict()))
            seen = []
            last = (
                classifier.classifier
                if name == "squeezenet1_1"
                else (getattr(classifier, "fc", None) or classifier.classifier)
            )
            last.register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.append(inputs[0]))
            with torch.no_grad():
                images = torch.randn(2, 3, 64, 64)
                features = body(images)
                classifier(images)
            wanted = seen[0].mean(dim=(2, 3)) if seen[0].ndim == 4 else seen[0]
            torch.testing.assert_close(features.mean(dim=(2, 3)), wanted, msg=name)

    @pytest.mark.parametrize(
        ("name", "side", "shape"),
        [
            ("vgg16", 224, (512, 7, 7)),
            ("mobilenet_v2", 224, (1280, 7, 7)),
            ("mobilenet_v3_large", 224, (960, 7, 7)),
            ("resnet50", 224, (2048, 7, 7)),
            ("inception_v3", 299, (2048, 8, 8)),
        ],
    )
    def test_the_classics_end_as_large_as_they_are_known_to(self, name, side, shape):
        with torch.device("meta"):  # shapes alone
            assert build_backbone(name).eval()(torch.zeros(1, 3, side, side)).shape[1:] == shape

    def test_koch_sees_grey(self):
        network = build_backbone("koch")
        images = torch.rand(1, 3, 105, 105)
        torch.testing.assert_close(network(images), network(images[:, [2, 0, 1]]))
        assert network(images).shape == (1, 256, 6, 6)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"backbone": "mobilnet_v2"}, "mobilenet_v2"),
            ({"pooling": "median"}, "no pooling"),
            ({"head": "tail"}, "no head"),
            ({"pair_head": "tail"}, "no pair head"),
            ({"dim": 0}, "at least 1"),
        ],
    )
    def test_unknown_parts_of_a_design_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            Design(**changes)

    def test_an_input_that_is_too_small_is_refused(self):
        with pytest.raises(ValueError, match="koch cannot take 40 px"):
            SiameseNetwork(Design("koch", "flatten", "sigmoid", 8, 40))

    def test_a_checkpoint_without_newer_fields_has_their_defaults(self, tmp_path):
        """It named no pooling, head or pair head: GeM and linear."""
        design = Design("small", dim=8, input_px=64)
        about = {name: design.metadata()[name] for name in ("architecture", "dim", "input_px", "mean", "std")}
        weights.save(tmp_path / "old.safetensors", SiameseNetwork(design).state_dict(), about)
        assert read_network(weights.read(tmp_path / "old.safetensors")).design == design


class TestPairHeads:
    def test_sigmoids_keep_what_bfloat16_would_round_away(self):
        torch.manual_seed(0)
        head = HEADS["sigmoid"](4, 1000)
        with torch.autocast("cpu", torch.bfloat16):
            found = head(torch.randn(1, 4))
        assert found.dtype == torch.float32
        assert len(found.unique()) > 2 * len(found.bfloat16().unique())

    @pytest.mark.parametrize("name", PAIR_HEADS)
    def test_is_symmetric_and_looks_at_the_difference_alone(self, name):
        torch.manual_seed(0)
        head = PAIR_HEADS[name](6)
        left, right = torch.randn(4, 6), torch.randn(4, 6)
        torch.testing.assert_close(head(left, right), head(right, left))
        torch.testing.assert_close(head(left, right), head(left + 1, right + 1), atol=1e-5, rtol=1e-5)
        assert head(left, right).shape == (4,)

    def test_verifier_is_the_head_on_every_pair(self, tmp_path):
        design = Design("small", "average", "sigmoid", 6, 32, "relu")
        verifier = PairVerifier(saved(design, tmp_path / "pair.safetensors"))
        images = random_images(20)
        features = verifier.features(images)
        chances = verifier.similarities(features[:18], features)
        network = read_network(weights.read(tmp_path / "pair.safetensors"))
        for i, j in ((0, 0), (3, 7), (17, 19)):
            logit = network.pair_head(torch.from_numpy(features[[i]]), torch.from_numpy(features[[j]]))
            assert chances[i, j] == pytest.approx(logit.sigmoid().item(), abs=1e-6)
        assert chances.dtype == np.float32
        assert ((chances >= 0) & (chances <= 1)).all()

    def test_a_network_without_one_has_no_verifier(self, tmp_path):
        with pytest.raises(WeightsError, match="no pair head"):
            PairVerifier(saved(SMALL, tmp_path / "plain.safetensors"))


class TestStart:
    def test_a_classifier_gives_its_features(self, tmp_path):
        for name in ("mobilenet_v2", "resnet18"):
            torch.manual_seed(1)
            classifier = torchvision.models.get_model(name, weights=None, num_classes=7)
            weights.save(tmp_path / "classifier.safetensors", classifier.state_dict(), {})
            network = SiameseNetwork(Design(name, dim=8, input_px=64))
            fresh = start_from(network, str(tmp_path / "classifier.safetensors"))
            assert {part.split(".")[0] for part in fresh} == {"pool", "head"}
            key = "features.0.0.weight" if name == "mobilenet_v2" else "conv1.weight"
            mine = key if name == "mobilenet_v2" else f"features.{key}"
            torch.testing.assert_close(network.state_dict()[mine], classifier.state_dict()[key], atol=2e-3, rtol=1e-2)

    def test_a_checkpoint_gives_all_that_fits(self, tmp_path):
        weights.save(tmp_path / "own.safetensors", SiameseNetwork(SMALL).state_dict(), SMALL.metadata())
        assert start_from(SiameseNetwork(SMALL), str(tmp_path / "own.safetensors")) == []
        wider = SiameseNetwork(Design("small", "average", "linear", 32, 32))
        assert start_from(wider, str(tmp_path / "own.safetensors")) == ["head.bias", "head.weight"]

    def test_starts_that_do_not_fit_are_refused(self, tmp_path):
        network = SiameseNetwork(SMALL)
        with pytest.raises(ValueError, match="cannot start from 'nowhere'"):
            start_from(network, "nowhere")
        with pytest.raises(ValueError, match="no ImageNet weights for small"):
            start_from(network, "imagenet")
        weights.save(tmp_path / "other.safetensors", {"strange": torch.randn(3)}, {})
        with pytest.raises(WeightsError, match="nothing in"):
            start_from(SiameseNetwork(Design("resnet18", input_px=64)), str(tmp_path / "other.safetensors"))
