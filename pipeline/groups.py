"""Groups that people see as one: the two shoes of a pair, and the colour variants of a style."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import hypot
from typing import Final

from pipeline.search import Garment
from stages.types import Box, Match

SIZE_RATIO: Final = 1 / 3
"""The smallest ratio of the areas of two shoes of a pair."""

MAX_DISTANCE: Final = 4.0
"""The largest distance of the centres of a pair, in longer sides of the larger shoe's box."""

STYLE_COLUMNS: Final = ("item_group_id", "group_id", "style_id", "style_code", "parent_id", "parent_sku", "model_id")
"""Columns of a catalogue that name the style of which an item is a variant; the first is Google Merchant's."""

_COLOR_WORDS: Final = """
amber aqua aubergine beige black blue bordeaux brown burgundy camel charcoal coral cream cyan denim ecru fuchsia gold gray
green grey indigo ivory khaki lavender lilac lime magenta maroon mauve melange mint multi mustard navy nude ochre offwhite
olive orange peach pink plum purple red rose rust salmon sand silver tan taupe teal turquoise violet white yellow
"""
COLOR_WORDS: Final = frozenset(_COLOR_WORDS.split())


def pair_shoes(garments: Sequence[Garment]) -> list[tuple[Garment, ...]]:
    """Group the garments of a photo: the two shoes of a pair together, every other garment alone.

    The nearest two shoes of similar size make a pair first. Groups are in the order of their first garments.
    """
    shoes = [place for place, garment in enumerate(garments) if garment.label == "shoes"]
    distances = sorted(
        (distance, left, right)
        for left, right in combinations(shoes, 2)
        if (distance := _pair_distance(garments[left].box, garments[right].box)) is not None
    )
    partner: dict[int, int] = {}
    for _, left, right in distances:
        if left not in partner and right not in partner:
            partner |= {left: right, right: left}
    return [
        (garment, garments[partner[place]]) if place in partner else (garment,)
        for place, garment in enumerate(garments)
        if partner.get(place, place) >= place
    ]


def merge_matches(garments: Sequence[Garment]) -> tuple[Match, ...] | None:
    """Return the matches of one garment that was detected in several parts: each item once, at its best rank.

    Of equal ranks the more similar comes first. There are at most as many as for one part; None if no part was searched.
    """
    searched = [garment.matches for garment in garments if garment.matches is not None]
    ranked = sorted(
        ((rank, -match.similarity, part) for part, matches in enumerate(searched) for rank, match in enumerate(matches))
    )
    best: dict[str, Match] = {}
    for rank, _, part in ranked:
        best.setdefault(searched[part][rank].item, searched[part][rank])
    return tuple(best.values())[: max(map(len, searched))] if searched else None


def group_variants(matches: Iterable[Match]) -> list[tuple[Match, ...]]:
    """Group colour variants of one style, the most similar first, in the order of each group's first match."""
    groups: dict[tuple[str, str], list[Match]] = {}
    for match in matches:
        groups.setdefault(style_of(match), []).append(match)
    return [tuple(group) for group in groups.values()]


def style_of(match: Match) -> tuple[str, str]:
    """Return a key for the style of a match: from a column of the catalogue, else its identifier without colour words.

    An identifier names a style only if a digit is left without its colours.

    >>> style_of(Match("WT09-Navy_Blue", "a.jpg", 0.5, "top")) == style_of(Match("WT09-Red", "b.jpg", 0.5, "top"))
    True
    >>> style_of(Match("blue-shirt", "a.jpg", 0.5, "top"))
    ('item', 'blue-shirt')
    """
    metadata = {key.lower(): value for key, value in match.metadata}
    for column in STYLE_COLUMNS:
        if metadata.get(column):
            return column, metadata[column]
    words = re.split(r"[-_./ ]+", match.item.lower())
    stem = [word for word in words if word not in COLOR_WORDS]
    named = len(stem) < len(words) and any(letter.isdigit() for word in stem for letter in word)
    return ("stem", "-".join(stem)) if named else ("item", match.item)


def _pair_distance(left: Box, right: Box) -> float | None:
    """Return the distance of the centres of two shoes in px; None if they are no pair."""
    small, large = sorted((left, right), key=lambda box: box.area)
    distance = hypot(left.x1 + left.x2 - right.x1 - right.x2, left.y1 + left.y2 - right.y1 - right.y2) / 2
    near = distance <= MAX_DISTANCE * max(large.width, large.height)
    return distance if near and small.area >= SIZE_RATIO * large.area else None
