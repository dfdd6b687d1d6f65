"""Views of similarity: one direction everywhere (the inner product of unit rows, higher is closer), the rest here."""

from __future__ import annotations

import math


def angular_percent(similarity: float) -> float:
    """The angle between two vectors as a percentage: 100 for the same direction, 50 for a right angle.

    >>> angular_percent(1.0), round(angular_percent(0.0), 6), angular_percent(-1.0)
    (100.0, 50.0, 0.0)
    """
    return 100.0 * (1.0 - math.acos(min(1.0, max(-1.0, similarity))) / math.pi)


def euclidean(similarity: float) -> float:
    """The Euclidean distance between two unit vectors, in [0, 2].

    >>> euclidean(1.0), euclidean(-1.0)
    (0.0, 2.0)
    """
    return math.sqrt(max(0.0, 2.0 - 2.0 * similarity))
