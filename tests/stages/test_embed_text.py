"""Texts as vectors of their words."""

import numpy as np
import pytest
import torch

from stages.embed.text import WordEmbedder, text_embedder
from stages.errors import WeightsError
from stages.testing import check_text_embedder
from weights import Checkpoint

WORDS = ("navy", "red", "shirt", "t-shirt", "track pants", "women", "checked", "collar", "dress", "sneakers", "check")
ABOUT = {"architecture": "words", "words": "\n".join(WORDS), "embedder": "siamese-abc"}


@pytest.fixture
def reader() -> WordEmbedder:
    return WordEmbedder(Checkpoint("mine", {"vectors": torch.eye(len(WORDS))}, ABOUT, ""))


def test_the_embedder_of_words_keeps_the_rules_of_text_embedders(reader):
    check_text_embedder(reader, ["navy shirt", "red dress"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Navy SHIRTS", ["navy", "shirt"]),
        ("a women's navy blue tee", ["women", "navy", "t-shirt"]),
        ("ladies' Track Pants, please in red", ["women", "track pants", "red"]),
        ("plaid dresses", ["checked", "dress"]),
        ("navy-red shirt", ["navy", "red", "shirt"]),
        ("drses with colar", ["dress", "collar"]),
        ("casual shoes", ["sneakers"]),
        ("rde shirt", ["shirt"]),
    ],
    ids=[
        "case and plural",
        "synonyms",
        "two words",
        "alias",
        "hyphen",
        "misspelt",
        "type of two words",
        "too short to correct",
    ],
)
def test_texts_are_read_as_known_words(reader, text, words):
    assert [word for word in reader.read(text).words if word != "please"] == words


def test_words_that_nobody_taught_are_named(reader):
    reading = reader.read("paisley shirt from Zarathustra")

    assert reading.words == ("shirt",)
    assert reading.notice == "'paisley', 'zarathustra' are not known"
    assert reader.read("Paisley shirt").notice == "'paisley' is not known"
    assert reader.read("red shirt").notice == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (" \n", "empty"), ("x" * 10_000, "10000 characters"), ("рубашка", "no word"), ("?!", "no word"),
     ("the of with", "no word")],
    ids=["empty", "blank", "too long", "another alphabet", "signs", "silent words"],
)  # fmt: skip
def test_a_text_that_says_nothing_is_refused_with_the_reason(reader, text, reason):
    with pytest.raises(ValueError, match=reason):
        reader.embed_text([text])


def test_a_text_is_the_direction_of_the_sum_of_its_words(reader):
    both, one = reader.embed_text(["navy shirt", "shirt"])

    assert np.linalg.norm(both) == pytest.approx(1)
    assert both @ one == pytest.approx(0.5**0.5)
    assert reader.embed_text([]).shape == (0, len(WORDS))


def test_words_serve_the_embedder_that_they_were_trained_with(reader):
    class Images:
        fingerprint = "siamese-abc"

    class Other:
        fingerprint = "another"

    checkpoint = Checkpoint("mine", {"vectors": torch.eye(len(WORDS))}, ABOUT, "")
    found = text_embedder(Images(), checkpoint)
    assert found is not None
    assert found.dim == len(WORDS)
    assert text_embedder(Other(), checkpoint) is None
    assert text_embedder(reader, checkpoint) is reader, "an embedder that reads text by itself"


@pytest.mark.parametrize(
    "broken",
    [
        Checkpoint("mine", {}, ABOUT, ""),
        Checkpoint("mine", {"vectors": torch.eye(3)}, ABOUT, ""),
        Checkpoint("mine", {"vectors": torch.eye(len(WORDS))}, {**ABOUT, "architecture": "siamese"}, ""),
        Checkpoint("mine", {"vectors": torch.eye(len(WORDS))}, {"architecture": "words"}, ""),
    ],
    ids=["no vectors", "fewer vectors", "another architecture", "no words"],
)
def test_weights_without_vectors_of_words_are_refused(broken):
    with pytest.raises(WeightsError, match="mine"):
        WordEmbedder(broken)
