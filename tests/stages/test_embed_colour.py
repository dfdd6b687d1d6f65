"""Colours in a vector: what a histogram holds, where it looks, and how it stands beside the shape."""

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
MEAN, STD = DESIGN.stats


def colours(dim: int = 8) -> Colours:
    torch.manual_seed(0)
    return Colours(4, dim, MEAN, STD)


def plain(*rgb: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), rgb, np.uint8)


def roots(*images: np.ndarray, shares: torch.Tensor | None = None) -> torch.Tensor:
    everywhere = torch.ones(len(images), SIDE, SIDE)
    return colours().roots(Normalise(MEAN, STD)(images), everywhere if shares is None else shares)


class TestColours:
    def test_a_histogram_is_that_of_a_loop_over_pixels(self):
        image = random_images(1)[0]
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        lab = oklab(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)[0].flatten(1).T.tolist()
        held = np.zeros(BINS)
        for pixel in lab[::7]:
            axes = []
            for value, count, (low, high) in zip(pixel, BINS, RANGES, strict=True):
                step = (high - low) / (count - 1)
                near = [math.exp(-(((value - low - place * step) / (step / 2)) ** 2) / 2) for place in range(count)]
                axes.append(np.array(near) / sum(near))
            held += np.einsum("i,j,k->ijk", *axes)
        held /= len(lab[::7])
        every_seventh = torch.zeros(SIDE * SIDE)
        every_seventh[::7] = 1
        found = roots(small, shares=every_seventh.view(1, SIDE, SIDE))[0]
        assert np.allclose(found**2 - 1e-5, held.flatten(), atol=1e-5)

    def test_shares_add_up_and_every_srgb_colour_has_a_bin(self):
        corners = [plain(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
        held = roots(*corners) ** 2 - 1e-5
        assert torch.allclose(held.sum(dim=1), torch.ones(8), atol=1e-3)
        similar = roots(*corners) @ roots(*corners).T
        assert similar.fill_diagonal_(0).max() < 0.2

    def test_colours_are_the_same_at_any_size(self):
        photo = cv2.resize(random_images(1)[0], (64, 64), interpolation=cv2.INTER_AREA)
        small, whole, odd = (cv2.resize(photo, (side, side), interpolation=cv2.INTER_LINEAR) for side in (56, 224, 250))
        held = [roots(image)[0] for image in (small, whole, odd)]
        assert min(held[0] @ held[1], held[1] @ held[2]) > 0.99 * (held[1] @ held[1])

    def test_only_cells_with_a_share_count(self):
        half = plain(200, 30, 30)
        half[:, SIDE // 2 :] = (30, 30, 200)
        left = torch.zeros(1, SIDE, SIDE)
        left[..., : SIDE // 2] = 1
        assert torch.allclose(roots(half, shares=left), roots(plain(200, 30, 30)), atol=1e-3)

    def test_an_empty_garment_has_finite_colours(self):
        assert roots(plain(10, 20, 30), shares=torch.zeros(1, SIDE, SIDE)).isfinite().all()

    def test_components_keep_what_differs(self):
        rng = np.random.default_rng(0)
        shades = [plain(*rng.integers(0, 256, 3)) for _ in range(40)]
        one, batch = colours(dim=24), Normalise(MEAN, STD)(shades)
        everywhere = torch.ones(len(shades), SIDE, SIDE)

        def spread() -> float:
            return one.project(one.roots(batch, everywhere)).var(dim=0).sum().item()

        before = spread()
        one.fit([batch])
        whole = one.roots(batch, everywhere).var(dim=0).sum().item()
        assert before < 0.5 * whole
        assert spread() > 0.8 * whole
        assert torch.allclose(one.project(one.roots(batch, everywhere)).mean(dim=0), torch.zeros(24), atol=1e-4)

    def test_refuses_too_few_images_for_its_components(self):
        with pytest.raises(ValueError, match="more than 8 photos"):
            colours().fit([Normalise(MEAN, STD)([plain(1, 2, 3)] * 8)])


@pytest.fixture(scope="module")
def network() -> SiameseNetwork:
    torch.manual_seed(0)
    return settled(SiameseNetwork(DESIGN), DESIGN.input_px).eval()


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "coloured.safetensors"
    weights.save(path, network.state_dict(), DESIGN.metadata())
    return path


class TestNetworkWithColours:
    @torch.no_grad()
    def test_similarity_is_that_of_both_by_their_shares(self, network):
        pixels = Normalise(MEAN, STD)([image[:48, :48] for image in random_images(6)])
        parts, vectors = network.parts(pixels), network(pixels)
        assert parts.shapes.shape == (6, 16)
        assert parts.colours.shape == (6, 8)
        wanted = 0.6 * parts.shapes @ parts.shapes.T + 0.4 * parts.colours @ parts.colours.T
        assert torch.allclose(vectors @ vectors.T, wanted, atol=1e-5)

    def test_an_embedder_of_it_obeys_the_law_and_knows_it_from_its_file(self, path):
        embedder = SiameseEmbedder(weights.read(path))
        check_embedder(embedder)
        assert Design.of(weights.read(path)) == DESIGN
        assert design_of(str(path)) == DESIGN
        assert design_of("scratch") is None

    def test_colours_alone_tell_dyed_photos_apart(self):
        own = SiameseNetwork(DESIGN).eval()
        dyes = [(200, 40, 40), (40, 160, 60), (40, 60, 180), (230, 210, 40)]
        photos = [shop_photo(dye, seed=seed) for dye in dyes for seed in range(8)]
        views = np.stack([cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA) for photo in photos])

        fit_colours(own, [list(views)])
        with torch.no_grad():
            told = own.parts(Normalise(MEAN, STD)(list(views))).colours
        similar = (told @ told.T).fill_diagonal_(-1)
        nearest = similar.argmax(dim=1) // 8
        assert (nearest == torch.arange(4).repeat_interleave(8)).all()

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
            ({"colour_dim": "x"}, "describes itself wrongly"),
            ({"colour_dim": "-1"}, "describes itself wrongly"),
            ({"colour_dim": "65535"}, "describes itself wrongly"),
            ({"colour_dim": "0"}, "does not fit"),
            ({"colour_dim": "7"}, "does not fit"),
            ({"colour_share": "nan"}, "describes itself wrongly"),
            ({"colour_share": "0"}, "describes itself wrongly"),
            ({"mean": "0.4 0.4 0.4"}, "mean and std"),
        ],
    )
    def test_refuses_a_checkpoint_that_describes_other_colours(self, path, changed, message):
        read = weights.read(path)
        other = weights.Checkpoint(read.name, read.tensors, read.metadata | changed, read.sha256)
        with pytest.raises(WeightsError, match=message):
            SiameseEmbedder(other)

    @torch.no_grad()
    def test_colours_are_float32_whatever_the_rest_computes_in(self, network):
        pixels = Normalise(MEAN, STD)([image[:48, :48] for image in random_images(6)])
        with torch.autocast("cpu", torch.bfloat16):
            short = network.parts(pixels)
        assert short.colours.dtype == torch.float32
        assert (short.colours * network.parts(pixels).colours).sum(dim=1).min() > 0.999

    def test_refuses_a_backbone_without_a_map(self):
        with torch.device("meta"), pytest.raises(ValueError, match="no map of features"):
            SiameseNetwork(Design("vit_b_32", dim=24, input_px=224, colour_dim=8))
