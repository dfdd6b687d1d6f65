"""Kinds of garments: catalogue photos, rankings and notices."""

import numpy as np
import PIL.Image
import pytest

from pipeline.catalogue import CatalogueEntry, Indexing
from pipeline.gallery import Gallery
from pipeline.kinds import fitting_garment, missing_kind, named_kind, settle, with_named_kind
from pipeline.pipeline import Pipeline
from pipeline.search import search_batch
from stages.crop import BoxCrop
from stages.detect import WholeDetector
from stages.embed.attributes import KINDS, AttributePart
from stages.types import WHOLE, Box, Detection

PART = AttributePart(24, {"type": ("jeans", "t-shirt", "boots", "other")}, {"kind": 0.2, "type": 0.1}, {"type": 0.5})
PHOTO = Detection(WHOLE, 1.0, Box(0, 0, 100, 100))


def kinds_of(**probabilities: float) -> np.ndarray:
    kinds = np.full(len(KINDS), 0.01, np.float32)
    for name, probability in probabilities.items():
        kinds[KINDS.index(name)] = probability
    return kinds / kinds.sum()


def vectors_of(**probabilities: float) -> np.ndarray:
    looks = np.zeros((1, PART.dim), np.float32)
    looks[:, 0] = 0.7**0.5
    return PART.with_kinds(looks, kinds_of(**probabilities)[None])


HAT = Detection("hat", 0.9, Box(10, 10, 90, 70))
SHIRT, JEANS = Detection("top", 0.9, Box(20, 20, 80, 60)), Detection("pants", 0.95, Box(25, 55, 75, 100))
DRESS = Detection("dress", 0.9, Box(20, 10, 80, 90))


@pytest.mark.parametrize(
    ("detections", "kind", "chosen"),
    [
        pytest.param([HAT], "shoes", PHOTO, id="a shoe detected as a hat is taken whole"),
        pytest.param([SHIRT, JEANS], "top", SHIRT, id="the shirt rather than the jeans below it"),
        pytest.param([SHIRT, JEANS], "pants", JEANS, id="the jeans rather than the shirt above them"),
        pytest.param([DRESS], "top", DRESS, id="a top detected as a dress keeps its box"),
    ],
)
def test_the_garment_that_a_catalogue_photo_offers_is_chosen(detections, kind, chosen):
    assert fitting_garment(detections, PHOTO, kinds_of(**{kind: 0.9})) is chosen


@pytest.mark.parametrize(
    ("kinds", "label", "trust", "settled"),
    [
        pytest.param({"shoes": 0.97}, "hat", 0.6, "shoes", id="a certain embedder overrules the detector"),
        pytest.param({"shoes": 0.2, "hat": 0.15}, "hat", 0.8, "hat", id="an uncertain embedder does not"),
        pytest.param({"other": 0.99}, WHOLE, 0.8, WHOLE, id="none of the kinds keeps the detector's label"),
    ],
)
def test_detector_and_embedder_settle_on_a_label(kinds, label, trust, settled):
    assert settle(PART, vectors_of(**kinds), [label], trust)[1] == [settled]


def test_without_garments_there_is_nothing_to_settle():
    vectors, labels = settle(PART, np.empty((0, 24), np.float32), [], trust=0.8)

    assert (vectors.shape, labels) == ((0, 24), [])


@pytest.mark.parametrize(
    ("metadata", "column", "kind"),
    [
        ((("category", "Casual Shoes"), ("price", "20")), None, "shoes"),
        ((("Article Type", "Jeans"),), None, "pants"),
        ((("category", "New arrivals"), ("type", "Handbags")), None, "bag"),
        ((("category", "shoes"), ("sort", "hat")), "sort", "hat"),
        ((("price", "20"),), None, None),
    ],
)
def test_a_kind_is_found_in_the_columns_of_a_catalogue(metadata, column, kind):
    assert named_kind(metadata, column) == kind


def test_the_kind_of_a_catalogue_overrules_the_embedder():
    vectors = with_named_kind(PART, vectors_of(hat=0.95), "shoes")

    assert KINDS[PART.kinds(vectors).argmax()] == "shoes"


def test_a_missing_kind_is_told_unless_kinds_are_unknown():
    assert missing_kind(PART, {"top": 3}, "scarf") == "this shop has no scarves"
    assert missing_kind(PART, {"top": 3}, "top") == ""
    assert missing_kind(PART, {"top": 3}, WHOLE) == ""
    assert missing_kind(None, {"top": 3}, "scarf") == ""


class HatsEverywhere:
    labels = ("hat",)
    input_px = None

    def __call__(self, images):
        return [[Detection("hat", 0.9, Box(8, 8, 56, 40))] for _ in images]


class KnowsShoes:
    """Recognises dark images as shoes and bright ones as hats."""

    dim, input_px, fingerprint, attributes = PART.dim, 32, "knows-shoes", PART

    def __call__(self, images):
        vectors = [vectors_of(shoes=0.95) if image.mean() < 128 else vectors_of(hat=0.95) for image in images]
        return np.concatenate([np.empty((0, self.dim), np.float32), *vectors])


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / "dark.png", tmp_path / "bright.png"]
    for path, level in zip(paths, (40, 220), strict=True):
        PIL.Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(path)
    return paths


def test_a_catalogue_photo_has_the_kind_of_the_whole_photo_and_a_street_garment_that_of_its_crop(photos):
    catalogue = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes(), main_garment=True)
    street = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes())

    dark, bright = catalogue(photos)
    queried, _ = street(photos)

    assert [(found.label, found.box) for found in dark.detections] == [("shoes", Box(0, 0, 64, 64))]
    assert [(found.label, found.box) for found in bright.detections] == [("hat", Box(8, 8, 56, 40))]
    assert [(found.label, found.box) for found in queried.detections] == [("shoes", Box(8, 8, 56, 40))]


def test_a_kind_that_the_gallery_lacks_gets_a_notice_or_matches_of_any_kind(photos, tmp_path):
    pipeline = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes(), main_garment=True)
    gallery = Gallery.create(tmp_path / "shop", pipeline.embedder, pipeline.cropper)
    Indexing(gallery, pipeline, "hats", kinds=PART)([CatalogueEntry(photos[1], "fedora")])
    batch = list(Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes())(photos))

    dark, bright = search_batch(gallery, batch, 3, kinds=PART)
    any_kind, _ = search_batch(gallery, batch, 3, kinds=PART, any_kind=True)

    assert (dark.garments[0].notice, dark.garments[0].matches) == ("this shop has no shoes", ())
    assert [match.item for match in bright.garments[0].matches] == ["fedora"]
    assert [match.item for match in any_kind.garments[0].matches] == ["fedora"]


def test_a_photo_is_embedded_again_if_the_catalogue_changes_its_kind(photos, tmp_path):
    pipeline = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes(), main_garment=True)
    gallery = Gallery.create(tmp_path / "shop", pipeline.embedder, pipeline.cropper)

    def index(category):
        photo = CatalogueEntry(photos[1], "thing", (("category", category),))
        return Indexing(gallery, pipeline, "hats", kinds=PART)([photo])

    index("Scarves")
    assert gallery.labels == {"scarf": 1}
    assert index("Scarves").unchanged == 1
    assert index("Belts").replaced == 1
    assert gallery.labels == {"belt": 1}


def test_a_catalogue_photo_that_is_taken_whole_is_its_own_best_match(photos, tmp_path):
    catalogue, queried = (
        Pipeline(WholeDetector(), BoxCrop(), KnowsShoes(), main_garment=of_shop) for of_shop in (True, False)
    )
    gallery = Gallery.create(tmp_path / "shop", catalogue.embedder, catalogue.cropper)
    Indexing(gallery, catalogue, "whole", kinds=PART)([CatalogueEntry(photos[0], "boot")])

    dark, _ = search_batch(gallery, list(queried(photos)), 3, kinds=PART)

    assert dark.garments[0].matches[0].similarity == pytest.approx(1, abs=1e-4)
