"""Embedders of open_clip and timm: tiny networks of the same classes, with random weights and without a download."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.config import Config, build_embedder, is_external
from stages.errors import StageError, WeightsError
from stages.testing import check_embedder, check_text_embedder

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
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-clip").state_dict(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def test_a_model_of_open_clip_embeds_images_and_texts_in_one_space(clip_weights):
    embedder = build_embedder(Config(embedder="open_clip:tiny-clip", embedder_weights=clip_weights))

    check_embedder(embedder)
    check_text_embedder(embedder)
    assert (embedder.dim, embedder.input_px) == (16, 32)
    assert embedder.fingerprint.startswith("open_clip-tiny-clip-")


def test_open_clip_says_what_to_name_instead(clip_weights):
    with pytest.raises(ValueError, match="no model 'vit-huge-typo'"):
        build_embedder(Config(embedder="open_clip:vit-huge-typo/laion"))
    with pytest.raises(ValueError, match="open_clip:ViT-B-32/PRETRAINED, of openai"):
        build_embedder(Config(embedder="open_clip:ViT-B-32"))
    with pytest.raises(WeightsError, match=r"tiny\.safetensors does not fit RN50"):
        build_embedder(Config(embedder="open_clip:RN50", embedder_weights=clip_weights))


def test_a_model_of_timm_embeds_by_its_own_preprocessing(tmp_path):
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")

    embedder = build_embedder(Config(embedder="timm:test_resnet", embedder_weights=tmp_path / "tiny.safetensors"))

    check_embedder(embedder)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
    expected = network.eval()(prepare(Image.fromarray(image))[None]).detach().numpy()[0]
    assert embedder([image])[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)
    with pytest.raises(ValueError, match="timm has no model 'resnet-typo'"):
        build_embedder(Config(embedder="timm:resnet-typo"))


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StageError, match=r"outfinder\[timm\]"):
        build_embedder(Config(embedder="timm:test_resnet"))


def test_a_gallery_may_name_a_model_of_these_libraries_since_that_is_no_code():
    assert not is_external("timm:resnet50")
    assert is_external("my.module:Embedder")
