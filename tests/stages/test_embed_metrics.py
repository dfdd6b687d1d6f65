"""Metrics against naive loops and scikit-learn; ties count against the embedder; intervals cover the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import precision_score, roc_auc_score, roc_curve

from stages.embed.data import Sample
from stages.embed.evaluation import Protocol, evaluate, through_int8, truncated
from stages.embed.metrics import (
    Estimate,
    PhotoPairs,
    cosine,
    error_rates,
    mean_estimate,
    one_shot,
    precomputed,
    retrieve,
    sample_pairs,
    verify,
)
from stages.types import Vectors


def clusters(items: int = 12, photos: int = 40, noise: float = 1.2, seed: int = 0) -> tuple[Vectors, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, items, photos)
    vectors = rng.normal(size=(items, 8))[labels] + noise * rng.normal(size=(photos, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


class TestRetrieval:
    def test_is_the_naive_loop(self) -> None:
        vectors, labels = clusters()
        found = retrieve(cosine(vectors), labels)
        expected = []
        for i in range(len(labels)):
            others = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -float(vectors[i] @ vectors[j]))
            right = [labels[j] == labels[i] for j in others]
            if total := sum(right):
                precisions = [sum(right[: k + 1]) / (k + 1) for k in range(total) if right[k]]
                expected.append((i, right.index(True) + 1, sum(precisions) / total))
        assert found.queries.tolist() == [row for row, _, _ in expected]
        assert found.ranks.tolist() == [rank for _, rank, _ in expected]
        np.testing.assert_allclose(found.average_precisions, [value for _, _, value in expected])
        for k in (1, 3):
            assert found.hits(k).mean() == pytest.approx(np.mean([rank <= k for _, rank, _ in expected]))

    def test_a_tie_counts_as_an_error_in_retrieval(self) -> None:
        found = retrieve(precomputed(np.ones((4, 4), np.float32)), np.array([0, 0, 1, 1]))
        assert found.ranks.tolist() == [3, 3, 3, 3]
        assert found.average_precisions.tolist() == [0, 0, 0, 0]

    def test_queries_and_gallery_may_be_different_photos(self) -> None:
        likeness = precomputed(
            np.array([[1, 0.9, 0.2, 0.5], [0.9, 1, 0.3, 0.1], [0.2, 0.3, 1, 0.4], [0.5, 0.1, 0.4, 1]], np.float32)
        )
        labels = np.array([0, 0, 0, 1])
        asks, found = np.array([True, False, False, True]), np.array([False, False, True, True])
        told = retrieve(likeness, labels, asks, found)
        assert told.queries.tolist() == [0]  # the other one that asks has no photo of its own in the gallery
        assert told.ranks.tolist() == [2]


class TestVerification:
    @pytest.fixture
    def pairs(self) -> PhotoPairs:
        vectors, labels = clusters()
        return sample_pairs(cosine(vectors.round(1)), labels)  # rounded: with ties

    def test_all_pairs_once_by_falling_similarity(self, pairs: PhotoPairs) -> None:
        _, labels = clusters()
        assert len(pairs) == 40 * 39 // 2
        assert (pairs.first < pairs.second).all()
        assert len({*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}) == len(pairs)
        np.testing.assert_array_equal(pairs.same, labels[pairs.first] == labels[pairs.second])
        assert (np.diff(pairs.similarities) <= 0).all()

    @pytest.mark.parametrize("weighted", [False, True])
    def test_is_scikit_learns_roc(self, pairs: PhotoPairs, *, weighted: bool) -> None:
        weights = np.random.default_rng(1).integers(0, 3, len(pairs)).astype(np.float64) if weighted else None
        curve = error_rates(pairs, weights)
        fmr, tmr, thresholds = roc_curve(pairs.same, pairs.similarities, sample_weight=weights, drop_intermediate=False)
        assert curve.auc == pytest.approx(roc_auc_score(pairs.same, pairs.similarities, sample_weight=weights))
        for threshold, one, other in zip(thresholds, fmr, tmr, strict=True):
            place = int(np.argmax(curve.thresholds <= threshold))
            assert (curve.fmr[place], 1 - curve.fnmr[place]) == pytest.approx((one, other))

    def test_rates_at_thresholds(self, pairs: PhotoPairs) -> None:
        curve = error_rates(pairs)
        for fmr in (0.0, 0.1, 0.5):
            threshold = curve.threshold_at(fmr)
            called = pairs.similarities >= threshold
            assert called[~pairs.same].mean() <= fmr
            assert curve.fnmr_at(fmr) == pytest.approx(1 - called[pairs.same].mean())
            lower = pairs.similarities[pairs.similarities < threshold].max()
            assert (pairs.similarities >= lower)[~pairs.same].mean() > fmr
        balanced = np.where(pairs.same, 1 / pairs.same.sum(), 1 / (~pairs.same).sum())
        place = len(curve.thresholds) // 2
        called = pairs.similarities >= curve.thresholds[place]
        assert curve.precision[place] == pytest.approx(precision_score(pairs.same, called, sample_weight=balanced))

    def test_equal_error_rate(self, pairs: PhotoPairs) -> None:
        curve = error_rates(pairs)
        assert curve.fnmr_at(curve.eer) >= curve.eer - 1e-9
        at = pairs.similarities >= curve.eer_threshold
        worst = max(at[~pairs.same].mean(), 1 - at[pairs.same].mean())
        assert worst >= curve.eer - 1e-9
        assert worst == pytest.approx(min(np.maximum(curve.fmr, curve.fnmr)))
        perfect = PhotoPairs(
            np.array([0, 0]), np.array([1, 2]), np.array([True, False]), np.array([0.9, 0.1], np.float32)
        )
        assert (error_rates(perfect).eer, error_rates(perfect).auc) == (0.0, 1.0)
        tied = PhotoPairs(np.array([0, 0]), np.array([1, 2]), np.array([True, False]), np.array([0.5, 0.5], np.float32))
        assert (error_rates(tied).eer, error_rates(tied).auc) == (0.5, 0.5)

    def test_a_sample_of_pairs_is_fair(self) -> None:
        vectors, labels = clusters(items=20, photos=200)
        whole, drawn = (sample_pairs(cosine(vectors), labels, limit=limit) for limit in (10**6, 2000))
        assert drawn.counts == (whole.counts[0], 2000)
        assert error_rates(drawn).auc == pytest.approx(error_rates(whole).auc, abs=0.02)

    def test_pairs_of_two_domains(self) -> None:
        vectors, labels = clusters()
        domains = np.arange(40) % 2
        pairs = sample_pairs(cosine(vectors), labels, domains)
        assert (domains[pairs.first] != domains[pairs.second]).all()
        assert len(pairs) == 400

    def test_intervals_hold_the_figures_and_narrow_with_more_items(self) -> None:
        widths = []
        for items in (10, 80):
            vectors, labels = clusters(items, items * 3)
            told = verify(sample_pairs(cosine(vectors), labels), labels, replicates=60)
            for one in (told.auc, told.eer, *told.fnmr_at.values()):
                assert one.low <= one.value <= one.high
            widths.append(told.auc.high - told.auc.low)
        assert widths[1] < 0.6 * widths[0]

    def test_no_error_is_no_certainty(self) -> None:
        vectors, labels = clusters(items=20, photos=120, noise=0.01)
        told = verify(sample_pairs(cosine(vectors), labels), labels, replicates=20)
        assert (told.eer.value, told.eer.high) == (0, 3 / 20)
        assert told.fnmr_at[0.1].high == 3 / 20

    def test_missing_kinds_of_pairs_are_named(self) -> None:
        with pytest.raises(ValueError, match="two photos of one item"):
            sample_pairs(cosine(np.eye(3, dtype=np.float32)), np.arange(3))
        with pytest.raises(ValueError, match="photos of two items"):
            sample_pairs(cosine(np.eye(3, dtype=np.float32)), np.zeros(3, np.int64))


class TestOneShot:
    def test_is_the_expected_chance(self) -> None:
        """Two ways: the chance that the own class is nearer, which can be counted."""
        vectors, labels = clusters(items=5, photos=30)
        chances = []
        for query in range(30):
            own = [j for j in range(30) if labels[j] == labels[query] and j != query]
            wins = []
            for other in set(labels.tolist()) - {int(labels[query])}:
                rows = [j for j in range(30) if labels[j] == other]
                wins.append(
                    np.mean([vectors[query] @ vectors[j] > vectors[query] @ vectors[k] for j in own for k in rows])
                )
            chances.append(np.mean(wins))
        told = one_shot(cosine(vectors), labels, ways=2, trials=20_000)
        assert told.accuracy.value == pytest.approx(np.mean(chances), abs=0.015)

    def test_a_tie_is_an_error(self) -> None:
        labels = np.repeat(np.arange(4), 2)
        assert one_shot(precomputed(np.ones((8, 8), np.float32)), labels, 3, trials=50).accuracy.value == 0

    def test_the_photo_itself_is_never_its_example(self) -> None:
        labels = np.repeat(np.arange(4), 2)
        itself = precomputed(np.eye(8, dtype=np.float32))  # only a photo is like itself
        assert one_shot(itself, labels, 3, trials=200).hits.sum() == 0

    def test_stays_within_groups_and_apart_in_sources(self) -> None:
        """As Omniglot is measured: one alphabet, examples by one drawer, the query by another."""
        labels = np.repeat(np.arange(8), 4)
        groups, drawers = labels // 4, np.tile(np.arange(4), 8)
        seen: list[tuple[int, list[int]]] = []

        def likeness(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float32]:
            seen.extend((int(rows[0]), trial) for trial in others.reshape(-1, 4).tolist())
            return (labels[rows][:, None] == labels[others]).astype(np.float32)

        told = one_shot(likeness, labels, 4, groups, drawers, trials=300)
        assert told.hits.all()
        for query, shown in seen:
            assert {int(groups[row]) for row in shown} == {int(groups[query])}
            assert len({int(drawers[row]) for row in shown} | {int(drawers[query])}) == 2
            assert int(drawers[query]) not in {int(drawers[row]) for row in shown}
            assert len({int(labels[row]) for row in shown}) == 4
            assert labels[shown[0]] == labels[query]

    def test_refuses_more_ways_than_classes(self) -> None:
        vectors, labels = clusters(items=4)
        with pytest.raises(ValueError, match="fewer ways"):
            one_shot(cosine(vectors), labels, 5)


class TestIntervals:
    def test_cover_the_truth_about_as_often_as_they_say(self) -> None:
        rng = np.random.default_rng(0)
        units = np.repeat(np.arange(40), 5)
        covered = 0
        for _ in range(100):
            chance = rng.beta(2, 2, 40)  # photos of one item err together
            told = mean_estimate((rng.random(200) < chance[units]).astype(np.float64), units, replicates=200)
            covered += told.low <= 0.5 <= told.high
        assert 86 <= covered <= 100

    def test_intervals_resample_items_rather_than_photos(self) -> None:
        hits = np.repeat([0.0, 1.0], 50)
        few, many = mean_estimate(hits, np.arange(100) // 25), mean_estimate(hits, np.arange(100))
        assert few.high - few.low > 2 * (many.high - many.low)

    def test_no_error_is_no_certainty(self) -> None:
        assert mean_estimate(np.ones(60), np.repeat(np.arange(30), 2)) == Estimate(1.0, 0.9, 1.0)
        assert np.isnan(mean_estimate(np.array([0.0, 1.0]), np.zeros(2, np.int64)).low)


class TestCompression:
    def test_rows_stay_unit_and_near(self) -> None:
        vectors, _ = clusters()
        for smaller in (truncated(vectors, 4), through_int8(vectors)):
            np.testing.assert_allclose(np.linalg.norm(smaller, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose((through_int8(vectors) * vectors).sum(axis=1), 1, atol=1e-4)

    def test_refuses_dimensions_that_are_not_there(self) -> None:
        with pytest.raises(ValueError, match="8 dimensions"):
            truncated(clusters()[0], 9)


class TestEvaluate:
    def test_all_figures_together(self) -> None:
        vectors, items = clusters(items=12, photos=60, noise=0.5)
        extra, _ = clusters(items=5, photos=6, seed=9)
        samples = [
            Sample(Path(f"{k}.jpg"), f"i{i}", style=f"s{i // 2}", label="ab"[i % 2]) for k, i in enumerate(items)
        ]
        distractors = [Sample(Path(f"d{k}.jpg"), "i0", style="s0") for k in range(6)]
        told = evaluate(np.concatenate([vectors, extra]), samples + distractors, 6, Protocol(ways=(3, 99), trials=50))
        assert (told.photos, told.items, told.distractors) == (60, len(set(items.tolist())), 6)
        assert list(told.retrieval_figures) == ["item", "style"]
        styled = retrieve(cosine(np.concatenate([vectors, extra])), np.concatenate([items // 2, 100 + np.arange(6)]))
        assert told.retrieval_figures["style"].recall[5].value == pytest.approx(styled.hits(5).mean())
        assert told.verification.same + told.verification.different == 60 * 59 // 2
        assert [shot.ways for shot in told.one_shot] == [3]
        assert "99-way" in told.notes[0]
        assert list(told.compression) == ["int8"]
        assert abs(told.compression["int8"].loss.value) < 0.1
        assert list(told.labels) == ["a", "b"]
        assert told.labels["a"].photos == sum(items % 2 == 0)
        assert not told.collapsed

    def test_a_distractor_is_wrong_whatever_it_is_called(self) -> None:
        vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 0]]
        samples = [Sample(Path(f"{k}.jpg"), item) for k, item in enumerate("aabba")]
        told = evaluate(vectors, samples, 1, Protocol(ways=(2,), trials=10))
        assert told.retrieval_figures["item"].recall[1].value == 0.5

    def test_one_domain_asks_for_another(self) -> None:
        vectors, items = clusters(items=6, photos=40)
        domains = ["street" if k % 2 else "shop" for k in range(40)]
        samples = [Sample(Path(f"{k}.jpg"), f"i{i}", domain=domains[k]) for k, i in enumerate(items)]
        told = evaluate(
            vectors, samples, protocol=Protocol(query_domain="street", gallery_domain="shop", ways=(2,), trials=10)
        )
        assert {domains[row] for row in told.retrieval.queries.tolist()} == {"street"}
        assert {domains[row] for row in told.gallery.tolist()} == {"shop"}
