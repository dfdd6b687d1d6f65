import re
from pathlib import Path

import pytest

from pipeline.catalogue import read_catalogue
from stages.errors import CatalogueError


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


def test_pattern_takes_its_group_and_tells_names_without_one(tmp_path: Path) -> None:
    for name in ("a1-red_main.jpg", "a1-red_back.jpg", "logo.jpg"):
        (tmp_path / name).touch()
    photos = list(read_catalogue([tmp_path], re.compile(r"^(\w+-\w+?)_")))
    assert [photo.item for photo in photos] == ["a1-red", "a1-red", ""]
    assert "no item id" in str(photos[2].error)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_keeps_further_columns_and_resolves_paths_beside_it(tmp_path: Path, separator: str) -> None:
    csv = tmp_path / "shop.csv"
    lines = [["item_id", "image", "price"], ["7", "photos/a.jpg", "9.90"], ["8", "b.jpg", ""]]
    csv.write_text("\ufeff" + "\n".join(separator.join(line) for line in lines))
    seven, eight = read_catalogue([csv])
    assert (seven.item, seven.path, seven.metadata) == ("7", tmp_path / "photos" / "a.jpg", (("price", "9.90"),))
    assert eight.metadata == ()


def test_bad_rows_are_told_by_line_and_the_others_kept(tmp_path: Path) -> None:
    csv = tmp_path / "shop.csv"
    csv.write_text("item_id,image\n,a.jpg\nx,\nx,b.jpg\nx,b.jpg,more\n")
    photos = list(read_catalogue([csv]))
    assert [photo.error and photo.error[:6] for photo in photos] == ["line 2", "line 3", None, "line 5"]


@pytest.mark.parametrize("content", [b"id,picture\n1,a.jpg\n", b"", b"item_id,image\n\xff\xfe,a.jpg\n"])
def test_a_csv_that_is_no_catalogue_is_refused_as_a_whole(tmp_path: Path, content: bytes) -> None:
    csv = tmp_path / "shop.csv"
    csv.write_bytes(content)
    with pytest.raises(CatalogueError, match=r"shop\.csv"):
        list(read_catalogue([csv]))


def test_missing_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot be read"):
        list(read_catalogue([tmp_path / "absent.csv"]))
