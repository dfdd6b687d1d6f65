"""A known picture, and what makes files of it in every format that there is."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

Picture = NDArray[np.uint8]

ARITHMETIC: Final = {
    "sequential": "c-s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=H5d=Ua69}*{gGg2u7G@SURyH;;X6NJpVs<t*4sH%kE)W2+c(}QEKpc=E5UotC%*?D@>}>2@"
    "B!mAa83Z{P3>X}k83h@b1R0qH8ULSQ;9?LEU}Y2#Wc`1Ofrpt9D8VeqV9)TM;r87f&NC!Fzcy%^?Jy;{IEmq6h0>{Hh7VgLk{Yk)IWaQkAF8;-nV74axLH}WJbQIV*"
    "g2kWn#tG0L>{)vNV{KKw&cbCn*g0LHKP",
    "progressive": "c-s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=H5d=Ua69}*{gGg2u7G@SURyH;;X6NJpVs<t*4sH%kE)W2+c(}QEKpc=E5UotC%*?D@>}>2@"
    "B!mB_7z8;O3>X}k83h@b1R0qH8ULSQU}F$q6!?FOfrpuqfk}W_0O;)h4BK}bUJ^YwX=BWC!H<2@eu#ABNErR#I=b$I0N=&3ZGKX-p4alVHQaiXv3-i;`ia}kpEYYMZR4w"
    "RUbH|x@#hDisVoAlKr=ajp}@$>v;rg`2oYdrWVB~Q7GQ!4z_qa1GocDF+AFSrIgx>xfq_B5`xu&;0_bK6pc?@cxCsDR(_Xg",
}
"""The known picture as JPEGs of arithmetic coding, which Pillow cannot write: ``jpegtran -arithmetic`` of libjpeg-turbo."""


def known(width: int = 64, height: int = 48) -> Picture:
    """Four colours that tell every orientation and every swap of channels: red, green / blue, black."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (220, 20, 20)
    picture[: height // 2, width // 2 :] = (20, 200, 20)
    picture[height // 2 :, : width // 2] = (20, 20, 220)
    return picture


def encoded(kind: str, picture: Picture | PillowImage.Image, **options: Any) -> bytes:
    """A picture as a file of Pillow's making."""
    image = picture if isinstance(picture, PillowImage.Image) else PillowImage.fromarray(picture)
    data = io.BytesIO()
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.from_pillow(image).save(data, **({"quality": 90, "chroma": 444} | options))
    else:
        image.save(data, kind, **options)
    return data.getvalue()


def arithmetic(coding: str) -> bytes:
    """The known picture as a JPEG of arithmetic coding."""
    return zlib.decompress(base64.b85decode(ARITHMETIC[coding]))


def deep(suffix: str, *, grey: bool = False) -> bytes:
    """The known picture in 16 bits."""
    picture = known()[..., 0] if grey else known()[..., ::-1]
    return bytes(cv2.imencode(suffix, picture.astype(np.uint16) * 257)[1])


def palette(*, transparent: bool) -> bytes:
    """The known picture as a PNG of a palette; its red may be transparent."""
    image = PillowImage.fromarray(known()).quantize(4)
    red = image.getpixel((0, 0))
    return encoded("PNG", image, **({"transparency": red} if transparent else {}))


def lying(orientation: int, kind: str, **options: Any) -> bytes:
    """The known picture as a camera held any way stores it."""
    upright = known()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    return encoded(kind, np.ascontiguousarray(stored), exif=exif.tobytes(), **options)


def animated(kind: str, **options: Any) -> bytes:
    """An animation whose first frame is the known picture."""
    later = [PillowImage.fromarray(known()[::-1])]
    return encoded(kind, known(), save_all=True, append_images=later, **options)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    """The beginning of a PNG."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


def png_of_nothing(width: int, height: int) -> bytes:
    """A whole PNG of black pixels, packed as small as it goes."""
    row, packer = bytes(1 + -(-width // 8)), zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_header(width, height, 1, 0) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG that goes over its pixels thousands of times, each scan a few bytes."""
    data = bytearray(encoded("JPEG", PillowImage.new("L", (side, side)), progressive=True, quality=30))
    end = data.rindex(b"\xff\xd9")
    start = data.rindex(b"\xff\xda")
    return bytes(data[:end] + data[start:end] * scans + data[end:])


def tiff_claiming(width: int, height: int, **tags: int) -> bytes:
    """An uncompressed TIFF of a few bytes that says what it likes of its tiles and strips."""
    entries = {
        256: width,
        257: height,
        258: 8,
        259: 5,
        262: 1,
        277: 1,
        **{int(key[1:]): value for key, value in tags.items()},
    }
    offset, count = (324, 325) if 322 in entries else (273, 279)
    entries |= {offset: 8, count: 100}
    body = b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        body += struct.pack("<HHII", tag, 4, 1, value)
    return body + bytes(4)


def swapped_profile() -> bytes:
    """An RGB profile whose red and green are sRGB's the other way round."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))


def cmyk_profile(grid: int = 9) -> bytes:
    """A CMYK profile whose cyan and magenta are ink the other way round: a table of Lab colours (ICC.1:2001, lut8Type)."""
    ink = np.indices((grid,) * 4).reshape(4, -1).T / (grid - 1)
    paper = np.rint(255 * (1 - ink[:, [1, 0, 2]]) * (1 - ink[:, 3:])).astype(np.uint8)
    colours = PillowImage.fromarray(paper[None])
    lab = ImageCms.profileToProfile(
        colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    table = np.array(lab)[0] ^ np.array([0, 128, 128], np.uint8)  # Pillow's a and b are signed, ICC's begin at -128
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    lut = b"mft1" + bytes(4) + bytes([4, 3, grid, 0]) + identity + 4 * ramp + table.tobytes() + 3 * ramp
    start = struct.pack(">I4sI4s4s4s12x4s", 144 + len(lut), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = (start.ljust(68, b"\0") + white).ljust(128, b"\0")
    return head + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut
