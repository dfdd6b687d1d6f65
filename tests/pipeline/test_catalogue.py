"""Catalogues: folders, and tables as spreadsheets export them; what an indexing run does with its photos."""

import gc
import json
import os
import re
from datetime import datetime
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


def test_folder_names_items_by_stem_and_by_sub_folder(shop: Path) -> None:
    assert [(photo.item, photo.path.name) for photo in read_catalogue([str(shop)])] == [
        ("black", "black.jpg"),
        ("blue", "blue.jpg"),
        ("green", "green.jpg"),
        ("red", "back.jpg"),
        ("red", "front.jpg"),
    ]


@pytest.mark.parametrize("pattern", [r"^(\w+-\w+?)_", re.compile(r"^\w+-[a-z]+")])
def test_pattern_takes_its_group_or_match_and_reports_names_without_one(
    tmp_path: Path, pattern: str | re.Pattern[str]
) -> None:
    for name in ("a1-red_main.jpg", "a1-red_back.jpg", "logo.jpg"):
        (tmp_path / name).touch()
    photos = list(read_catalogue([tmp_path], pattern))
    assert [photo.item for photo in photos] == ["a1-red", "a1-red", ""]
    assert "no item id" in str(photos[2].error)


@pytest.mark.parametrize("name", ["shop.csv", "SHOP.TSV", "shop.txt"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_usual_export_of_a_spreadsheet_is_read(tmp_path: Path, name: str, encoding: str) -> None:
    rows = [
        ["item_id", "image", "colour", "price, €"],
        ["7", "photos/a.jpg", "grün", "9,90"],
        ["8", "b.jpg", "blau", ""],
    ]
    cells = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
    for delimiter, first in ((",", ""), (";", ""), ("\t", ""), ("|", ""), (";", "sep=;\n")):
        text = first + "\n".join(delimiter.join(row) for row in cells)
        for newline in ("\n", "\r\n", "\r"):
            (tmp_path / name).write_bytes(text.replace("\n", newline).encode(encoding))
            notes: list[str] = []
            seven, eight = read_catalogue([tmp_path / name], note=notes.append)
            usual = "\t" if name.endswith("TSV") else ","
            assert any("delimited by" in note for note in notes) == (delimiter != usual)
            assert any("read as UTF-16" in note for note in notes) == encoding.startswith("utf-16")
            assert (seven.item, seven.path) == ("7", tmp_path / "photos" / "a.jpg")
            assert seven.metadata == (("colour", "grün"), ("price, €", "9,90"))
            assert eight.metadata == (("colour", "blau"),)


@pytest.mark.parametrize(
    ("content", "expected", "errors"),
    [
        (",a.jpg\nx,\nx,b.jpg\nx,b.jpg,y,more\n", ["x"], ["line 2 lacks", "line 3 lacks", "line 5 has more"]),
        ('1,a.jpg,"9" wide"\n2,b.jpg,5" wide\n', ["2"], ["line 2 has a stray quote"]),
        ('1,a.jpg,"cut\n2,b.jpg,x\n3,c.jpg,"y\n', ["2"], ["line 2 has a", "line 4 has a quote that is never closed"]),
        ('1,a.jpg,"two\nlines"\n2,b.jpg,"""q"""\n\n3,,\n', ["1", "2"], ["line 6 lacks"]),
        ("1,a.jpg," + "x" * 300_000 + "\n2,b.jpg,y\n", ["1", "2"], []),
        ("1,a.jpg,x,,\n,,\n;;\n2,b.jpg,y,\n", ["1", "2"], ["line 4 lacks"]),
        ("1,ftp://me:secret@shop.example/a.jpg\n2,b.jpg\n", ["2"], ["line 2 names ftp://shop.example/a.jpg"]),
    ],
)
def test_bad_line_is_reported_by_its_number_and_the_others_are_read(
    tmp_path: Path, content: str, expected: list[str], errors: list[str]
) -> None:
    (tmp_path / "shop.csv").write_text("item_id,image,name\n" + content)
    photos = list(read_catalogue([tmp_path / "shop.csv"]))
    assert [photo.item for photo in photos if not photo.error] == expected
    reported = [str(photo.error) for photo in photos if photo.error]
    assert len(reported) == len(errors)
    assert all(one.startswith(start) for one, start in zip(reported, errors, strict=True)), reported


@pytest.mark.parametrize("header", [" Item ID , Image,name", "\n\nitem-id,IMAGE,name"])
def test_header_may_be_written_otherwise_and_quoted_cells_keep_line_breaks(tmp_path: Path, header: str) -> None:
    (tmp_path / "shop.csv").write_text(f'{header}\n1 , a.jpg ,"two\nlines, ""quoted"""\n')
    (photo,) = read_catalogue([tmp_path / "shop.csv"])
    assert (photo.item, photo.path.name) == ("1", "a.jpg")
    assert photo.metadata == (("name", 'two\nlines, "quoted"'),)


def test_ids_that_a_spreadsheet_protects_are_read_and_those_that_it_has_shortened_are_reported(tmp_path: Path) -> None:
    rows = 'item_id,image\n="007",a.jpg\n"=""12345678901234567""",b.jpg\n4.00638E+12,c.jpg\n"4,00639E+12",d.jpg\n1e3,e.jpg\n'
    (tmp_path / "shop.csv").write_text(rows)
    notes: list[str] = []
    items = [photo.item for photo in read_catalogue([tmp_path / "shop.csv"], note=notes.append)]
    assert items == ["007", "12345678901234567", "4.00638E+12", "4,00639E+12", "1e3"]
    (note,) = notes
    assert "line 4 has the item id 4.00638E+12, a number that a spreadsheet has shortened" in note


def test_notes_name_the_line_in_another_encoding_and_the_doubled_column(tmp_path: Path) -> None:
    rows = b"item_id,image,size,size,,\n1,a.jpg,S,M,,\n2,caf\xe9.jpg,L,,x\n3,\xe4.jpg,L,,y\n"
    (tmp_path / "shop.csv").write_bytes(rows)
    notes: list[str] = []
    photos = list(read_catalogue([tmp_path / "shop.csv"], note=notes.append))
    expected = [("a.jpg", "S"), ("café.jpg", "L"), ("ä.jpg", "L")]
    assert [(photo.path.name, dict(photo.metadata)["size"]) for photo in photos] == expected
    encoding, doubled, unnamed = notes
    assert "columns without a name are left out; line 3 has a value in one" in unnamed
    assert "there are 2 columns size" in doubled
    assert "line 3 is not UTF-8" in encoding


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("shop.csv", b"id,picture\n1,a.jpg\n", "lacks the columns item_id and image"),
        ("shop.csv", b"", "is empty"),
        ("shop.csv", b"item_id,image,image\n1,a.jpg,b.jpg\n", "has the column image twice"),
        ("shop.csv", b"PK\x03\x04rest", "save it as CSV"),
        ("shop.ods", b"anything", "save it as .xlsx or CSV"),
        ("shop.xlsx", b"anything", "is no Excel file that can be read"),
        ("shop.parquet", b"anything", "is no Parquet file"),
        ("shop.jsonl", b"[1]\nnull\n", "line 1 is no JSON object"),
        ("shop.jsonl", b'{"id": 1, "picture": "a.jpg"}', "lacks the columns item_id and image"),
        ("shop.xml", b"<rss><channel></channel></rss>", "is no product feed"),
        ("shop.xml", b"<rss><item><id>1</id><title>a</title></item></rss>", "lacks the columns .* and has id, title"),
        ("shop.xml", b"<html><body>Log in<br></body></html>", "is no XML that can be read"),
        (
            "shop.xml",
            b'<!DOCTYPE a [<!ENTITY b "c">]><rss><item><id>&b;</id></item></rss>',
            "is no XML that can be read",
        ),
        ("absent.csv", None, "cannot be read"),
    ],
)
def test_table_that_is_no_catalogue_is_refused_as_a_whole(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=rf"{name}.* {says}"):
        list(read_catalogue([tmp_path / name]))


ROWS = [
    {"sku": "007", "photo_url": "a.jpg", "price": "49,90", "sizes": "S"},
    {"sku": "8", "photo_url": "b.jpg", "price": "12", "sizes": ""},
]


def _write(path: Path) -> None:
    if path.suffix == ".csv":
        path.write_text(
            "\n".join(",".join(f'"{cell}"' for cell in [*row]) for row in [ROWS[0], *(r.values() for r in ROWS)])
        )
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({**row, "price": row["price"]}) for row in ROWS), encoding="utf-16")
    elif path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(ROWS), path)
    else:
        workbook = pytest.importorskip("openpyxl").Workbook()
        for row in ([*ROWS[0]], *(list(row.values()) for row in ROWS)):
            workbook.active.append(row)
        workbook.save(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".xlsx"])
def test_table_of_any_format_is_read_alike_with_columns_named_otherwise(tmp_path: Path, suffix: str) -> None:
    _write(tmp_path / f"shop{suffix}")
    columns = {"item_id": "SKU", "image": "photo url", "cost": "price"}
    first, second = read_catalogue([tmp_path / f"shop{suffix}"], columns=columns)
    assert (first.item, first.path, first.metadata) == ("007", tmp_path / "a.jpg", (("cost", "49,90"), ("sizes", "S")))
    assert (second.item, second.path, second.metadata) == ("8", tmp_path / "b.jpg", (("cost", "12"),))
    with pytest.raises(CatalogueError, match="has no column 'skuu' for item_id, did you mean 'sku'"):
        list(read_catalogue([tmp_path / f"shop{suffix}"], columns={"item_id": "skuu"}))


def test_json_numbers_and_lists_keep_their_digits_and_a_bad_line_costs_itself(tmp_path: Path) -> None:
    lines = [
        '{"item_id": 12345678901234567890, "image": ["a.jpg", "b.jpg"], "price": 10.50, "new": true, "size": null}',
        "{broken",
        "[" * 100_000,
        '{"item_id": "2", "image": "c.jpg"}',
    ]
    (tmp_path / "shop.jsonl").write_text("\n".join(lines))
    gc.collect()  # or what earlier tests left is finalized, and fails, where the recursion is deepest
    a, b, broken, deep, c = read_catalogue([tmp_path / "shop.jsonl"])
    assert (a.item, a.path.name, b.path.name, c.item) == ("12345678901234567890", "a.jpg", "b.jpg", "2")
    assert a.metadata == b.metadata == (("price", "10.50"), ("new", "true"))
    assert str(broken.error).startswith("line 2 is not JSON")
    assert str(deep.error).startswith("line 3 is not JSON")


def test_dates_numbers_and_empty_cells_of_excel_become_text(tmp_path: Path) -> None:
    workbook = pytest.importorskip("openpyxl").Workbook()
    sheet = workbook.active
    for row in ([], ["item_id", "image", "price", "since", "stock"], [7, "a.jpg", 9.5, datetime(2026, 5, 1), 12.0]):  # noqa: DTZ001
        sheet.append(row)
    workbook.create_sheet("notes").append(["more"])
    workbook.save(tmp_path / "shop.xlsx")
    notes: list[str] = []
    (photo,) = read_catalogue([tmp_path / "shop.xlsx"], note=notes.append)
    assert photo.item == "7"
    assert photo.metadata == (("price", "9.5"), ("since", "2026-05-01"), ("stock", "12"))
    assert "there are 2 sheets" in notes[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a.jpg|b.jpg,,", ["a.jpg", "b.jpg"]),
        ('"a.jpg; b.png",,c.jpg', ["a.jpg", "b.png", "c.jpg"]),
        ('"one, two.jpg",,', ["one, two.jpg"]),
        (",b.jpg,c.jpg", ["b.jpg", "c.jpg"]),
    ],
)
def test_item_may_have_several_images_in_a_cell_and_in_columns(tmp_path: Path, row: str, expected: list[str]) -> None:
    (tmp_path / "one, two.jpg").touch()
    (tmp_path / "shop.csv").write_text(f"item_id,image,Image 2,image_10,colour\n7,{row},red\n")
    photos = list(read_catalogue([tmp_path / "shop.csv"]))
    assert [photo.path.name for photo in photos] == expected
    assert {photo.metadata for photo in photos} == {(("colour", "red"),)}
    (tmp_path / "numbered.csv").write_text(f"item_id,image_1,image_2\n7,{(tmp_path / 'one, two.jpg').as_uri()},b.jpg\n")
    photos = list(read_catalogue([tmp_path / "numbered.csv"]))
    assert [photo.path for photo in photos] == [tmp_path / "one, two.jpg", tmp_path / "b.jpg"]


def test_shopify_export_describes_all_photos_of_a_product_by_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "products_export.csv").write_text(
        "Handle,Title,Vendor,Type,Variant SKU,Variant Price,Image Src,Image Position,Variant Image\n"
        "red-shirt,Red shirt,Acme,Shirts,R-S,19.00,https://cdn.example/red-1.jpg?v=1,1,\n"
        "red-shirt,,,,R-M,21.00,,,\n"
        "red-shirt,,,,,,https://cdn.example/red-2.jpg,2,https://cdn.example/red-m.jpg\n"
        "no-photo,Ghost,Acme,Hats,G,5.00,,,\n"
    )
    notes: list[str] = []
    *photos, missing = read_catalogue([tmp_path / "products_export.csv"], note=notes.append)
    names = ["red-1.jpg?v=1", "red-2.jpg", "red-m.jpg"]
    assert [photo.url for photo in photos] == [f"https://cdn.example/{name}" for name in names]
    assert {photo.item for photo in photos} == {"red-shirt"}
    described = [dict(photo.metadata) for photo in photos]
    assert [one["title"] for one in described] == ["Red shirt"] * 3
    assert [one["price"] for one in described] == ["19.00"] * 3
    assert missing.error == "the product 'no-photo' has no photo"
    assert "a product export of Shopify" in notes[0]


@pytest.mark.parametrize("atom", [False, True])
def test_google_merchant_feed_is_read_with_all_its_images(tmp_path: Path, atom: bool) -> None:
    product = (
        "<g:id>TV_1</g:id><title>Navy shirt</title><link>https://shop.example/1</link><g:price>49.90 EUR</g:price>"
        "<g:image_link>https://shop.example/1.jpg</g:image_link><g:item_group_id>shirt</g:item_group_id>"
        "<g:additional_image_link>https://shop.example/2.jpg</g:additional_image_link>"
        "<g:additional_image_link>https://shop.example/3.jpg</g:additional_image_link>"
        "<g:shipping><g:country>DE</g:country></g:shipping>"
    )
    name = "entry" if atom else "item"
    items = f"<{name}>{product}</{name}><{name}><g:id>TV_2</g:id></{name}>"
    around = (
        '<feed xmlns="http://www.w3.org/2005/Atom" {0}>{1}</feed>' if atom else "<rss {0}><channel>{1}</channel></rss>"
    )
    feed = around.format('xmlns:g="http://base.google.com/ns/1.0"', items)
    (tmp_path / "feed.xml").write_text(feed)
    *photos, missing = read_catalogue([tmp_path / "feed.xml"], note=lambda _: None)
    assert [photo.url[-5:] for photo in photos] == ["1.jpg", "2.jpg", "3.jpg"]
    assert photos[0].item == "TV_1"
    about = dict(photos[0].metadata)
    assert (about["title"], about["price"], about["style"]) == ("Navy shirt", "49.90 EUR", "shirt")
    assert missing.error == "product 2 lacks an item_id or an image"
    (tmp_path / "cut.xml").write_text(feed[:-9])
    *_, broken = read_catalogue([tmp_path / "cut.xml"], note=lambda _: None)
    assert str(broken.error).startswith("product ")


def test_names_meet_their_files_in_any_spelling(tmp_path: Path) -> None:
    composed, decomposed = normalize("NFC", "größe"), normalize("NFD", "größe")
    (tmp_path / "fotos").mkdir()
    (tmp_path / "fotos" / f"{decomposed}.jpg").touch()
    legacy = tmp_path / os.fsdecode("café.jpg".encode("cp1252"))
    legacy.touch()
    mixed = tmp_path / os.fsdecode("é".encode("cp1252")) / composed / f"{decomposed}.jpg"
    mixed.parent.mkdir(parents=True)
    mixed.touch()
    rows = (f"{decomposed},fotos\\{composed}.jpg", "2,café.jpg", f"3,é/{decomposed}/{composed}.jpg")
    (tmp_path / "shop.csv").write_text("\n".join(["item_id,image", *rows]))
    first, second, third = read_catalogue([tmp_path / "shop.csv"])
    assert third.path == mixed
    assert (first.item, first.path) == (composed, tmp_path / "fotos" / f"{decomposed}.jpg")
    assert second.path == legacy
    assert [photo.item for photo in read_catalogue([tmp_path / "fotos"])] == [composed]


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop())


def index(gallery: Gallery, *sources: Path, prune: bool = False) -> Tally:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True)
    return Indexing(gallery, pipeline, "fake", prune=prune)(read_catalogue(sources))


def test_picture_replaced_under_the_same_size_and_time_is_noticed(tmp_path: Path, gallery: Gallery) -> None:
    path = tmp_path / "photos" / "a.jpg"
    path.parent.mkdir()
    pictures = []
    for color in ("red", "blue"):
        write_jpeg(path, draw(color))
        pictures.append(path.read_bytes())
    size = max(map(len, pictures))
    for content, outcome in ((pictures[0], "added"), (pictures[1], "replaced"), (pictures[1], "unchanged")):
        path.write_bytes(content.ljust(size, b"\0"))
        os.utime(path, (1_600_000_000, 1_600_000_000))
        assert getattr(index(gallery, path.parent), outcome) == 1, outcome


def test_photos_that_left_the_catalogue_are_counted_and_pruned_on_request(shop: Path, gallery: Gallery) -> None:
    index(gallery, shop)
    (shop / "green.jpg").unlink()
    (shop / "red" / "back.jpg").unlink()
    for prune, absent, pruned, left in ((False, 2, 0, 5), (True, 0, 2, 3), (False, 0, 0, 3)):
        tally = index(gallery, shop, prune=prune)
        assert (tally.unchanged, tally.absent, tally.pruned, len(gallery)) == (3, absent, pruned, left)
    assert Gallery.open(gallery.folder).items == ["black", "blue", "red"]


def test_nothing_is_pruned_by_a_catalogue_that_is_empty_or_cannot_be_read_completely(
    shop: Path, gallery: Gallery
) -> None:
    index(gallery, shop)
    (shop.parent / "unmounted").mkdir()
    (shop.parent / "part" / "a.jpg").mkdir(parents=True)
    table = shop / "shop.csv"
    table.write_text('item_id,image\ngreen,green.jpg\nblue,blue.jpg,"more"\n')
    for source, absent in ((shop.parent / "unmounted", 5), (shop.parent / "part", 5), (table, 4)):
        tally = index(gallery, source, prune=True)
        assert (tally.absent, tally.pruned) == (absent, 0)


def test_photos_that_have_moved_stay_in_the_catalogue(shop: Path, gallery: Gallery) -> None:
    index(gallery, shop)
    moved = shop.rename(shop.with_name("moved"))
    tally = index(gallery, moved)
    assert (tally.redescribed, tally.absent) == (5, 0)


def test_pipes_and_files_of_proc_are_not_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert digest(tmp_path / "pipe.jpg") == digest("/proc/self/status") == digest(tmp_path / "absent") == ""
