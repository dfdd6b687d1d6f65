"""Calibration of similarities: thresholds for target error rates, and verdicts: same item, not sure, different."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np

import weights
from stages.embed.metrics import Estimate, Floats, Ints, PhotoPairs, error_rates, pair_weights
from stages.errors import OutfinderError
from stages.files import read_whole, write_whole
from stages.types import Match

SUFFIX: Final = ".calibration.json"

_INVALID: Final[Mapping[type[Exception], str]] = {
    UnicodeDecodeError: "it is not text",
    json.JSONDecodeError: "it is not JSON",
    KeyError: "a value is missing",
}

MIN_EXPECTED_ERRORS: Final = 5  # the expected number of errors that estimating a rate takes
MIN_ITEMS: Final = 5
"""The number of items that estimating a rate takes, because the photos of an item tend to fail together."""


class Verdict(StrEnum):
    """What a similarity says about two photos."""

    SAME = "same item"
    UNSURE = "not sure"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Two photos show the same item at ``same`` or above, and different items below ``different``.

    ``fmr`` and ``fnmr`` are the false match and false non-match rates at ``same``, measured on the given numbers of pairs
    and items.
    """

    same: Estimate
    different: Estimate
    fmr: float
    fnmr: float
    same_pairs: int
    different_pairs: int
    items: int

    def verdict(self, similarity: float) -> Verdict:
        """Return the verdict on two photos with this similarity."""
        if similarity >= self.same.value:
            return Verdict.SAME
        return Verdict.DIFFERENT if similarity < self.different.value else Verdict.UNSURE

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Thresholds:
        """Return the thresholds that :func:`~dataclasses.asdict` made a mapping of."""
        same, different = (
            Estimate(*(float(values[name][end]) for end in ("value", "low", "high"))) for name in ("same", "different")
        )
        if not math.isfinite(same.value + different.value):
            raise ValueError("a threshold is not a finite number")
        counts = (int(values[name]) for name in ("same_pairs", "different_pairs", "items"))
        return cls(same, different, float(values["fmr"]), float(values["fnmr"]), *counts)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The thresholds of the embedder with this fingerprint, for all photos and for each label with enough photos."""

    fingerprint: str
    wanted_fmr: float
    wanted_fnmr: float
    data: str
    every: Thresholds
    labels: Mapping[str, Thresholds] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def verdict(self, similarity: float, label: str = "") -> Verdict:
        """Return the verdict on two photos with this similarity, by the label's thresholds if there are any."""
        return self.labels.get(label, self.every).verdict(similarity)

    def require(self, fingerprint: str) -> Calibration:
        """Return the calibration, or raise an OutfinderError if it was made with another embedder."""
        if fingerprint != self.fingerprint:
            raise OutfinderError(
                f"the calibration was made with the embedder {self.fingerprint!r}, not {fingerprint!r}:"
                " their similarities cannot be compared; run outfinder calibrate with this embedder"
            )
        return self

    def save(self, path: Path | str) -> None:
        """Write the calibration to a JSON file."""
        write_whole(Path(path), json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read a calibration from a JSON file, or raise an OutfinderError."""
        try:
            values = json.loads(read_whole(Path(path), 10_000_000))
            return cls(
                fingerprint=str(values["fingerprint"]),
                wanted_fmr=float(values["wanted_fmr"]),
                wanted_fnmr=float(values["wanted_fnmr"]),
                data=str(values["data"]),
                every=Thresholds.of(values["every"]),
                labels={str(label): Thresholds.of(one) for label, one in values["labels"].items()},
            )
        except OSError as error:
            raise OutfinderError(f"calibration {path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            reason = _INVALID.get(type(error), "a value is invalid")
            raise OutfinderError(
                f"{path} is not a calibration ({reason}); make one with: outfinder calibrate"
            ) from error


def calibrate(
    pairs: PhotoPairs,
    units: Ints,
    labels: Sequence[str],
    fingerprint: str,
    fmr: float = 0.01,
    fnmr: float = 0.05,
    data: str = "",
) -> Calibration:
    """Find the thresholds for target error rates, over all pairs and over the pairs within each label.

    Args:
        pairs: of photos.
        units: ``(n,)``, the item of each photo, which intervals resample.
        labels: of each photo, or ``""``.
        fingerprint: of the embedder.
        fmr: the target false match rate, in (0, 0.5].
        fnmr: the target false non-match rate, in (0, 0.5].
        data: a description of the photos.
    """
    for name, rate in (("false match rate", fmr), ("false non-match rate", fnmr)):
        if not 0 < rate <= 0.5:
            raise ValueError(f"the {name} must be above 0 and at most 0.5, got {rate:g}")
    if shortage := _shortage(pairs, units, fmr, fnmr):
        raise ValueError(f"too little data for these rates: {shortage}; raise the rates, or give more photos")
    names = np.array(labels)
    by_label, notes = {}, []
    for label in sorted(set(labels) - {""}):
        within = pairs[(names[pairs.first] == label) & (names[pairs.second] == label)]
        if shortage := _shortage(within, units, fmr, fnmr):
            notes.append(f"{label} has no thresholds of its own: {shortage}")
        else:
            by_label[label] = _measure(within, units, fmr, fnmr)
    return Calibration(fingerprint, fmr, fnmr, data, _measure(pairs, units, fmr, fnmr), by_label, tuple(notes))


def _shortage(pairs: PhotoPairs, units: Ints, fmr: float, fnmr: float) -> str:
    """Return what is lacking to estimate the rates; empty if nothing is."""
    same, different = pairs.counts
    for count, kind, rate in ((different, "pairs of different items", fmr), (same, "pairs of one item", fnmr)):
        if count * rate < MIN_EXPECTED_ERRORS:
            return f"{count} {kind}, wanted {math.ceil(MIN_EXPECTED_ERRORS / rate)} for a rate of {rate:g}"
    items = _count_items(pairs, units)
    return f"{items} items with two photos, wanted {MIN_ITEMS}" if items < MIN_ITEMS else ""


def _count_items(pairs: PhotoPairs, units: Ints) -> int:
    return len(np.unique(units[pairs.first[pairs.same]]))


def _measure(pairs: PhotoPairs, units: Ints, fmr: float, fnmr: float) -> Thresholds:
    same, different = _find_thresholds(pairs, None, fmr, fnmr)
    replicates = [_find_thresholds(pairs, weights, fmr, fnmr) for weights in pair_weights(pairs, units)]
    columns = np.array(replicates).reshape(-1, 2).T
    accepted = pairs.similarities >= same
    return Thresholds(
        Estimate.from_replicates(same, columns[0]),
        Estimate.from_replicates(different, columns[1]),
        fmr=round(float(accepted[~pairs.same].mean()), 6),
        fnmr=round(float(1 - accepted[pairs.same].mean()), 6),
        same_pairs=pairs.counts[0],
        different_pairs=pairs.counts[1],
        items=_count_items(pairs, units),
    )


def _find_thresholds(pairs: PhotoPairs, weights: Floats | None, fmr: float, fnmr: float) -> tuple[float, float]:
    """Return the lowest threshold that keeps the fmr, and the highest that keeps the fnmr and is not above the first.

    If none keeps the fmr, the first is slightly above 1, so that no pair counts as the same.
    """
    rates = error_rates(pairs, weights)
    same = min(rates.threshold_at(fmr), float(np.nextafter(np.float32(1), np.float32(2))))
    keeps = np.flatnonzero(rates.fnmr <= fnmr + 1e-12)
    return same, min(same, float(rates.thresholds[keeps[0]]))


def calibration_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's calibration.

    >>> calibration_path(Path("run/weights.safetensors")).as_posix()
    'run/weights.calibration.json'
    """
    return checkpoint.with_name(checkpoint.stem + SUFFIX)


def find_calibration(
    fingerprint: str, file: Path | str | None = None, checkpoint: Path | str | None = None, embedder: str = ""
) -> Calibration | None:
    """Return the calibration in ``file``, or else the one beside the weights if it belongs to this embedder, or None.

    The weights are the user's ``checkpoint``, or shipped ones by the name of the ``embedder``.

    Raises:
        OutfinderError: a file is not a calibration, or ``file`` was made with another embedder.
    """
    if file:
        return Calibration.read(file).require(fingerprint)
    path = calibration_path(Path(checkpoint)) if checkpoint else weights.FOLDER / f"{embedder}{SUFFIX}"
    calibration = Calibration.read(path) if path.exists() else None
    return calibration if calibration and calibration.fingerprint == fingerprint else None


def add_verdicts(calibration: Calibration, label: str, matches: Iterable[Match]) -> Iterator[Match]:
    """Yield the matches of a garment with their verdicts; the label's thresholds apply to matches with the same label."""
    for match in matches:
        verdict = calibration.verdict(match.similarity, label if match.label == label else "")
        yield replace(match, verdict=verdict.value)
