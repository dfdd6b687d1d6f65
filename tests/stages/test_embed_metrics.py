"""Metrics against naive loops and scikit-learn; ties count as errors; intervals cover the truth."""

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
    def test_retrieval_is_the_naive_loop(self) -> None:
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
        assert found.hits(3).mean() == pytest.approx(np.mean([rank <= 3 for _, rank, _ in expected]))

    def test_a_tie_counts_as_an_error(self) -> None:
        found = retrieve(precomputed(np.ones((4, 4), np.float32)), np.array([0, 0, 1, 1]))
        assert (found.ranks.tolist(), found.average_precisions.tolist()) == ([3] * 4, [0] * 4)

    def test_queries_and_gallery_may_be_different_photos(self) -> None:
        similar = np.array([[1, 0.9, 0.2, 0.5], [0.9, 1, 0.3, 0.1], [0.2, 0.3, 1, 0.4], [0.5, 0.1, 0.4, 1]], np.float32)
        queries, gallery = np.array([True, False, False, True]), np.array([False, False, True, True])
        found = retrieve(precomputed(similar), np.array([0, 0, 0, 1]), queries, gallery)
        assert (found.queries.tolist(), found.ranks.tolist()) == ([0], [2]), "the other query has nothing to retrieve"


class TestVerification:
    @pytest.fixture
    def pairs(self) -> PhotoPairs:
        vectors, labels = clusters()
        return sample_pairs(cosine(vectors.round(1)), labels)  # rounded, so that there are ties

    def test_all_pairs_occur_once_by_decreasing_similarity(self, pairs: PhotoPairs) -> None:
        _, labels = clusters()
        assert (pairs.first < pairs.second).all()
        assert len({*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}) == len(pairs) == 40 * 39 // 2
        np.testing.assert_array_equal(pairs.same, labels[pairs.first] == labels[pairs.second])
        assert (np.diff(pairs.similarities) <= 0).all()

    @pytest.mark.parametrize("weighted", [False, True])
    def test_error_rates_are_scikit_learns(self, pairs: PhotoPairs, *, weighted: bool) -> None:
        weights = np.random.default_rng(1).integers(0, 3, len(pairs)).astype(np.float64) if weighted else None
        curve = error_rates(pairs, weights)
        fmr, tmr, thresholds = roc_curve(pairs.same, pairs.similarities, sample_weight=weights, drop_intermediate=False)
        assert curve.auc == pytest.approx(roc_auc_score(pairs.same, pairs.similarities, sample_weight=weights))
        places = [int(np.argmax(curve.thresholds <= threshold)) for threshold in thresholds]
        np.testing.assert_allclose(curve.fmr[places], fmr)
        np.testing.assert_allclose(1 - curve.fnmr[places], tmr)

    def test_a_threshold_is_the_lowest_with_its_false_match_rate(self, pairs: PhotoPairs) -> None:
        curve = error_rates(pairs)
        for fmr in (0.0, 0.1, 0.5):
            threshold = curve.threshold_at(fmr)
            accepted = pairs.similarities >= threshold
            assert accepted[~pairs.same].mean() <= fmr
            assert curve.fnmr_at(fmr) == pytest.approx(1 - accepted[pairs.same].mean())
            lower = pairs.similarities[pairs.similarities < threshold].max()
            assert (pairs.similarities >= lower)[~pairs.same].mean() > fmr
        balanced = np.where(pairs.same, 1 / pairs.same.sum(), 1 / (~pairs.same).sum())
        place = len(curve.thresholds) // 2
        accepted = pairs.similarities >= curve.thresholds[place]
        assert curve.precision[place] == pytest.approx(precision_score(pairs.same, accepted, sample_weight=balanced))

    def test_both_rates_are_equal_at_the_equal_error_rate(self, pairs: PhotoPairs) -> None:
        curve = error_rates(pairs)
        assert curve.fnmr_at(curve.eer) >= curve.eer - 1e-9
        accepted = pairs.similarities >= curve.eer_threshold
        worst = max(accepted[~pairs.same].mean(), 1 - accepted[pairs.same].mean())
        assert worst == pytest.approx(min(np.maximum(curve.fmr, curve.fnmr)))
        for similarities, eer, auc in (([0.9, 0.1], 0.0, 1.0), ([0.5, 0.5], 0.5, 0.5)):
            two = PhotoPairs(
                np.zeros(2, np.int64), np.array([1, 2]), np.array([True, False]), np.array(similarities, np.float32)
            )
            assert (error_rates(two).eer, error_rates(two).auc) == (eer, auc)

    def test_a_sample_of_pairs_is_fair(self) -> None:
        vectors, labels = clusters(items=20, photos=200)
        whole, drawn = (sample_pairs(cosine(vectors), labels, limit=limit) for limit in (10**6, 2000))
        assert drawn.counts == (whole.counts[0], 2000)
        assert error_rates(drawn).auc == pytest.approx(error_rates(whole).auc, abs=0.02)

    def test_pairs_can_be_across_domains_only(self) -> None:
        vectors, labels = clusters()
        domains = np.arange(40) % 2
        pairs = sample_pairs(cosine(vectors), labels, domains)
        assert (domains[pairs.first] != domains[pairs.second]).all()
        assert len(pairs) == 400

    def test_intervals_include_the_figures_and_narrow_with_more_items(self) -> None:
        widths = []
        for items in (10, 80):
            vectors, labels = clusters(items, items * 3)
            found = verify(sample_pairs(cosine(vectors), labels), labels, replicates=60)
            assert all(one.low <= one.value <= one.high for one in (found.auc, found.eer, *found.fnmr_at.values()))
            widths.append(found.auc.high - found.auc.low)
        assert widths[1] < 0.6 * widths[0]

    def test_no_error_is_no_certainty(self) -> None:
        vectors, labels = clusters(items=20, photos=120, noise=0.01)
        found = verify(sample_pairs(cosine(vectors), labels), labels, replicates=20)
        assert (found.eer.value, found.eer.high, found.fnmr_at[0.1].high) == (0, 3 / 20, 3 / 20)

    @pytest.mark.parametrize(
        ("labels", "missing"), [([0, 1, 2], "two photos of one item"), ([0, 0, 0], "of two items")]
    )
    def test_missing_kinds_of_pairs_are_named(self, labels: list[int], missing: str) -> None:
        with pytest.raises(ValueError, match=missing):
            sample_pairs(cosine(np.eye(3, dtype=np.float32)), np.array(labels))


class TestOneShot:
    def test_accuracy_is_the_probability_of_a_hit(self) -> None:
        """With two ways, the probability that the query's class is nearer can be counted."""
        vectors, labels = clusters(items=5, photos=30)
        similar = vectors @ vectors.T
        chances = []
        for query, label in enumerate(labels):
            same = [j for j in range(30) if labels[j] == label and j != query]
            wins = [
                np.mean(similar[query, same][:, None] > similar[query, labels == other])
                for other in set(labels) - {label}
            ]
            chances.append(np.mean(wins))
        found = one_shot(cosine(vectors), labels, ways=2, trials=20_000)
        assert found.accuracy.value == pytest.approx(np.mean(chances), abs=0.015)

    @pytest.mark.parametrize("similar", [np.ones((8, 8)), np.eye(8)], ids=["ties", "the photo itself"])
    def test_a_tie_is_an_error_and_a_photo_is_never_its_own_example(self, similar: NDArray[np.float64]) -> None:
        found = one_shot(precomputed(similar.astype(np.float32)), np.repeat(np.arange(4), 2), 3, trials=200)
        assert found.hits.sum() == 0

    def test_trials_stay_within_a_group_with_examples_from_one_other_source(self) -> None:
        """As on Omniglot: one alphabet, examples by one drawer, the query by another."""
        labels = np.repeat(np.arange(8), 4)
        groups, drawers = labels // 4, np.tile(np.arange(4), 8)
        seen: list[tuple[int, list[int]]] = []

        def similarity(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float32]:
            seen.extend((int(rows[0]), trial) for trial in others.reshape(-1, 4).tolist())
            return (labels[rows][:, None] == labels[others]).astype(np.float32)

        assert one_shot(similarity, labels, 4, groups, drawers, trials=300).hits.all()
        for query, shown in seen:
            assert set(groups[shown]) == {groups[query]}
            assert len(set(drawers[shown])) == 1
            assert drawers[query] not in drawers[shown]
            assert len(set(labels[shown])) == 4
            assert labels[shown[0]] == labels[query]

    def test_more_ways_than_classes_are_refused(self) -> None:
        vectors, labels = clusters(items=4)
        with pytest.raises(ValueError, match="fewer ways"):
            one_shot(cosine(vectors), labels, 5)


class TestIntervals:
    def test_intervals_cover_the_truth_about_as_often_as_they_claim(self) -> None:
        rng = np.random.default_rng(0)
        units, covered = np.repeat(np.arange(40), 5), 0
        for _ in range(100):
            chance = rng.beta(2, 2, 40)  # photos of one item fail together
            found = mean_estimate((rng.random(200) < chance[units]).astype(np.float64), units, replicates=200)
            covered += found.low <= 0.5 <= found.high
        assert 86 <= covered <= 100

    def test_intervals_resample_items_rather_than_photos(self) -> None:
        hits = np.repeat([0.0, 1.0], 50)
        few, many = mean_estimate(hits, np.arange(100) // 25), mean_estimate(hits, np.arange(100))
        assert few.high - few.low > 2 * (many.high - many.low)

    def test_no_error_is_no_certainty(self) -> None:
        assert mean_estimate(np.ones(60), np.repeat(np.arange(30), 2)) == Estimate(1.0, 0.9, 1.0)
        assert np.isnan(mean_estimate(np.array([0.0, 1.0]), np.zeros(2, np.int64)).low)


class TestEvaluate:
    def test_smaller_vectors_are_unit_rows_close_to_the_whole_ones(self) -> None:
        vectors, _ = clusters()
        for smaller in (truncated(vectors, 4), through_int8(vectors)):
            np.testing.assert_allclose(np.linalg.norm(smaller, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose((through_int8(vectors) * vectors).sum(axis=1), 1, atol=1e-4)
        with pytest.raises(ValueError, match="8 dimensions"):
            truncated(vectors, 9)

    def test_an_evaluation_has_all_figures(self) -> None:
        vectors, items = clusters(items=12, photos=60, noise=0.5)
        both = np.concatenate([vectors, clusters(items=5, photos=6, seed=9)[0]])
        samples = [Sample(Path(f"{k}"), f"i{i}", style=f"s{i // 2}", label="ab"[i % 2]) for k, i in enumerate(items)]
        distractors = [Sample(Path(f"d{k}.jpg"), "i0", style="s0") for k in range(6)]
        found = evaluate(both, samples + distractors, 6, Protocol(ways=(3, 99), trials=50))
        assert (found.photos, found.items, found.distractors) == (60, len(set(items.tolist())), 6)
        assert list(found.retrieval_figures) == ["item", "style"]
        styled = retrieve(cosine(both), np.concatenate([items // 2, 100 + np.arange(6)]))
        assert found.retrieval_figures["style"].recall[5].value == pytest.approx(styled.hits(5).mean())
        assert found.verification.same + found.verification.different == 60 * 59 // 2
        assert [shot.ways for shot in found.one_shot] == [3]
        assert "99-way" in found.notes[0]
        assert list(found.compression) == ["int8"]
        assert abs(found.compression["int8"].loss.value) < 0.1
        assert {label: one.photos for label, one in found.labels.items()} == {
            "a": sum(items % 2 == 0),
            "b": sum(items % 2),
        }
        assert not found.collapsed

    def test_a_distractor_is_wrong_whatever_its_name(self) -> None:
        vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 0]]
        samples = [Sample(Path(f"{k}.jpg"), item) for k, item in enumerate("aabba")]
        found = evaluate(vectors, samples, 1, Protocol(ways=(2,), trials=10))
        assert found.retrieval_figures["item"].recall[1].value == 0.5

    def test_queries_and_gallery_are_of_their_domains(self) -> None:
        vectors, items = clusters(items=6, photos=40)
        domains = np.array(["street", "shop"] * 20)
        samples = [Sample(Path(f"{k}"), f"i{i}", domain=domains[k]) for k, i in enumerate(items)]
        protocol = Protocol(query_domain="street", gallery_domain="shop", ways=(2,), trials=10)
        found = evaluate(vectors, samples, protocol=protocol)
        assert set(domains[found.retrieval.queries]) == {"street"}
        assert set(domains[found.gallery]) == {"shop"}
