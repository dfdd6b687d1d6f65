"""From a similarity to an answer: same item, not sure, different; thresholds for wanted error rates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stages.embed.intervals import Estimate, estimate
from stages.embed.verification import REPLICATES, Pairs, curve_of, pair_weights
from stages.errors import OutfinderError
from stages.files import read_whole, write_whole

LEAST_BEYOND: Final = 5
"""A rate is not told from fewer pairs than would give so many errors at it."""

LEAST_ITEMS: Final = 5
"""Nor from fewer items: their photos err together."""


class Verdict(StrEnum):
    """What a similarity means."""

    SAME = "same item"
    UNSURE = "not sure"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From ``same`` on two photos are called the same item, below ``different`` different ones.

    ``same`` keeps the false match rate at the wanted one, ``different`` the false non-match rate, where it lies
    below ``same``. The intervals are those of 95 % confidence. ``fmr`` and ``fnmr`` are the rates that were measured at
    ``same``, and the counts what they were measured on.
    """

    same: Estimate
    different: Estimate
    fmr: float
    fnmr: float
    same_pairs: int
    different_pairs: int
    items: int

    def verdict(self, similarity: float) -> Verdict:
        """What a similarity means."""
        if similarity >= self.same.value:
            return Verdict.SAME
        return Verdict.DIFFERENT if similarity < self.different.value else Verdict.UNSURE


@dataclass(frozen=True, slots=True)
class Calibration:
    """The thresholds of one embedder, by label where enough is known of it; ``fingerprint`` is the embedder's."""

    fingerprint: str
    wanted_fmr: float
    wanted_fnmr: float
    data: str
    every: Thresholds
    labels: Mapping[str, Thresholds] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def verdict(self, similarity: float, label: str = "") -> Verdict:
        """What a similarity means, by the label's own thresholds where it has some."""
        return self.labels.get(label, self.every).verdict(similarity)

    def require(self, fingerprint: str) -> Calibration:
        """The calibration itself, for an embedder that it was made with.

        Raises:
            OutfinderError: it was made with another.
        """
        if fingerprint != self.fingerprint:
            raise OutfinderError(
                f"the calibration was made with the embedder {self.fingerprint!r}, not {fingerprint!r}:"
                " similarities of one mean nothing for the other; run outfinder calibrate with this embedder"
            )
        return self

    def save(self, path: Path) -> None:
        """Write a JSON file, at once."""
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """What :meth:`save` wrote.

        Raises:
            OutfinderError: the file cannot be read, or is no calibration.
        """
        try:
            told = json.loads(read_whole(path, 10_000_000))
            labels = {str(label): _thresholds(one) for label, one in told["labels"].items()}
            rates = float(told["wanted_fmr"]), float(told["wanted_fnmr"])
            return cls(str(told["fingerprint"]), *rates, str(told["data"]), _thresholds(told["every"]), labels)
        except OSError as error:
            raise OutfinderError(f"calibration {path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise OutfinderError(f"{path} is no calibration ({error!r}); make one with: outfinder calibrate") from error


def calibrate(
    pairs: Pairs,
    units: NDArray[np.int64],
    labels: Sequence[str],
    fingerprint: str,
    fmr: float = 0.01,
    fnmr: float = 0.05,
    data: str = "",
) -> Calibration:
    """Thresholds for wanted error rates, over all pairs and over those within each label.

    Args:
        pairs: of photos.
        units: ``(n,)``, the item of each photo; items are drawn again for the intervals.
        labels: of each photo; pairs of two labels, or of none, count for no label.
        fingerprint: of the embedder that the similarities are of.
        fmr: the wanted false match rate.
        fnmr: the wanted false non-match rate.
        data: what the pairs are of, in words.

    Raises:
        ValueError: a rate is not within (0, 0.5], or the pairs are too few to tell it.
    """
    for name, rate in (("false match rate", fmr), ("false non-match rate", fnmr)):
        if not 0 < rate <= 0.5:
            raise ValueError(f"a {name} lies above 0 and at 0.5 at most, got {rate:g}")
    if lacking := _lacking(pairs, units, fmr, fnmr):
        raise ValueError(f"too little data for these rates: {lacking}; ask for larger rates, or give more photos")
    names = np.array(labels)
    found, notes = {}, []
    for label in sorted(set(labels) - {""}):
        own = pairs[(names[pairs.first] == label) & (names[pairs.second] == label)]
        if lacking := _lacking(own, units, fmr, fnmr):
            notes.append(f"{label} has no thresholds of its own: {lacking}")
        else:
            found[label] = _measure(own, units, fmr, fnmr)
    return Calibration(fingerprint, fmr, fnmr, data, _measure(pairs, units, fmr, fnmr), found, tuple(notes))


def _lacking(pairs: Pairs, units: NDArray[np.int64], fmr: float, fnmr: float) -> str:
    """What there is too little of to tell the rates; empty where there is enough."""
    same, different = pairs.counts
    if different * fmr < LEAST_BEYOND:
        return f"{different} pairs of different items, wanted {math.ceil(LEAST_BEYOND / fmr)} for a rate of {fmr:g}"
    if same * fnmr < LEAST_BEYOND:
        return f"{same} pairs of one item, wanted {math.ceil(LEAST_BEYOND / fnmr)} for a rate of {fnmr:g}"
    items = _items(pairs, units)
    return f"{items} items with two photos, wanted {LEAST_ITEMS}" if items < LEAST_ITEMS else ""


def _items(pairs: Pairs, units: NDArray[np.int64]) -> int:
    return len(np.unique(units[pairs.first[pairs.same]]))


def _measure(pairs: Pairs, units: NDArray[np.int64], fmr: float, fnmr: float) -> Thresholds:
    same, different = _read_off(pairs, None, fmr, fnmr)
    again = [_read_off(pairs, weights, fmr, fnmr) for weights in pair_weights(pairs, units, REPLICATES)]
    accepted = pairs.similarities >= same
    return Thresholds(
        estimate(same, np.array([one for one, _ in again])),
        estimate(different, np.array([other for _, other in again])),
        fmr=round(float(accepted[~pairs.same].mean()), 6),
        fnmr=round(float(1 - accepted[pairs.same].mean()), 6),
        same_pairs=pairs.counts[0],
        different_pairs=pairs.counts[1],
        items=_items(pairs, units),
    )


def _read_off(pairs: Pairs, weights: NDArray[np.float64] | None, fmr: float, fnmr: float) -> tuple[float, float]:
    """The lowest threshold with at most the wanted fmr, the highest with at most the wanted fnmr, never above it.

    Where no threshold keeps the fmr, 1.0 and a little stands in: nothing is the same then.
    """
    curve = curve_of(pairs, weights)
    same = min(curve.threshold_at(fmr), float(np.nextafter(np.float32(1), np.float32(2))))
    reached = np.flatnonzero(curve.fnmr <= fnmr + 1e-12)
    return same, min(same, float(curve.thresholds[reached[0]]))


def _thresholds(told: Mapping[str, Any]) -> Thresholds:
    same, different = (
        Estimate(*(float(told[name][end]) for end in ("value", "low", "high"))) for name in ("same", "different")
    )
    same_pairs, different_pairs, items = (int(told[name]) for name in ("same_pairs", "different_pairs", "items"))
    return Thresholds(same, different, float(told["fmr"]), float(told["fnmr"]), same_pairs, different_pairs, items)
