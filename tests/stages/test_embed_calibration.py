"""Calibration: thresholds that keep the wanted rates, and files that are refused for another embedder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.embed.calibration import Calibration, Verdict, calibrate
from stages.embed.metrics import PhotoPairs, cosine, sample_pairs
from stages.errors import OutfinderError
from stages.types import Vectors


def photos(items: int, seed: int, noise: float = 0.35) -> tuple[Vectors, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(items), 3)
    vectors = rng.normal(size=(items, 12))[labels] + noise * rng.normal(size=(len(labels), 12))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def pairs(items: int = 60, seed: int = 0, noise: float = 0.35) -> tuple[PhotoPairs, NDArray[np.int64]]:
    vectors, labels = photos(items, seed, noise)
    return sample_pairs(cosine(vectors), labels), labels


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    found, labels = pairs(noise=0.6)
    names = ["bag" if item % 2 else "shoes" for item in labels.tolist()]
    names[0] = "hat"
    return calibrate(found, labels, names, "net-1", fmr=0.02, fnmr=0.1, data="180 photos")


class TestCalibrate:
    def test_keeps_the_wanted_rates_where_it_was_made_and_elsewhere(self, calibration: Calibration) -> None:
        own, _ = pairs(noise=0.6)
        every = calibration.every
        assert (own.similarities >= every.same.value)[~own.same].mean() == pytest.approx(every.fmr, abs=1e-6)
        assert every.fmr <= 0.02
        assert (own.similarities < every.same.value)[own.same].mean() == pytest.approx(every.fnmr, abs=1e-6)
        assert (own.similarities < every.different.value)[own.same].mean() <= 0.1
        other, _ = pairs(seed=5, noise=0.6)
        assert (other.similarities >= every.same.value)[~other.same].mean() == pytest.approx(0.02, abs=0.01)

    def test_thresholds_are_the_tightest(self, calibration: Calibration) -> None:
        own, _ = pairs(noise=0.6)
        lower = own.similarities[own.similarities < calibration.every.same.value].max()
        assert (own.similarities >= lower)[~own.same].mean() > 0.02
        higher = own.similarities[own.similarities > calibration.every.different.value].min()
        assert (own.similarities < higher)[own.same].mean() > 0.1

    def test_a_similarity_is_same_unsure_or_different(self, calibration: Calibration) -> None:
        every = calibration.every
        assert every.different.value < every.same.value
        middle = (every.different.value + every.same.value) / 2
        told = [calibration.verdict(one) for one in (every.same.value, middle, every.different.value, -1.0)]
        assert told == [Verdict.SAME, Verdict.UNSURE, Verdict.UNSURE, Verdict.DIFFERENT]

    def test_thresholds_are_equal_where_no_rates_overlap(self) -> None:
        found, labels = pairs(noise=0.01)
        sure = calibrate(found, labels, [""] * len(labels), "net", fnmr=0.3).every
        assert sure.different.value == sure.same.value
        assert sure.fnmr == 0

    def test_labels_with_enough_pairs_have_thresholds_and_others_a_note(self, calibration: Calibration) -> None:
        assert list(calibration.labels) == ["bag", "shoes"]
        assert calibration.notes[0].startswith("hat has no thresholds of its own: 0 pairs")
        bag = calibration.labels["bag"]
        assert bag.different_pairs < calibration.every.different_pairs
        assert calibration.verdict(bag.same.value, "bag") is Verdict.SAME
        assert calibration.verdict(0.5, "hat") == calibration.verdict(0.5)

    def test_intervals_hold_the_thresholds(self, calibration: Calibration) -> None:
        for one in (calibration.every, *calibration.labels.values()):
            for threshold in (one.same, one.different):
                assert threshold.low <= threshold.value <= threshold.high
                assert threshold.high > threshold.low

    def test_rates_that_need_more_pairs_are_refused(self) -> None:
        found, labels = pairs(items=8)
        with pytest.raises(ValueError, match=r"wanted 5000 for a rate of 0\.001"):
            calibrate(found, labels, [""] * 24, "net", fmr=0.001, fnmr=0.4)
        with pytest.raises(ValueError, match="pairs of one item"):
            calibrate(found, labels, [""] * 24, "net", fmr=0.1, fnmr=0.05)
        with pytest.raises(ValueError, match="above 0"):
            calibrate(found, labels, [""] * 24, "net", fmr=0.0)


class TestFile:
    def test_a_calibration_is_read_as_it_was_saved(self, calibration: Calibration, tmp_path: Path) -> None:
        calibration.save(tmp_path / "c.json")
        read = Calibration.read(tmp_path / "c.json").require("net-1")
        assert (read.every, dict(read.labels)) == (calibration.every, dict(calibration.labels))
        assert (read.wanted_fmr, read.wanted_fnmr, read.data) == (0.02, 0.1, "180 photos")

    def test_a_calibration_of_another_embedder_is_refused(self, calibration: Calibration) -> None:
        with pytest.raises(OutfinderError, match=r"'net-1', not 'net-2'.*outfinder calibrate"):
            calibration.require("net-2")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": 3}', '{"labels": {}, "wanted_fmr": "x"}'])
    def test_files_that_are_no_calibration_are_refused(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(OutfinderError, match="is not a calibration"):
            Calibration.read(tmp_path / "c.json")

    def test_a_calibration_without_a_threshold_is_refused(self, calibration: Calibration, tmp_path: Path) -> None:
        calibration.save(tmp_path / "c.json")
        told = json.loads((tmp_path / "c.json").read_text())
        del told["every"]["same"]["low"]
        (tmp_path / "c.json").write_text(json.dumps(told))
        with pytest.raises(OutfinderError, match="is not a calibration"):
            Calibration.read(tmp_path / "c.json")
        with pytest.raises(OutfinderError, match="cannot be read"):
            Calibration.read(tmp_path / "gone.json")
