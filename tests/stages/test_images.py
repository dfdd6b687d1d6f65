"""Reading, writing and finding photos, beyond what the hostile corpus checks: every file here is made by the tests."""

from __future__ import annotations

import inspect
import io
import itertools
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import chunk, encoded, known, lying, png_header
from PIL import Image as PillowImage

from stages import formats, images, srgb
from stages.errors import ImageError
from stages.images import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    Photo,
    decode_photo,
    encode_jpeg,
    letterbox,
    read_image,
    read_photo,
    walk,
    write_jpeg,
)
from stages.types import Box

RED, BLUE, BLACK, WHITE = (220, 20, 20), (20, 20, 220), (0, 0, 0), (255, 255, 255)


def photo_like(width=160, height=120):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return (smooth.astype(int) + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def decoded(kind, picture, **options):
    return decode_photo(encoded(kind, picture, **options)).image


def refusal(data):
    with pytest.raises(ImageError) as caught:
        decode_photo(data)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 200
    return message


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels_back(kind):
    result = decoded(kind, photo_like(), **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(result, photo_like())
    assert result.flags.writeable
    assert result.flags.c_contiguous
    assert decode_photo(encoded(kind, photo_like()), 10).image.shape == (120, 160, 3), "only JPEG is decoded smaller"


def test_every_format_is_recognized_by_its_first_bytes():
    assert FORMATS[:6] == ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    for kind in set(FORMATS) - {"HEIC"}:  # which the hostile corpus has
        assert formats.sniff(encoded(kind, known())[: formats.HEAD_BYTES]) == kind


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
def test_tiff_modes_without_alpha(mode):
    black_and_white = np.zeros((8, 8, 3), np.uint8)
    black_and_white[:, 4:] = 255
    image = PillowImage.fromarray(black_and_white).convert(mode)
    assert abs(decoded("TIFF", image).astype(int) - black_and_white).max() <= 2


def test_translucent_pixels_are_blended_with_white():
    image = PillowImage.new("RGBA", (3, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        np.testing.assert_array_equal(decoded(kind, image, **options)[0], [RED, WHITE, (127, 127, 127)])
    grey = PillowImage.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 0))
    np.testing.assert_array_equal(decoded("PNG", grey)[0], [BLACK, WHITE])
    np.testing.assert_array_equal(np.asarray(srgb.to_rgb(grey.convert("La")))[0], [BLACK, WHITE])


@pytest.mark.parametrize(
    ("kind", "mode", "transparency"),
    [("PNG", "P", 1), ("PNG", "P", b"\xff\x00"), ("GIF", "P", 1), ("PNG", "RGB", BLUE)],
)
def test_a_transparent_color_becomes_white(kind, mode, transparency):
    image = PillowImage.new(mode, (2, 1), RED if mode == "RGB" else 0)
    if mode == "P":
        image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), BLUE if mode == "RGB" else 1)
    np.testing.assert_array_equal(decoded(kind, image, transparency=transparency)[0], [RED, WHITE])


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_become_eight(kind):
    values = np.array([[0, 257, 5000, 32768, 65535]], np.uint16)
    grey = decode_photo(cv2.imencode(f".{kind}", values)[1].tobytes()).image
    np.testing.assert_array_equal(grey[0, :, 0], [0, 1, 19, 128, 255])
    data = cv2.imencode(f".{kind}", photo_like()[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_photo(data).image, photo_like())


def test_sixteen_bit_grey_with_a_transparent_value():
    pixels = chunk(b"IDAT", zlib.compress(struct.pack(">BHH", 0, 300, 600)))
    data = png_header(2, 1, 16, 0) + chunk(b"tRNS", struct.pack(">H", 600)) + pixels + chunk(b"IEND", b"")
    assert decode_photo(data).image[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    ("mode", "values", "wanted"),
    [
        ("F", [0.0, 0.5, 1.0], [0, 128, 255]),
        ("F", [0.0, 100.0, 255.0], [0, 100, 255]),
        ("F", [-4.0, float("nan"), 1.0], [0, 0, 255]),
        ("I", [0, 1, 200], [0, 1, 200]),
        ("I", [-7, 25700, 65535], [0, 100, 255]),
        ("I", [0, 2**30, 2**31 - 1], [0, 128, 255]),
    ],
)
def test_the_white_of_32_bit_grey_is_the_smallest_usual_one_that_holds_it(mode, values, wanted):
    image = PillowImage.fromarray(np.array([values], np.float32 if mode == "F" else np.int32))
    assert decoded("TIFF", image)[0, :, 1].tolist() == wanted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_photos_are_upright_and_know_their_full_size(orientation):
    photo = decode_photo(lying(orientation, "JPEG", quality=95), at_least_px=16)
    assert (photo.width, photo.height, photo.scale) == (64, 48, 4)
    assert abs(photo.image[[2, 2, 9], [2, 13, 2]].astype(int) - [RED, (20, 200, 20), BLUE]).max() < 40


@pytest.mark.parametrize(("width", "height"), [(641, 483), (1, 900), (900, 3)])
def test_reduced_photos_are_large_enough_and_look_like_the_full_ones(width, height):
    data = encoded("JPEG", photo_like(width, height), quality=95)
    full = decode_photo(data).image
    for at_least in (1, 80, 161, 162, 5000):
        photo = decode_photo(data, at_least)
        rows, columns, _ = photo.image.shape
        assert (photo.width, photo.height) == (width, height)
        assert max(rows, columns) >= min(at_least, max(width, height))
        if width == 641:  # the others have too few pixels to compare
            wanted = cv2.resize(full, (columns, rows), interpolation=cv2.INTER_AREA)
            assert abs(wanted.astype(int) - photo.image).mean() < 6
    assert width != 641 or decode_photo(data, 80).image.shape == (61, 81, 3)


def test_boxes_of_a_reduced_photo_are_converted_to_full_pixels():
    photo = decode_photo(encoded("JPEG", photo_like(1601, 1203)), 400)
    height, width, _ = photo.image.shape
    assert (width, height) == (401, 301)
    assert photo.to_full(Box(0, 0, width, height)) == Box(0, 0, 1601, 1203)
    box = photo.to_full(Box(100, 50, 101, 51))
    assert (box.x1, box.x2 - box.x1) == (399, 5)
    with pytest.raises(ValueError, match="within"):
        photo.to_full(Box(0, 0, width + 1, height))
    assert Photo(known(), 64, 48).to_full(Box(3, 4, 50, 40)) == Box(3, 4, 50, 40)


def test_reducing_to_nothing_is_the_callers_mistake():
    for call in (lambda: decode_photo(b"", 0), lambda: read_photo("nowhere.jpg", -5)):
        with pytest.raises(ValueError, match="at least 1"):
            call()


def test_files_that_are_missing_or_not_files(tmp_path, monkeypatch):
    def message(path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(tmp_path) not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty.jpg").touch()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert message(tmp_path / "empty.jpg") == "is empty (0 bytes)"
    assert message(tmp_path / "gone.jpg") == "was not found"
    assert message(tmp_path / "empty.jpg" / "in.jpg") == "cannot be read: not a directory"
    assert message(tmp_path / "broken.jpg") == "is a broken link"
    assert message("nul\0byte.jpg") == "has a name that no file can have"
    assert message("x" * 5000).startswith("cannot be read: ")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert message(tmp_path) == "is a folder that cannot be listed"


def test_a_disk_error_is_not_the_photos_fault(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    (tmp_path / "photo.png").write_bytes(encoded("PNG", known()))
    monkeypatch.setattr(formats, "open_header", fail)
    with pytest.raises(ImageError, match=r"^cannot be read: input/output error$"):
        read_image(tmp_path / "photo.png")


def test_bombs_are_refused_by_their_header(monkeypatch):
    def claiming(width, height):
        return png_header(width, height) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")

    assert refusal(claiming(30_000, 30_000)) == "has 900 megapixels; at most 105 are read"
    assert refusal(claiming(MAX_PIXELS // 10_000 + 1, 10_000)).startswith("has 106 megapixels")
    assert refusal(claiming(100_000, 1)) == "is 100000x1 pixels; sides of at most 65500 are read"
    assert refusal(claiming(0, 10)).startswith("is a truncated, damaged or unsupported PNG")
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 100)  # the host program's setting, which Pillow's WebP minds
    assert decoded("PNG", known()).shape == (48, 64, 3)
    assert refusal(encoded("WEBP", known())).startswith("has too many pixels")


def test_running_out_of_memory_is_reported(monkeypatch):
    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(srgb, "to_rgb", exhaust)
    assert refusal(encoded("PNG", known())) == "does not fit into memory"


def test_a_file_cut_in_half_is_called_truncated():
    for kind in ("JPEG", "PNG", "BMP", "TIFF"):
        data = encoded(kind, photo_like())
        assert refusal(data[: len(data) // 2]) == f"is truncated ({kind})"


def noisy_png():
    """An animation that claims to have no frames, of which Pillow warns."""
    data = encoded("PNG", known())
    return data[:33] + chunk(b"acTL", bytes(8)) + data[33:]


@pytest.mark.parametrize("action", ["always", "error"])
def test_pillow_warns_of_a_file_and_reading_it_does_not(action):
    with pytest.warns(UserWarning, match="Invalid APNG"), PillowImage.open(io.BytesIO(noisy_png())):
        pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # now it comes before our filter
        np.testing.assert_array_equal(decode_photo(noisy_png()).image, known())
        assert warnings.filters.count(formats._FILTER) == 1
    assert not caught


def test_other_threads_other_modules_and_later_times_still_warn():
    def warn():
        PillowImage.open(io.BytesIO(noisy_png())).close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with formats.no_warnings():
            warn()
            assert not caught
            thread = threading.Thread(target=warn)
            thread.start()
            thread.join()
            warnings.warn("ours", UserWarning, stacklevel=1)
        warn()
    assert [str(warning.message)[:12] for warning in caught] == ["Invalid APNG", "ours", "Invalid APNG"]


@pytest.mark.parametrize(("width", "height"), [(20_000, 1), (1, 20_000), (1, 1), (300, 200), (7, 9), (65_500, 2)])
@pytest.mark.parametrize("side", [1, 32, 225])
def test_letterbox_never_distorts(width, height, side):
    image = np.zeros((height, width, 3), np.uint8)
    result = letterbox(image, side, fill=(1, 2, 3))
    assert result.shape == (side, side, 3)
    inside = (result == 0).all(axis=2)
    columns, rows = int(inside.any(axis=0).sum()), int(inside.any(axis=1).sum())
    assert max(columns, rows) == side
    assert abs(columns - max(1, width * side / max(width, height))) <= 0.5
    assert abs(rows - max(1, height * side / max(width, height))) <= 0.5
    assert (result[~inside] == (1, 2, 3)).all()
    assert np.argwhere(inside)[0].tolist() == [(side - rows) // 2, (side - columns) // 2]
    assert not image.any()
    square = photo_like(side, side)
    copy = letterbox(square, side)
    np.testing.assert_array_equal(copy, square)
    assert not np.shares_memory(copy, square)


@pytest.mark.parametrize(
    ("image", "side"),
    [(known(), 0), (known()[..., 0], 8), (known().astype(np.float32), 8), (np.zeros((0, 4, 3), np.uint8), 8)],
)
def test_letterbox_says_what_it_wants(image, side):
    with pytest.raises(ValueError, match=r"at least (1|one) pixel"):
        letterbox(image, side)


def test_a_written_jpeg_is_read_back(tmp_path):
    path = tmp_path / "crop.jpg"
    write_jpeg(path, known()[:, ::-1], quality=95)
    assert abs(read_image(str(path)).astype(int) - known()[:, ::-1]).mean() < 3
    with pytest.raises(ImageError, match=r"^cannot be written: no such file"):
        write_jpeg(tmp_path / "no" / "crop.jpg", known())


def test_a_jpeg_is_reduced_to_a_side_but_never_enlarged():
    assert decode_photo(encode_jpeg(photo_like(), max_side=40)).image.shape == (30, 40, 3)
    assert decode_photo(encode_jpeg(photo_like(), max_side=400)).image.shape == (120, 160, 3)
    wide = np.zeros((1, 65_501, 3), np.uint8)
    assert decode_photo(encode_jpeg(wide, max_side=100)).image.shape == (1, 100, 3)
    with pytest.raises(ValueError, match="max_side"):
        encode_jpeg(wide)
    with pytest.raises(ValueError, match="an image is"):
        encode_jpeg(known()[..., :2])


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def walked(root):
    return [path.relative_to(root).as_posix() for path in walk([root])]


def test_photos_of_a_folder_are_sorted_and_others_left_out(tmp_path):
    make(tmp_path, "b.jpg", "a.PNG", "c/z.webp", "c/a.jpeg", "B.gif", "d.tif", "notes.txt", "jpg", ".jpg", "x.jpg.part")
    make(tmp_path, ".hidden.jpg", ".git/a.jpg", "c/._a.jpeg", "Thumbs.db")
    system = ("__MACOSX", "@eaDir/a.jpg", "#recycle", "c/$RECYCLE.BIN", "$Recycle.Bin/S-1-5", "@Recycle", "lost+found")
    make(tmp_path, *(f"{folder}/a.jpg" for folder in (*system, "@Recently-Snapshot", "Network Trash Folder")))
    assert walked(tmp_path) == ["B.gif", "a.PNG", "b.jpg", "c/a.jpeg", "c/z.webp", "d.tif"]
    make(tmp_path / "all", *(f"a{suffix}" for suffix in SUFFIXES), *(f"b{suffix.upper()}" for suffix in SUFFIXES))
    assert len(walked(tmp_path / "all")) == 2 * len(SUFFIXES)


def test_sources_come_in_their_order_whatever_they_are(tmp_path):
    make(tmp_path, "in/b.jpg", "in/a.jpg", "notes.txt", ".hidden.jpg", ".cache/a.jpg")
    sources = [tmp_path / "missing.jpg", tmp_path / "notes.txt", str(tmp_path / "in"), tmp_path / ".hidden.jpg"]
    names = [path.relative_to(tmp_path).as_posix() for path in walk([*sources, tmp_path / ".cache"])]
    assert names == ["missing.jpg", "notes.txt", "in/a.jpg", "in/b.jpg", ".hidden.jpg", ".cache/a.jpg"]
    assert list(walk(["nul\0byte.jpg"])) == [Path("nul\0byte.jpg")]


def test_a_folder_named_like_a_photo_is_yielded_and_entered(tmp_path):
    make(tmp_path, "a.jpg/inside.png", "b.jpg")
    assert walked(tmp_path) == ["a.jpg", "a.jpg/inside.png", "b.jpg"]


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    make(tmp_path, "shop/a.jpg", "shop/deep/b.jpg", "other/c.jpg")
    (tmp_path / "shop" / "deep" / "up").symlink_to(tmp_path / "shop")
    (tmp_path / "shop" / "self").symlink_to(tmp_path / "shop" / "self")
    (tmp_path / "shop" / "other").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "shop")
    (tmp_path / "shop" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert walked(tmp_path / "shop") == ["a.jpg", "deep/b.jpg", "gone.jpg", "other/c.jpg"]


def test_names_that_are_not_utf8_are_found_and_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    make(tmp_path, name, "z\n.jpg", "ü.png")
    assert [path.name for path in walk([tmp_path])] == sorted([name, "z\n.jpg", "ü.png"])
    write_jpeg(tmp_path / name, known())
    assert read_image(tmp_path / name).shape == known().shape


def refuse_to_list(monkeypatch, *refused):
    scandir = os.scandir

    def guarded(folder):
        if Path(folder).name in refused:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)


def test_a_folder_that_cannot_be_listed_is_yielded_once_and_the_walk_goes_on(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "locked/2.jpg", "locked.jpg/3.jpg", "z/4.jpg")
    refuse_to_list(monkeypatch, "locked", "locked.jpg")
    assert walked(tmp_path) == ["a/1.jpg", "locked", "locked.jpg", "z/4.jpg"]
    assert walked(tmp_path / "locked") == ["."]
    assert walked(tmp_path / "locked.jpg") == ["."]


def test_the_walk_is_lazy(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    refuse_to_list(monkeypatch, "b")
    listed = []
    listing = images._listing
    monkeypatch.setattr(images, "_listing", lambda folder: listed.append(folder.name) or listing(folder))
    photos = walk(itertools.chain([tmp_path], itertools.repeat(tmp_path / "a")))
    assert listed == []
    assert next(photos) == tmp_path / "a" / "1.jpg"
    assert listed == [tmp_path.name, "a"]
    assert len(list(itertools.islice(photos, 5))) == 5


def test_folders_may_nest_deeper_than_calls(tmp_path):
    make(tmp_path, "d/" * 150 + "x.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        paths = list(walk([tmp_path]))
    finally:
        sys.setrecursionlimit(limit)
    assert [len(path.relative_to(tmp_path).parts) for path in paths] == [151]
