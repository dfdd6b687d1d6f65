"""The hostile corpus: files of every kind, each with what has to come of it. All are made here, none is kept.

A case with a ``picture`` is read as that picture; one with a ``refusal`` is refused in one line that matches it; one
with both may be either, and one with neither may be any picture or refused: nobody can tell a flipped bit from a photo.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from pictures import (
    Picture,
    animated,
    arithmetic,
    chunk,
    cmyk_profile,
    deep,
    encoded,
    known,
    lying,
    palette,
    png_header,
    png_of_nothing,
    scan_bomb,
    swapped_profile,
    tiff_claiming,
)
from PIL import Image as PillowImage

from stages.images import FORMATS

LOSSY: Final = 9.0
"""How far a lossy file's mean pixel may be from the known one; swapped channels or a wrong orientation are at 60 or more."""


@dataclass(frozen=True)
class Case:
    """One hostile file: made by ``make`` at a path, and what may come of it."""

    kind: str
    name: str
    make: Callable[[Path], object]
    picture: Picture | None = None
    refusal: str | None = None
    within: float = 0.0


def _of(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def whole_files() -> dict[str, tuple[bytes, float]]:
    """The known picture in every format and coding, with how near it is; AVIF and HEIC where they can be read here."""
    files = {
        "a.jpg": (encoded("JPEG", known(), quality=95), LOSSY),
        "progressive.jpg": (encoded("JPEG", known(), quality=95, progressive=True), LOSSY),
        "arithmetic.jpg": (arithmetic("sequential"), LOSSY),
        "arithmetic-progressive.jpg": (arithmetic("progressive"), LOSSY),
        "a.mpo": (
            encoded("MPO", known(), quality=95, save_all=True, append_images=[PillowImage.new("RGB", (9, 9))]),
            LOSSY,
        ),
        "a.png": (encoded("PNG", known()), 0.0),
        "palette.png": (palette(transparent=False), 0.0),
        "a.webp": (encoded("WEBP", known(), quality=95), LOSSY),
        "lossless.webp": (encoded("WEBP", known(), lossless=True), 0.0),
        "a.gif": (encoded("GIF", known()), 0.0),
        "a.bmp": (encoded("BMP", known()), 0.0),
        "a.tif": (encoded("TIFF", known()), 0.0),
        "lzw.tif": (encoded("TIFF", known(), compression="tiff_lzw"), 0.0),
        "deflate.tif": (encoded("TIFF", known(), compression="tiff_adobe_deflate"), 0.0),
        "animated.gif": (animated("GIF"), 0.0),
        "animated.png": (animated("PNG"), 0.0),
        "animated.webp": (animated("WEBP", lossless=True), 0.0),
        "16-bit.png": (deep(".png"), 0.0),
        "16-bit.tif": (deep(".tif"), 0.0),
    }
    if "AVIF" in FORMATS:
        files["a.avif"] = (encoded("AVIF", known(), quality=90), LOSSY)
    if "HEIC" in FORMATS:
        files["a.heic"] = (encoded("HEIC", known()), LOSSY)
    return files


def whole() -> Iterator[Case]:
    """What is only unusual: it is read as it is meant."""
    for name, (data, within) in whole_files().items():
        yield Case("every format and coding", name, _of(data), known(), within=within)
    grey = np.repeat(known()[..., :1], 3, axis=2)
    for suffix in (".png", ".tif"):
        yield Case("16 bits", f"grey{suffix}", _of(deep(suffix, grey=True)), grey)
    cmyk = PillowImage.fromarray(known()).convert("CMYK")
    yield Case("CMYK", "cmyk.jpg", _of(encoded("JPEG", cmyk, quality=95)), known(), within=LOSSY)
    yield Case("CMYK", "cmyk.tif", _of(encoded("TIFF", cmyk)), known(), within=LOSSY)
    own = {"icc_profile": cmyk_profile()}
    inks = known()[..., [1, 0, 2]]
    yield Case("CMYK", "its own profile.jpg", _of(encoded("JPEG", cmyk, quality=95, **own)), inks, within=LOSSY)
    yield Case("CMYK", "its own profile.tif", _of(encoded("TIFF", cmyk, **own)), inks, within=LOSSY)
    for name, profile in (("rgb", swapped_profile()), ("broken", b"no profile"), ("cut", swapped_profile()[:300])):
        data = encoded("JPEG", cmyk, quality=95, icc_profile=profile)
        yield Case("CMYK", f"cmyk with a {name} profile.jpg", _of(data), known(), within=LOSSY)
    see_through = known()
    see_through[:24, :32] = 255
    yield Case("transparency", "palette.png", _of(palette(transparent=True)), see_through)
    rgba = np.dstack([known(), np.where(np.indices((48, 64)).min(axis=0) < 24, 255, 255).astype(np.uint8)])
    rgba[:24, :32, 3] = 0
    for kind, suffix in (("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(kind, PillowImage.fromarray(rgba), **options)
        yield Case("transparency", f"rgba.{suffix}", _of(data), see_through)
    swapped = known()[..., [1, 0, 2]]
    for kind, suffix, within in (("PNG", "png", 12.0), ("JPEG", "jpg", 16.0), ("TIFF", "tif", 12.0)):
        data = encoded(kind, known(), icc_profile=swapped_profile())
        yield Case("ICC profiles", f"swapped.{suffix}", _of(data), swapped, within=within)
        for name, profile in (("broken", b"no profile"), ("cut", swapped_profile()[:200]), ("empty", bytes(600))):
            data = encoded(kind, known(), icc_profile=profile)
            yield Case("ICC profiles", f"{name}.{suffix}", _of(data), known(), within=LOSSY)
    yield from _orientations()
    yield from _tiffs()
    yield from _sizes()
    for name, (data, within) in list(whole_files().items())[:12]:
        for suffix in (".png", ".jpg"):
            yield Case("wrong extension", f"{name}{suffix}", _of(data), known(), within=within)


def _orientations() -> Iterator[Case]:
    kinds = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}
    kinds |= {kind: kind.lower() for kind in ("AVIF", "HEIC") if kind in FORMATS}
    for kind, suffix in kinds.items():
        for orientation in range(1, 9):
            data = lying(orientation, kind)
            yield Case("EXIF orientations", f"{orientation}.{suffix}", _of(data), known(), within=LOSSY)
    for number, exif in enumerate(CORRUPT_EXIF):
        for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
            data = encoded(kind, known(), exif=exif)
            yield Case("corrupt EXIF", f"{number}.{suffix}", _of(data), known(), within=LOSSY)


CORRUPT_EXIF: Final = (
    b"Exif\0\0",
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0\x08\0\0\0",
)


def _tiffs() -> Iterator[Case]:
    image, other = PillowImage.fromarray(known()), PillowImage.fromarray(known()[::-1])
    data = encoded("TIFF", image, save_all=True, append_images=[other, other])
    yield Case("TIFF", "pages.tif", _of(data), known())
    wide = known(256, 192)
    tiled = encoded("TIFF", wide, tile=(64, 64), tiffinfo={322: 64, 323: 64}, compression="tiff_lzw")
    yield Case("TIFF", "tiled.tif", _of(tiled), wide)
    for name, tags in (
        ("a tile of 100 gigapixels", {"t322": 1 << 20, "t323": 100_000}),
        ("a tile of no pixels", {"t322": 0, "t323": 0}),
        ("a strip of 4 gigarows", {"t278": 0xFFFFFFFF}),
        ("255 samples", {"t277": 255}),
        ("65535 bits", {"t258": 65535}),
    ):
        yield Case("TIFF", f"{name}.tif", _of(tiff_claiming(64, 48, **tags)), refusal="")
    yield Case("TIFF", "65500 by 65500.tif", _of(tiff_claiming(65_500, 65_500)), refusal="megapixels")


def _sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (20_000, 1), (1, 20_000), (65_500, 3)):
        picture = known(width, height)
        yield Case("extreme sizes", f"{width}x{height}.png", _of(encoded("PNG", picture)), picture)
        data = encoded("JPEG", picture, quality=95, subsampling=0)
        yield Case("extreme sizes", f"{width}x{height}.jpg", _of(data), picture, within=12.0)
    yield Case("extreme sizes", "100000x1.png", _of(png_of_nothing(100_000, 1)), refusal="sides of at most")
    yield Case("bombs", "400 megapixels.png", _of(png_of_nothing(20_000, 20_000)), refusal="has 400 megapixels")
    yield Case(
        "bombs", "4 terapixels.png", _of(png_header(2**31 - 1, 2000) + chunk(b"IEND", b"")), refusal="megapixels"
    )
    yield Case(
        "bombs", "thousands of scans.jpg", lambda path: path.write_bytes(scan_bomb(2000, 20_000)), refusal="scans"
    )
    riff = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0\xff\x3f\0"
    data = b"RIFF" + struct.pack("<I", 4 + len(riff)) + b"WEBP" + riff
    yield Case("bombs", "16384x16384.webp", _of(data), refusal="megapixels")
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\x08\0;"
    )
    yield Case("bombs", "65535x65535.gif", _of(gif), refusal="megapixels")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))
    data = encoded("PNG", known())
    yield Case("bombs", "100 MB of text.png", _of(data[:33] + text + data[33:]), known(), refusal="")
    yield Case("bombs", "3 GB.jpg", _sparse, refusal="has 3.0 GB")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(3_000_000_000)


def damaged(flips: int = 20) -> Iterator[Case]:
    """Every format cut at every tenth, ended after its header, filled with zeros, and with flipped bits."""
    for name, (data, within) in whole_files().items():
        for tenth in range(1, 10):
            cut = data[: len(data) * tenth // 10]
            picture = known()
            yield Case("cut at every tenth", f"{tenth}0 % of {name}", _of(cut), picture, "", within)
        yield Case("header only", name, _of(data[:16]), refusal="")
        yield Case("zeros after the header", name, _of(data[:64] + bytes(max(0, len(data) - 64))))
        dice = random.Random(name)
        for number in range(flips):
            flipped = bytearray(data)
            for _ in range(dice.choice([1, 1, 4, 20])):
                flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            yield Case("flipped bits", f"{number} {name}", _of(bytes(flipped)))


def no_photos() -> Iterator[Case]:
    """What is no photo, and what is no file."""
    for name, data in {
        "text.jpg": b"these are words",
        "page.png": b"<html></html>" * 50,
        "zeros.webp": bytes(500),
        "document.tif": b"%PDF-1.7",
        "start.jpg": b"\xff\xd8",
        "svg.gif": b'<?xml version="1.0"?><svg/>',
    }.items():
        yield Case("no photos", name, _of(data), refusal="not a photo of a known format")
    yield Case("no photos", "empty.jpg", _of(b""), refusal=r"^is empty \(0 bytes\)$")
    other = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    yield Case("no photos", "a.heic", _of(other), refusal="HEIC")
    if os.name != "posix":
        return
    yield Case("no files", "folder.jpg", lambda path: path.mkdir(), refusal="is a folder, not a photo")
    yield Case("no files", "loop.jpg", lambda path: path.symlink_to(path), refusal="leads back to itself")
    yield Case("no files", "broken.jpg", lambda path: path.symlink_to(path.with_name("gone")), refusal="broken link")
    yield Case("no files", "pipe.jpg", os.mkfifo, refusal="not a regular file")
    for device in ("zero", "random", "full", "null", "tty"):
        link = partial(_link, Path("/dev") / device)
        yield Case("no files", f"{device}.jpg", link, refusal="not a regular file")
    yield Case("no files", "socket.jpg", _socket, refusal="not a regular file")


def _link(target: Path, path: Path) -> None:
    path.symlink_to(target)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def names() -> Iterator[Case]:
    """Good photos of names that are hard to print, quote or decode."""
    data = encoded("PNG", known())
    hard = ["a b.png", "a\nb.png", "a\rb.png", "\x1b[31mred.png", "🧥👗.png", "-rf.png", "'; rm x\".png", "größe%s.png",
            "\u202egnp.exe.png", "%00.png", "~.png", "$HOME.png", "x" * 250 + ".png", os.fsdecode(b"caf\xe9\xff.png"),
            os.fsdecode(b"\xed\xa0\x80.png"), "CON.png", "a\tb\\c.png"]  # fmt: skip
    for name in hard:
        yield Case("hard names", name, _of(data), known())


def large() -> Iterator[Case]:
    """The largest photos of each format that are read, and what is a little larger: they take the most memory."""
    for kind, megapixels, options in (
        ("JPEG", 104, {}),
        ("JPEG", 60, {"progressive": True, "subsampling": 0}),
        ("PNG", 104, {"compress_level": 1}),
        ("GIF", 104, {}),
        ("BMP", 104, {}),
        ("TIFF", 90, {"compression": "tiff_adobe_deflate"}),
        ("WEBP", 42, {"lossless": True, "method": 0, "exact": True}),
        ("AVIF", 42, {"speed": 10, "quality": 30, "subsampling": "4:4:4"}),
    ):
        if kind in FORMATS:
            side = int((megapixels * 1e6) ** 0.5)
            name = f"{'-'.join(map(str, options))}.{kind.lower()}"
            picture = np.broadcast_to(np.array([220, 20, 20], np.uint8), (side, side, 3))
            yield Case("as large as may be", name, partial(_large, kind, side, options), picture, within=LOSSY)
            name = f"more-{name}"
            yield Case("a little larger", name, partial(_large, kind, int(side * 1.25), options), refusal="at most")


def _large(kind: str, side: int, options: dict[str, Any], path: Path) -> None:
    image = PillowImage.new("P" if kind == "GIF" else "RGB", (side, side), 0 if kind == "GIF" else (220, 20, 20))
    if kind == "GIF":  # whose palette Pillow would choose wrongly for so many pixels
        image.putpalette([220, 20, 20])
    image.save(path, kind, **options)


def corpus(flips: int = 20) -> Iterator[Case]:
    """Every case but the large ones, which take long to make."""
    yield from whole()
    yield from damaged(flips)
    yield from no_photos()
    yield from names()
