"""Texts as vectors of their words."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.embed.text import WordEmbedder, text_embedder
from stages.errors import WeightsError
from stages.testing import check_text_embedder
from weights import Checkpoint

WORDS = ("navy", "red", "shirt", "t-shirt", "track pants", "women", "checked", "collar", "dress", "sneakers", "check")
ABOUT = {"architecture": "words", "words": "\n".join(WORDS), "embedder": "siamese-abc"}
CHECKPOINT = Checkpoint("mine", {"vectors": torch.eye(len(WORDS))}, ABOUT, "")
READER = WordEmbedder(CHECKPOINT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("Navy SHIRTS", ["navy", "shirt"], id="case and plural"),
        pytest.param("a women's navy blue tee", ["women", "navy", "t-shirt"], id="synonyms"),
        pytest.param("ladies' Track Pants, please in red", ["women", "track pants", "red"], id="two words"),
        pytest.param("plaid dresses", ["checked", "dress"], id="alias"),
        pytest.param("navy-red shirt", ["navy", "red", "shirt"], id="hyphen"),
        pytest.param("drses with colar", ["dress", "collar"], id="misspelt"),
        pytest.param("casual shoes", ["sneakers"], id="type of two words"),
        pytest.param("rde shirt", ["shirt"], id="too short to correct"),
    ],
)
def test_texts_are_read_as_known_words(text, words):
    assert [word for word in READER.read(text).words if word != "please"] == words


def test_unknown_words_are_named():
    assert READER.read("paisley shirt from Zarathustra").words == ("shirt",)
    for text, notice in (
        ("paisley shirt from Zarathustra", "'paisley', 'zarathustra' are not known"),
        ("Paisley shirt", "'paisley' is not known"),
        ("red shirt", ""),
    ):
        assert READER.read(text).notice == notice


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (" \n", "empty"), ("x" * 10_000, "10000 characters"), ("рубашка", "no word"), ("?!", "names no garment"),
     ("the of with", "names no garment")],
    ids=["empty", "blank", "too long", "another alphabet", "signs", "silent words"],
)  # fmt: skip
def test_a_text_that_says_nothing_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        READER.embed_text([text])


def test_a_text_is_the_direction_of_the_sum_of_its_words():
    check_text_embedder(READER, ["navy shirt", "red dress"])
    both, one = READER.embed_text(["navy shirt", "shirt"])

    assert np.linalg.norm(both) == pytest.approx(1)
    assert both @ one == pytest.approx(0.5**0.5)
    assert READER.embed_text([]).shape == (0, len(WORDS))


def test_words_belong_to_the_embedder_that_they_were_trained_with():
    found = text_embedder(SimpleNamespace(fingerprint="siamese-abc"), CHECKPOINT)
    assert found is not None
    assert found.dim == len(WORDS)
    assert text_embedder(SimpleNamespace(fingerprint="another"), CHECKPOINT) is None
    assert text_embedder(READER, CHECKPOINT) is READER, "an embedder that embeds text itself"


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        pytest.param({}, ABOUT, id="no vectors"),
        pytest.param({"vectors": torch.eye(3)}, ABOUT, id="fewer vectors"),
        pytest.param(CHECKPOINT.tensors, {**ABOUT, "architecture": "siamese"}, id="another architecture"),
        pytest.param(CHECKPOINT.tensors, {"architecture": "words"}, id="no words"),
    ],
)
def test_weights_without_vectors_of_words_are_refused(tensors, about):
    with pytest.raises(WeightsError, match="mine"):
        WordEmbedder(Checkpoint("mine", tensors, about, ""))
