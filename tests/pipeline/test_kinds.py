"""Kinds of garments in the composition: catalogue photos, rankings and notices."""

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


def test_a_shoe_that_the_detector_takes_for_a_hat_is_taken_whole():
    hat = Detection("hat", 0.9, Box(10, 10, 90, 70))

    assert fitting_garment([hat], PHOTO, kinds_of(shoes=0.95)) is PHOTO


def test_of_a_worn_shirt_and_the_jeans_below_the_one_that_the_photo_sells_is_chosen():
    shirt, jeans = Detection("top", 0.9, Box(20, 20, 80, 60)), Detection("pants", 0.95, Box(25, 55, 75, 100))

    assert fitting_garment([shirt, jeans], PHOTO, kinds_of(top=0.9)) is shirt
    assert fitting_garment([shirt, jeans], PHOTO, kinds_of(pants=0.9)) is jeans


def test_a_top_that_the_detector_takes_for_a_dress_keeps_its_box():
    dress = Detection("dress", 0.9, Box(20, 10, 80, 90))

    assert fitting_garment([dress], PHOTO, kinds_of(top=0.9)) is dress


def test_an_embedder_that_is_sure_overrules_the_detector_and_a_doubtful_one_does_not():
    _, sure = settle(PART, vectors_of(shoes=0.97), ["hat"], trust=0.6)
    _, doubtful = settle(PART, vectors_of(shoes=0.2, hat=0.15), ["hat"], trust=0.8)

    assert (sure, doubtful) == (["shoes"], ["hat"])


def test_what_is_probably_none_of_the_kinds_keeps_the_detectors_label():
    _, labels = settle(PART, vectors_of(other=0.99), [WHOLE], trust=0.8)

    assert labels == [WHOLE]


def test_a_photo_without_garments_has_nothing_to_settle():
    vectors, labels = settle(PART, np.empty((0, 24), np.float32), [], trust=0.8)

    assert vectors.shape == (0, 24)
    assert labels == []


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
def test_the_catalogues_own_word_for_a_kind_is_found_in_its_columns(metadata, column, kind):
    assert named_kind(metadata, column) == kind


def test_the_catalogues_own_kind_beats_the_guess():
    vectors = with_named_kind(PART, vectors_of(hat=0.95), "shoes")

    assert KINDS[PART.kinds(vectors).argmax()] == "shoes"


def test_a_shop_without_a_kind_is_said_to_have_none_unless_kinds_are_unknown():
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
    """Takes dark images for shoes and bright ones for hats."""

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


def test_a_catalogue_photo_gets_the_kind_of_the_whole_and_a_garment_of_the_street_its_own(photos):
    catalogue = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes(), main_garment=True)
    street = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes())

    dark, bright = catalogue(photos)
    queried, _ = street(photos)

    assert [(found.label, found.box) for found in dark.detections] == [("shoes", Box(0, 0, 64, 64))]
    assert [(found.label, found.box) for found in bright.detections] == [("hat", Box(8, 8, 56, 40))]
    assert [(found.label, found.box) for found in queried.detections] == [("shoes", Box(8, 8, 56, 40))]


def test_a_garment_of_a_kind_that_the_gallery_lacks_gets_a_notice_and_matches_of_any_kind_on_request(photos, tmp_path):
    pipeline = Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes(), main_garment=True)
    gallery = Gallery.create(tmp_path / "shop", pipeline.embedder, pipeline.cropper)
    Indexing(gallery, pipeline, "hats", kinds=PART)([CatalogueEntry(photos[1], "fedora")])
    batch = list(Pipeline(HatsEverywhere(), BoxCrop(), KnowsShoes())(photos))

    dark, bright = search_batch(gallery, batch, 3, kinds=PART)
    any_kind, _ = search_batch(gallery, batch, 3, kinds=PART, any_kind=True)

    assert (dark.garments[0].notice, dark.garments[0].matches) == ("this shop has no shoes", ())
    assert [match.item for match in bright.garments[0].matches] == ["fedora"]
    assert [match.item for match in any_kind.garments[0].matches] == ["fedora"]


def test_a_photo_is_embedded_again_when_the_catalogue_changes_its_kind(photos, tmp_path):
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
