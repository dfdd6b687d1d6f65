"""Colours in a vector: the histogram, its attention to the garment, and its share beside the shape."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from embed_cases import random_images, settled, shop_photo

import weights
from stages.embed.colour import BINS, RANGES, SIDE, Colours, oklab
from stages.embed.inputs import Normalise
from stages.embed.network import Design, SiameseNetwork
from stages.embed.siamese import SiameseEmbedder
from stages.embed.training import design_of, fit_colours
from stages.errors import WeightsError
from stages.testing import check_embedder

DESIGN = Design("small", "average", "linear", 24, 64, colour_dim=8, colour_share=0.4)
NORMALISE = Normalise(*DESIGN.stats)


def colours(dim: int = 8) -> Colours:
    torch.manual_seed(0)
    return Colours(4, dim, *DESIGN.stats)


def plain(*rgb: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), rgb, np.uint8)


def roots(*images: np.ndarray, shares: torch.Tensor | None = None) -> torch.Tensor:
    return colours().roots(NORMALISE(images), torch.ones(len(images), SIDE, SIDE) if shares is None else shares)


class TestHistogram:
    def test_a_histogram_is_the_naive_loop_over_pixels(self):
        small = cv2.resize(random_images(1)[0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        lab = oklab(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)[0].flatten(1).T.tolist()
        expected = np.zeros(BINS)
        for pixel in lab[::7]:
            axes = []
            for value, count, (low, high) in zip(pixel, BINS, RANGES, strict=True):
                step = (high - low) / (count - 1)
                near = [math.exp(-(((value - low - place * step) / (step / 2)) ** 2) / 2) for place in range(count)]
                axes.append(np.array(near) / sum(near))
            expected += np.einsum("i,j,k->ijk", *axes) / len(lab[::7])
        every_seventh = torch.zeros(SIDE * SIDE)
        every_seventh[::7] = 1
        found = roots(small, shares=every_seventh.view(1, SIDE, SIDE))[0]
        assert np.allclose(found**2 - 1e-5, expected.flatten(), atol=1e-5)

    def test_shares_add_up_and_the_corners_of_srgb_have_different_bins(self):
        corners = roots(*(plain(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)))
        assert torch.allclose((corners**2 - 1e-5).sum(dim=1), torch.ones(8), atol=1e-3)
        assert (corners @ corners.T).fill_diagonal_(0).max() < 0.2

    def test_colours_are_the_same_at_any_size(self):
        photo = cv2.resize(random_images(1)[0], (64, 64), interpolation=cv2.INTER_AREA)
        small, whole, odd = (roots(cv2.resize(photo, (side, side)))[0] for side in (56, 224, 250))
        assert min(small @ whole, whole @ odd) > 0.99 * (whole @ whole)

    def test_only_cells_with_a_weight_count(self):
        half = plain(200, 30, 30)
        half[:, SIDE // 2 :] = (30, 30, 200)
        left = torch.zeros(1, SIDE, SIDE)
        left[..., : SIDE // 2] = 1
        assert torch.allclose(roots(half, shares=left), roots(plain(200, 30, 30)), atol=1e-3)
        assert roots(half, shares=torch.zeros(1, SIDE, SIDE)).isfinite().all(), "without a garment"

    def test_principal_components_keep_the_variance(self):
        rng = np.random.default_rng(0)
        one, batch = colours(dim=24), NORMALISE([plain(*rng.integers(0, 256, 3)) for _ in range(40)])
        histograms = one.roots(batch, torch.ones(40, SIDE, SIDE))
        before = one.project(histograms).var(dim=0).sum()
        one.fit([batch])
        whole = histograms.var(dim=0).sum()
        assert before < 0.5 * whole
        assert one.project(histograms).var(dim=0).sum() > 0.8 * whole


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return settled(SiameseNetwork(DESIGN), DESIGN.input_px).eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "coloured.safetensors"
    weights.save(path, network.state_dict(), DESIGN.metadata())
    assert design_of(str(path)) == DESIGN
    return weights.read(path)


class TestNetworkWithColours:
    @torch.no_grad()
    def test_similarity_is_that_of_shapes_and_colours_by_their_shares(self, network):
        pixels = NORMALISE([image[:48, :48] for image in random_images(6)])
        parts, vectors = network.parts(pixels), network(pixels)
        assert (parts.shapes.shape, parts.colours.shape) == ((6, 16), (6, 8))
        expected = 0.6 * parts.shapes @ parts.shapes.T + 0.4 * parts.colours @ parts.colours.T
        assert torch.allclose(vectors @ vectors.T, expected, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = network.parts(pixels)
        assert half.colours.dtype == torch.float32
        assert (half.colours * parts.colours).sum(dim=1).min() > 0.999

    def test_its_embedder_obeys_the_rules_and_knows_the_design(self, checkpoint):
        check_embedder(SiameseEmbedder(checkpoint))
        assert Design.of(checkpoint) == DESIGN
        assert design_of("scratch") is None

    def test_fitted_colours_tell_dyed_photos_apart(self):
        network = SiameseNetwork(DESIGN).eval()
        dyes = [(200, 40, 40), (40, 160, 60), (40, 60, 180), (230, 210, 40)]
        photos = [shop_photo(dye, seed=seed) for dye in dyes for seed in range(8)]
        views = [cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA) for photo in photos]
        fit_colours(network, [views])
        with torch.no_grad():
            found = network.parts(NORMALISE(views)).colours
        nearest = (found @ found.T).fill_diagonal_(-1).argmax(dim=1) // 8
        assert nearest.tolist() == np.repeat(np.arange(4), 8).tolist()

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"colour_dim": 24}, "less than dim"),
            ({"colour_dim": -1}, "less than dim"),
            ({"dim": 4000, "colour_dim": 1353}, "at most 1352"),
            ({"colour_share": 0.0}, "between 0 and 1"),
            ({"colour_share": math.nan}, "between 0 and 1"),
            ({"head": "sigmoid"}, "unit length"),
        ],
    )
    def test_impossible_colour_settings_are_refused(self, changed, message):
        given = {"backbone": "small", "head": "linear", "dim": 24, "input_px": 64, "colour_dim": 8} | changed
        with pytest.raises(ValueError, match=message):
            Design(**given)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            *(({"colour_dim": value}, "invalid metadata") for value in ("x", "-1", "65535")),
            *(({"colour_dim": value}, "does not fit") for value in ("0", "7")),
            *(({"colour_share": value}, "invalid metadata") for value in ("nan", "0")),
            ({"mean": "0.4 0.4 0.4"}, "mean and std"),
        ],
    )
    def test_a_checkpoint_that_describes_other_colours_is_refused(self, checkpoint, changed, message):
        metadata = checkpoint.metadata | changed
        with pytest.raises(WeightsError, match=message):
            SiameseEmbedder(weights.Checkpoint(checkpoint.name, checkpoint.tensors, metadata, checkpoint.sha256))

    def test_a_backbone_without_a_feature_map_is_refused(self):
        with torch.device("meta"), pytest.raises(ValueError, match="no feature map"):
            SiameseNetwork(Design("vit_b_32", dim=24, input_px=224, colour_dim=8))
