"""Features of any torchvision classifier."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from embed_cases import random_images, settled

import weights
from stages.embed.features import FeaturesEmbedder
from stages.embed.inputs import IMAGENET_MEAN, IMAGENET_STD, Normalise
from stages.errors import WeightsError
from stages.testing import check_embedder


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

    def test_features_are_the_input_of_the_last_layer(self, tmp_path):
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

    def test_a_failed_download_asks_for_a_file(self, monkeypatch):
        def unreachable(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr(weights, "read_torchvision", unreachable)
        with pytest.raises(WeightsError, match="safetensors"):
            FeaturesEmbedder("resnet18")
