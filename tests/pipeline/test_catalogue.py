"""Catalogues: folders, and tables as spreadsheets export them; what an indexing run does with its photos."""

import os
import re
from pathlib import Path
from unicodedata import normalize

import pytest
from conftest import draw

from pipeline.catalogue import Indexing, Tally, digest, read_catalogue
from pipeline.gallery import Gallery
from pipeline.pipeline import Pipeline
from stages.crop import BoxCrop
from stages.errors import CatalogueError
from stages.images import write_jpeg
from stages.testing import FakeDetector, FakeEmbedder


def items(*sources: Path, pattern: str | None = None) -> list[tuple[str, str]]:
    photos = read_catalogue(sources, re.compile(pattern) if pattern else None)
    return [(photo.item, photo.path.name) for photo in photos]


def test_folder_names_items_by_stem_and_by_sub_folder(shop: Path) -> None:
    assert items(shop) == [
        ("black", "black.jpg"),
        ("blue", "blue.jpg"),
        ("green", "green.jpg"),
        ("red", "back.jpg"),
        ("red", "front.jpg"),
    ]


def test_pattern_takes_its_group_and_reports_names_without_one(tmp_path: Path) -> None:
    for name in ("a1-red_main.jpg", "a1-red_back.jpg", "logo.jpg"):
        (tmp_path / name).touch()
    photos = list(read_catalogue([tmp_path], re.compile(r"^(\w+-\w+?)_")))
    assert [photo.item for photo in photos] == ["a1-red", "a1-red", ""]
    assert "no item id" in str(photos[2].error)


@pytest.mark.parametrize("name", ["shop.csv", "SHOP.TSV", "shop.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("delimiter", "first"), [(",", ""), (";", ""), ("\t", ""), (";", "sep=;\n")])
def test_usual_export_of_a_spreadsheet_is_read(
    tmp_path: Path, name: str, encoding: str, newline: str, delimiter: str, first: str
) -> None:
    rows = [
        ["item_id", "image", "colour", "price, €"],
        ["7", "photos/a.jpg", "grün", "9,90"],
        ["8", "b.jpg", "blau", ""],
    ]
    cells = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    text = first + "\n".join(delimiter.join(row) for row in cells)
    (tmp_path / name).write_bytes(text.replace("\n", newline).encode(encoding))
    seven, eight = read_catalogue([tmp_path / name], note=lambda _: None)
    assert (seven.item, seven.path) == ("7", tmp_path / "photos" / "a.jpg")
    assert seven.metadata == (("colour", "grün"), ("price, €", "9,90"))
    assert eight.metadata == (("colour", "blau"),)


@pytest.mark.parametrize(
    ("content", "expected", "errors"),
    [
        (
            "item_id,image\n,a.jpg\nx,\nx,b.jpg\nx,b.jpg,more\n",
            ["x"],
            ["line 2 lacks", "line 3 lacks", "line 5 has more"],
        ),
        ('item_id,image,name\n1,a.jpg,"9" wide"\n2,b.jpg,5" wide\n', ["2"], ["line 2 has a stray quote"]),
        (
            'item_id,image,name\n1,a.jpg,"cut\n2,b.jpg,x\n3,c.jpg,"y\n',
            ["2"],
            ["line 2 has a", "line 4 has a quote that is never closed"],
        ),
        ('item_id,image,name\n1,a.jpg,"two\nlines"\n2,b.jpg,"""q"""\n\n3,,\n', ["1", "2"], ["line 6 lacks"]),
        ("item_id,image,name\n1,a.jpg," + "x" * 300_000 + "\n2,b.jpg,y\n", ["1", "2"], []),
        ("item_id,image,name\n1,a.jpg,x,,\n,,\n;;\n2,b.jpg,y,\n", ["1", "2"], ["line 4 lacks"]),
        (" Item ID , Image,\n1 , a.jpg ,x\n", ["1"], []),
        ("\n\nitem-id;IMAGE\n1;a.jpg\n", ["1"], []),
        ("item_id,image\n1,https://shop.example/a.jpg\n2,b.jpg\n", ["2"], ["line 2 names https://shop.example/a.jpg"]),
    ],
)
def test_bad_line_is_reported_by_its_number_and_the_others_are_read(
    tmp_path: Path, content: str, expected: list[str], errors: list[str]
) -> None:
    (tmp_path / "shop.csv").write_text(content)
    photos = list(read_catalogue([tmp_path / "shop.csv"]))
    assert [photo.item for photo in photos if not photo.error] == expected
    told = [str(photo.error) for photo in photos if photo.error]
    assert len(told) == len(errors)
    assert all(one.startswith(start) for one, start in zip(told, errors, strict=True)), told


def test_quoted_cell_keeps_its_line_breaks_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text('item_id,image,name\n1,a.jpg,"two\nlines, ""quoted"""\n')
    (photo,) = read_catalogue([tmp_path / "shop.csv"])
    assert photo.metadata == (("name", 'two\nlines, "quoted"'),)


def test_notes_name_the_line_in_another_encoding_and_the_doubled_column(tmp_path: Path) -> None:
    rows = b"item_id,image,size,size,,\n1,a.jpg,S,M,,\n2,caf\xe9.jpg,L,,x\n3,\xe4.jpg,L,,y\n"
    (tmp_path / "shop.csv").write_bytes(rows)
    notes: list[str] = []
    photos = list(read_catalogue([tmp_path / "shop.csv"], note=notes.append))
    assert [(photo.path.name, dict(photo.metadata)["size"]) for photo in photos] == [
        ("a.jpg", "S"), ("café.jpg", "L"), ("ä.jpg", "L"),
    ]  # fmt: skip
    encoding, doubled, unnamed = notes
    assert "columns without a name are left out; line 3 has a value in one" in unnamed
    assert "column size is there 2 times" in doubled
    assert "line 3 is not UTF-8" in encoding


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("shop.csv", b"id,picture\n1,a.jpg\n", "lacks the column item_id and image"),
        ("shop.csv", b"", "is empty"),
        ("shop.csv", b"item_id,image,image\n1,a.jpg,b.jpg\n", "has the column image twice"),
        ("shop.csv", b"PK\x03\x04rest", "save it as CSV"),
        ("shop.xlsx", b"anything", "save it as CSV"),
        ("absent.csv", None, "cannot be read"),
    ],
)
def test_table_that_is_no_catalogue_is_refused_as_a_whole(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=says) as raised:
        list(read_catalogue([tmp_path / name]))
    assert name in str(raised.value)


def test_names_meet_their_files_in_any_spelling(tmp_path: Path) -> None:
    composed, decomposed = normalize("NFC", "größe"), normalize("NFD", "größe")
    (tmp_path / "fotos").mkdir()
    (tmp_path / "fotos" / f"{decomposed}.jpg").touch()
    legacy = tmp_path / os.fsdecode("café.jpg".encode("cp1252"))
    legacy.touch()
    (tmp_path / "shop.csv").write_text(f"item_id,image\n{decomposed},fotos\\{composed}.jpg\n2,café.jpg\n")
    first, second = read_catalogue([tmp_path / "shop.csv"])
    assert (first.item, first.path) == (composed, tmp_path / "fotos" / f"{decomposed}.jpg")
    assert second.path == legacy
    assert ("größe", f"{decomposed}.jpg") in items(tmp_path / "fotos")


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop())


def index(gallery: Gallery, *sources: Path, prune: bool = False) -> Tally:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True)
    return Indexing(gallery, pipeline, "fake", prune=prune)(read_catalogue(sources))


def test_picture_replaced_under_the_same_size_and_time_is_noticed(tmp_path: Path, gallery: Gallery) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    path = photos / "a.jpg"
    write_jpeg(path, draw("red"))
    first = path.read_bytes()
    write_jpeg(path, draw("blue"))
    second = path.read_bytes()
    largest = max(len(first), len(second))
    for content, outcome in ((first, "added"), (second, "replaced"), (second, "unchanged")):
        path.write_bytes(content.ljust(largest, b"\0"))
        os.utime(path, (1_600_000_000, 1_600_000_000))
        assert getattr(index(gallery, photos), outcome) == 1, outcome


def test_photos_that_left_the_catalogue_are_counted_and_pruned_on_request(shop: Path, gallery: Gallery) -> None:
    index(gallery, shop)
    (shop / "green.jpg").unlink()
    (shop / "red" / "back.jpg").unlink()
    tally = index(gallery, shop)
    assert (tally.unchanged, tally.absent, tally.pruned) == (3, 2, 0)
    assert len(gallery) == 5
    tally = index(gallery, shop, prune=True)
    assert (tally.unchanged, tally.absent, tally.pruned) == (3, 0, 2)
    assert Gallery.open(gallery.folder).items == ["black", "blue", "red"]
    assert index(gallery, shop).absent == 0


def test_nothing_is_pruned_by_a_catalogue_with_unreadable_lines(shop: Path, gallery: Gallery) -> None:
    table = shop / "shop.csv"
    table.write_text("item_id,image\n1,green.jpg\n2,blue.jpg\n")
    index(gallery, table)
    table.write_text('item_id,image\n1,green.jpg\n2,blue.jpg,"more"\n')
    tally = index(gallery, table, prune=True)
    assert (tally.unchanged, tally.absent, tally.pruned, len(tally.failed)) == (1, 1, 0, 1)
    assert len(gallery) == 2


def test_nothing_is_pruned_by_a_catalogue_that_is_empty_or_holds_a_folder_that_is_no_photo(
    shop: Path, gallery: Gallery
) -> None:
    index(gallery, shop)
    (shop.parent / "unmounted").mkdir()
    (shop.parent / "part").mkdir()
    (shop.parent / "part" / "a.jpg").mkdir()
    for name in ("unmounted", "part"):
        tally = index(gallery, shop.parent / name, prune=True)
        assert (tally.absent, tally.pruned) == (5, 0)


def test_moved_photos_and_copies_are_in_the_catalogue(shop: Path, gallery: Gallery) -> None:
    index(gallery, shop)
    (shop / "copy").mkdir()
    moved = shop.with_name("moved")
    shop.rename(moved)
    tally = index(gallery, moved)
    assert (tally.redescribed, tally.absent) == (5, 0)


def test_pipes_and_files_of_proc_are_not_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert digest(tmp_path / "pipe.jpg") == digest(Path("/proc/self/status")) == digest(tmp_path / "absent") == ""
