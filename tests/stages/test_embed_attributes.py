"""Attributes as a part of vectors, and the classifier that gives them."""

import numpy as np
import pytest
import torch

import weights
from stages.embed.attributes import KINDS, Attribute, AttributePart, believed
from stages.embed.classifier import AttributeClassifier, AttributeEmbedder, AttributeNetwork, metadata
from stages.errors import WeightsError
from stages.labels import COLOURS, GENDERS, PATTERNS, TYPES, USAGES, kind_of, named, type_of
from stages.testing import check_embedder
from stages.types import LABELS

VALUES = {"type": ("jeans", "t-shirt", "boots", "other"), "colour": ("red", "navy")}
PART = AttributePart(26, VALUES, {"kind": 0.2, "type": 0.1, "colour": 0.1}, {"type": 0.6, "colour": 0.6})


def vectors_with(types: list[list[float]], red: float = 0.5) -> np.ndarray:
    looks = np.zeros((len(types), PART.dim - PART.width), np.float32)
    looks[:, 0] = 1
    colours = np.repeat(np.array([[red, 1 - red]], np.float32), len(types), axis=0)
    return PART.join(looks, {"type": np.array(types, np.float32), "colour": colours})


def test_probabilities_are_read_back_from_vectors():
    vectors = vectors_with([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]], red=0.8)
    kinds = PART.kinds(vectors)

    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert kinds.sum(axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert kinds[[0, 1], [KINDS.index("pants"), KINDS.index("other")]] == pytest.approx([0.5, 1], abs=1e-3)
    assert PART.probabilities(vectors, "type")[0] == pytest.approx([0.5, 0.25, 0.25, 0], abs=1e-3)
    assert PART.probabilities(vectors, "colour")[0] == pytest.approx([0.8, 0.2], abs=1e-3)


def test_only_certain_values_that_name_something_are_reported():
    first, second, third = PART.stated(vectors_with([[0.9, 0.1, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1]], red=0.2))

    assert first == (Attribute("type", "jeans", pytest.approx(0.9, abs=0.01)),
                     Attribute("colour", "navy", pytest.approx(0.8, abs=0.01)))  # fmt: skip
    assert [one.name for one in second] == ["colour"], "neither type is certain"
    assert [one.name for one in third] == ["colour"], "'other' names nothing"


def test_other_kinds_change_the_types_accordingly_and_keep_unit_length():
    shoes = np.full((1, len(KINDS)), 0.001, np.float32)
    shoes[0, KINDS.index("shoes")] = 1
    moved = PART.with_kinds(vectors_with([[0.5, 0.25, 0.25, 0.0]], red=0.9), shoes / shoes.sum())

    assert np.linalg.norm(moved, axis=1) == pytest.approx([1], abs=1e-5)
    assert KINDS[PART.kinds(moved).argmax()] == "shoes"
    assert VALUES["type"][PART.probabilities(moved, "type").argmax()] == "boots"
    assert PART.probabilities(moved, "colour")[0, 0] == pytest.approx(0.9, abs=0.01)


def test_a_query_of_any_kind_is_as_similar_to_one_kind_as_to_another():
    vectors = vectors_with([[1, 0, 0, 0], [0, 0, 1, 0]])
    (query,), scale = PART.queries(vectors[:1], any_kind=True)

    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-6)
    assert scale * query @ vectors[0] == pytest.approx(1, abs=1e-5)
    assert query @ vectors[0] == pytest.approx(query @ vectors[1])


def test_emphasised_queries_prefer_an_item_of_their_kind_that_looks_less_alike():
    part = AttributePart(24, {"type": VALUES["type"]}, {"kind": 0.05, "type": 0.05}, {})
    probabilities = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
    jeans, boots = part.join(np.eye(2, 6, dtype=np.float32), {"type": probabilities})
    like_boots = part.join(np.array([[0.6, 0.8, 0, 0, 0, 0]], np.float32), {"type": probabilities[:1]})
    plain, ((emphasised,), scale) = like_boots[0], part.queries(like_boots)

    assert plain @ boots > plain @ jeans
    assert emphasised @ jeans > emphasised @ boots
    assert np.linalg.norm(emphasised) == pytest.approx(1, abs=1e-5)
    assert scale * emphasised @ plain == pytest.approx(1, abs=1e-5), "the garment itself"
    one, other = part.comparable(np.stack([plain, boots]))
    assert one @ other == pytest.approx(scale * emphasised @ boots, abs=1e-5), "compare and search agree"


def test_a_label_that_is_no_kind_changes_no_probability():
    kinds = np.random.default_rng(0).dirichlet(np.ones(len(KINDS)), 2).astype(np.float32)

    assert believed(kinds, ["whole", "a label of the user"], trust=0.8) == pytest.approx(kinds, abs=1e-4)
    assert believed(kinds, ["hat", "hat"], trust=0.99)[:, KINDS.index("hat")].min() > kinds[:, KINDS.index("hat")].max()


def test_every_type_is_found_by_its_names_and_has_a_kind():
    for article_type in TYPES:
        for name in (article_type.name, *article_type.aliases):
            assert type_of(name.upper()) == article_type.name
            assert kind_of(name) in {*LABELS, "other"}


@pytest.mark.parametrize(
    "table", [COLOURS, PATTERNS, GENDERS, USAGES], ids=["colours", "patterns", "genders", "usages"]
)
def test_a_word_means_one_value_of_an_attribute(table):
    words = [word for name, others in table.items() for word in (name, *others)]

    assert len(words) == len(set(words))
    assert all(named(table, word.upper()) in table for word in words)


class Looks:
    dim, input_px, fingerprint = 4, 16, "looks"

    def __call__(self, images):
        rows = np.array([[image.mean(), 1, 2, 3] for image in images], np.float32).reshape(-1, 4)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)


class TakesAllForJeans:
    values, least, input_px, fingerprint = {"type": VALUES["type"]}, {"type": 0.5}, 32, "jeans"

    def __call__(self, images):
        return {"type": np.repeat(np.array([[0.97, 0.01, 0.01, 0.01]], np.float32), len(images), axis=0)}


def test_attributes_are_added_once_to_the_vectors_of_any_embedder():
    images = [np.full((8, 8, 3), level, np.uint8) for level in (0, 200)]
    embedder = AttributeEmbedder(Looks(), TakesAllForJeans())
    vectors, part = embedder(images), embedder.attributes

    check_embedder(embedder)
    assert vectors.shape == (2, 4 + part.width)
    assert [KINDS[place] for place in part.kinds(vectors).argmax(axis=1)] == ["pants", "pants"]
    assert part.queries(vectors, any_kind=True)[0][:, :4] == pytest.approx(Looks()(images), abs=1e-3)
    assert (embedder.input_px, embedder.fingerprint) == (32, "looks+jeans")
    with pytest.raises(ValueError, match="already hold attributes"):
        AttributeEmbedder(embedder, TakesAllForJeans())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> weights.Checkpoint:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "attributes.safetensors"
    described = metadata(VALUES, {"type": 0.4, "colour": 0.5}, 64)
    network = AttributeNetwork("small", VALUES)
    weights.save(path, network.state_dict(), {"architecture": "attributes-small", **described})
    return weights.read(path)


def test_a_classifier_gives_probabilities_that_do_not_depend_on_the_batch(checkpoint):
    classifier, rng = AttributeClassifier(checkpoint), np.random.default_rng(0)
    images = [rng.integers(0, 256, (size, 40, 3), np.uint8) for size in (30, 60, 90)]
    together, alone = classifier(images), classifier(images[1:2])

    assert {name: rows.shape for name, rows in together.items()} == {"type": (3, 4), "colour": (3, 2)}
    assert together["type"].sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert alone["colour"] == pytest.approx(together["colour"][1:2], abs=1e-5)
    assert {name: len(rows) for name, rows in classifier([]).items()} == {"type": 0, "colour": 0}
    assert classifier.least == {"type": 0.4, "colour": 0.5}


@pytest.mark.parametrize(
    "wrong",
    [{"type": "jeans\nsofa"}, {"attributes": "type"}, {"input_px": "many"}, {"architecture": "siamese-small"},
     {"type": "jeans\nboots"}],
    ids=["unknown type", "no colour", "no number", "another architecture", "fewer types than the network has"],
)  # fmt: skip
def test_a_checkpoint_that_describes_no_classifier_is_refused(checkpoint, wrong):
    broken = weights.Checkpoint("mine", checkpoint.tensors, {**checkpoint.metadata, **wrong}, checkpoint.sha256)
    with pytest.raises(WeightsError, match="mine"):
        AttributeClassifier(broken)
