"""Calibration: thresholds that keep the target rates, and files that are refused for another embedder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.embed.calibration import Calibration, Verdict, calibrate
from stages.embed.metrics import PhotoPairs, cosine, sample_pairs
from stages.errors import OutfinderError


def pairs(items: int = 60, seed: int = 0, noise: float = 0.6) -> tuple[PhotoPairs, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(items), 3)
    vectors = rng.normal(size=(items, 12))[labels] + noise * rng.normal(size=(len(labels), 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return sample_pairs(cosine(vectors.astype(np.float32)), labels), labels


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    photos, labels = pairs()
    names = ["hat", *("bag" if item % 2 else "shoes" for item in labels[1:].tolist())]
    return calibrate(photos, labels, names, "net-1", fmr=0.02, fnmr=0.1, data="180 photos")


class TestCalibrate:
    def test_thresholds_are_the_tightest_that_keep_the_rates_and_hold_for_other_photos(
        self, calibration: Calibration
    ) -> None:
        (photos, _), (others, _), every = pairs(), pairs(seed=5), calibration.every

        def fmr(of: PhotoPairs, threshold: float) -> float:
            return float((of.similarities >= threshold)[~of.same].mean())

        def fnmr(of: PhotoPairs, threshold: float) -> float:
            return float((of.similarities < threshold)[of.same].mean())

        same, different = every.same.value, every.different.value
        assert (fmr(photos, same), fnmr(photos, same)) == pytest.approx((every.fmr, every.fnmr), abs=1e-6)
        assert fmr(photos, same) <= 0.02 < fmr(photos, photos.similarities[photos.similarities < same].max())
        assert fnmr(photos, different) <= 0.1 < fnmr(photos, photos.similarities[photos.similarities > different].min())
        assert fmr(others, same) == pytest.approx(0.02, abs=0.01)

    def test_a_similarity_is_same_unsure_or_different(self, calibration: Calibration) -> None:
        same, different = calibration.every.same.value, calibration.every.different.value
        assert different < same
        verdicts = [calibration.verdict(one) for one in (same, (different + same) / 2, different, -1.0)]
        assert verdicts == [Verdict.SAME, Verdict.UNSURE, Verdict.UNSURE, Verdict.DIFFERENT]

    def test_thresholds_are_equal_if_similarities_do_not_overlap(self) -> None:
        photos, labels = pairs(noise=0.01)
        certain = calibrate(photos, labels, [""] * len(labels), "net", fnmr=0.3).every
        assert certain.different.value == certain.same.value
        assert certain.fnmr == 0

    def test_labels_with_enough_pairs_have_thresholds_and_others_a_note(self, calibration: Calibration) -> None:
        assert list(calibration.labels) == ["bag", "shoes"]
        assert calibration.notes[0].startswith("hat has no thresholds of its own: 0 pairs")
        bag = calibration.labels["bag"]
        assert bag.different_pairs < calibration.every.different_pairs
        assert calibration.verdict(bag.same.value, "bag") is Verdict.SAME
        assert calibration.verdict(0.5, "hat") == calibration.verdict(0.5)

    def test_intervals_include_the_thresholds(self, calibration: Calibration) -> None:
        for one in (calibration.every, *calibration.labels.values()):
            for threshold in (one.same, one.different):
                assert threshold.low <= threshold.value <= threshold.high > threshold.low

    @pytest.mark.parametrize(
        ("fmr", "fnmr", "message"),
        [(0.001, 0.4, r"wanted 5000 for a rate of 0\.001"), (0.1, 0.05, "pairs of one item"), (0.0, 0.05, "above 0")],
    )
    def test_rates_that_need_more_pairs_are_refused(self, fmr: float, fnmr: float, message: str) -> None:
        photos, labels = pairs(items=8, noise=0.35)
        with pytest.raises(ValueError, match=message):
            calibrate(photos, labels, [""] * 24, "net", fmr=fmr, fnmr=fnmr)


class TestFile:
    def test_a_calibration_is_read_as_it_was_saved(self, calibration: Calibration, tmp_path: Path) -> None:
        calibration.save(tmp_path / "c.json")
        read = Calibration.read(tmp_path / "c.json").require("net-1")
        assert (read.every, dict(read.labels)) == (calibration.every, dict(calibration.labels))
        assert (read.wanted_fmr, read.wanted_fnmr, read.data) == (0.02, 0.1, "180 photos")

    def test_a_calibration_of_another_embedder_is_refused(self, calibration: Calibration) -> None:
        with pytest.raises(OutfinderError, match=r"'net-1', not 'net-2'.*outfinder calibrate"):
            calibration.require("net-2")

    def test_files_that_are_no_calibration_are_refused(self, calibration: Calibration, tmp_path: Path) -> None:
        path = tmp_path / "c.json"
        with pytest.raises(OutfinderError, match="cannot be read"):
            Calibration.read(path)
        calibration.save(path)
        incomplete = json.loads(path.read_text())
        del incomplete["every"]["same"]["low"]
        for content, reason in (
            (b"", "it is not JSON"),
            (b"\x89PNG", "it is not text"),
            (b"[]", "a value is invalid"),
            (b"{}", "a value is missing"),
            (b'{"fingerprint": "a", "wanted_fmr": "x"}', "a value is invalid"),
            (json.dumps(incomplete).encode(), "a value is missing"),
        ):
            path.write_bytes(content)
            with pytest.raises(OutfinderError, match=rf"is not a calibration \({reason}\); make one with"):
                Calibration.read(path)
