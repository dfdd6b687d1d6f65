"""The output formats: what they write, hostile names, and how an interrupted run is resumed."""

import csv
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from pipeline.outputs import Options, Outputs, clear_folder, mark_folder
from pipeline.pipeline import Analysis
from pipeline.search import Garment, PhotoResult
from pipeline.writers import ATTRIBUTE_COLUMNS, DETECT_COLUMNS, MATCH_COLUMNS, draw_garments, full_rle, open_outputs
from stages.errors import OutfinderError
from stages.types import Box, Crop, Match

# pycocotools 2.0.11 decodes with a numpy 1 interface
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

MASK = np.tri(6, 4, dtype=np.bool_)
FULL_MASK = np.pad(MASK, ((3, 21), (2, 14)))
SHIRT = Match("shirt-1", "1.jpg", np.float32(0.912345), "top", (("price", "19.90"), ("brand", "Ä")), "same item")
MATCHES = (SHIRT, Match("shirt-2", "2.jpg", 0.5, "top"))
TOP, SHOES = Box(2, 3, 6, 9), Box(0, 20, 20, 30)
GARMENTS = (Garment("top", 0.98765, TOP, MASK, MATCHES), Garment("shoes", 1.0, SHOES, None, ()))
SEARCHED = PhotoResult("street.jpg", 20, 30, GARMENTS)
DETECTED = PhotoResult("street.jpg", 20, 30, (Garment("top", 0.98765, TOP, MASK),))
FAILED = PhotoResult("no.jpg", error="not a photo")
RESULTS = [
    PhotoResult('a "ß"\nb, c.jpg', 20, 30, GARMENTS),
    PhotoResult("=d.jpg", error="is empty"),
    PhotoResult("e.jpg", 64, 64),
    PhotoResult("e.jpg", 64, 64),
    PhotoResult("f.jpg", 20, 30, GARMENTS),
]
ALL_OPTIONS = Options(labels=("top", "shoes"), masks=True, matches=True, metadata=("price", "brand"))


def write(path: Path | None, results: Sequence[PhotoResult], **options: Any) -> list[str]:
    """Write results to a file, and return its lines."""
    with open_outputs(path, None, Options(**options)) as outputs:
        for result in results:
            outputs.write(result)
    return path.read_text(encoding="utf-8-sig").splitlines() if path else []


def test_json_line_of_a_search_is_exactly_this(tmp_path: Path) -> None:
    (line,) = write(tmp_path / "a.jsonl", [SEARCHED])
    assert line == (
        '{"photo": "street.jpg", "width": 20, "height": 30, "garments": ['
        '{"label": "top", "score": 0.9877, "box": [2, 3, 6, 9], "matches": ['
        '{"item": "shirt-1", "photo": "1.jpg", "similarity": 0.9123, "label": "top", "verdict": "same item", '
        '"metadata": {"price": "19.90", "brand": "\\u00c4"}}, '
        '{"item": "shirt-2", "photo": "2.jpg", "similarity": 0.5, "label": "top"}]}, '
        '{"label": "shoes", "score": 1.0, "box": [0, 20, 20, 30], "matches": []}]}'
    )


def test_json_line_of_a_detection_has_no_matches_and_of_an_error_no_garments(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.JSONL", [DETECTED, FAILED])
    assert json.loads(first)["garments"] == [{"label": "top", "score": 0.9877, "box": [2, 3, 6, 9], "matches": []}]
    assert second == '{"photo": "no.jpg", "error": "not a photo"}'


def test_any_file_name_gives_valid_json_and_comes_back(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.jpg"), "größe\n\u2028🧥.jpg", "\ud800.jpg", 'a"b\\c.jpg']
    lines = write(tmp_path / "a.jsonl", [PhotoResult(name, 1, 1) for name in names])
    assert all(line.isascii() for line in lines)
    assert [json.loads(line)["photo"] for line in lines] == names


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_each_photo_is_on_disk_when_write_returns(tmp_path: Path, name: str) -> None:
    with open_outputs(tmp_path / name) as outputs:
        before = (tmp_path / name).read_text()
        outputs.write(FAILED)
        after = (tmp_path / name).read_text()
    assert after.endswith("\n")
    assert len(after) > len(before)


def test_no_file_means_standard_output_which_stays_open(capsys: pytest.CaptureFixture[str]) -> None:
    write(None, [FAILED])
    print("more")
    assert capsys.readouterr().out == '{"photo": "no.jpg", "error": "not a photo"}\nmore\n'


def test_similarity_that_is_no_number_is_refused(tmp_path: Path) -> None:
    bad = Match("a", "a.jpg", float("nan"), "top")
    with pytest.raises(ValueError, match="JSON compliant"):
        write(tmp_path / "a.jsonl", [PhotoResult("a", 9, 9, (Garment("top", 1, Box(0, 0, 1, 1), None, (bad,)),))])


@pytest.mark.parametrize(
    ("name", "coco", "says"),
    [
        ("a.json", None, r"\.jsonl or \.csv, got \.json"),
        ("a", None, r"\.jsonl or \.csv, got no suffix"),
        ("a.jsonl", "no/../a.jsonl", "same path"),
    ],
)
def test_outputs_with_another_suffix_or_one_path_are_refused_and_not_created(
    tmp_path: Path, name: str, coco: str | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        open_outputs(tmp_path / name, {"coco": tmp_path / coco if coco else None})
    assert not list(tmp_path.iterdir())


def test_table_has_a_row_per_match_garment_photo_and_error(tmp_path: Path) -> None:
    results = [SEARCHED, DETECTED, PhotoResult("empty.jpg", 5, 6), FAILED]
    lines = write(tmp_path / "a.csv", results, matches=True, metadata=["price", "label"])
    columns = (*DETECT_COLUMNS[:-1], *ATTRIBUTE_COLUMNS, *MATCH_COLUMNS, "error", "price", "catalogue_label")
    assert lines[0] == ",".join(columns)
    top = "street.jpg,20,30,1,top,0.9877,2,3,6,9"
    assert lines[1:] == [
        f"{top}{',' * 5},1,shirt-1,1.jpg,0.9123,top,same item,,19.90,",
        f"{top}{',' * 5},2,shirt-2,2.jpg,0.5000,top,,,,",
        f"street.jpg,20,30,2,shoes,1.0000,0,20,20,30{',' * 14}",
        f"{top}{',' * 14}",
        f"empty.jpg,5,6{',' * 21}",
        f"no.jpg{',' * 21}not a photo,,",
    ]
    header, row = write(tmp_path / "b.csv", [DETECTED], delimiter=";")
    assert header == ";".join(DETECT_COLUMNS)
    assert row == "street.jpg;20;30;1;top;0.9877;2;3;6;9;"


def test_table_is_utf8_for_spreadsheets_and_runs_no_formula(tmp_path: Path) -> None:
    kept = {name: name for name in ('a,b "c"\nd.jpg', "größe.jpg", "-5.50")}
    safe = {name: "'" + name for name in ('=HYPERLINK("x")', "@x", "+1-1", "\tx", "\n=1", "＝1+1")}
    written = kept | safe | {os.fsdecode(b"caf\xe9.jpg"): r"caf\udce9.jpg"}
    write(tmp_path / "a.csv", [PhotoResult(name, 1, 1) for name in written])
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbfphoto,")
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["photo"] for row in csv.DictReader(file)] == list(written.values())


@given(data=st.data())
def test_full_rle_is_what_pycocotools_encodes(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x1, y1, data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((box.height, box.width)) < data.draw(st.sampled_from([0, 0.2, 0.8, 1]))
    full = np.zeros((height, width), dtype=np.uint8, order="F")
    full[box.slices] = mask
    wanted = pycocotools.mask.encode(full)
    assert full_rle(mask, box, width, height) == {"size": [height, width], "counts": wanted["counts"].decode()}


def coco(folder: Path, results: Sequence[PhotoResult], labels: Sequence[str] = ("top", "shoes")) -> None:
    with open_outputs(folder / "a.jsonl", {"coco": folder / "a.json"}, Options(labels=labels)) as outputs:
        for result in results:
            outputs.write(result)
        assert not (folder / "a.json").exists()


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco(tmp_path, [SEARCHED, FAILED, PhotoResult("empty.jpg", 7, 8), DETECTED])
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.jsonl"}
    data = COCO(str(tmp_path / "a.json"))
    images = [(image["id"], image["file_name"], image["width"]) for image in data.dataset["images"]]
    assert images == [(1, "street.jpg", 20), (2, "empty.jpg", 7), (3, "street.jpg", 20)]
    assert [category["name"] for category in data.loadCats([1, 2])] == ["top", "shoes"]
    top, shoes = data.loadAnns(data.getAnnIds(imgIds=[1]))
    assert (top["category_id"], top["bbox"], top["area"], top["score"]) == (1, [2, 3, 4, 6], MASK.sum(), 0.9877)
    assert (shoes["category_id"], shoes["bbox"], shoes["area"]) == (2, [0, 20, 20, 10], 200)
    np.testing.assert_array_equal(data.annToMask(top), FULL_MASK)
    found = data.loadRes(data.dataset["annotations"])
    assert len(found.getAnnIds(imgIds=[1, 3], catIds=[1])) == 2


def test_coco_of_no_photos_is_valid_and_an_unknown_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'shoes' is not among the labels top"):
        coco(tmp_path, [DETECTED, SEARCHED], labels=["top"])
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "a.jsonl").unlink()
    coco(tmp_path, [])
    assert COCO(str(tmp_path / "a.json")).dataset["images"] == []
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "a.jsonl").stat().st_mode


def test_overlay_outlines_garments_and_dims_the_rest() -> None:
    image = np.full((200, 100, 3), 90, np.uint8)
    mask = np.zeros((100, 60), np.bool_)
    mask[50:] = True
    drawn = draw_garments(image, PhotoResult("a.jpg", 100, 200, (Garment("top", 0.5, Box(20, 60, 80, 160), mask),)))
    assert (image == 90).all()
    assert (drawn[120:150, 30:70] == 90).all(), "the garment keeps its colours"
    assert (drawn[90:105, 30:70] > 90).all(), "the rest of its box is dimmed"
    assert (drawn[170:] > 90).all()
    assert (drawn[110, 30:70] != 90).any(axis=1).all(), "the outline"


def test_overlay_draws_the_thinnest_garment_at_the_rim_of_a_reduced_photo() -> None:
    image = np.full((100, 125, 3), 255, np.uint8)
    rim = Garment("belt", 0.5, Box(997, 797, 1000, 800), np.ones((3, 3), np.bool_))
    drawn = draw_garments(image, PhotoResult("a.jpg", 1000, 800, (rim,)))
    assert drawn.shape == image.shape
    assert (drawn[99, 124] != 255).any()


def finish(outputs: Outputs) -> None:
    """Write those of RESULTS that the outputs lack."""
    with outputs:
        remaining = list(outputs.remaining(Path(result.photo) for result in RESULTS))
        assert outputs.done + len(remaining) == len(RESULTS)
        assert outputs.failed == (outputs.done > 1)
        for result in RESULTS[outputs.done :]:
            outputs.write(result)


@pytest.mark.parametrize("name", ["found.jsonl", "found.csv"])
def test_file_cut_anywhere_is_resumed_to_the_same_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    finish(open_outputs(file, None, ALL_OPTIONS))
    whole = file.read_bytes()
    around_lines = {match.start() + more for match in re.finditer(b"\n", whole) for more in (-1, 0, 1)}
    for end in sorted({*range(0, len(whole), 9), *around_lines}):
        file.write_bytes(whole[:end])
        finish(open_outputs(file, None, ALL_OPTIONS, resume=True))
        assert file.read_bytes() == whole, end


@pytest.mark.parametrize("name", ["found.jsonl", "found.csv"])
@pytest.mark.parametrize("count", [0, 1, 3, len(RESULTS)])
def test_all_formats_are_resumed_together(tmp_path: Path, name: str, count: int) -> None:
    def outputs(folder: Path, *, resume: bool) -> Outputs:
        folder.mkdir(exist_ok=True)
        return open_outputs(folder / name, {"coco": folder / "a.json"}, ALL_OPTIONS, resume=resume)

    finish(outputs(tmp_path / "whole", resume=False))
    with pytest.raises(KeyboardInterrupt), outputs(tmp_path / "cut", resume=False) as interrupted:  # noqa: PT012
        for result in RESULTS[:count]:
            interrupted.write(result)
        raise KeyboardInterrupt
    for _ in range(2):  # the second time nothing is left to do
        with outputs(tmp_path / "cut", resume=True) as resumed:
            for path in list(resumed.remaining(Path(result.photo) for result in RESULTS)):
                resumed.write(next(result for result in RESULTS if result.photo == str(path)))
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        whole, cut = (json.loads((tmp_path / run / "a.json").read_text()) for run in ("whole", "cut"))
        assert cut == whole


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", "my diary\n"), ("a.jsonl", "{}\n"), ("a.jsonl", "dear"), ("a.csv", "item_id,image\nx,y\n")],
)
def test_file_of_something_else_is_neither_resumed_nor_replaced(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OutfinderError, match="left as it is"):
        open_outputs(tmp_path / name, resume=True)
    with pytest.raises(OutfinderError, match="exists; give --overwrite"):
        open_outputs(tmp_path / name)
    assert (tmp_path / name).read_text() == text
    with open_outputs(tmp_path / name, overwrite=True):
        pass
    assert (tmp_path / name).read_text() != text


def test_only_folders_that_outfinder_wrote_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").touch()
    with pytest.raises(OutfinderError, match="did not write"):
        clear_folder(tmp_path / "mine", overwrite=True)
    mark_folder(str(tmp_path / "report"))
    (tmp_path / "report" / "index.html").touch()
    with pytest.raises(OutfinderError, match="--overwrite"):
        clear_folder(tmp_path / "report", overwrite=False)
    clear_folder(str(tmp_path / "report"), overwrite=True)
    assert not list((tmp_path / "report").iterdir())
    clear_folder(tmp_path / "absent", overwrite=False)


def test_overwriting_a_folder_of_crops_deletes_those_of_the_run_before(tmp_path: Path) -> None:
    crop = Crop(np.zeros((9, 9, 3), np.uint8), Box(0, 0, 9, 9))
    garment = Garment("top/vest", 1.0, Box(0, 0, 9, 9))
    for name, overwrite, kept in (("a", False, "a"), ("b", False, "ab"), ("c", True, "c")):
        with open_outputs(tmp_path / f"{name}.jsonl", {"crops": tmp_path / "crops"}, overwrite=overwrite) as outputs:
            outputs.write(PhotoResult(f"{name}.jpg", 9, 9, (garment,)), Analysis(Path(f"{name}.jpg"), crops=(crop,)))
        names = {path.name for path in tmp_path.glob("crops/*.jpg")}
        assert names == {f"00001-{one}-1-top-vest.jpg" for one in kept}
