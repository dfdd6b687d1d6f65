"""Folders to photos: sorted, lazily, through links but never in circles."""

from __future__ import annotations

import inspect
import itertools
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import _walk
from stages.errors import ImageError
from stages.images import SUFFIXES, read_image, walk


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def walked(root):
    return [path.relative_to(root).as_posix() for path in walk([root])]


def test_photos_of_a_folder_are_sorted_and_others_left_out(tmp_path):
    make(tmp_path, "b.jpg", "a.PNG", "c/z.webp", "c/a.jpeg", "B.gif", "d.tif", "notes.txt", "jpg", ".jpg", "x.jpg.part")
    make(tmp_path, ".hidden.jpg", ".git/a.jpg", "__MACOSX/a.jpg", "c/._a.jpeg", "Thumbs.db")
    assert walked(tmp_path) == ["B.gif", "a.PNG", "b.jpg", "c/a.jpeg", "c/z.webp", "d.tif"]


def test_every_suffix_is_found_in_any_case(tmp_path):
    make(tmp_path, *(f"a{suffix}" for suffix in SUFFIXES), *(f"b{suffix.upper()}" for suffix in SUFFIXES))
    assert len(walked(tmp_path)) == 2 * len(SUFFIXES)


def test_sources_come_in_their_order_and_files_whatever_they_are(tmp_path):
    make(tmp_path, "in/b.jpg", "in/a.jpg", "notes.txt", ".hidden.jpg")
    sources = [tmp_path / "missing.jpg", tmp_path / "notes.txt", str(tmp_path / "in"), tmp_path / ".hidden.jpg"]
    found = [path.relative_to(tmp_path).as_posix() for path in walk(sources)]
    assert found == ["missing.jpg", "notes.txt", "in/a.jpg", "in/b.jpg", ".hidden.jpg"]
    assert list(walk([])) == []
    assert list(walk(["nul\0byte.jpg"])) == [Path("nul\0byte.jpg")]


def test_a_hidden_folder_may_be_a_source(tmp_path):
    make(tmp_path, ".cache/a.jpg")
    assert walked(tmp_path / ".cache") == ["a.jpg"]


def test_a_folder_named_like_a_photo_is_told_and_entered(tmp_path):
    make(tmp_path, "a.jpg/inside.png", "b.jpg")
    assert walked(tmp_path) == ["a.jpg", "a.jpg/inside.png", "b.jpg"]
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path / "a.jpg")


def test_links_are_followed_and_never_in_a_circle(tmp_path):
    make(tmp_path, "shop/a.jpg", "shop/deep/b.jpg", "other/c.jpg")
    (tmp_path / "shop" / "deep" / "up").symlink_to(tmp_path / "shop")
    (tmp_path / "shop" / "self").symlink_to(tmp_path / "shop" / "self")
    (tmp_path / "shop" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "shop" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "shop" / "gone").symlink_to(tmp_path / "nowhere")
    assert walked(tmp_path / "shop") == ["a.jpg", "deep/b.jpg", "gone.jpg", "other/c.jpg"]


def test_a_circle_through_two_links(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    assert walked(tmp_path) == ["a/1.jpg", "a/to_b/2.jpg", "b/2.jpg", "b/to_a/1.jpg"]


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    make(tmp_path, name, "z\n.jpg", "ü.png")
    assert [path.name for path in walk([tmp_path])] == sorted([name, "z\n.jpg", "ü.png"])
    with pytest.raises(ImageError, match="empty"):
        read_image(tmp_path / name)


def refuse_to_list(monkeypatch, *refused):
    scandir = os.scandir

    def guarded(folder):
        if Path(folder).name in refused:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)


def test_a_folder_that_cannot_be_listed_is_told_once_and_the_walk_goes_on(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "locked/2.jpg", "locked.jpg/3.jpg", "z/4.jpg")
    refuse_to_list(monkeypatch, "locked", "locked.jpg")
    assert walked(tmp_path) == ["a/1.jpg", "locked", "locked.jpg", "z/4.jpg"]
    assert walked(tmp_path / "locked") == ["."]
    assert walked(tmp_path / "locked.jpg") == ["."]


def test_the_walk_is_lazy(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    refuse_to_list(monkeypatch, "b")
    listed = []
    listing = _walk._listing
    monkeypatch.setattr(_walk, "_listing", lambda folder: listed.append(folder.name) or listing(folder))
    photos = walk(itertools.chain([tmp_path], itertools.repeat(tmp_path / "a")))
    assert listed == []
    assert next(photos) == tmp_path / "a" / "1.jpg"
    assert listed == [tmp_path.name, "a"]
    assert len(list(itertools.islice(photos, 5))) == 5


def test_folders_nest_deeper_than_calls_may(tmp_path):
    make(tmp_path, "d/" * 150 + "x.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = list(walk([tmp_path]))
    finally:
        sys.setrecursionlimit(limit)
    assert [len(path.relative_to(tmp_path).parts) for path in found] == [151]


names = st.text(alphabet="aAbB.zé0", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@settings(max_examples=25, deadline=None)
@given(names=st.sets(names, max_size=12), at_once=st.integers(1, 5))
def test_a_folder_listed_in_pieces_is_listed_whole(tmp_path_factory, names, at_once):
    root = tmp_path_factory.mktemp("pieces")
    make(root, *(f"{name}.jpg" for name in names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_walk, "NAMES_AT_ONCE", at_once)
        assert walked(root) == sorted(f"{name}.jpg" for name in names if not name.startswith("."))
