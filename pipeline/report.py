"""A report with pictures: a folder of HTML pages that opens from disk, offline, and can be moved as a whole."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from markupsafe import Markup

from pipeline.groups import group_variants, merge_matches, pair_shoes
from pipeline.pages import Pictures, render, shown_label, svg_path, write_page
from pipeline.search import Garment, PhotoResult
from stages.crop import cut_box
from stages.embed.attributes import Attribute
from stages.errors import ImageError
from stages.images import read_photo
from stages.problems import plural
from stages.types import Box, Image, Match

PHOTOS_PER_PAGE: Final = 25
PHOTO_PX, PICTURE_PX, ENTRY_PX = 1200, 480, 160
"""The long sides of a photo, of a crop or product picture, and of a photo in the index."""

CONTEXT: Final = 0.05
"""The margin of a crop, as a fraction of the longer side of its box."""

FAILURES_LISTED: Final = 50
"""The most failures listed in the overview; the index has all."""

INDEX_SECONDS: Final = 2.0
"""The first page, with an index of all photos, is written at most this often; other pages after each photo."""

UNREADABLE, NO_GARMENT, NO_MATCH = "not read", "no garment", "no match"
"""Kinds of photos that the index filters by, besides labels."""

TAG_WIDTH, TAG_HEIGHT = 0.02, 0.056
"""The size of a label on a photo, in widths of the photo: of one letter, and of the whole label."""


@dataclass(frozen=True, slots=True)
class GarmentCard:
    """A garment as shown, which may be a pair of shoes.

    ``tag`` is the place of its label on the photo, as CSS. ``matches`` are groups of colour variants, each match with the
    address of its picture; None if nothing was searched.
    """

    anchor: str
    label: str
    score: str
    tag: str
    crops: Sequence[str]
    matches: Sequence[Sequence[tuple[Match, str | None]]] | None
    notice: str
    attributes: Sequence[Attribute]


@dataclass(frozen=True, slots=True)
class Entry:
    """A photo in the index, filtered by its ``kinds``."""

    address: str
    name: str
    picture: str | None
    labels: Sequence[str]
    kinds: Sequence[str]
    error: str | None


def read_product(match: Match) -> Image | None:
    """Return the photo of a match, or None if it cannot be read."""
    try:
        return read_photo(match.photo, at_least_px=PICTURE_PX).image
    except (ImageError, OSError):
        return None


class Report:
    """Writes pages of 25 photos as results arrive, so that an interrupted run leaves a report of its photos.

    ``product`` reads the picture of a match; each is read and written once. Memory holds two pages and the index,
    however many photos there are.

    Raises:
        ValueError: the folder is not empty.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        title: str = "Visual search",
        settings: Mapping[str, str] = MappingProxyType({}),
        product: Callable[[Match], Image | None] = read_product,
    ) -> None:
        folder = Path(folder)
        used = ValueError(f"the report's folder {folder} is not empty; name a new one")
        if folder.exists() and any(folder.iterdir()):
            raise used
        try:
            self._pictures = Pictures(folder)
        except FileExistsError:  # another run has just made it
            raise used from None
        self._folder, self._title, self._settings, self._product = folder, title, settings, product
        self._products: dict[str, str | None] = {}
        self._entries: list[Entry] = []
        self._labels = Counter[str]()
        self._first: list[Markup] = []
        self._last: list[Markup] = []
        self._pages = 1
        self._start = time.perf_counter()
        self._seconds: float | None = None
        self._index_due = 0.0
        self._write(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._write(1)

    def add(self, result: PhotoResult, image: Image | None) -> None:
        """Add the result of a photo, whose pixels may be of any size or missing, and write its page."""
        photos = self._first if self._pages == 1 else self._last
        if len(photos) == PHOTOS_PER_PAGE:
            self._pages += 1
            if self._pages > 2:
                self._write(self._pages - 1)  # again, with a link to the next page
            photos = self._last = []
        anchor = f"photo-{len(self._entries) + 1}"
        image = None if result.error is not None else image
        picture = small = None
        if image is not None:
            picture = self._pictures.write(anchor, image, PHOTO_PX, 82)
            small = self._pictures.write(f"{anchor}-small", image, ENTRY_PX, 75)
        garments = self._garment_cards(result, image, anchor)
        shapes = [(one, svg_path(one.mask, one.box)) for one in result.garments]
        photos.append(
            render("photo.html", photo=result, anchor=anchor, photo_picture=picture, garments=garments, shapes=shapes)
        )
        labels = list(dict.fromkeys(garment.label for garment in garments))
        kinds = [*labels]
        if result.error is not None:
            kinds.append(UNREADABLE)
        elif not garments:
            kinds.append(NO_GARMENT)
        elif any(garment.matches is not None and not garment.matches for garment in garments):
            kinds.append(NO_MATCH)
        address = f"{_page_name(self._pages)}#{anchor}"
        self._entries.append(Entry(address, result.photo, small, labels, kinds, result.error))
        self._labels.update(garment.label for garment in garments)
        if self._pages > 1:
            self._write(self._pages)
        if self._pages == 1 or time.perf_counter() >= self._index_due:
            self._write(1)

    def close(self) -> None:
        """Write the index of a complete report, with the seconds it took."""
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._start
            self._write(1)

    def _garment_cards(self, result: PhotoResult, image: Image | None, anchor: str) -> list[GarmentCard]:
        groups = [] if result.error is not None else pair_shoes(result.garments)
        tags = place_tags(groups, result.width, result.height)
        cards = []
        for number, (group, tag) in enumerate(zip(groups, tags, strict=True), 1):
            name, label, matches = f"{anchor}-{number}", group[0].label, merge_matches(group)
            crops = [] if image is None else [
                self._pictures.write(f"{name}-{part}" if part else name, _crop(garment, result, image), PICTURE_PX, 82)
                for part, garment in enumerate(group)
            ]  # fmt: skip
            variants = None if matches is None else [
                [(match, self._product_picture(match)) for match in some] for some in group_variants(matches)
            ]  # fmt: skip
            whole = (1.0, (0, 0, result.width, result.height))  # a photo taken whole was not detected
            scores = [one.score for one in group if (one.score, one.box.corners) != whole]
            score = f"{max(scores):.2f}" if scores else ""
            notice = "" if matches else next((garment.notice for garment in group if garment.notice), "")
            cards.append(GarmentCard(name, label, score, tag, crops, variants, notice, group[0].attributes))
        return cards

    def _product_picture(self, match: Match) -> str | None:
        """Return the address of a match's picture, after writing it the first time."""
        key = hashlib.sha256(repr((match.item, match.photo)).encode()).hexdigest()[:20]
        if key not in self._products:
            image = self._product(match)
            self._products[key] = None if image is None else self._pictures.write(f"item-{key}", image, PICTURE_PX, 82)
        return self._products[key]

    def _summary(self) -> dict[str, object]:
        """Return what the overview shows."""
        photos, garments = len(self._entries), self._labels.total()
        failed = [entry for entry in self._entries if entry.error is not None]
        tiles: dict[str, object] = {"Photos": photos, "Garments": garments}
        if photos > len(failed):
            tiles["Garments per photo"] = f"{garments / (photos - len(failed)):.1f}"
        tiles["Unreadable photos"] = len(failed)
        state = "so far; the run is not finished" if self._seconds is None else f"in {_duration(self._seconds)}"
        most = max(self._labels.values(), default=1)
        return {
            "state": f"{plural(photos, 'photo')} {state}",
            "tiles": tiles,
            "bad": ["Unreadable photos"] if failed else [],
            "labels": [(label, count, count / most) for label, count in self._labels.most_common()],
            "settings": self._settings,
            "failed": failed[:FAILURES_LISTED],
            "more_failed": len(failed[FAILURES_LISTED:]),
        }

    def _write(self, number: int) -> None:
        """Write the first page or one of the last two."""
        values: dict[str, object] = {}
        if number == 1:
            kinds = Counter(kind for entry in self._entries for kind in entry.kinds)
            filters = [kind for kind, count in kinds.most_common() if count < len(self._entries)]
            values = {"summary": self._summary(), "index": self._entries, "kinds": filters}
        write_page(
            self._folder / _page_name(number),
            "report.html",
            title=self._title,
            interactive=True,
            number=number,
            photos=self._first if number == 1 else self._last,
            previous_name=_page_name(number - 1),
            next=number < self._pages,
            next_name=_page_name(number + 1),
            **values,
        )
        if number == 1:
            self._index_due = time.perf_counter() + INDEX_SECONDS


def place_tags(groups: Sequence[Sequence[Garment]], width: int, height: int) -> list[str]:
    """Return the place of each group's label as CSS: above its box, or the nearest place where it covers no other.

    Labels keep their size relative to the photo.
    """
    placed: list[tuple[float, float, float]] = []
    styles = []
    bottom = max(0.0, height / max(1, width) - TAG_HEIGHT)
    for group in groups:
        box = min((garment.box for garment in group), key=lambda box: (box.y1, box.x1))
        across = 0.035 + TAG_WIDTH * len(shown_label(group[0].label))
        left = max(0.0, min(box.x1 / width, 1 - across))
        wanted = min(bottom, max(0.0, box.y1 / width - TAG_HEIGHT))
        beside = [y for x, y, right in placed if left < right and x < left + across]
        places = (wanted, *(y + side * TAG_HEIGHT for y in beside for side in (-1, 1)))
        free = [y for y in places if 0 <= y <= bottom and all(abs(y - other) >= 0.999 * TAG_HEIGHT for other in beside)]
        top = min(free, key=lambda y: abs(y - wanted), default=wanted)
        placed.append((left, top, left + across))
        styles.append(f"left: {100 * left:.2f}%; top: {100 * top * width / height:.2f}%")
    return styles


def _crop(garment: Garment, result: PhotoResult, image: Image) -> Image:
    """Return the garment's pixels from the photo, which may be smaller than the result says."""
    height, width = image.shape[:2]
    across, down = width / result.width, height / result.height
    x1, y1, x2, y2 = garment.box.corners
    box = Box.clipped(x1 * across, y1 * down, x2 * across, y2 * down, width, height)
    if box is None:
        raise ValueError(f"{garment.box} is not within the photo of {result.width}x{result.height}")
    return cut_box(image, box, CONTEXT).image


def _page_name(number: int) -> str:
    """Return the file of a page, counted from 1.

    >>> _page_name(1), _page_name(2)
    ('index.html', 'page-2.html')
    """
    return "index.html" if number == 1 else f"page-{number}.html"


def _duration(seconds: float) -> str:
    """Format seconds for people.

    >>> _duration(4.21), _duration(125)
    ('4.2 s', '2 min 5 s')
    """
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
