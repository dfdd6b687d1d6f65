"""Evaluation of attributes."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_runs import run
from conftest import draw

from pipeline.attribute_evaluation import attribute_figures, attribute_tables, evaluate_attributes
from pipeline.catalogue import CatalogueEntry
from stages.embed.attributes import AttributePart
from stages.errors import CatalogueError
from stages.images import write_jpeg
from stages.testing import FakeEmbedder

VALUES = {"type": ("jeans", "boots", "other"), "colour": ("red", "black")}
PART = AttributePart(40, VALUES, {"kind": 0.2, "type": 0.2, "colour": 0.2}, {"type": 0.5, "colour": 0.8})


class ByBrightness:
    """Takes dark photos for black boots and others for jeans, of a colour that it is not sure of."""

    dim, input_px, fingerprint, attributes = PART.dim, 16, "by brightness", PART

    def __call__(self, images):
        dark = np.array([image.mean() < 150 for image in images])[:, None]
        types = np.where(dark, [0.1, 0.9, 0], [0.9, 0.1, 0]).astype(np.float32)
        colours = np.where(dark, [0.1, 0.9], [0.6, 0.4]).astype(np.float32)
        looks = np.ones((len(images), self.dim - PART.width), np.float32) / (self.dim - PART.width) ** 0.5
        return PART.join(looks, {"type": types.reshape(-1, 3), "colour": colours.reshape(-1, 2)})


@pytest.fixture
def entries(tmp_path: Path) -> list[CatalogueEntry]:
    photos = {
        "dark": (30, "Boots", "Black"),
        "grey": (40, "boot", "red"),
        "bright": (220, "Jeans", ""),
        "pale": (230, "boots", "Scarlet"),
    }
    for name, (level, *_) in photos.items():
        write_jpeg(tmp_path / f"{name}.jpg", np.full((20, 20, 3), level, np.uint8))
    return [
        CatalogueEntry(tmp_path / f"{name}.jpg", name, (("Type", article), ("colour", colour)))
        for name, (_, article, colour) in photos.items()
    ]


def test_predictions_are_compared_with_the_words_of_the_catalogue(entries, tmp_path):
    gone = CatalogueEntry(tmp_path / "gone.jpg", "gone", (("type", "jeans"),))
    evaluations, problems = evaluate_attributes(ByBrightness(), [*entries, gone])
    figures = attribute_figures(evaluations)

    (problem,) = problems
    assert "gone.jpg" in problem
    assert (figures["type"]["photos"], figures["type"]["right"].value) == (4, 0.75)
    boots = figures["type"]["values"]["boots"]
    assert (boots["photos"], boots["recall"].value, boots["precision"]) == (3, pytest.approx(2 / 3), 1.0)
    assert figures["type"]["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    colour = figures["colour"]
    assert (colour["photos"], colour["right"].value) == (3, pytest.approx(2 / 3)), "an empty cell says nothing"
    assert (colour["stated"], colour["stated_right"].value) == (pytest.approx(2 / 3), 0.5)
    assert "boots" in str(attribute_tables(figures)[1])


def test_what_cannot_be_evaluated_is_refused(entries):
    with pytest.raises(ValueError, match="hold no attributes"):
        evaluate_attributes(FakeEmbedder(), entries)
    with pytest.raises(CatalogueError, match="known value"):
        evaluate_attributes(ByBrightness(), [CatalogueEntry(entries[0].path, "x", (("type", "sofa"),))])


def test_the_command_writes_figures_and_a_page(tmp_path):
    write_jpeg(tmp_path / "red.jpg", draw("red"))
    (tmp_path / "items.csv").write_text("item_id,image,colour\n1,red.jpg,red\n2,missing.jpg,red\n")
    options = ("--embedder", f"{__name__}:ByBrightness", "--json", "-", "-o", tmp_path / "page")
    figures = json.loads(run("evaluate", "attributes", tmp_path / "items.csv", *options, status=1).stdout)
    assert figures["attributes"]["colour"]["photos"] == 1
    assert "missing.jpg" in figures["problems"][0]
    assert "Attributes" in (tmp_path / "page" / "index.html").read_text()
