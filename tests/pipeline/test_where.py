"""Filters, against what a Python expression says of each row."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.gallery.where import parse

ROWS = [
    {"category": "Boots", "price": "199.5", "size": "42"},
    {"category": "boots", "price": "1e3", "size": "XL"},
    {"category": "Rain Coat", "price": "20", "name": 'the "best" one'},
    {"category": "bag"},
    {"price": "ask", "name": "100% wool"},
]


def look(name: str) -> tuple[np.ndarray, list[str]]:
    values = sorted({row[name] for row in ROWS if name in row})
    return np.array([values.index(row[name]) if name in row else -1 for row in ROWS], np.int32), values


def chosen(text: str) -> list[int]:
    return np.flatnonzero(parse(text).mask(look)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("category = boots", [0, 1]),
        ("category == BOOTS", [0, 1]),
        ("category = 'rain coat'", [2]),
        ("category != boots", [2, 3]),
        ("not category = boots", [2, 3, 4]),
        ("price < 200", [0, 2]),
        ("price<=199.5", [0, 2]),
        ("price >= 199.5", [0, 1]),
        ("price = 1000", [1]),
        ("price = '1000'", []),
        ("price = ask", [4]),
        ("size = 42.0", [0]),
        ("category = boots and price < 200", [0]),
        ("category = bag or category = boots and price < 200", [0, 3]),
        ("(category = bag or category = boots) and price < 200", [0]),
        ("category in (bag, 'rain coat')", [2, 3]),
        ("category not in (bag, 'rain coat')", [0, 1, 4]),
        ("price in (20, 1000, ask)", [1, 2, 4]),
        ("category contains OO", [0, 1]),
        ("not category contains oo and price > 0", [2]),
        ("category like 'b%'", [0, 1, 3]),
        ("category like ba_", [3]),
        ("name like '100%'", [4]),
        ("name contains '%'", [4]),
        (r'name contains "\"best\""', [2]),
        ("name > m", [2]),
        ("NOT (price > 0 OR category = bag)", [4]),
    ],
)
def test_what_a_filter_lets_through(text: str, rows: list[int]) -> None:
    assert chosen(text) == rows


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "wanted the name of a column"),
        ("category", "wanted = != <"),
        ("category =", "wanted a value"),
        ("category = rain coat", "several words in quotes"),
        ("category = 'rain coat", "cannot be read"),
        ("(category = bag", r"wanted \) here"),
        ("category in ()", "wanted a value"),
        ("category in (bag", r"wanted \) here"),
        ("= bag", "wanted the name of a column"),
        ("category = bag and", "wanted the name of a column"),
        ("category not bag", "wanted = != <"),
        ("category = bag; drop", "several words"),
        ("(" * 80 + "category = bag" + ")" * 80, "nested too deeply"),
        ("category < 3", "no numbers to compare with"),
    ],
)
def test_what_is_wrong_is_told_where(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        chosen(text)


SLOWLY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@SLOWLY
@given(text=st.text(alphabet="ab1.'\"()=<>!, _%\\\n", max_size=25) | st.text(max_size=12))
def test_any_text_is_a_filter_or_a_value_error(text: str) -> None:
    try:
        mask = parse(text).mask(lambda _: (np.array([0, -1], np.int32), ["a"]))
    except ValueError:
        return
    assert mask.shape == (2,)


LEAVES = st.sampled_from(
    [("price < 200", {0, 2}), ("category = boots", {0, 1}), ("size = XL", {1}), ("name contains o", {2, 4})]
)


@SLOWLY
@given(
    tree=st.recursive(
        LEAVES,
        lambda part: st.tuples(st.sampled_from(["and", "or"]), part, part) | st.tuples(st.just("not"), part),
        max_leaves=6,
    )
)
def test_any_combination_is_what_sets_say(tree: tuple) -> None:
    def told(node: tuple) -> tuple[str, set[int]]:
        if node[0] == "not":
            text, rows = told(node[1])
            return f"not ({text})", set(range(len(ROWS))) - rows
        if node[0] in ("and", "or") and len(node) == 3:
            (one, first), (two, second) = told(node[1]), told(node[2])
            return f"({one}) {node[0]} ({two})", first & second if node[0] == "and" else first | second
        return node

    text, rows = told(tree)
    assert chosen(text) == sorted(rows)


def test_no_pattern_takes_for_ever() -> None:
    values = ["a" * 5000]
    start = time.perf_counter()
    condition = parse(f"name like '{'%a' * 40}b'")
    assert not condition.mask(lambda _: (np.zeros(1, np.int32), values)).any()
    assert time.perf_counter() - start < 5


@given(st.text("ab%_", max_size=6), st.text("abc", max_size=8))
def test_like_is_what_naive_matching_says(pattern: str, text: str) -> None:
    def fits(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "%":
            return any(fits(pattern[1:], text[start:]) for start in range(len(text) + 1))
        return bool(text) and pattern[0] in ("_", text[0]) and fits(pattern[1:], text[1:])

    found = parse(f"name like '{pattern}'").mask(lambda _: (np.zeros(1, np.int32), [text]))
    assert found.tolist() == [fits(pattern, text)]
