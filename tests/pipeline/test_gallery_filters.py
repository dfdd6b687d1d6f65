"""Filters: what they let through, what they refuse, and what a hostile one costs."""

import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_gallery import new, row, vectors

from pipeline.gallery import Gallery, store
from pipeline.gallery.filters import _fits, number

ROWS = [
    {"category": "Boots", "price": "199.5", "size": "42", "cost": "1.299,00", "fee": "1.299,-"},
    {"category": "boots", "price": "1e3", "size": "XL", "cost": "49,90", "fee": "CHF 49.–"},
    {"category": "Rain Coat", "price": "20", "name": 'the "best" one', "cost": "5", "fee": "R$ 99,90"},
    {"category": "bag", "cost": "50€", "fee": "100 Kč"},
    {"price": "ask", "name": "100% wool", "label": "Sale", "ean": "12345678901234567"},
    {"ean": "12345678901234568", "sku": "007"},
    {"ean": "12345678901234567.0", "sku": "7"},
]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    made = new(tmp_path_factory.mktemp("filters") / "g")
    rows = [replace(row(str(place), f"{place}.jpg"), metadata=tuple(told.items())) for place, told in enumerate(ROWS)]
    made.add(rows, vectors(*range(len(ROWS))))
    made.save()
    return made


def chosen(gallery: Gallery, text: str) -> list[int]:
    return [int(row.item) for row in gallery.select(text)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("category = boots", [0, 1]),
        ("category == BOOTS", [0, 1]),
        ("category = 'rain coat'", [2]),
        ("category != boots", [2, 3]),
        ("not category = boots", [2, 3, 4, 5, 6]),
        ("price < 200", [0, 2]),
        ("price<=199.5", [0, 2]),
        ("price >= 199.5", [0, 1]),
        ("price between 20 and 199.5", [0, 2]),
        ("price = 1000", [1]),
        ("price = '1000'", []),
        ("price = ask", [4]),
        ("price < 1e400", [0, 1, 2]),
        ("size = 42.0", [0]),
        ("size != 42", [1]),
        ("cost < 50", [1, 2]),
        ("cost <= 50€", [1, 2, 3]),
        ("cost > 1000.50", [0]),
        ("fee between 49 and 1300", [0, 1, 2, 3]),
        ("category = boots and price < 200", [0]),
        ("category = bag or category = boots and price < 200", [0, 3]),
        ("(category = bag or category = boots) and price < 200", [0]),
        ("category in (bag, 'rain coat')", [2, 3]),
        ("category not in (bag, 'rain coat')", [0, 1, 4, 5, 6]),
        ("price in (20, 1000, ask)", [1, 2, 4]),
        ("category contains OO", [0, 1]),
        ("not category contains oo and price > 0", [2]),
        ("category like 'b%'", [0, 1, 3]),
        ("category not like 'b%' and category is not null", [2]),
        ("category like ba_", [3]),
        ("name like '100%'", [4]),
        ("name contains '%'", [4]),
        (r'name contains "\"best\""', [2]),
        ("name > m", [2]),
        ("category is null", [4, 5, 6]),
        ("NOT (price > 0 OR category = bag)", [4, 5, 6]),
        ("ean = 12345678901234567", [4, 6]),
        ("ean > 12345678901234567", [5]),
        ("sku = 007", [5]),
        ("sku = 7", [6]),
        ("item = 3", [3]),
        ("item = 3.0", []),
        ("photo = 3.JPG", []),
        ("label = Top", [0, 1, 2, 4, 5, 6]),
        ("metadata.label = sale", [4]),
        ("'metadata.label' in (Sale, a) and Metadata.Category is null", [4]),
    ],
)
def test_a_filter_lets_through(gallery: Gallery, text: str, rows: list[int]) -> None:
    assert chosen(gallery, text) == rows


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("category", "wanted = != <"),
        ("category =", "lacks something"),
        ("category = rain coat", "several words in quotes"),
        ("category = 'rain coat", "quotation mark missing"),
        ("(category = bag", r"Expecting \)"),
        ("category in ()", "wanted = != <"),
        ("category in (bag", r"Expecting \)"),
        ("= bag", "lacks something"),
        ("category = bag and", "lacks something"),
        ("category not bag", "lacks something|wanted a column"),
        ("category = bag; drop", "several words"),
        ("category = bag union select", "several words"),
        ("category in (select)(x)", "lacks something|wanted"),
        ("price < 49,90", "write numbers with a point: 49.90"),
        ("(" * 80 + "category = bag" + ")" * 80, "nested too deeply"),
        ("not " * 3000 + "category = bag", "nested too deeply"),
        (" or ".join(["price=1"] * 1500), "more than 200 comparisons|more than 2000 values"),
        ("price in (" + ",".join(["1"] * 9000) + ")", "more than 2000 values"),
        ("price = " + "1" * 30_000, "at most 20000 characters"),
        ("category < 3", "no numbers to compare with, its values are such as 'Boots'"),
        ("price < 50EURO", "column 'price' holds numbers, and '50EURO' is not one; put it in quotes"),
        ("price < 1.299€", "'1.299€' is not one"),
        ("shade = 3", "no column 'shade'; there are item, photo, label, found, detector, category"),
    ],
)
def test_what_is_wrong_with_a_filter_is_said(gallery: Gallery, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as told:
        chosen(gallery, text)
    assert len(str(told.value)) < 1000


def test_item_ids_are_text_and_compared_exactly(tmp_path: Path) -> None:
    items = ["12345678901234567", "12345678901234568", "007", "7", "24_01", "2401", "1e3", "1000"]
    gallery = new(tmp_path / "g")
    gallery.add([row(item, "p") for item in items], vectors(*range(len(items))))
    for item in items:
        assert [found.item for found in gallery.select(f"item = {item}")] == [item]


def test_values_that_are_not_numbers_are_reported(gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(gallery, "price < 50") == [2]
    assert "1 of 4 values of the column 'price' are not numbers, such as 'ask'" in caplog.text
    notes = " ".join(gallery.notes())
    assert "1 of 4 values of the column 'price' are not numbers, such as 'ask'" in notes
    assert "column 'label' is metadata.label in filters" in notes
    assert "cost" not in notes


def test_a_point_that_can_mean_thousands_is_noted_and_dates_are_ordered_as_text(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    values = [(("price", "1.299"), ("since", "2024-01-31")), (("price", "49"), ("since", "2024-12-01"))]
    gallery.add([replace(row(str(place), "p"), metadata=one) for place, one in enumerate(values)], vectors(0, 1))
    assert gallery.notes() == [
        "the point of '1.299' in the column 'price' is taken for a decimal point, not for thousands"
    ]
    assert chosen(gallery, "since > 2024-02-01") == [1]


def test_a_column_of_prices_that_has_no_number_is_reported(tmp_path: Path) -> None:
    gallery = new(tmp_path / "g")
    gallery.add([replace(row("1", "p"), metadata=(("Price", "ask us"), ("name", "coat")))], vectors(0))
    assert gallery.notes() == ["1 of 1 values of the column 'Price' are not numbers, such as 'ask us'"]


def test_numbers_and_dates_that_a_filter_orders_as_text_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = new(tmp_path / "g")
    values = [("9", "31.01.2024", "5%"), ("100", "2024-03-01", "20 %")]
    metadata = [tuple(zip(("price", "since", "discount"), one, strict=True)) for one in values]
    gallery.add([replace(row(str(place), "p"), metadata=one) for place, one in enumerate(metadata)], vectors(0, 1))
    assert chosen(gallery, "discount < 20%") == chosen(gallery, "discount < 20") == chosen(gallery, "price < 50") == [0]
    assert not caplog.text
    assert chosen(gallery, "price < '50'") == [1]
    assert "'50' is in quotes, so the numbers of the column 'price' are compared with it as text" in caplog.text
    chosen(gallery, "since < 01.02.2024")
    assert "dates of the column 'since' are compared as text, such as '01.02.2024'" in caplog.text


def test_a_filter_names_no_other_columns_than_its_author_may(gallery: Gallery) -> None:
    columns = frozenset(["item", "label", "price"])
    for column in ("photo", "found", "detector", "sha256", "stamp", "size"):
        with pytest.raises(ValueError, match="there are item, label, price") as told:
            gallery.search(vectors(1), where=f"{column} like '%'", columns=columns)
        assert "jpg" not in str(told.value)
    assert gallery.search(vectors(1), where="item = 1 and label = top and price > 0", columns=columns)[0]


@pytest.mark.parametrize(
    "sql",
    [
        "1; DROP TABLE photos",
        "id IN (SELECT number FROM blocks)",
        "(SELECT 1 FROM sqlite_master)",
        "load_extension('x')",
        "randomblob(1000000000)",
        "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n)",
    ],
)
def test_sql_beyond_a_comparison_is_denied(gallery: Gallery, sql: str) -> None:
    """Such expressions do not come out of the compiler; if one did, SQLite would refuse it."""
    with pytest.raises((store.GalleryError, sqlite3.Error, ValueError)):
        gallery._store.select(sql, ())
    assert len(gallery.rows) == len(ROWS)


def test_a_filter_that_takes_too_long_is_stopped(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FILTER_S", -1.0)
    with pytest.raises(ValueError, match="takes more than"):
        gallery._store.select(" AND ".join(["plain(item) IS NOT NULL"] * 900), ())
    assert len(gallery.rows) == len(ROWS)


def test_other_threads_read_the_gallery_while_a_filter_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FILTER_ROWS", 10)
    monkeypatch.setattr(store, "FILTER_S", 100)
    gallery = new(tmp_path / "g")
    gallery.add([row(f"i{place}", "p", price=str(place)) for place in range(300)], vectors(*[1] * 300))
    filtering = threading.Thread(
        target=gallery.count, args=(" and ".join(f"not price like '%x{n}%'" for n in range(40)),)
    )
    filtering.start()
    answered = 0
    while filtering.is_alive():
        answered += bool(gallery.of_item("i7") and filtering.is_alive())
        time.sleep(0.001)
    assert answered > 3
    assert gallery.count("price in (" + ",".join(map(str, range(200))) + ")") == 200


SLOWLY = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@SLOWLY
@given(text=st.text(alphabet="ab1.'\"()=<>!, _%\\\n", max_size=25) | st.text(max_size=12))
def test_any_text_is_a_filter_or_a_value_error(gallery: Gallery, text: str) -> None:
    for before in ("", "price = ", "price in ("):
        try:
            gallery.count(before + text)
        except ValueError:
            continue


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
def test_any_combination_is_what_sets_say(gallery: Gallery, tree: tuple) -> None:
    def told(node: tuple) -> tuple[str, set[int]]:
        if node[0] == "not":
            text, rows = told(node[1])
            return f"not ({text})", set(range(len(ROWS))) - rows
        if node[0] in ("and", "or") and len(node) == 3:
            (one, first), (two, second) = told(node[1]), told(node[2])
            return f"({one}) {node[0]} ({two})", first & second if node[0] == "and" else first | second
        return node

    text, rows = told(tree)
    assert chosen(gallery, text) == sorted(rows)


def test_no_pattern_takes_for_ever() -> None:
    start = time.perf_counter()
    assert not _fits("a" * 5000, f"{'%a' * 40}b")
    assert time.perf_counter() - start < 5


@given(st.text("ab%_", max_size=6), st.text("abc", max_size=8))
def test_like_is_what_naive_matching_says(pattern: str, text: str) -> None:
    def fits(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "%":
            return any(fits(pattern[1:], text[start:]) for start in range(len(text) + 1))
        return bool(text) and pattern[0] in ("_", text[0]) and fits(pattern[1:], text[1:])

    assert _fits(text, pattern) == fits(pattern, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"), ("-3.50", "-3.50"), (".5", "0.5"), ("1.299", "1.299"), ("1,299", None), ("1.299 €", None), ("€1.299", None), ("0.125 €", "0.125"), ("1.299.000", "1299000"),
        ("1,299,000", "1299000"), ("1 299,00", "1299.00"), ("1'299.00", "1299.00"), ("EUR 49,90", "49.90"),
        ("49.90 USD", "49.90"), ("49,90EUR", "49.90"), ("£5", "5"), ("5 kr", "5"), ("−5", "-5"), ("1e3", "1000"),
        ("007", None), ("24_01", None), ("2XL", None), ("38-40", None), ("nan", None), ("inf", None), ("٣", None),
        ("", None), ("€", None), ("1e99999", None), ("0", "0"), ("0,5", "0.5"), ("5 cm", None),
    ],
)  # fmt: skip
def test_prices_are_numbers_and_codes_are_not(text: str, value: str | None) -> None:
    found = number(text)
    assert (None if found is None else found) == (None if value is None else type(found)(value))
