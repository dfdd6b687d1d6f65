"""Relations, miners and samplers against naive loops and counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.embed.data import Dataset, Sample
from stages.embed.losses import MINERS, Relations
from stages.embed.sampling import PK, SAMPLERS, OfflineTriplets, Pools, RandomPairs, RandomTriplets, SamplerPlan

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def distances(seed: int = 0, count: int = 6) -> torch.Tensor:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cdist(points, points)


def listed(triplets) -> list[tuple[int, int, int]]:
    return [tuple(one) for one in torch.stack(list(triplets), dim=1).tolist()]


class TestRelations:
    def test_all_rows_but_the_row_itself_are_positives_or_negatives(self):
        relations, same = Relations.of(LABELS), LABELS[:, None] == LABELS
        assert torch.equal(relations.positive, same & ~torch.eye(6, dtype=torch.bool))
        assert torch.equal(relations.negative, ~same)

    def test_only_anchors_and_partners_of_a_group_are_related(self):
        groups = torch.tensor([0, 0, 0, 1, 1, 1])
        anchors = torch.tensor([True, False, False] * 2)
        relations = Relations.of(torch.tensor([5, 5, 7, 8, 8, 5]), groups, anchors, ~anchors)
        assert relations.positive.nonzero().tolist() == [[0, 1], [3, 4]]
        assert relations.negative.nonzero().tolist() == [[0, 2], [3, 5]]
        assert listed(relations.triplets()) == [(0, 1, 2), (3, 4, 5)]

    def test_relations_of_styles_leave_out_the_same_identity(self):
        above = Relations.of(LABELS).above(torch.tensor([0, 0, 0, 0, 0, 1]))
        assert above.positive[0].tolist() == [False, False, False, True, True, False]
        assert above.negative[0].tolist() == [False] * 5 + [True]


def naive_triplets(labels: torch.Tensor, apart: torch.Tensor, miner: str) -> list[tuple[int, int, int]]:
    count, chosen = len(labels), []
    for a in range(count):
        positive = [p for p in range(count) if p != a and labels[p] == labels[a]]
        negative = [n for n in range(count) if labels[n] != labels[a]]
        if miner == "batch-hard":
            if positive:
                chosen.append((a, max(positive, key=lambda p: apart[a, p]), min(negative, key=lambda n: apart[a, n])))
            continue
        for p in positive:
            beyond = [n for n in negative if apart[a, n] > apart[a, p]]
            nearest = min(beyond, key=lambda n: apart[a, n]) if beyond else max(negative, key=lambda n: apart[a, n])
            chosen += [(a, p, n) for n in (negative if miner == "all" else [nearest])]
    return chosen


@pytest.mark.parametrize("miner", MINERS)
def test_a_miner_is_the_naive_loop_and_finds_nothing_in_nothing(miner):
    for labels in (LABELS, torch.arange(30) % 5):
        apart = distances(1, len(labels))
        assert listed(MINERS[miner](apart, Relations.of(labels))) == naive_triplets(labels, apart, miner)
    for labels in (torch.arange(6), torch.zeros(6, dtype=torch.int64)):
        assert listed(MINERS[miner](distances(), Relations.of(labels))) == []


def dataset(samples: list[Sample]) -> Dataset:
    return Dataset("items", tuple(samples), images=[np.zeros((4, 4, 3), np.uint8)] * len(samples))


@pytest.fixture
def data() -> Dataset:
    """Nine items, three colours of each of three styles, with one to four photos."""
    return dataset([
        Sample(Path(f"{item}-{photo}"), f"{item}", style=f"{item // 3}")
        for item in range(9) for photo in range(1 + item % 4)
    ])  # fmt: skip


@pytest.fixture
def crossed() -> Dataset:
    """Six items with two street and three shop photos each, and one item with street photos only."""
    return dataset([
        Sample(Path(f"{item}-{domain}-{photo}"), f"{item}", domain=domain)
        for item in range(7) for domain, count in (("street", 2), ("shop", 3 * (item < 6))) for photo in range(count)
    ])  # fmt: skip


class TestPK:
    def test_an_epoch_draws_each_item_once(self, data):
        sampler = PK(Pools(data), items=3, photos=2)
        for start in (0, 3, 6):
            seen = Counter(int(data.item_ids[row]) for step in range(start, start + 3) for row in sampler(step).rows)
            assert seen == dict.fromkeys(range(9), 2)

    def test_photos_of_an_item_are_different_as_far_as_it_has_enough(self, data):
        by_item = defaultdict(set)
        for row in PK(Pools(data), items=9, photos=3)(0).rows.tolist():
            by_item[int(data.item_ids[row])].add(row)
        assert {item: len(rows) for item, rows in by_item.items()} == {k: min(3, 1 + k % 4) for k in range(9)}

    def test_a_batch_is_full_and_has_no_item_twice_at_the_end_of_an_epoch(self, data):
        sampler = PK(Pools(data), items=4, photos=2)
        for step in range(12):
            assert sorted(Counter(data.item_ids[sampler(step).rows].tolist()).values()) == [2] * 4

    def test_colours_of_a_style_come_together(self, data):
        together, apart = (PK(Pools(data), items=3, photos=2, together=ids) for ids in (data.style_ids, None))
        styles = [[len(set(data.style_ids[one(step).rows].tolist())) for step in range(6)] for one in (together, apart)]
        assert styles[0] == [1] * 6
        assert max(styles[1]) > 1

    def test_only_pairs_across_domains_are_compared(self, crossed):
        draw = PK(Pools(crossed, "street"), items=4, photos=4)(0)
        street = crossed.in_domain("street")[draw.rows]
        assert np.array_equal(street, draw.anchors)
        assert np.array_equal(~street, draw.partners)
        assert 6 not in crossed.item_ids[draw.rows], "an item in one domain has no pair across"


class TestRandomDraws:
    def test_pairs_are_half_same_and_half_different(self, data):
        draw = RandomPairs(Pools(data), pairs=10)(3)
        left, right = data.item_ids[draw.rows[::2]], data.item_ids[draw.rows[1::2]]
        assert (left == right).tolist() == [True] * 5 + [False] * 5
        assert draw.groups.tolist() == [place // 2 for place in range(20)]
        for drawn in [RandomPairs(Pools(data), pairs=10)(step).rows for step in range(40)]:
            for one, other in zip(drawn[:10:2], drawn[1:10:2], strict=True):
                assert (one != other) == (data.item_ids.tolist().count(data.item_ids[one]) > 1)

    def test_triplets_are_an_anchor_a_positive_and_any_negative(self, data):
        draw = RandomTriplets(Pools(data), triplets=50)(0)
        anchors, positives, negatives = (data.item_ids[draw.rows[place::3]] for place in range(3))
        assert (anchors == positives).all()
        assert (anchors != negatives).all()
        assert set(negatives.tolist()) == set(range(9))

    @pytest.mark.parametrize("direction", ["street", "shop"])
    def test_anchors_of_triplets_are_from_their_domain(self, crossed, direction):
        draw = RandomTriplets(Pools(crossed, direction), triplets=30)(0)
        assert crossed.in_domain(direction)[draw.rows].reshape(-1, 3).tolist() == [[True, False, False]] * 30

    @pytest.mark.parametrize("name", ["pk", "pairs", "triplets"])
    def test_draws_depend_on_seed_and_step_alone(self, data, name):
        sampler, again, other = (SamplerPlan(name, batch_size=12, photos=2).build(data, seed) for seed in (5, 5, 6))
        sampler(7)
        assert np.array_equal(sampler(2).rows, again(2).rows)
        assert not all(np.array_equal(sampler(step).rows, other(step).rows) for step in range(3))

    def test_impossible_samplers_are_refused(self, data):
        with pytest.raises(ValueError, match="no sampler is called"):
            SamplerPlan("random")
        with pytest.raises(ValueError, match="style or source"):
            SamplerPlan(together="colour")
        for name in SAMPLERS:
            with pytest.raises(ValueError, match="at least"):
                SamplerPlan(name, batch_size=2, photos=2, mine_photos=4).build(data)
        with pytest.raises(ValueError, match="two items"):
            Pools(dataset([Sample(Path("a"), "x"), Sample(Path("b"), "x")]))


class TestOffline:
    @staticmethod
    def embed(data: Dataset):
        points = np.random.default_rng(0).normal(size=(len(data), 4)).astype(np.float32)
        return points, lambda wanted: points[wanted]

    def test_mines_a_semi_hard_triplet_for_each_photo_with_a_positive(self, data):
        sampler = OfflineTriplets(Pools(data), triplets=5, mine_steps=4, photos=100)
        points, embed = self.embed(data)
        sampler.mine(0, embed)
        apart = torch.from_numpy(np.square(points[:, None] - points[None]).sum(axis=2))
        possible = naive_triplets(torch.from_numpy(data.item_ids), apart, "semi-hard")
        assert {int(data.item_ids[a]) for a in sampler.mined[:, 0]} == {k for k in range(9) if k % 4}
        assert set(map(tuple, sampler.mined.tolist())) <= set(possible)

    def test_draws_each_triplet_once_before_any_is_repeated(self, data):
        sampler = OfflineTriplets(Pools(data), triplets=3, mine_steps=50, photos=100)
        sampler.mine(0, self.embed(data)[1])
        count = len(sampler.mined)
        assert count % 3 == 0
        seen = Counter(tuple(one) for step in range(count // 3) for one in sampler(step).rows.reshape(-1, 3).tolist())
        assert seen == Counter(map(tuple, sampler.mined.tolist()))

    def test_anchors_are_from_their_domain(self, crossed):
        sampler = OfflineTriplets(Pools(crossed, "shop"), triplets=4, mine_steps=5, photos=100)
        sampler.mine(0, self.embed(crossed)[1])
        assert crossed.in_domain("shop")[sampler.mined].tolist() == [[True, False, False]] * 18

    def test_a_resumed_run_reads_the_triplets_of_its_steps_only(self, data, tmp_path):
        path, mined = tmp_path / "mined.safetensors", []

        def embed(rows):
            mined.append(len(rows))
            return self.embed(data)[0][rows]

        sampler, resumed = (OfflineTriplets(Pools(data), triplets=3, mine_steps=50, photos=100) for _ in range(2))
        with pytest.raises(RuntimeError, match="prepare first"):
            sampler(0)
        for step in (50, 50, 61):
            sampler.prepare(step, path, embed)
        resumed.prepare(61, path, embed)
        assert len(mined) == 1
        assert np.array_equal(sampler(61).rows, resumed(61).rows)
        resumed.prepare(100, path, embed)
        assert len(mined) == 2

    def test_mining_without_positives_is_refused(self):
        alone = dataset([Sample(Path(f"{item}"), f"{item}") for item in range(5)])
        with pytest.raises(ValueError, match="no triplet"):
            OfflineTriplets(Pools(alone), triplets=2, mine_steps=5, photos=10).mine(0, self.embed(alone)[1])
