"""Search by text, alone and beside photos, on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import DETECTOR, EMBEDDER, lines, run
from conftest import draw

from pipeline.catalogue import CatalogueEntry, Indexing
from pipeline.gallery import Gallery
from pipeline.kinds import Words
from pipeline.pipeline import Pipeline
from stages.crop import BoxCrop
from stages.detect import WholeDetector
from stages.images import write_jpeg
from stages.testing import FakeEmbedder, check_text_embedder


@pytest.fixture
def gallery(tmp_path: Path, shop: Path) -> Path:
    run("index", tmp_path / "gallery", shop, *DETECTOR, *EMBEDDER)
    return tmp_path / "gallery"


def test_the_fake_embedder_keeps_the_rules_of_text_embedders() -> None:
    check_text_embedder(FakeEmbedder(), ["red dress", "blue"])


def test_a_text_alone_finds_what_it_says(gallery: Path, tmp_path: Path) -> None:
    command = ("search", gallery, "--text", "a blue dress", "-k", 2, *EMBEDDER)
    (line,) = lines(run(*command))
    run(*command, "-o", tmp_path / "found.jsonl")
    assert line["text"] == "a blue dress"
    assert line["matches"][0]["item"] == "blue"
    assert len(line["matches"]) == 2
    assert json.loads((tmp_path / "found.jsonl").read_text()) == line


def test_a_text_beside_a_photo_pulls_its_matches_towards_it(gallery: Path, tmp_path: Path) -> None:
    write_jpeg(tmp_path / "street.jpg", draw("red"))
    command = ("search", gallery, tmp_path / "street.jpg", "-k", 1, *DETECTOR, *EMBEDDER)
    for more, item in (
        ((), "red"),
        (("--text", "but in blue", "--text-weight", 0.9), "blue"),
        (("--text", "but in blue", "--text-weight", 0), "red"),
    ):
        (line,) = lines(run(*command, *more))
        assert line["garments"][0]["matches"][0]["item"] == item


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name a photo, or what to look for by --item or --text"),
        (("--text", "puce"), "no word of 'puce' is known"),
        (("--text", "red", "--report", "page"), "no --report"),
        (("--text", "red", "-o", "found.csv"), "written as .jsonl"),
        (("--text", "red", "--where", "sofa = 1"), "no column 'sofa'"),
    ],
)
def test_a_search_by_text_that_cannot_be_answered_says_why(
    gallery: Path, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in run("search", gallery, *EMBEDDER, *arguments, status=2).stderr


def test_words_do_not_change_the_length_of_queries() -> None:
    vector = FakeEmbedder().embed_text(["red"])
    (query,) = Words(vector, 0.3).added_to(FakeEmbedder().embed_text(["blue"]))
    assert float(query @ query) == pytest.approx(1, abs=1e-5)


def test_attributes_that_the_embedder_sees_become_columns_beside_the_catalogues(tmp_path: Path) -> None:
    from test_kinds import PART, KnowsShoes

    write_jpeg(tmp_path / "dark.jpg", np.full((64, 64, 3), 30, np.uint8))
    gallery = Gallery.create(tmp_path / "gallery", KnowsShoes(), BoxCrop())
    pipeline = Pipeline(WholeDetector(), BoxCrop(), KnowsShoes(), main_garment=True)

    def index(*metadata: tuple[str, str]) -> None:
        entry = CatalogueEntry(tmp_path / "dark.jpg", "boots-1", metadata)
        Indexing(gallery, pipeline, "whole", kinds=PART)([entry])

    index()
    assert gallery.count("type = boots") == 1, "the short name, while the catalogue has no such column"
    assert gallery.count("TYPE = jeans") == 0
    index(("type", "Chelsea"), ("price", "25"))
    (row,) = gallery.rows
    assert dict(row.metadata) == {"type": "Chelsea", "attribute.type": "boots", "price": "25"}
    assert gallery.count("type = Chelsea") == 1
    assert gallery.count("attribute.type = boots and price > 20") == 1
