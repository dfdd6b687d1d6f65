"""Every loss agrees with a naive loop over its definition, and its gradients stay finite."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stages.embed.losses import (
    DISTANCES,
    LOSSES,
    MINERS,
    Contrastive,
    InfoNCE,
    LossPlan,
    MultiSimilarity,
    PairEntropy,
    ProxyAnchor,
    ProxyNCA,
    Quadruplet,
    Relations,
    SupCon,
    Triplet,
)
from stages.embed.network import Design, SiameseNetwork

LABELS = [0, 0, 1, 1, 1, 2, 3, 3]
STYLES = [0, 0, 0, 0, 0, 1, 2, 2]
N = range(len(LABELS))


@pytest.fixture
def vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(8, 5, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def relations() -> Relations:
    return Relations.of(torch.tensor(LABELS))


def dot(vectors: torch.Tensor, i: int, j: int) -> float:
    return float(vectors[i].detach() @ vectors[j].detach())


def gap(vectors: torch.Tensor, i: int, j: int) -> float:
    return math.dist(vectors[i].tolist(), vectors[j].tolist())


def positives(i: int) -> list[int]:
    return [j for j in N if j != i and LABELS[j] == LABELS[i]]


def negatives(i: int) -> list[int]:
    return [j for j in N if LABELS[j] != LABELS[i]]


def all_triplets() -> list[tuple[int, int, int]]:
    return [(a, p, n) for a in N for p in positives(a) for n in negatives(a)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


class TestDistances:
    def test_distances_match_their_definitions(self, vectors):
        stretched = (vectors * torch.arange(1, 9)[:, None]).detach()
        for i in N:
            for j in N:
                apart = gap(stretched, i, j)
                assert DISTANCES["euclidean"](stretched)[i, j].item() == pytest.approx(apart, abs=1e-6)
                assert DISTANCES["squared"](stretched)[i, j].item() == pytest.approx(apart**2, abs=1e-9)
                assert DISTANCES["cosine"](stretched)[i, j].item() == pytest.approx(1 - dot(vectors, i, j), abs=1e-9)


class TestPairLosses:
    def test_contrastive_is_the_naive_loop(self, vectors, relations):
        same = [0.5 * gap(vectors, i, j) ** 2 for i in N for j in positives(i)]
        different = [0.5 * max(0, 1.2 - gap(vectors, i, j)) ** 2 for i in N for j in negatives(i)]
        loss = Contrastive(1.2, DISTANCES["euclidean"])(vectors, relations)
        assert loss.item() == pytest.approx((mean(same) + mean(different)) / 2)

    def test_a_constant_distance_loses_an_eighth_of_the_squared_margin(self):
        """Four corners of a tetrahedron, all ``margin / 2`` apart: what a network gives that tells nothing apart."""
        corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 8**0.5
        relations = Relations.of(torch.tensor([0, 0, 1, 1]))
        losses = [Contrastive(2.0, DISTANCES["euclidean"])(corners * s, relations).item() for s in (0.9, 1.0, 1.1)]
        assert losses[1] == pytest.approx(2.0**2 / 8)
        assert losses[1] < min(losses[0], losses[2])

    def test_contrastive_with_a_miner_takes_the_pairs_of_its_triplets(self, vectors, relations):
        apart = DISTANCES["euclidean"](vectors.detach())
        chosen = MINERS["batch-hard"](apart, relations)
        same = [0.5 * apart[a, p].item() ** 2 for a, p, _ in zip(*chosen, strict=True)]
        different = [0.5 * max(0, 1.2 - apart[a, n].item()) ** 2 for a, _, n in zip(*chosen, strict=True)]
        loss = Contrastive(1.2, DISTANCES["euclidean"], MINERS["batch-hard"])(vectors, relations)
        assert loss.item() == pytest.approx((mean(same) + mean(different)) / 2)

    def test_entropy_of_a_pair_head_is_the_naive_loop(self, vectors, relations):
        weight = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def chance(i, j):
            logit = float(((vectors[i] - vectors[j]).detach().abs() * weight).sum())
            return 1 / (1 + math.exp(-logit))

        same = [-math.log(chance(i, j)) for i in N for j in positives(i)]
        different = [-math.log(1 - chance(i, j)) for i in N for j in negatives(i)]
        loss = PairEntropy(lambda left, right: (left - right).abs() @ weight)
        assert loss(vectors, relations).item() == pytest.approx((mean(same) + mean(different)) / 2, rel=1e-5)

    def test_pairs_for_a_pair_head_are_mined_by_its_logits(self, vectors, relations):
        weight = torch.tensor([3.0, -2.0, 1.0, -4.0, 2.0], dtype=torch.float64)  # in some numbers far is same

        def logit(i, j):
            return float(((vectors[i] - vectors[j]).detach().abs() * weight).sum())

        chosen = []
        for a in N:
            for p in positives(a):
                beyond = [n for n in negatives(a) if logit(a, n) < logit(a, p)]
                hardest = (
                    max(beyond, key=lambda n: logit(a, n)) if beyond else min(negatives(a), key=lambda n: logit(a, n))
                )
                chosen.append((a, p, hardest))
        by_distance = MINERS["semi-hard"](torch.cdist(vectors, vectors).detach(), relations)
        assert chosen != list(zip(*(rows.tolist() for rows in by_distance), strict=True))
        same = [-math.log(1 / (1 + math.exp(-logit(a, p)))) for a, p, _ in chosen]
        different = [-math.log(1 - 1 / (1 + math.exp(-logit(a, n)))) for a, _, n in chosen]
        loss = PairEntropy(lambda left, right: (left - right).abs() @ weight, MINERS["semi-hard"])
        assert loss(vectors, relations).item() == pytest.approx((mean(same) + mean(different)) / 2, rel=1e-5)

    def test_each_pair_across_domains_is_compared_once(self, vectors):
        street = torch.arange(8) % 2 == 0
        relations = Relations.of(torch.tensor(LABELS), anchors=street, partners=~street)
        asked = []

        def compare(left, right):
            asked.extend(zip(left[:, 0].tolist(), right[:, 0].tolist(), strict=True))
            return (left - right).abs().sum(dim=1)

        assert PairEntropy(compare)(vectors, relations).item() > 0
        assert len(asked) == 16, "each street photo with each shop photo, once"


class TestTripletLosses:
    @pytest.mark.parametrize(
        ("distance", "between"),
        [
            ("euclidean", gap),
            ("squared", lambda v, i, j: gap(v, i, j) ** 2),
            ("cosine", lambda v, i, j: 1 - dot(v, i, j)),
        ],
    )
    def test_triplet_is_the_naive_loop(self, vectors, relations, distance, between):
        wanted = mean([max(0, between(vectors, a, p) - between(vectors, a, n) + 0.4) for a, p, n in all_triplets()])
        loss = Triplet(0.4, DISTANCES[distance], MINERS["all"])(vectors, relations)
        assert loss.item() == pytest.approx(wanted, rel=1e-5)

    def test_quadruplet_is_the_naive_loop(self, vectors, relations):
        terms = []
        for a, p, n in all_triplets():
            near, far = gap(vectors, a, p) ** 2, gap(vectors, a, n) ** 2
            third = [j for j in N if LABELS[j] not in (LABELS[a], LABELS[n])]
            across = min(gap(vectors, n, j) ** 2 for j in third)
            terms.append(max(0, near - far + 0.4) + max(0, near - across + 0.2))
        loss = Quadruplet(0.4, DISTANCES["squared"], MINERS["all"])(vectors, relations)
        assert loss.item() == pytest.approx(mean(terms), rel=1e-5)


class TestSoftmaxLosses:
    def test_infonce_is_the_naive_loop(self, vectors, relations):
        per_anchor = []
        for i in N:
            against = sum(math.exp(dot(vectors, i, j) / 0.07) for j in negatives(i))
            own = [math.exp(dot(vectors, i, j) / 0.07) for j in positives(i)]
            if own:
                per_anchor.append(mean([-math.log(one / (one + against)) for one in own]))
        assert InfoNCE()(vectors, relations).item() == pytest.approx(mean(per_anchor))

    def test_supcon_is_the_naive_loop(self, vectors, relations):
        per_anchor = []
        for i in N:
            against = sum(math.exp(dot(vectors, i, j) / 0.1) for j in N if j != i)
            own = [-math.log(math.exp(dot(vectors, i, j) / 0.1) / against) for j in positives(i)]
            if own:
                per_anchor.append(mean(own))
        assert SupCon(0.1)(vectors, relations).item() == pytest.approx(mean(per_anchor))

    def test_multi_similarity_is_the_naive_loop(self, vectors, relations):
        total = 0.0
        for i in N:
            own, others = positives(i), negatives(i)
            hard = [j for j in own if dot(vectors, i, j) - 0.1 < max(dot(vectors, i, k) for k in others)]
            near = [k for k in others if own and dot(vectors, i, k) + 0.1 > min(dot(vectors, i, j) for j in own)]
            total += math.log(1 + sum(math.exp(-2 * (dot(vectors, i, j) - 0.5)) for j in hard)) / 2
            total += math.log(1 + sum(math.exp(50 * (dot(vectors, i, k) - 0.5)) for k in near)) / 50
        assert MultiSimilarity()(vectors, relations).item() == pytest.approx(total / len(N))

    def test_positives_never_push_each_other_away(self, vectors):
        loss = InfoNCE()(vectors, Relations.of(torch.zeros(8, dtype=torch.int64)))
        (slope,) = torch.autograd.grad(loss, vectors)
        assert torch.equal(slope, torch.zeros_like(vectors))


class TestProxyLosses:
    def test_proxy_nca_is_the_naive_loop(self, vectors, relations):
        loss = ProxyNCA(5, 5).double()
        proxies = F.normalize(loss.proxies).detach()
        terms = []
        for i in N:
            far = [3 * math.dist(vectors[i].tolist(), proxy.tolist()) ** 2 for proxy in proxies]
            against = sum(math.exp(-far[c]) for c in range(5) if c != LABELS[i])
            terms.append(-math.log(math.exp(-far[LABELS[i]]) / against))
        assert loss(vectors, relations).item() == pytest.approx(mean(terms))

    def test_proxy_anchor_is_the_naive_loop(self, vectors, relations):
        loss = ProxyAnchor(5, 5).double()
        proxies = F.normalize(loss.proxies).detach()
        pulls, pushes = [], []
        for c, proxy in enumerate(proxies):
            similar = [float(vectors[i].detach() @ proxy) for i in N]
            own = sum(math.exp(-32 * (similar[i] - 0.1)) for i in N if LABELS[i] == c)
            others = sum(math.exp(32 * (similar[i] + 0.1)) for i in N if LABELS[i] != c)
            pulls += [math.log(1 + own)] if c in LABELS else []
            pushes.append(math.log(1 + others))
        assert loss(vectors, relations).item() == pytest.approx(mean(pulls) + mean(pushes))

    def test_refuses_labels_without_a_proxy(self, vectors, relations):
        with pytest.raises(ValueError, match="proxies of 3 classes"):
            ProxyNCA(3, 5).double()(vectors, relations)
        with pytest.raises(ValueError, match="at least 2 classes"):
            ProxyAnchor(1, 5)


with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = SiameseNetwork(Design("small", "average", "linear", 5, 16, "linear"))
PLAIN = SiameseNetwork(Design("small", "average", "linear", 5, 16))


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def build(self, name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return LossPlan(name).build(NETWORK if name == "bce" else PLAIN, 8)

    def test_has_finite_gradients_however_vectors_lie(self, name):
        base = F.normalize(torch.randn(1, 5, generator=torch.Generator().manual_seed(2)))
        arrangements = {
            "all equal": base.repeat(8, 1),
            "two points": torch.cat([base, -base]).repeat(4, 1),
            "far apart": torch.randn(8, 5, generator=torch.Generator().manual_seed(3)).mul(100),
            "nothing": torch.zeros(8, 5),
        }
        labelings = (LABELS, [0] * 8, list(range(8)))
        loss = self.build(name)
        for given, placed in arrangements.items():
            for labels in labelings:
                vectors = placed.clone().requires_grad_()
                value = loss(vectors, Relations.of(torch.tensor(labels)))
                value.backward()
                assert torch.isfinite(value), given
                assert vectors.grad is None or torch.isfinite(vectors.grad).all(), given

    def test_gradient_steps_separate_identities(self, name):
        """Gradient steps on the vectors themselves lower it, and bring positives above negatives."""
        loss, relations = self.build(name), Relations.of(torch.tensor(LABELS))
        vectors = torch.randn(8, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
        optimizer = torch.optim.Adam([vectors, *loss.parameters(), *NETWORK.pair_head.parameters()], 0.05)
        first = loss(F.normalize(vectors), relations).item()
        for _ in range(100):
            optimizer.zero_grad()
            loss(F.normalize(vectors), relations).backward()
            optimizer.step()
        assert loss(F.normalize(vectors), relations).item() < first
        unit = F.normalize(vectors)
        similar = (
            NETWORK.pair_head(unit.repeat_interleave(8, 0), unit.repeat(8, 1)).view(8, 8)
            if name == "bce"
            else unit @ unit.T
        )
        assert similar[relations.positive].mean() > similar[relations.negative].mean() + 0.3


class TestPlans:
    def test_unknown_names_and_unused_options_are_refused(self):
        for wrong, message in (
            (("tripel",), "no loss is called 'tripel'"),
            (("triplet", "taxi"), "no distance is called 'taxi'"),
            (("infonce", None, "batch-hard"), "infonce has no miner"),
            (("supcon", None, None, 0.3), "supcon has no margin"),
            (("triplet", None, None, -0.3), "above 0"),
        ):
            with pytest.raises(ValueError, match=message):
                LossPlan(*wrong)
        with pytest.raises(ValueError, match="need each other"):
            LossPlan("bce").build(PLAIN, 4)
        with pytest.raises(ValueError, match="need each other"):
            LossPlan("triplet").build(NETWORK, 4)
