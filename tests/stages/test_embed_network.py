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


def saved(design: Design, path) -> weights.Checkpoint:
    torch.manual_seed(0)
    network = settled(SiameseNetwork(design), design.input_px)
    weights.save(path, network.state_dict(), design.metadata())
    return weights.read(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> weights.Checkpoint:
    return saved(Design(dim=16, input_px=64), tmp_path_factory.mktemp("weights") / "random.safetensors")


class TestSiameseEmbedder:
    def test_an_embedder_obeys_the_rules_and_describes_itself(self, checkpoint):
        embedder = SiameseEmbedder(checkpoint, batch_size=2)
        check_embedder(embedder)
        assert (embedder.dim, embedder.input_px) == (16, 64)
        assert embedder.fingerprint == f"siamese-mobilenet_v2-{checkpoint.sha256[:12]}-64px"
        with pytest.raises(ValueError, match="batch_size"):
            SiameseEmbedder(checkpoint, batch_size=0)

    def test_vectors_do_not_depend_on_the_batch(self, checkpoint):
        images, embedder = random_images(7), SiameseEmbedder(checkpoint)
        together = embedder(images)
        assert (together[:-1] * together[1:]).sum(axis=1).max() < 0.99
        in_twos = SiameseEmbedder(checkpoint, batch_size=2)(images)
        alone = np.concatenate([embedder([image]) for image in images])
        for other in (in_twos, alone):
            assert ((together * other).sum(axis=1) > 0.9999).all()

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"architecture": "resnet18"}, "SiameseEmbedder needs"),
            ({"architecture": "siamese-resnet81"}, "no backbone is called"),
            ({"dim": "32"}, "does not fit"),
            ({"dim": "many"}, "invalid metadata"),
            ({"input_px": "0"}, "at least 1"),
            ({"pooling": "median"}, "no pooling is called 'median'"),
            ({"mean": "0.5"}, "3 channels"),
        ],
    )
    def test_a_checkpoint_with_other_metadata_is_refused(self, checkpoint, changed, message):
        metadata = checkpoint.metadata | changed
        with pytest.raises(WeightsError, match=message):
            SiameseEmbedder(weights.Checkpoint(checkpoint.name, checkpoint.tensors, metadata, checkpoint.sha256))


class TestNetwork:
    def test_gem_is_the_generalised_mean_in_float32_with_a_learned_power(self):
        features = torch.rand(2, 3, 4, 5)
        expected = [[(sum(float(x) ** 3 for x in c.flatten()) / 20) ** (1 / 3) for c in image] for image in features]
        torch.testing.assert_close(GeM()(features), torch.tensor(expected))
        torch.testing.assert_close(GeM(p=1.0)(features), features.mean(dim=(2, 3)))
        gem = GeM()
        with torch.autocast("cpu", torch.bfloat16):
            pooled = gem(torch.full((1, 2, 3, 3), 200.0, dtype=torch.bfloat16))
        assert pooled.dtype == torch.float32
        assert pooled.tolist() == [[pytest.approx(200, rel=1e-4)] * 2]
        gem(features).sum().backward()
        assert gem.p.grad != 0

    @pytest.mark.parametrize(
        ("design", "width"),
        [
            (Design("koch", "flatten", "sigmoid", 8, 105), 256 * 6 * 6),
            (Design("koch_half", "flatten", "sigmoid", 8, 53), 256 * 3 * 3),
            (Design("small", "average", "linear", 8, 64), 512),
            (Design("mobilenet_v3_small", "gem", "elu", 8, 64), 576),
            (Design("shufflenet_v2_x0_5", "average", "linear", 8, 64), 1024),
        ],
    )
    def test_every_family_of_backbones_makes_vectors(self, design, width):
        torch.manual_seed(0)
        network = SiameseNetwork(design).eval()
        head = network.head if design.head == "linear" else network.head[0]
        assert head.in_features == width
        with torch.no_grad():
            vectors = network(torch.randn(2, 3, design.input_px, design.input_px))
        assert (vectors.shape, vectors.dtype) == ((2, 8), torch.float32)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(2)) == (design.head in UNIT)

    @pytest.mark.parametrize("name", ["densenet121", "shufflenet_v2_x0_5", "squeezenet1_1"])
    def test_a_feature_map_is_what_the_classifier_pools(self, name):
        torch.manual_seed(0)
        classifier = torchvision.models.get_model(name, weights=None).eval()
        body = build_backbone(name).eval()
        body.load_state_dict(backbone_tensors(name, classifier.state_dict()))
        seen = []
        last = classifier.fc if name.startswith("shuffle") else classifier.classifier
        last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            images = torch.randn(2, 3, 64, 64)
            features = body(images)
            classifier(images)
        expected = seen[0].mean(dim=(2, 3)) if seen[0].ndim == 4 else seen[0]
        torch.testing.assert_close(features.mean(dim=(2, 3)), expected)

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
    def test_feature_maps_have_their_known_shapes(self, name, side, shape):
        with torch.device("meta"):  # shapes alone
            assert build_backbone(name).eval()(torch.zeros(1, 3, side, side)).shape[1:] == shape

    def test_koch_sees_grey(self):
        network, images = build_backbone("koch").eval(), torch.rand(1, 3, 105, 105)
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

    def test_fields_that_an_older_checkpoint_lacks_have_their_defaults(self, tmp_path):
        design = Design("small", dim=8, input_px=64)
        about = {name: design.metadata()[name] for name in ("architecture", "dim", "input_px", "mean", "std")}
        weights.save(tmp_path / "old.safetensors", SiameseNetwork(design).state_dict(), about)
        assert read_network(weights.read(tmp_path / "old.safetensors")).design == design


class TestPairHeads:
    def test_sigmoids_keep_what_bfloat16_would_round_away(self):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found = HEADS["sigmoid"](4, 1000)(torch.randn(1, 4))
        assert found.dtype == torch.float32
        assert len(found.unique()) > 2 * len(found.bfloat16().unique())

    @pytest.mark.parametrize("name", PAIR_HEADS)
    def test_a_pair_head_is_symmetric_and_depends_on_the_difference_alone(self, name):
        torch.manual_seed(0)
        head, left, right = PAIR_HEADS[name](6), torch.randn(4, 6), torch.randn(4, 6)
        torch.testing.assert_close(head(left, right), head(right, left))
        torch.testing.assert_close(head(left, right), head(left + 1, right + 1), atol=1e-5, rtol=1e-5)
        assert head(left, right).shape == (4,)

    def test_a_verifier_applies_the_head_to_every_pair(self, tmp_path):
        checkpoint = saved(Design("small", "average", "sigmoid", 6, 32, "relu"), tmp_path / "pair.safetensors")
        verifier, head = PairVerifier(checkpoint), read_network(checkpoint).pair_head
        features = verifier.features(random_images(20))
        probabilities = verifier.similarities(features[:18], features)
        left, right = torch.from_numpy(features[:18, None]), torch.from_numpy(features[None])
        np.testing.assert_allclose(probabilities, head(left, right).sigmoid().detach().numpy(), atol=1e-6)
        assert probabilities.dtype == np.float32
        with pytest.raises(WeightsError, match="no pair head"):
            PairVerifier(saved(SMALL, tmp_path / "plain.safetensors"))


class TestStart:
    @pytest.mark.parametrize(
        ("name", "key", "copied"),
        [
            ("mobilenet_v2", "features.0.0.weight", "features.0.0.weight"),
            ("resnet18", "conv1.weight", "features.conv1.weight"),
        ],
    )
    def test_a_classifier_gives_its_features(self, tmp_path, name, key, copied):
        classifier = torchvision.models.get_model(name, weights=None, num_classes=7)
        weights.save(tmp_path / "classifier.safetensors", classifier.state_dict(), {})
        network = SiameseNetwork(Design(name, dim=8, input_px=64))
        random = start_from(network, str(tmp_path / "classifier.safetensors"))
        assert {part.split(".")[0] for part in random} == {"pool", "head"}
        torch.testing.assert_close(network.state_dict()[copied], classifier.state_dict()[key], atol=2e-3, rtol=1e-2)

    def test_a_checkpoint_gives_all_that_fits(self, tmp_path):
        weights.save(tmp_path / "own.safetensors", SiameseNetwork(SMALL).state_dict(), SMALL.metadata())
        assert start_from(SiameseNetwork(SMALL), str(tmp_path / "own.safetensors")) == []
        wider = SiameseNetwork(Design("small", "average", "linear", 32, 32))
        assert start_from(wider, str(tmp_path / "own.safetensors")) == ["head.bias", "head.weight"]

    def test_starts_that_do_not_fit_are_refused(self, tmp_path):
        weights.save(tmp_path / "other.safetensors", {"strange": torch.randn(3)}, {})
        for start, error, message in (
            ("nowhere", ValueError, "cannot start from 'nowhere'"),
            ("imagenet", ValueError, "no ImageNet weights for small"),
            (str(tmp_path / "other.safetensors"), ValueError, "no torchvision classifier has the backbone small"),
        ):
            with pytest.raises(error, match=message):
                start_from(SiameseNetwork(SMALL), start)
        with pytest.raises(WeightsError, match="nothing in"):
            start_from(SiameseNetwork(Design("resnet18", input_px=64)), str(tmp_path / "other.safetensors"))
