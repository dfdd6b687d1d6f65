"""Whatever a file holds: an upright sRGB image, or one line of why not. Every file is made here."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import threading
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageCms

from stages import _pillow, _srgb
from stages.errors import ImageError
from stages.images import (
    FORMATS,
    MAX_PIXELS,
    Photo,
    decode_photo,
    encode_jpeg,
    letterbox,
    read_image,
    read_photo,
    write_jpeg,
)
from stages.types import Box

RED, GREEN, BLUE, BLACK, WHITE = (220, 20, 20), (20, 200, 20), (20, 20, 220), (0, 0, 0), (255, 255, 255)


def corners(width=64, height=48):
    """Four colours that tell every orientation apart: red top left, green top right, blue below left."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = RED
    picture[: height // 2, width // 2 :] = GREEN
    picture[height // 2 :, : width // 2] = BLUE
    return picture


def photo_like(width=160, height=120, seed=0):
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return (smooth.astype(int) + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def encoded(kind, picture, **options):
    image = picture if isinstance(picture, PillowImage.Image) else PillowImage.fromarray(picture)
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def decoded(kind, picture, **options):
    return decode_photo(encoded(kind, picture, **options)).image


def refusal(data):
    with pytest.raises(ImageError) as caught:
        decode_photo(data)
    return one_line(caught.value)


def one_line(error):
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 200
    return message


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


# --- formats and colours ---


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels_back(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = photo_like()
    result = decoded(kind, picture, **options)
    np.testing.assert_array_equal(result, picture)
    assert result.dtype == np.uint8
    assert result.flags.writeable
    assert result.flags.c_contiguous


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind in {"JPEG", "WEBP", "AVIF"}])
def test_lossy_formats_give_nearly_the_pixels_back(kind):
    picture = photo_like()
    result = decoded(kind, picture, quality=95).astype(int)
    assert abs(result - picture).mean() < 6


def test_every_format_is_known_by_its_first_bytes():
    assert FORMATS[:6] == ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    for kind in set(FORMATS) - {"HEIC"}:  # which has tests of its own
        assert _pillow.sniff(encoded(kind, corners())[: _pillow.HEAD_BYTES]) == kind


def test_mpo_is_its_main_photo():
    data = encoded("MPO", corners(), save_all=True, append_images=[PillowImage.new("RGB", (64, 48))], quality=95)
    assert b"MPF\0" in data
    assert abs(decode_photo(data).image.astype(int) - corners()).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(kind):
    first, second = PillowImage.new("RGB", (20, 10), RED), PillowImage.new("RGB", (20, 10), BLUE)
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decoded(kind, first, save_all=True, append_images=[second], **options)
    assert (result == RED).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
def test_tiff_modes_without_alpha(mode):
    black_and_white = np.zeros((8, 8, 3), np.uint8)
    black_and_white[:, 4:] = 255
    image = PillowImage.fromarray(black_and_white).convert(mode)
    assert abs(decoded("TIFF", image).astype(int) - black_and_white).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_over_white(kind):
    image = PillowImage.new("RGBA", (3, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    result = decoded(kind, image, **options)
    np.testing.assert_array_equal(result[0], [RED, WHITE, (127, 127, 127)])


def test_grey_with_alpha_is_over_white():
    image = PillowImage.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 0))
    np.testing.assert_array_equal(decoded("PNG", image)[0], [BLACK, WHITE])


def test_premultiplied_grey_is_over_white():
    image = PillowImage.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 0))
    result = _srgb.to_rgb(image.convert("La"))
    np.testing.assert_array_equal(np.asarray(result)[0], [BLACK, WHITE])


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["index", "bytes"])
def test_palette_transparency_is_over_white(transparency):
    image = PillowImage.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decoded("PNG", image, transparency=transparency)[0], [RED, WHITE])


def test_gif_transparency_is_over_white():
    image = PillowImage.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decoded("GIF", image, transparency=1)[0], [RED, WHITE])


def test_a_transparent_colour_is_white():
    image = PillowImage.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    np.testing.assert_array_equal(decoded("PNG", image, transparency=BLUE)[0], [RED, WHITE])


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_by_257(kind):
    values = np.array([[0, 257, 5000, 32768, 65535]], np.uint16)
    result = decode_photo(cv2.imencode(f".{kind}", values)[1].tobytes()).image
    np.testing.assert_array_equal(result[0, :, 0], [0, 1, 19, 128, 255])


def test_sixteen_bit_grey_with_a_transparent_value():
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(struct.pack(">BHH", 0, 300, 600)))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"tRNS", struct.pack(">H", 600)) + pixels
    assert decode_photo(data + png_chunk(b"IEND", b"")).image[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_colour_keeps_its_upper_byte(kind):
    picture = photo_like()
    data = cv2.imencode(f".{kind}", picture[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_photo(data).image, picture)


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
def test_grey_of_32_bits_takes_the_smallest_white_that_holds_it(mode, values, wanted):
    image = PillowImage.fromarray(np.array([values], np.float32 if mode == "F" else np.int32))
    assert image.mode == mode
    assert decoded("TIFF", image)[0, :, 1].tolist() == wanted


def test_cmyk_jpeg_is_not_inverted():
    image = PillowImage.fromarray(corners()).convert("CMYK")
    assert abs(decoded("JPEG", image, quality=95).astype(int) - corners()).mean() < 6


# --- colour profiles ---


def swapped_profile():
    """An RGB profile whose red and green are sRGB's the other way round."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_embedded_profile_is_followed(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    red = PillowImage.new("RGB", (16, 16), (255, 0, 0))
    result = decoded(kind, red, icc_profile=swapped_profile(), **options)
    assert abs(result.astype(int) - (0, 255, 0)).max() < 8


def test_a_profile_leaves_transparency_alone():
    image = PillowImage.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    result = decoded("PNG", image, icc_profile=swapped_profile())
    assert abs(result[0].astype(int) - [(0, 255, 0), WHITE]).max() < 8


@pytest.mark.parametrize("profile", [b"not a profile", swapped_profile()[:200], b"\0" * 600])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_broken_profile_is_ignored(profile, mode):
    image = PillowImage.fromarray(corners()).convert(mode)
    plain = decoded("JPEG", image)
    np.testing.assert_array_equal(decoded("JPEG", image, icc_profile=profile), plain)


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decoded("PNG", photo_like(), icc_profile=profile), photo_like())


# --- orientation ---

LYING = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How the sensor's rows lie for each EXIF orientation of an upright picture."""


def lying(orientation, picture):
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    return PillowImage.fromarray(np.ascontiguousarray(LYING[orientation](picture))), exif.tobytes()


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_orientations_are_set_upright(kind, orientation):
    image, exif = lying(orientation, corners())
    photo = decode_photo(encoded(kind, image, exif=exif))
    assert (photo.width, photo.height) == (64, 48)
    assert photo.image.shape == (48, 64, 3)
    assert abs(photo.image.astype(int) - corners()).mean() < 8


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_avif_is_set_upright(orientation):
    image, exif = lying(orientation, corners())
    assert abs(decoded("AVIF", image, exif=exif).astype(int) - corners()).mean() < 8


@pytest.mark.parametrize("orientation", LYING)
def test_orientations_of_reduced_photos(orientation):
    image, exif = lying(orientation, corners(640, 480))
    photo = decode_photo(encoded("JPEG", image, exif=exif), at_least_px=160)
    assert (photo.width, photo.height) == (640, 480)
    assert photo.image.shape == (120, 160, 3)
    assert photo.scale == 4
    assert abs(photo.image.astype(int) - corners(160, 120)).mean() < 8


CORRUPT_EXIF = [
    b"Exif\0\0",
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
]


@pytest.mark.parametrize("exif", CORRUPT_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_is_ignored(kind, exif):
    np.testing.assert_array_equal(decoded(kind, corners(), exif=exif), decoded(kind, corners()))


# --- reduced photos ---


@pytest.mark.parametrize(("width", "height"), [(641, 483), (1, 900), (900, 3)])
@pytest.mark.parametrize("at_least", [1, 80, 161, 162, 5000])
def test_reduced_photos_are_large_enough_and_know_their_size(width, height, at_least):
    data = encoded("JPEG", photo_like(width, height))
    photo = decode_photo(data, at_least)
    assert (photo.width, photo.height) == (width, height)
    longest = max(photo.image.shape)
    assert longest >= min(at_least, max(width, height))
    if (width, at_least) in {(641, 1), (641, 80)}:
        assert photo.image.shape == (61, 81, 3)


def test_a_reduced_photo_looks_like_the_full_one():
    data = encoded("JPEG", photo_like(640, 480), quality=95)
    full, reduced = decode_photo(data).image, decode_photo(data, 320).image
    assert reduced.shape == (240, 320, 3)
    wanted = cv2.resize(full, (320, 240), interpolation=cv2.INTER_AREA)
    assert abs(wanted.astype(int) - reduced).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_other_formats_are_not_reduced(kind):
    assert decode_photo(encoded(kind, photo_like()), 10).image.shape == (120, 160, 3)


def test_boxes_of_a_reduced_photo_are_told_in_full_pixels():
    photo = decode_photo(encoded("JPEG", photo_like(1601, 1203)), 400)
    height, width, _ = photo.image.shape
    assert (width, height) == (401, 301)
    assert photo.to_full(Box(0, 0, width, height)) == Box(0, 0, 1601, 1203)
    box = photo.to_full(Box(100, 50, 101, 51))
    assert (box.x1, box.x2 - box.x1) == (399, 5)
    with pytest.raises(ValueError, match="within"):
        photo.to_full(Box(0, 0, width + 1, height))


def test_boxes_of_a_photo_of_full_size_stay():
    photo = Photo(corners(), 64, 48)
    assert photo.to_full(Box(3, 4, 50, 40)) == Box(3, 4, 50, 40)
    assert photo.scale == 1


@pytest.mark.parametrize("call", [lambda: decode_photo(b"", 0), lambda: read_photo("nowhere.jpg", -5)])
def test_reducing_to_nothing_is_the_callers_mistake(call):
    with pytest.raises(ValueError, match="at least 1"):
        call()


# --- files that cannot be used ---


def test_files_that_are_not_there_or_not_files(tmp_path):
    def told(path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        message = one_line(caught.value)
        assert str(tmp_path) not in message
        return message

    (tmp_path / "empty.jpg").touch()
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert told(tmp_path / "empty.jpg") == "is empty (0 bytes)"
    assert told(tmp_path / "gone.jpg") == "was not found"
    assert told(tmp_path / "empty.jpg" / "in.jpg") == "cannot be read: not a directory"
    assert told(tmp_path / "broken.jpg") == "is a broken link"
    assert told(tmp_path / "loop.jpg") == "is a link that leads back to itself"
    assert told(tmp_path / "pipe.jpg") == "is not a regular file"
    assert told(os.devnull) == "is not a regular file"
    assert told(tmp_path) == "is a folder, not a photo"
    assert told("nul\0byte.jpg") == "has a name that no file can have"
    assert told("x" * 5000).startswith("cannot be read: ")


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("photo.jpg")
        with pytest.raises(ImageError, match="not a regular file"):
            read_image("photo.jpg")


def test_forbidden_files_and_folders(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    write_jpeg(path, corners())

    def forbidden(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ImageError, match=r"^cannot be read: permission denied$"):
        read_image(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ImageError, match="cannot be listed"):
        read_image(tmp_path)


def test_a_disk_error_is_not_the_photos_fault(tmp_path, monkeypatch):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded("PNG", corners()))

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_pillow, "open_header", fails)
    with pytest.raises(ImageError, match=r"^cannot be read: input/output error$"):
        read_image(path)


def test_huge_files_are_refused_unread(tmp_path):
    path = tmp_path / "huge.webp"
    with path.open("wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(ImageError, match=r"^has 3\.0 GB; at most 1\.0"):
        read_image(path)


@pytest.mark.parametrize("data", [b"hello, world", b"<html></html>" * 99, b"\0" * 500, b"%PDF-1.7", b"\xff\xd8"])
def test_what_is_no_photo(data):
    assert refusal(data).startswith("is not a photo of a known format (JPEG, PNG,")


def test_bombs_are_refused_by_their_header(monkeypatch):
    assert refusal(png_claiming(30_000, 30_000)) == "has 900 megapixels; at most 105 are read"
    assert refusal(png_claiming(MAX_PIXELS // 10_000 + 1, 10_000)).startswith("has 106 megapixels")
    assert refusal(png_claiming(100_000, 1)) == "is 100000x1 pixels; sides of at most 65500 are read"
    assert refusal(png_claiming(0, 10)).startswith("is a truncated, damaged or unsupported PNG")
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 100)
    assert decoded("PNG", corners()).shape == (48, 64, 3)
    assert refusal(encoded("WEBP", corners())).startswith("has too many pixels")


def test_running_out_of_memory_is_told(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(_srgb, "to_rgb", full)
    assert refusal(encoded("PNG", corners())) == "does not fit into memory"


def kinds_of_files():
    picture = photo_like(48, 36)
    palette = PillowImage.fromarray(picture).quantize(32)
    animated = {"save_all": True, "append_images": [PillowImage.fromarray(picture[::-1])]}
    files = {
        "jpeg": encoded("JPEG", picture),
        "progressive": encoded("JPEG", picture, progressive=True),
        "png": encoded("PNG", picture),
        "palette": encoded("PNG", palette),
        "webp": encoded("WEBP", picture),
        "gif": encoded("GIF", picture),
        "bmp": encoded("BMP", picture),
        "tiff": encoded("TIFF", picture),
        "lzw": encoded("TIFF", picture, compression="tiff_lzw"),
        "animated gif": encoded("GIF", picture, **animated),
        "animated png": encoded("PNG", picture, **animated),
    }
    return files | ({"avif": encoded("AVIF", picture)} if "AVIF" in FORMATS else {})


@pytest.mark.parametrize(("kind", "data"), kinds_of_files().items(), ids=kinds_of_files())
def test_a_truncated_file_is_refused_or_whole_never_wrong(kind, data):
    whole = decode_photo(data).image
    ends = {*range(0, 64, 4), *range(64, len(data), max(1, len(data) // 25)), *range(len(data) - 20, len(data))}
    refused = 0
    for end in sorted(ends):
        try:
            result = decode_photo(data[:end]).image
        except ImageError as error:
            one_line(error)
            refused += 1
        else:
            np.testing.assert_array_equal(result, whole)
    assert refused > 20
    with pytest.raises(ImageError):
        decode_photo(data[: len(data) // 3])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_file_cut_in_half_is_called_truncated(kind):
    data = encoded(kind, photo_like())
    assert refusal(data[: len(data) // 2]) == f"is truncated ({kind})"


@pytest.mark.parametrize("kind", [kind for kind in kinds_of_files() if kind != "lzw"])  # libtiff writes to stderr
def test_damaged_files_raise_nothing_but_image_errors(kind):
    data, dice = kinds_of_files()[kind], random.Random(7)
    for _ in range(25):
        damaged = bytearray(data)
        for _ in range(dice.choice([1, 4, 20])):
            damaged[dice.randrange(min(len(data), dice.choice([64, 400, 10**6])))] = dice.randrange(256)
        try:
            image = decode_photo(bytes(damaged), dice.choice([None, 20])).image
        except ImageError as error:
            one_line(error)
        else:
            assert image.ndim == 3
            assert image.dtype == np.uint8


# --- warnings ---


def noisy_png():
    """An animation that says it has no frames, of which Pillow warns."""
    data = encoded("PNG", corners())
    return data[:33] + png_chunk(b"acTL", bytes(8)) + data[33:]


@pytest.mark.parametrize("action", ["always", "error"])
def test_pillow_warns_of_this_file_and_we_do_not(action):
    with pytest.warns(UserWarning, match="Invalid APNG"), PillowImage.open(io.BytesIO(noisy_png())):
        pass
    decode_photo(noisy_png())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)  # now it stands before ours
        np.testing.assert_array_equal(decode_photo(noisy_png()).image, corners())
        assert warnings.filters.count(_pillow._FILTER) == 1
    assert not caught


def test_other_threads_other_modules_and_later_times_still_warn():
    def warn():
        PillowImage.open(io.BytesIO(noisy_png())).close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _pillow.silence():
            warn()
            assert not caught
            thread = threading.Thread(target=warn)
            thread.start()
            thread.join()
            warnings.warn("ours", UserWarning, stacklevel=1)
        warn()
    assert [str(warning.message)[:12] for warning in caught] == ["Invalid APNG", "ours", "Invalid APNG"]


def test_many_threads_decode_at_once():
    data, images = noisy_png(), []
    threads = [threading.Thread(target=lambda: images.append(decode_photo(data).image)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 8
    assert all(np.array_equal(image, corners()) for image in images)


# --- letterbox and JPEG ---


@pytest.mark.parametrize(("width", "height"), [(20_000, 1), (1, 20_000), (1, 1), (300, 200), (7, 9), (65_500, 2)])
@pytest.mark.parametrize("side", [1, 32, 225])
def test_letterbox_never_distorts(width, height, side):
    image = np.zeros((height, width, 3), np.uint8)
    before = image.copy()
    result = letterbox(image, side, fill=(1, 2, 3))
    assert result.shape == (side, side, 3)
    assert result.dtype == np.uint8
    inside = (result == 0).all(axis=2)
    columns, rows = int(inside.any(axis=0).sum()), int(inside.any(axis=1).sum())
    assert max(columns, rows) == side
    assert abs(columns - max(1, width * side / max(width, height))) <= 0.5
    assert abs(rows - max(1, height * side / max(width, height))) <= 0.5
    assert (result[~inside] == (1, 2, 3)).all()
    first = np.argwhere(inside)[0]
    assert first.tolist() == [(side - rows) // 2, (side - columns) // 2]
    np.testing.assert_array_equal(image, before)


def test_letterbox_of_a_square_of_the_same_side_is_a_copy():
    image = photo_like(32, 32)
    result = letterbox(image, 32)
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize(
    ("image", "side"),
    [
        (corners(), 0),
        (corners()[..., 0], 8),
        (corners().astype(np.float32), 8),
        (np.zeros((0, 4, 3), np.uint8), 8),
    ],
)
def test_letterbox_says_what_it_wants(image, side):
    with pytest.raises(ValueError, match=r"at least (1|one) pixel"):
        letterbox(image, side)


def test_a_written_jpeg_is_read_back(tmp_path):
    path = tmp_path / "crop.jpg"
    write_jpeg(path, corners()[:, ::-1], quality=95)
    assert abs(read_image(str(path)).astype(int) - corners()[:, ::-1]).mean() < 3
    with pytest.raises(ImageError, match=r"^cannot be written: no such file"):
        write_jpeg(tmp_path / "no" / "crop.jpg", corners())


def test_a_jpeg_is_reduced_to_a_side_but_never_enlarged():
    assert decode_photo(encode_jpeg(photo_like(), max_side=40)).image.shape == (30, 40, 3)
    assert decode_photo(encode_jpeg(photo_like(), max_side=400)).image.shape == (120, 160, 3)
    wide = np.zeros((1, 65_501, 3), np.uint8)
    assert decode_photo(encode_jpeg(wide, max_side=100)).image.shape == (1, 100, 3)
    with pytest.raises(ValueError, match="max_side"):
        encode_jpeg(wide)
    with pytest.raises(ValueError, match="an image is"):
        encode_jpeg(corners()[..., :2])
