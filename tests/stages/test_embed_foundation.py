"""Embedders of torchvision, open_clip and timm: small networks with random weights, without a download."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from embed_cases import random_images, settled
from PIL import Image
from safetensors.torch import save_file

import weights
from pipeline.config import Config, build_embedder, is_external
from stages.embed.features import FeaturesEmbedder
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD, Normalise
from stages.errors import StageError, WeightsError
from stages.testing import check_embedder, check_text_embedder


def saved(architecture, folder, **options):
    torch.manual_seed(0)
    network = settled(torchvision.models.get_model(architecture, weights=None, **options), side=96)
    path = folder / f"{architecture}.safetensors"
    weights.save(path, network.state_dict(), {})
    network.load_state_dict(weights.read(path).tensors)
    return network.eval(), path


class TestTorchvision:
    def test_features_are_the_input_of_the_last_layer(self, tmp_path):
        network, path = saved("shufflenet_v2_x0_5", tmp_path)
        images = [cv2.resize(image, (224, 224)) for image in random_images(2)]
        with torch.no_grad():
            features = torch.nn.Sequential(*list(network.children())[:-1])(
                Normalise(IMAGENET_MEAN, IMAGENET_STD)(images)
            )
        expected = F.normalize(features.mean(dim=(2, 3))).numpy()
        embedder = FeaturesEmbedder("shufflenet_v2_x0_5", path)
        np.testing.assert_allclose(embedder(images), expected, atol=1e-5)
        check_embedder(embedder, random_images(3))

    @pytest.mark.parametrize(
        ("architecture", "dim", "options"),
        [("squeezenet1_1", 512, {}), ("googlenet", 1024, {"init_weights": False}), ("mobilenet_v3_small", 1024, {})],
    )
    def test_the_features_of_each_family_make_an_embedder(self, tmp_path, architecture, dim, options):
        embedder = FeaturesEmbedder(architecture, saved(architecture, tmp_path, **options)[1])
        assert embedder.dim == dim
        assert embedder(random_images(1)).shape == (1, dim)
        assert embedder.fingerprint.startswith(f"features-{architecture}-")

    def test_unknown_names_and_other_weights_are_refused(self, tmp_path, monkeypatch):
        with pytest.raises(ValueError, match="mobilenet_v2"):
            FeaturesEmbedder("mobilnet_v2", tmp_path / "none")
        with pytest.raises(WeightsError, match="does not fit"):
            FeaturesEmbedder("mobilenet_v2", saved("squeezenet1_1", tmp_path)[1])

        def unreachable(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(weights, "read_torchvision", unreachable)
        with pytest.raises(WeightsError, match="safetensors"):
            FeaturesEmbedder("resnet18")


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory):
    open_clip = pytest.importorskip("open_clip", reason="needs the extra clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    (folder / "wider-clip.json").write_text(json.dumps(TINY | {"embed_dim": 32}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-clip").state_dict(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def test_an_open_clip_model_embeds_images_and_texts_in_one_space(clip_weights):
    embedder = build_embedder(Config(embedder="open_clip:tiny-clip", embedder_weights=clip_weights))

    check_embedder(embedder)
    check_text_embedder(embedder)
    assert (embedder.dim, embedder.input_px) == (16, 32)
    assert embedder.fingerprint.startswith("open_clip-tiny-clip-")


def test_an_invalid_open_clip_model_is_refused_with_alternatives(clip_weights):
    with pytest.raises(ValueError, match="no model 'vit-huge-typo'"):
        build_embedder(Config(embedder="open_clip:vit-huge-typo/laion"))
    with pytest.raises(ValueError, match="open_clip:ViT-B-32/PRETRAINED, of openai"):
        build_embedder(Config(embedder="open_clip:ViT-B-32"))
    with pytest.raises(WeightsError, match=r"tiny\.safetensors does not fit wider-clip"):
        build_embedder(Config(embedder="open_clip:wider-clip", embedder_weights=clip_weights))


def test_a_timm_model_embeds_with_its_preprocessing(tmp_path):
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    embedder = build_embedder(Config(embedder="timm:test_resnet", embedder_weights=tmp_path / "tiny.safetensors"))

    check_embedder(embedder)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    image = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    expected = network.eval()(prepare(Image.fromarray(image))[None]).detach().numpy()[0]
    assert embedder([image])[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)
    with pytest.raises(ValueError, match="timm has no model 'resnet-typo'"):
        build_embedder(Config(embedder="timm:resnet-typo"))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StageError, match=r"outfinder\[timm\]"):
        build_embedder(Config(embedder="timm:test_resnet"))


def test_a_gallery_may_name_a_model_of_these_libraries_because_it_is_no_code():
    assert is_external("timm:resnet50"), "it may be downloaded, which a gallery must not decide"
    assert is_external("my.module:Embedder")
