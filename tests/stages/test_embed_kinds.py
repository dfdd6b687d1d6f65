"""Kinds and types as a part of vectors."""

import numpy as np
import pytest
import torch

from stages.embed.kinds import KINDS, KindAwareEmbedder, KindPart, believed
from stages.embed.network import Design, SiameseNetwork
from stages.labels import TYPES, kind_of, type_of
from stages.testing import check_embedder
from stages.types import LABELS

TYPE_NAMES = ("jeans", "t-shirt", "boots", "other")
PART = KindPart(24, TYPE_NAMES, 0.2, 0.1)


def vectors_with(types: list[list[float]]) -> np.ndarray:
    probabilities = np.array(types, np.float32)
    kinds = probabilities @ PART.kind_of_type
    looks = np.zeros((len(types), PART.dim - PART.width), np.float32)
    looks[:, 0] = 0.7**0.5
    return np.hstack([looks, np.sqrt(0.2 * kinds), np.sqrt(0.1 * probabilities)])


def test_probabilities_are_read_back_from_vectors():
    vectors = vectors_with([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])

    kinds = PART.kinds(vectors)

    assert kinds.sum(axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert kinds[0, KINDS.index("pants")] == pytest.approx(0.5, abs=1e-3)
    assert kinds[1, KINDS.index("other")] == pytest.approx(1, abs=1e-3)
    assert PART.type_probabilities(vectors)[0] == pytest.approx([0.5, 0.25, 0.25, 0], abs=1e-3)


def test_other_kinds_change_the_types_with_them_and_keep_unit_length():
    vectors = vectors_with([[0.5, 0.25, 0.25, 0.0]])
    shoes = np.full((1, len(KINDS)), 0.001, np.float32)
    shoes[0, KINDS.index("shoes")] = 1

    moved = PART.with_kinds(vectors, shoes / shoes.sum())

    assert np.linalg.norm(moved, axis=1) == pytest.approx([1], abs=1e-5)
    assert KINDS[PART.kinds(moved).argmax()] == "shoes"
    assert TYPE_NAMES[PART.type_probabilities(moved).argmax()] == "boots"


def test_without_kinds_a_query_tells_kinds_no_longer_apart():
    vectors = vectors_with([[1, 0, 0, 0], [0, 0, 1, 0]])

    (query,), scale = PART.queries(vectors[:1], any_kind=True)

    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-6)
    assert scale * query @ vectors[0] == pytest.approx(1, abs=1e-5)
    assert query @ vectors[0] == pytest.approx(query @ vectors[1])


def test_a_label_that_is_no_kind_changes_no_belief():
    kinds = np.random.default_rng(0).dirichlet(np.ones(len(KINDS)), 2).astype(np.float32)

    assert believed(kinds, ["whole", "somebody's own label"], trust=0.8) == pytest.approx(kinds, abs=1e-4)
    assert believed(kinds, ["hat", "hat"], trust=0.99)[:, KINDS.index("hat")].min() > kinds[:, KINDS.index("hat")].max()


def test_a_network_with_types_gives_unit_vectors_that_hold_its_own_probabilities():
    torch.manual_seed(0)
    design = Design(dim=48, input_px=64, colour_dim=8, types=TYPE_NAMES, kind_share=0.2, type_share=0.1)
    network = SiameseNetwork(design).eval()
    images = torch.rand(3, 3, 64, 64)

    with torch.inference_mode():
        vectors, parts = network(images).numpy(), network.parts(images)

    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert design.kind_part is not None
    assert parts.types is not None
    assert design.kind_part.type_probabilities(vectors) == pytest.approx(parts.types.softmax(dim=1).numpy(), abs=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": ("sofa",), "kind_share": 0.1},
        {"kind_share": 0.1},
        {"types": TYPE_NAMES, "kind_share": 0.6, "type_share": 0.4},
        {"types": TYPE_NAMES, "dim": 18},
    ],
    ids=["unknown type", "share without types", "shares leave nothing", "no room"],
)
def test_a_design_with_impossible_types_is_refused(wrong):
    with pytest.raises(ValueError, match=r"type|dim"):
        Design(**wrong)


def test_every_type_is_found_by_its_names_and_has_a_kind_that_detectors_give():
    for article_type in TYPES:
        for name in (article_type.name, *article_type.aliases):
            assert type_of(name.upper()) == article_type.name
            assert kind_of(name) in {*LABELS, "other"}


class Looks:
    dim, input_px, fingerprint = 4, 16, "looks"

    def __call__(self, images):
        rows = np.array([[image.mean(), 1, 2, 3] for image in images], np.float32).reshape(-1, 4)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)


class TakesAllForJeans:
    dim, input_px, fingerprint, kinds = PART.dim, 32, "jeans", PART

    def __call__(self, images):
        return np.repeat(vectors_with([[0.97, 0.01, 0.01, 0.01]]), len(images), axis=0)


def test_an_embedder_with_kinds_keeps_the_rules_of_embedders():
    check_embedder(KindAwareEmbedder(Looks(), TakesAllForJeans()))


def test_kinds_are_added_to_the_looks_of_any_embedder():
    images = [np.full((8, 8, 3), level, np.uint8) for level in (0, 200)]

    embedder = KindAwareEmbedder(Looks(), TakesAllForJeans())
    vectors = embedder(images)

    assert vectors.shape == (2, 4 + PART.width)
    assert [KINDS[place] for place in embedder.kinds.kinds(vectors).argmax(axis=1)] == ["pants", "pants"]
    assert embedder.kinds.queries(vectors, any_kind=True)[0][:, :4] == pytest.approx(Looks()(images), abs=1e-3)
    assert (embedder.input_px, embedder.fingerprint) == (32, "looks+jeans")


def test_emphasised_queries_prefer_an_item_of_their_kind_that_looks_less_alike():
    part = KindPart(24, TYPE_NAMES, 0.05, 0.05)
    looks = np.eye(2, 6, dtype=np.float32)
    probabilities = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
    jeans, boots = part.join(looks, probabilities @ part.kind_of_type, probabilities)
    like_boots = part.join(
        np.array([[0.6, 0.8, 0, 0, 0, 0]], np.float32), (probabilities @ part.kind_of_type)[:1], probabilities[:1]
    )

    plain, ((emphasised,), scale) = like_boots[0], part.queries(like_boots)

    assert plain @ boots > plain @ jeans
    assert emphasised @ jeans > emphasised @ boots
    assert np.linalg.norm(emphasised) == pytest.approx(1, abs=1e-5)
    assert scale * emphasised @ like_boots[0] == pytest.approx(1, abs=1e-5), "the very same garment"
    one, other = part.comparable(np.stack([like_boots[0], boots]))
    assert one @ other == pytest.approx(scale * emphasised @ boots, abs=1e-5), "compare and search agree"


def test_kinds_come_from_a_classifier_that_knows_them_and_are_added_once():
    with pytest.raises(ValueError, match="knows no kinds"):
        KindAwareEmbedder(Looks(), Looks())
    with pytest.raises(ValueError, match="hold kinds already"):
        KindAwareEmbedder(TakesAllForJeans(), TakesAllForJeans())
