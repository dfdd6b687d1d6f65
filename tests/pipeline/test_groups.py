"""Shoes of a pair, their matches, and colour variants of a style."""

from pipeline.groups import group_variants, merge_matches, pair_shoes
from pipeline.search import Garment
from stages.types import Box, Match


def shoe(x, y=0, size=10, matches=None):
    return Garment("shoes", 0.9, Box(x, y, x + size, y + size), None, matches)


def match(item, similarity=0.5, **metadata):
    return Match(item, "a.jpg", similarity, "top", tuple(metadata.items()))


def test_the_nearest_shoes_of_a_size_are_pairs():
    top = Garment("top", 0.9, Box(0, 0, 5, 5))
    first, second, third, fourth = shoe(0), shoe(15), shoe(40), shoe(58)
    assert pair_shoes([first, top, third, second, fourth]) == [(first, second), (top,), (third, fourth)]
    assert pair_shoes([first, shoe(100)])[0] == (first,), "too far away"
    assert pair_shoes([first, shoe(12, size=30)])[0] == (first,), "too large"
    assert pair_shoes([]) == []


def test_matches_of_a_pair_are_ranked_by_the_better_shoe():
    left = shoe(0, matches=(match("a", 0.9), match("b", 0.2)))
    right = shoe(15, matches=(match("b", 0.8), match("c", 0.1)))
    assert [(one.item, one.similarity) for one in merge_matches([left, right])] == [("a", 0.9), ("b", 0.8)]
    ranked = (match("a", 0.3), match("b", 0.9))
    assert merge_matches([shoe(0, matches=ranked)]) == ranked, (
        "the order of search, which is not that of similarity alone"
    )
    assert merge_matches([shoe(0), shoe(15)]) is None
    assert merge_matches([shoe(0, matches=())]) == ()


def test_variants_are_known_by_a_column_or_by_the_identifier():
    def grouped(*matches):
        return [[one.item for one in group] for group in group_variants(matches)]

    assert grouped(match("MH01-red_a"), match("MH01-Black_b")) == [["MH01-red_a"], ["MH01-Black_b"]]
    assert grouped(match("MH01-red"), match("x"), match("MH01-Black")) == [["MH01-red", "MH01-Black"], ["x"]]
    assert grouped(match("1", Item_Group_ID="7"), match("2", item_group_id="7"), match("3")) == [["1", "2"], ["3"]]
    assert grouped(match("red"), match("blue"), match("12-3"), match("12 3")) == [["red"], ["blue"], ["12-3"], ["12 3"]]
