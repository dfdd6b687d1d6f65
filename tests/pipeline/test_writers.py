"""The writers: every shape of line, hostile names, and COCO files as pycocotools reads them."""

import csv
import io
import json
import os

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from pipeline.search import Garment, PhotoResult
from pipeline.writers import COLUMNS, CocoWriter, JsonLinesWriter, full_rle, open_writer
from stages.types import Box, Match

# pycocotools 2.0.11 decodes with a numpy 1 interface
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MASK = np.tri(6, 4, dtype=np.bool_)
MATCHES = (
    Match(
        "shirt-1", "shirt-1_front.jpg", np.float32(0.912345), "top", (("price", "19.90"), ("brand", "Ä")), "same item"
    ),
    Match("shirt-2", "shirt-2_front.jpg", 0.5, "top"),
)
SEARCHED = PhotoResult(
    "street.jpg",
    20,
    30,
    (
        Garment("top", 0.98765, Box(2, 3, 6, 9), MASK, MATCHES),
        Garment("shoes", 1.0, Box(0, 20, 20, 30), None, ()),
    ),
)
DETECTED = PhotoResult("street.jpg", 20, 30, (Garment("top", 0.98765, Box(2, 3, 6, 9), MASK),))
FAILED = PhotoResult("no.jpg", error="not a photo")


def lines(path, results, **options):
    with open_writer(path, **options) as writer:
        for result in results:
            writer.write(result)
    return path.read_text().splitlines()


def test_a_json_line_of_a_search_is_exactly_this(tmp_path):
    (line,) = lines(tmp_path / "a.jsonl", [SEARCHED])
    assert line == (
        '{"photo": "street.jpg", "width": 20, "height": 30, "garments": ['
        '{"label": "top", "score": 0.9877, "box": [2, 3, 6, 9], "matches": ['
        '{"item": "shirt-1", "photo": "shirt-1_front.jpg", "similarity": 0.9123, "label": "top", "verdict": "same item", '
        '"metadata": {"price": "19.90", "brand": "\\u00c4"}}, '
        '{"item": "shirt-2", "photo": "shirt-2_front.jpg", "similarity": 0.5, "label": "top"}]}, '
        '{"label": "shoes", "score": 1.0, "box": [0, 20, 20, 30], "matches": []}]}'
    )


def test_a_detection_has_no_matches_and_an_error_no_garments(tmp_path):
    first, second = lines(tmp_path / "a.JSONL", [DETECTED, FAILED])
    assert json.loads(first)["garments"] == [{"label": "top", "score": 0.9877, "box": [2, 3, 6, 9], "matches": []}]
    assert second == '{"photo": "no.jpg", "error": "not a photo"}'


def test_masks_on_request(tmp_path):
    (line,) = lines(tmp_path / "a.jsonl", [SEARCHED], masks=True)
    with_mask, without = json.loads(line)["garments"]
    full = np.zeros((30, 20), dtype=np.bool_)
    full[3:9, 2:6] = MASK
    np.testing.assert_array_equal(pycocotools.mask.decode(with_mask["mask"]), full)
    assert "mask" not in without


def test_any_file_name_gives_valid_json_and_comes_back(tmp_path):
    names = [os.fsdecode(b"caf\xe9.jpg"), "größe\n\u2028🧥.jpg", "\ud800.jpg", 'a"b\\c.jpg']
    written = lines(tmp_path / "a.jsonl", [PhotoResult(name, 1, 1) for name in names])
    assert all(line.isascii() for line in written)
    assert [json.loads(line)["photo"] for line in written] == names
    assert os.fsencode(json.loads(written[0])["photo"]) == b"caf\xe9.jpg"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_each_photo_is_on_disk_when_write_returns(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with open_writer(path) as writer:
        before = path.read_text()
        writer.write(FAILED)
        assert path.read_text().endswith("\n")
        assert len(path.read_text()) > len(before)


def test_none_is_standard_output_which_stays_open(capsys):
    with open_writer(None) as writer:
        writer.write(FAILED)
    print("more")
    assert capsys.readouterr().out == '{"photo": "no.jpg", "error": "not a photo"}\nmore\n'


def test_a_similarity_that_is_no_number_is_refused():
    stream, bad = io.StringIO(), Match("a", "a.jpg", float("nan"), "top")
    with pytest.raises(ValueError, match="JSON compliant"):
        JsonLinesWriter(stream).write(PhotoResult("a", 9, 9, (Garment("top", 1, Box(0, 0, 1, 1), None, (bad,)),)))
    assert not stream.getvalue()


@pytest.mark.parametrize("name", ["a.json", "a", "a.tsv"])
def test_another_suffix_is_refused_and_nothing_is_made(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.jsonl or \.csv, got"):
        open_writer(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_csv_has_a_row_per_match_garment_photo_and_error(tmp_path):
    empty = PhotoResult("empty.jpg", 5, 6)
    lines(tmp_path / "a.csv", [SEARCHED, DETECTED, empty, FAILED])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = [[row[column] for column in COLUMNS] for row in csv.DictReader(file)]
    top = ["street.jpg", "20", "30", "1", "top", "0.9877", "2", "3", "6", "9"]
    assert rows == [
        [*top, "1", "shirt-1", "shirt-1_front.jpg", "0.9123", "top", "same item", ""],
        [*top, "2", "shirt-2", "shirt-2_front.jpg", "0.5000", "top", "", ""],
        ["street.jpg", "20", "30", "2", "shoes", "1.0000", "0", "20", "20", "30", *[""] * 7],
        [*top, *[""] * 7],
        ["empty.jpg", "5", "6", *[""] * 14],
        ["no.jpg", *[""] * 15, "not a photo"],
    ]


def test_csv_quotes_and_stays_utf8(tmp_path):
    names = ['a,b "c"\nd.jpg', os.fsdecode(b"caf\xe9.jpg"), "größe.jpg"]
    lines(tmp_path / "a.csv", [PhotoResult(name, 1, 1) for name in names])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert [row["photo"] for row in csv.DictReader(file)] == [names[0], r"caf\udce9.jpg", names[2]]


@settings(deadline=None)
@given(data=st.data())
def test_full_rle_is_what_pycocotools_encodes(data):
    width, height = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mask = draw.random((box.height, box.width)) < data.draw(st.sampled_from([0, 0.2, 0.8, 1]))
    full = np.zeros((height, width), dtype=np.uint8, order="F")
    full[box.slices] = mask
    wanted = pycocotools.mask.encode(full)
    assert full_rle(mask, box, width, height) == {"size": [height, width], "counts": wanted["counts"].decode()}


def test_coco_is_read_by_pycocotools(tmp_path):
    path = tmp_path / "results.json"
    with CocoWriter(path, ("top", "shoes")) as writer:
        for result in (SEARCHED, FAILED, PhotoResult("empty.jpg", 7, 8), DETECTED):
            writer.write(result)
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]
    data = COCO(str(path))
    assert [(image["id"], image["file_name"], image["width"]) for image in data.dataset["images"]] == [
        (1, "street.jpg", 20),
        (2, "empty.jpg", 7),
        (3, "street.jpg", 20),
    ]
    assert [category["name"] for category in data.loadCats([1, 2])] == ["top", "shoes"]
    top, shoes = data.loadAnns(data.getAnnIds(imgIds=[1]))
    assert (top["category_id"], top["bbox"], top["area"], top["score"]) == (1, [2, 3, 4, 6], MASK.sum(), 0.9877)
    assert (shoes["category_id"], shoes["bbox"], shoes["area"]) == (2, [0, 20, 20, 10], 200)
    full = np.zeros((30, 20), dtype=np.bool_)
    full[3:9, 2:6] = MASK
    np.testing.assert_array_equal(data.annToMask(top), full)
    found = data.loadRes(data.dataset["annotations"])
    assert len(found.getAnnIds(imgIds=[1, 3], catIds=[1])) == 2


def test_coco_has_the_mode_of_any_other_file(tmp_path):
    CocoWriter(tmp_path / "a.json", ()).close()
    (tmp_path / "b").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_coco_refuses_an_unknown_label_and_leaves_nothing(tmp_path):
    def write_both():
        with CocoWriter(tmp_path / "a.json", ("top",)) as writer:
            writer.write(DETECTED)
            writer.write(SEARCHED)

    with pytest.raises(ValueError, match="'shoes' is not among the labels top"):
        write_both()
    assert not list(tmp_path.iterdir())
