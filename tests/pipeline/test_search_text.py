"""Search in words, alone and beside photos, on the command line and over HTTP."""

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


def first_items(result) -> list[str]:
    return [garment["matches"][0]["item"] for line in lines(result) for garment in line["garments"]]


def test_the_fake_embedder_keeps_the_rules_of_text_embedders():
    check_text_embedder(FakeEmbedder(), ["red dress", "blue"])


def test_words_alone_find_what_they_say(gallery, tmp_path):
    told = run("search", gallery, "--text", "a blue dress", "-k", 2, *EMBEDDER)
    run("search", gallery, "--text", "a blue dress", "-k", 2, *EMBEDDER, "-o", tmp_path / "found.jsonl")

    (line,) = lines(told)
    assert line["text"] == "a blue dress"
    assert line["matches"][0]["item"] == "blue"
    assert len(line["matches"]) == 2
    assert json.loads((tmp_path / "found.jsonl").read_text()) == line


def test_words_beside_a_photo_pull_its_matches_towards_them(gallery, tmp_path):
    write_jpeg(tmp_path / "street.jpg", draw("red"))
    asked = ("search", gallery, tmp_path / "street.jpg", "-k", 1, *DETECTOR, *EMBEDDER)

    assert first_items(run(*asked)) == ["red"]
    assert first_items(run(*asked, "--text", "but in blue", "--text-weight", 0.9)) == ["blue"]
    assert first_items(run(*asked, "--text", "but in blue", "--text-weight", 0)) == ["red"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "say what to look for by --text"),
        (("--text", "puce"), "no word of 'puce' is known"),
        (("--text", "red", "--report", "page"), "no --report"),
        (("--text", "red", "-o", "found.csv"), "written as .jsonl"),
        (("--text", "red", "--where", "sofa = 1"), "no column 'sofa'"),
    ],
    ids=["nothing asked", "unknown word", "report", "table", "wrong filter"],
)
def test_a_search_in_words_that_cannot_be_answered_says_why(gallery, arguments, reason):
    assert reason in run("search", gallery, *EMBEDDER, *arguments, status=2).stderr


def test_words_do_not_change_the_length_of_queries():
    vector = FakeEmbedder().embed_text(["red"])
    (sum_,) = Words(vector, 0.3).added_to(FakeEmbedder().embed_text(["blue"]))
    assert float(sum_ @ sum_) == pytest.approx(1, abs=1e-5)


def test_what_the_embedder_sees_becomes_columns_beside_the_catalogues_own(tmp_path):
    from test_kinds import PART, KnowsShoes

    write_jpeg(tmp_path / "dark.jpg", np.full((64, 64, 3), 30, np.uint8))
    gallery = Gallery.create(tmp_path / "gallery", KnowsShoes(), BoxCrop())
    entries = [CatalogueEntry(tmp_path / "dark.jpg", "boots-1", (("type", "Chelsea"),))]

    def index(price: str) -> None:
        priced = [CatalogueEntry(one.path, one.item, (*one.metadata, ("price", price))) for one in entries]
        pipeline = Pipeline(WholeDetector(), BoxCrop(), KnowsShoes(), main_garment=True)
        Indexing(gallery, pipeline, "whole", kinds=PART)(priced)

    index("20")
    index("25")

    (row,) = gallery.rows
    assert dict(row.metadata) == {"type": "Chelsea", "attribute.type": "boots", "price": "25"}
    assert gallery.count("type = Chelsea") == 1
    assert gallery.count("attribute.type = boots and price > 20") == 1


def test_a_column_of_what_the_embedder_sees_is_found_by_its_short_name(tmp_path):
    from test_kinds import PART, KnowsShoes

    write_jpeg(tmp_path / "dark.jpg", np.full((64, 64, 3), 30, np.uint8))
    gallery = Gallery.create(tmp_path / "gallery", KnowsShoes(), BoxCrop())
    pipeline = Pipeline(WholeDetector(), BoxCrop(), KnowsShoes(), main_garment=True)
    Indexing(gallery, pipeline, "whole", kinds=PART)([CatalogueEntry(tmp_path / "dark.jpg", "boots-1")])

    assert gallery.count("type = boots") == 1
    assert gallery.count("TYPE = jeans") == 0
