"""Every loss agrees with a naive loop over its definition, and has finite gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

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
N = range(len(LABELS))
RELATIONS = Relations.of(torch.tensor(LABELS))
POSITIVES = [[j for j in N if j != i and LABELS[j] == LABELS[i]] for i in N]
NEGATIVES = [[j for j in N if LABELS[j] != LABELS[i]] for i in N]
TRIPLETS = [(a, p, n) for a in N for p in POSITIVES[a] for n in NEGATIVES[a]]
UNIT = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def dot(i: int, j: int) -> float:
    return float(UNIT[i] @ UNIT[j])


def gap(i: int, j: int) -> float:
    return math.dist(UNIT[i].tolist(), UNIT[j].tolist())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def balanced(same: list[float], different: list[float]) -> float:
    return (mean(same) + mean(different)) / 2


def chance(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def naive_contrastive() -> float:
    same = [0.5 * gap(i, j) ** 2 for i in N for j in POSITIVES[i]]
    return balanced(same, [0.5 * max(0, 1.2 - gap(i, j)) ** 2 for i in N for j in NEGATIVES[i]])


def naive_mined_contrastive() -> float:
    chosen = [(a, max(POSITIVES[a], key=lambda p: gap(a, p)), min(NEGATIVES[a], key=lambda n: gap(a, n)))
              for a in N if POSITIVES[a]]  # fmt: skip
    same = [0.5 * gap(a, p) ** 2 for a, p, _ in chosen]
    return balanced(same, [0.5 * max(0, 1.2 - gap(a, n)) ** 2 for a, _, n in chosen])


def naive_triplet(distance: Callable[[int, int], float]) -> float:
    return mean([max(0, distance(a, p) - distance(a, n) + 0.4) for a, p, n in TRIPLETS])


def naive_quadruplet() -> float:
    terms = []
    for a, p, n in TRIPLETS:
        third = min(gap(n, j) ** 2 for j in N if LABELS[j] not in (LABELS[a], LABELS[n]))
        terms.append(max(0, gap(a, p) ** 2 - gap(a, n) ** 2 + 0.4) + max(0, gap(a, p) ** 2 - third + 0.2))
    return mean(terms)


def naive_softmax(temperature: float, *, against_positives: bool) -> float:
    per_anchor = []
    for i in (i for i in N if POSITIVES[i]):
        similar = {j: math.exp(dot(i, j) / temperature) for j in N if j != i}
        everything, negative = sum(similar.values()), sum(similar[j] for j in NEGATIVES[i])
        denominators = {j: everything if against_positives else similar[j] + negative for j in POSITIVES[i]}
        per_anchor.append(mean([-math.log(similar[j] / denominators[j]) for j in POSITIVES[i]]))
    return mean(per_anchor)


def naive_multi_similarity() -> float:
    total = 0.0
    for i in N:
        positive, negative = POSITIVES[i], NEGATIVES[i]
        hard = [j for j in positive if dot(i, j) - 0.1 < max(dot(i, k) for k in negative)]
        near = [k for k in negative if positive and dot(i, k) + 0.1 > min(dot(i, j) for j in positive)]
        total += math.log(1 + sum(math.exp(-2 * (dot(i, j) - 0.5)) for j in hard)) / 2
        total += math.log(1 + sum(math.exp(50 * (dot(i, k) - 0.5)) for k in near)) / 50
    return total / len(N)


NAIVE = {
    "contrastive": (Contrastive(1.2, DISTANCES["euclidean"]), naive_contrastive),
    "mined contrastive": (Contrastive(1.2, DISTANCES["euclidean"], MINERS["batch-hard"]), naive_mined_contrastive),
    "triplet": (Triplet(0.4, DISTANCES["euclidean"], MINERS["all"]), lambda: naive_triplet(gap)),
    "squared triplet": (Triplet(0.4, DISTANCES["squared"], MINERS["all"]),
                        lambda: naive_triplet(lambda i, j: gap(i, j) ** 2)),
    "cosine triplet": (Triplet(0.4, DISTANCES["cosine"], MINERS["all"]),
                       lambda: naive_triplet(lambda i, j: 1 - dot(i, j))),
    "quadruplet": (Quadruplet(0.4, DISTANCES["squared"], MINERS["all"]), naive_quadruplet),
    "infonce": (InfoNCE(), lambda: naive_softmax(0.07, against_positives=False)),
    "supcon": (SupCon(0.1), lambda: naive_softmax(0.1, against_positives=True)),
    "multi-similarity": (MultiSimilarity(), naive_multi_similarity),
}  # fmt: skip


@pytest.mark.parametrize("name", NAIVE)
def test_a_loss_is_the_naive_loop(name):
    loss, naive = NAIVE[name]
    assert loss(UNIT, RELATIONS).item() == pytest.approx(naive(), rel=1e-5)


def test_distances_match_their_definitions():
    stretched = UNIT * torch.arange(1, 9)[:, None]
    for i, j in product(N, N):
        apart = math.dist(stretched[i].tolist(), stretched[j].tolist())
        found = [DISTANCES[name](stretched)[i, j].item() for name in ("euclidean", "squared", "cosine")]
        assert found == pytest.approx([apart, apart**2, 1 - dot(i, j)], abs=1e-6)


def test_a_constant_distance_costs_an_eighth_of_the_squared_margin():
    """Four corners of a tetrahedron, all half a margin apart: the output of a network that has learned nothing."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 8**0.5
    relations = Relations.of(torch.tensor([0, 0, 1, 1]))
    losses = [Contrastive(2.0, DISTANCES["euclidean"])(corners * s, relations).item() for s in (0.9, 1.0, 1.1)]
    assert losses[1] == pytest.approx(2.0**2 / 8)
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize("miner", [None, "semi-hard"])
def test_entropy_of_a_pair_head_is_the_naive_loop_over_pairs_mined_by_its_logits(miner):
    weight = torch.tensor([3.0, -2.0, 1.0, -4.0, 2.0], dtype=torch.float64)  # in some dimensions, far means same

    def logit(i: int, j: int) -> float:
        return float(((UNIT[i] - UNIT[j]).abs() * weight).sum())

    same = [(i, j) for i in N for j in POSITIVES[i]]
    different = [(i, j) for i in N for j in NEGATIVES[i]]
    if miner:
        different = []
        for a, p in same:
            beyond = [n for n in NEGATIVES[a] if logit(a, n) < logit(a, p)]
            choose = (max, beyond) if beyond else (min, NEGATIVES[a])
            different.append((a, choose[0](choose[1], key=lambda n: logit(a, n))))
        by_distance = MINERS[miner](torch.cdist(UNIT, UNIT), RELATIONS)
        assert [n for _, n in different] != by_distance.negatives.tolist()
    loss = PairEntropy(lambda left, right: (left - right).abs() @ weight, miner and MINERS[miner])
    expected = balanced(
        [-math.log(chance(logit(*pair))) for pair in same], [-math.log(1 - chance(logit(*pair))) for pair in different]
    )
    assert loss(UNIT, RELATIONS).item() == pytest.approx(expected, rel=1e-5)


def test_each_pair_across_domains_is_compared_once():
    street = torch.arange(8) % 2 == 0
    compared = []

    def compare(left, right):
        compared.extend(zip(left[:, 0].tolist(), right[:, 0].tolist(), strict=True))
        return (left - right).abs().sum(dim=1)

    assert PairEntropy(compare)(UNIT, Relations.of(torch.tensor(LABELS), anchors=street, partners=~street)).item() > 0
    assert len(compared) == 16, "each street photo with each shop photo"


def test_positives_never_repel_each_other():
    vectors = UNIT.clone().requires_grad_()
    (slope,) = torch.autograd.grad(InfoNCE()(vectors, Relations.of(torch.zeros(8, dtype=torch.int64))), vectors)
    assert torch.equal(slope, torch.zeros_like(vectors))


def test_proxy_losses_are_the_naive_loops():
    nca, anchor = ProxyNCA(5, 5).double(), ProxyAnchor(5, 5).double()
    similar = (UNIT @ F.normalize(nca.proxies).detach().T).tolist()
    terms = [-math.log(math.exp(6 * row[label] - 6) / sum(math.exp(6 * row[c] - 6) for c in range(5) if c != label))
             for row, label in zip(similar, LABELS, strict=True)]  # fmt: skip
    assert nca(UNIT, RELATIONS).item() == pytest.approx(mean(terms))
    similar = (UNIT @ F.normalize(anchor.proxies).detach().T).tolist()
    pulls = [math.log(1 + sum(math.exp(-32 * (similar[i][c] - 0.1)) for i in N if LABELS[i] == c)) for c in range(4)]
    pushes = [math.log(1 + sum(math.exp(32 * (similar[i][c] + 0.1)) for i in N if LABELS[i] != c)) for c in range(5)]
    assert anchor(UNIT, RELATIONS).item() == pytest.approx(mean(pulls) + mean(pushes))
    with pytest.raises(ValueError, match="proxies of 3 classes"):
        ProxyNCA(3, 5).double()(UNIT, RELATIONS)
    with pytest.raises(ValueError, match="at least 2 classes"):
        ProxyAnchor(1, 5)


with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = SiameseNetwork(Design("small", "average", "linear", 5, 16, "linear"))
PLAIN = SiameseNetwork(Design("small", "average", "linear", 5, 16))


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return LossPlan(name).build(NETWORK if name == "bce" else PLAIN, 8)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_wherever_vectors_are(name):
    base = F.normalize(torch.randn(1, 5, generator=torch.Generator().manual_seed(2)))
    arrangements = {
        "equal": base.repeat(8, 1),
        "two points": torch.cat([base, -base]).repeat(4, 1),
        "far apart": torch.randn(8, 5, generator=torch.Generator().manual_seed(3)).mul(100),
        "zero": torch.zeros(8, 5),
    }
    loss = build(name)
    for (case, placed), labels in product(arrangements.items(), (LABELS, [0] * 8, list(range(8)))):
        vectors = placed.clone().requires_grad_()
        value = loss(vectors, Relations.of(torch.tensor(labels)))
        value.backward()
        assert torch.isfinite(value), case
        assert vectors.grad is None or torch.isfinite(vectors.grad).all(), case


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_steps_separate_identities(name):
    loss = build(name)
    vectors = torch.randn(8, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
    optimizer = torch.optim.Adam([vectors, *loss.parameters(), *NETWORK.pair_head.parameters()], 0.05)
    first = loss(F.normalize(vectors), RELATIONS).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss(F.normalize(vectors), RELATIONS).backward()
        optimizer.step()
    assert loss(F.normalize(vectors), RELATIONS).item() < first
    unit = F.normalize(vectors)
    similar = unit @ unit.T
    if name == "bce":
        similar = NETWORK.pair_head(unit.repeat_interleave(8, 0), unit.repeat(8, 1)).view(8, 8)
    assert similar[RELATIONS.positive].mean() > similar[RELATIONS.negative].mean() + 0.3


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (("tripel",), "no loss is called 'tripel'"),
        (("triplet", "taxi"), "no distance is called 'taxi'"),
        (("infonce", None, "batch-hard"), "infonce has no miner"),
        (("supcon", None, None, 0.3), "supcon has no margin"),
        (("triplet", None, None, -0.3), "above 0"),
    ],
)
def test_unknown_names_and_unused_options_are_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        LossPlan(*plan)


def test_the_entropy_loss_and_a_pair_head_need_each_other():
    for name, network in (("bce", PLAIN), ("triplet", NETWORK)):
        with pytest.raises(ValueError, match="need each other"):
            LossPlan(name).build(network, 4)
