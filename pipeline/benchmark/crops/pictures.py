"""The queries where the mask wins most and loses most, as pictures side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.benchmark.crops.asking import ALL, Answers, similarity
from pipeline.benchmark.crops.conditions import BOX, MASK, TRUTH, Condition
from pipeline.benchmark.crops.looking import Seen, cuts, places
from pipeline.benchmark.crops.run import Comparison
from pipeline.report_photo import text_html
from stages.embed.rows import numbered
from stages.images import encode_jpeg
from stages.protocols import Detector
from stages.types import Detection, Image

THUMB_PX: Final = 220


@dataclass(frozen=True, slots=True, eq=False)
class Duel:
    """A set on which mask and box crops of the same detections are compared, query by query."""

    seen: Seen
    answers: Answers
    mask: Condition
    box: Condition

    def gains(self) -> NDArray[np.float64]:
        """By how much the right garment comes nearer with the mask, for each query: the logarithm of its place."""
        most = len(self.seen.garments)
        places = [np.minimum(self.answers.outcomes[one].ranks, most) for one in (self.box, self.mask)]
        return np.log(places[0] / places[1])

    def place(self, query: int, condition: Condition) -> str:
        """Where the right garment came, in words."""
        rank = int(self.answers.outcomes[condition].ranks[query])
        return f"right at {rank}" if rank <= len(self.seen.garments) else "missed"

    def nearest(self, row: int, condition: Condition) -> int | None:
        """The garment that a query finds first; None where it was missed."""
        items = numbered([one.item for one in self.seen.garments])
        gallery = np.flatnonzero([one.found for one in self.seen.garments])
        gallery = gallery[gallery != row]
        (alike,) = similarity(self.seen, condition, items)(np.array([row]), gallery)
        return int(gallery[alike.argmax()]) if np.isfinite(alike.max()) else None


def duels(comparison: Comparison) -> Iterator[Duel]:
    """One for each set, before the most cluttered ground: by the first detector with masks, else by the annotations."""
    last = {one.data.name: one for one in comparison.seen}
    for seen in last.values():
        answers = next(
            (
                one
                for one in comparison.answers
                if (one.data, one.clutter, one.among) == (seen.data.name, seen.data.clutter, ALL)
            ),
            None,
        )
        if answers is None:
            continue
        for source in sorted(answers.missed, key=lambda name: name == TRUTH):
            mask, box = (Condition(comparison.reference, source, crop, crop) for crop in (MASK, BOX))
            if mask in answers.outcomes:
                yield Duel(seen, answers, mask, box)
                break


@dataclass
class Cutter:
    """Cuts garments out again and keeps the pictures in ``folder/photos``, each once."""

    folder: Path
    detectors: Mapping[str, Detector]
    _placed: dict[tuple[int, int], tuple[Image, Sequence[Detection | None]]] = field(default_factory=dict)
    _written: dict[tuple[int, int, str, str], str] = field(default_factory=dict)

    def address(self, seen: Seen, row: int, source: str, crop: str) -> str:
        """Where the picture of a crop is; empty where there is none."""
        key = id(seen), row, source, crop
        if key not in self._written:
            photo = int(seen.photos[row])
            image, placed = self._look(seen, photo, source)
            number = row - int(np.flatnonzero(seen.photos == photo)[0])
            found = dict(cuts(image, placed, crop)).get(number)
            self._written[key] = ""
            if found is not None:
                address = f"photos/{len(self._written)}.jpg"
                (self.folder / address).write_bytes(encode_jpeg(found, 85, THUMB_PX))
                self._written[key] = address
        return self._written[key]

    def _look(self, seen: Seen, photo: int, source: str) -> tuple[Image, Sequence[Detection | None]]:
        if (id(seen), photo) not in self._placed:
            shot = seen.data.shots[photo]
            image = shot.read()
            chosen = {name: detector for name, detector in self.detectors.items() if name == source}
            self._placed[id(seen), photo] = image, dict(places(seen.data, shot, image, chosen))[source]
        return self._placed[id(seen), photo]


def strips_html(duel: Duel, cutter: Cutter, count: int, *, wins: bool) -> str:
    """The queries with the largest gains, or losses, one for each item; what each asked with, and found first."""
    gains = duel.gains() if wins else -duel.gains()
    parts: list[str] = []
    shown: set[str] = set()
    for query in np.argsort(-gains, kind="stable").tolist():
        row = int(duel.answers.outcomes[duel.mask].queries[query])
        item = duel.seen.garments[row].item
        if gains[query] <= 0 or len(parts) == count:
            break
        if item not in shown:
            shown.add(item)
            parts.append(f'<li class="strip four">{"".join(_thumbs(duel, cutter, query, row))}</li>')
    return "".join(parts)


def _thumbs(duel: Duel, cutter: Cutter, query: int, row: int) -> Iterator[str]:
    garments = duel.seen.garments
    for condition, name in ((duel.mask, "mask"), (duel.box, "box")):
        crop = condition.query
        yield _thumb(
            cutter.address(duel.seen, row, condition.detections, crop), "anchor", f"asks as {name}", garments[row].item
        )
        found = duel.nearest(row, condition)
        words = duel.place(query, condition)
        if found is None:
            yield _thumb("", "wrong", words, "")
            continue
        kind = "right" if garments[found].item == garments[row].item else "wrong"
        yield _thumb(cutter.address(duel.seen, found, condition.detections, crop), kind, words, garments[found].item)


def _thumb(address: str, kind: str, words: str, item: str) -> str:
    picture = (
        f'<img src="{address}" alt="{text_html(item)}" loading="lazy" decoding="async">' if address else "not detected"
    )
    return (
        f'<figure class="thumb {kind}"><div class="view">{picture}</div><figcaption><b>{text_html(words)}</b>'
        f'<bdi class="soft">{text_html(item) or "&nbsp;"}</bdi></figcaption></figure>'
    )
