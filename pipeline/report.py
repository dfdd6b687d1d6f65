"""A report with pictures: a folder of HTML pages that opens from disk, offline, and can be moved as a whole."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from pipeline.report_page import Overview, overview_html, page, page_name, pages_html, replace_marked
from pipeline.report_photo import Pictures, photo_html
from pipeline.search import Garment, PhotoResult
from stages.crop.cutting import cut
from stages.errors import ImageError
from stages.images import encode_jpeg, read_photo
from stages.types import Box, Image, Match

PHOTOS_PER_PAGE: Final = 25
PHOTO_PX: Final = 900
"""The long side of a photo in the report: sharp on a screen of twice the usual density."""

PICTURE_PX: Final = 280
"""The long side of a crop or a product picture."""

CONTEXT: Final = 0.05
"""What a crop shows around its box, as a fraction of the box's longer side."""


def read_product(match: Match) -> Image | None:
    """A match's picture, where its photo is a path as it stands; None where it cannot be read."""
    try:
        return read_photo(match.photo, at_least_px=PICTURE_PX).image
    except (ImageError, OSError):
        return None


class Report:
    """Writes pages of 25 photos as results come; at any moment the folder holds a report of all photos so far.

    Give each result with its photo's pixels (of any size; None where there are none). ``product`` finds the
    picture of a match; each is read and written once. Memory holds one page, however many there are. Left
    by an exception, the ``with`` block leaves a report that says it is cut short.

    Raises:
        ValueError: the folder holds something already.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        title: str = "Visual search",
        settings: Mapping[str, str] = MappingProxyType({}),
        product: Callable[[Match], Image | None] = read_product,
    ) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"the report's folder {folder} is not empty; name a new one")
        self._folder, self._product = folder, product
        try:
            (folder / "pictures").mkdir(parents=True)
        except FileExistsError:  # by another run, just now
            raise ValueError(f"the report's folder {folder} is not empty; name a new one") from None
        self._overview = Overview(title, settings)
        self._start = time.perf_counter()
        self._pages = 1
        self._photos: list[str] = []  # of the last page
        self._products: dict[str, str | None] = {}
        self._write_page()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(complete=kind is None)

    def add(self, result: PhotoResult, image: Image | None) -> None:
        """Add one photo's result, and write it."""
        if len(self._photos) == PHOTOS_PER_PAGE:
            self._pages += 1
            self._photos = []
            self._patch(self._pages - 1, "pages", pages_html(self._pages - 1, self._pages))
        number = self._overview.photos + 1
        anchor = f"photo-{number}"
        pictures = self._picture(result, image, anchor)
        self._overview.count(result, f"{page_name(self._pages)}#{anchor}")
        self._photos.append(photo_html(result, anchor, pictures))
        self._write_page()
        if self._pages > 1:
            self._patch(1, "overview", overview_html(self._overview))

    def close(self) -> None:
        """Say that the report is complete, and number its pages."""
        self._finish(complete=True)

    def _finish(self, *, complete: bool) -> None:
        if self._overview.finished:
            return
        self._overview.finished = complete
        self._overview.seconds = time.perf_counter() - self._start
        self._patch(1, "overview", overview_html(self._overview))
        for number in range(1, self._pages + 1):
            self._patch(number, "pages", pages_html(number, self._pages))

    def _picture(self, result: PhotoResult, image: Image | None, name: str) -> Pictures:
        """Write the pictures that a photo's part of the page shows."""
        products = {}
        for match in (match for garment in result.garments for match in garment.matches or ()):
            if source := self._product_picture(match):
                products[match] = source
        if image is None or result.error is not None:
            return Pictures(None, [None] * len(result.garments), products)
        crops = [
            self._write_picture(f"{name}-{number}", _crop(garment, result, image), PICTURE_PX)
            for number, garment in enumerate(result.garments, start=1)
        ]
        return Pictures(self._write_picture(name, image, PHOTO_PX), crops, products)

    def _product_picture(self, match: Match) -> str | None:
        """The file of a match's picture, made when it is first met."""
        key = hashlib.sha256(repr((match.item, match.photo)).encode()).hexdigest()[:20]
        if key not in self._products:
            image = self._product(match)
            self._products[key] = None if image is None else self._write_picture(f"item-{key}", image, PICTURE_PX)
        return self._products[key]

    def _write_picture(self, name: str, image: Image, max_side: int) -> str:
        """Write a JPEG; its address as pages link it."""
        address = f"pictures/{name}.jpg"
        (self._folder / address).write_bytes(encode_jpeg(image, quality=82, max_side=max_side))
        return address

    def _write_page(self) -> None:
        self._write(self._pages, page(self._overview, self._pages, self._pages, self._photos))

    def _patch(self, number: int, name: str, html: str) -> None:
        """Replace a part of a page that is written already."""
        whole = (self._folder / page_name(number)).read_text(encoding="utf-8")
        self._write(number, replace_marked(whole, name, html))

    def _write(self, number: int, html: str) -> None:
        """Write a page at once, so that no one sees half of it."""
        path = self._folder / page_name(number)
        part = path.with_name(path.name + ".part")
        part.write_text(html, encoding="utf-8", errors="backslashreplace", newline="\n")
        part.replace(path)


def _crop(garment: Garment, result: PhotoResult, image: Image) -> Image:
    """The garment's pixels, from a photo that may be smaller than the result's."""
    height, width = image.shape[:2]
    across, down = width / result.width, height / result.height
    x1, y1, x2, y2 = garment.box.corners
    box = Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)
    if box is None:
        raise ValueError(f"{garment.box} is not within the photo of {result.width}x{result.height}")
    return cut(image, box, CONTEXT).image
