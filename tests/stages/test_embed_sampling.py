"""Relations, miners and samplers against what they promise, counted one by one."""

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
    def test_all_pairs_but_oneself(self):
        relations = Relations.of(LABELS)
        for i in range(6):
            for j in range(6):
                assert relations.positive[i, j] == (i != j and LABELS[i] == LABELS[j])
                assert relations.negative[i, j] == (LABELS[i] != LABELS[j])

    def test_within_groups_and_from_anchors_to_partners(self):
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

    def test_triplets_are_all_that_there_are(self):
        wanted = [(a, p, n) for a in range(6) for p in range(6) for n in range(6)
                  if a != p and LABELS[a] == LABELS[p] and LABELS[a] != LABELS[n]]  # fmt: skip
        assert listed(MINERS["all"](distances(), Relations.of(LABELS))) == wanted


class TestMiners:
    def test_batch_hard_is_the_naive_loop(self):
        apart = distances()
        wanted = []
        for a in range(6):
            own = [p for p in range(6) if p != a and LABELS[p] == LABELS[a]]
            others = [n for n in range(6) if LABELS[n] != LABELS[a]]
            if own:
                wanted.append((a, max(own, key=lambda p: apart[a, p]), min(others, key=lambda n: apart[a, n])))
        assert listed(MINERS["batch-hard"](apart, Relations.of(LABELS))) == wanted

    def test_semi_hard_is_the_naive_loop(self):
        labels = torch.arange(30) % 5
        apart = distances(1, 30)
        found = listed(MINERS["semi-hard"](apart, Relations.of(labels)))
        wanted, easy = [], 0
        for a in range(30):
            for p in (p for p in range(30) if p != a and labels[p] == labels[a]):
                others = [n for n in range(30) if labels[n] != labels[a]]
                beyond = [n for n in others if apart[a, n] > apart[a, p]]
                easy += not beyond
                chosen = min(beyond, key=lambda n: apart[a, n]) if beyond else max(others, key=lambda n: apart[a, n])
                wanted.append((a, p, chosen))
        assert found == wanted
        assert easy, "some positive is further than every negative"

    @pytest.mark.parametrize("name", MINERS)
    def test_nothing_to_mine_is_nothing(self, name):
        for labels in (torch.arange(6), torch.zeros(6, dtype=torch.int64)):
            assert listed(MINERS[name](distances(), Relations.of(labels))) == []


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
    """Six items with two street and three shop photos each, one item in the street alone."""
    return dataset([
        Sample(Path(f"{item}-{domain}-{photo}"), f"{item}", domain=domain)
        for item in range(7) for domain, count in (("street", 2), ("shop", 3 * (item < 6))) for photo in range(count)
    ])  # fmt: skip


class TestPK:
    def test_a_round_shows_each_item_once(self, data):
        sampler = PK(Pools(data), items=3, photos=2)
        for start in (0, 3, 6):
            seen = Counter(int(data.item_ids[row]) for step in range(start, start + 3) for row in sampler(step).rows)
            assert seen == dict.fromkeys(range(9), 2)

    def test_photos_of_an_item_are_different_ones_while_there_are(self, data):
        sampler = PK(Pools(data), items=9, photos=3)
        draw = sampler(0)
        by_item = defaultdict(list)
        for row in draw.rows.tolist():
            by_item[int(data.item_ids[row])].append(row)
        for item, drawn in by_item.items():
            assert len(set(drawn)) == min(3, 1 + item % 4)

    def test_a_batch_is_full_and_holds_no_item_twice_at_the_end_of_a_round(self, data):
        sampler = PK(Pools(data), items=4, photos=2)
        for step in range(12):
            assert sorted(Counter(data.item_ids[sampler(step).rows].tolist()).values()) == [2] * 4

    def test_colours_of_a_style_come_together(self, data):
        sampler = PK(Pools(data), items=3, photos=2, together=data.style_ids)
        for step in range(6):
            assert len(set(data.style_ids[sampler(step).rows].tolist())) == 1
        apart = PK(Pools(data), items=3, photos=2)
        assert any(len(set(data.style_ids[apart(step).rows].tolist())) > 1 for step in range(6))

    def test_across_domains_only_pairs_across_are_compared(self, crossed):
        sampler = PK(Pools(crossed, "street"), items=4, photos=4)
        draw = sampler(0)
        street = crossed.in_domain("street")[draw.rows]
        assert np.array_equal(street, draw.anchors)
        relations = Relations.of(torch.from_numpy(crossed.item_ids[draw.rows]), None,
                                 torch.from_numpy(draw.anchors), torch.from_numpy(draw.partners))  # fmt: skip
        left, right = (relations.positive | relations.negative).nonzero(as_tuple=True)
        assert street[left].all()
        assert not street[right].any()
        assert 6 not in crossed.item_ids[draw.rows], "an item of one domain alone has no pair across"


class TestRandomDraws:
    def test_pairs_are_half_same_and_half_different(self, data):
        draw = RandomPairs(Pools(data), pairs=10)(3)
        left, right = data.item_ids[draw.rows[::2]], data.item_ids[draw.rows[1::2]]
        assert (left == right).tolist() == [True] * 5 + [False] * 5
        assert draw.groups.tolist() == [place // 2 for place in range(20)]
        many = [RandomPairs(Pools(data), pairs=10)(step).rows for step in range(40)]
        for drawn in many:
            for one, other in zip(drawn[:10:2], drawn[1:10:2], strict=True):
                assert (one != other) == (data.item_ids.tolist().count(data.item_ids[one]) > 1)

    def test_triplets_are_triplets(self, data):
        draw = RandomTriplets(Pools(data), triplets=50)(0)
        anchors, positives, negatives = (data.item_ids[draw.rows[place::3]] for place in range(3))
        assert (anchors == positives).all()
        assert (anchors != negatives).all()
        assert set(negatives.tolist()) == set(range(9))

    @pytest.mark.parametrize("direction", ["street", "shop"])
    def test_triplets_across_domains(self, crossed, direction):
        draw = RandomTriplets(Pools(crossed, direction), triplets=30)(0)
        here = crossed.in_domain(direction)[draw.rows].reshape(-1, 3)
        assert here.tolist() == [[True, False, False]] * 30

    def test_draws_depend_on_seed_and_step_alone(self, data):
        for name in ("pk", "pairs", "triplets"):
            sampler, again, other = (SamplerPlan(name, batch_size=12, photos=2).build(data, seed) for seed in (5, 5, 6))
            sampler(7)
            assert np.array_equal(sampler(2).rows, again(2).rows), name
            assert not all(np.array_equal(sampler(step).rows, other(step).rows) for step in range(3)), name

    def test_impossible_samplers_are_refused(self, data, crossed):
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
    def embed(data: Dataset, seed: int = 0):
        points = np.random.default_rng(seed).normal(size=(len(data), 4)).astype(np.float32)
        return points, lambda wanted: points[wanted]

    def test_mines_semi_hard_triplets(self, data):
        sampler = OfflineTriplets(Pools(data), triplets=5, mine_steps=4, photos=100)
        points, embed = self.embed(data)
        sampler.mine(0, embed)
        assert {int(data.item_ids[a]) for a in sampler.mined[:, 0]} == {k for k in range(9) if k % 4}, (
            "each with a positive"
        )
        for a, p, n in sampler.mined.tolist():
            assert data.item_ids[a] == data.item_ids[p]
            assert a != p
            near = np.square(points[a] - points[p]).sum()
            others = [j for j in range(len(data)) if data.item_ids[j] != data.item_ids[a]]
            far = {j: np.square(points[a] - points[j]).sum() for j in others}
            beyond = [j for j in others if far[j] > near]
            assert n == (min(beyond, key=far.get) if beyond else max(others, key=far.get))

    def test_draws_each_triplet_once_before_any_again(self, data):
        sampler = OfflineTriplets(Pools(data), triplets=3, mine_steps=50, photos=100)
        sampler.mine(0, self.embed(data)[1])
        count = len(sampler.mined)
        assert count % 3 == 0
        seen = Counter(tuple(one) for step in range(count // 3) for one in sampler(step).rows.reshape(-1, 3).tolist())
        assert seen == Counter(map(tuple, sampler.mined.tolist()))

    def test_across_domains(self, crossed):
        sampler = OfflineTriplets(Pools(crossed, "shop"), triplets=4, mine_steps=5, photos=100)
        sampler.mine(0, self.embed(crossed)[1])
        shop = crossed.in_domain("shop")[sampler.mined]
        assert shop.tolist() == [[True, False, False]] * len(shop)
        assert len(shop) == 18, "each shop photo of the six once"

    def test_a_resumed_run_reads_what_was_mined_for_its_steps_alone(self, data, tmp_path):
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
        sampler = OfflineTriplets(Pools(alone), triplets=2, mine_steps=5, photos=10)
        with pytest.raises(ValueError, match="no triplet"):
            sampler.mine(0, self.embed(alone)[1])
