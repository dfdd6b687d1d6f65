"""Filters such as ``category = boots and price < 200``: parsed by sqlglot, compiled to SQL with parameters.

A comparison names a column on its left and a word, a number or a text in quotes on its right. ``=`` ``!=`` ``<`` ``<=``
``>`` ``>=`` ``between``, ``in (a, b)``, ``contains``, ``like`` (``%`` is anything, ``_`` one character) and ``is null``
compare; ``and``, ``or``, ``not`` and parentheses combine. A row without a value in a column fulfils no comparison with
it, and so fulfils the ``not`` of each.

An item id and a file name are compared exactly, other text without regard to case. A bare number compares as an exact
decimal with the numbers of a catalogue's column: ``50€``, ``49,90`` and ``20 %`` are numbers, ``007`` is text, and so are
``1,299`` and ``1.299 €``, whose mark can mean two things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

T = TypeVar("T")

MAX_CHARACTERS: Final = 20_000
MAX_COMPARISONS: Final = 200
MAX_VALUES: Final = 2_000
MAX_DEPTH: Final = 20

LIKE_CHARACTERS: Final = 10_000
"""The first characters of a value that ``like`` compares: matching one value must not take long, as it cannot be stopped."""

REMEMBERED_CHARACTERS: Final = 200
"""Only answers about values up to this length are remembered: descriptions would fill the memory."""

BUILT_IN: Final = ("item", "photo", "label", "found", "detector")
"""The gallery's own columns that filters know: ``found`` is the detector's label, ``label`` the garment group."""

METADATA: Final = "metadata."
"""Prefix by which a catalogue's column is reached where the gallery has one of the same name."""

ATTRIBUTE: Final = "attribute."
"""Prefix of the columns of what the embedder sees in a photo; without it, they are found where the catalogue has no such column."""

EXAMPLE: Final = "a filter is such as: category = boots and price < 200"

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.|"")*"|'(?:[^'\\]|\\.|'')*')|(?P<sign><=|>=|!=|<>|==|[=<>(),])|(?P<word>[^\s=<>!(),"']+))""",
    re.DOTALL,
)
_OPERATORS: Final = {"and": "AND", "or": "OR", "not": "NOT", "in": "IN", "contains": "ILIKE", "like": "LIKE"}
_MORE_OPERATORS: Final = {"is": "IS", "between": "BETWEEN"}
"""Those that are words like any other except after a value."""
_CURRENCY: Final = (
    r"[A-Z]{0,3}[$¢£¤¥฿₠-⃏]|EUR|USD|GBP|CHF|JPY|CNY|SEK|NOK|DKK|PLN|CZK|HUF|RON|TRY|INR|AUD|CAD|NZD|BRL|[Ee]uros?|kr\.?"
    r"|zł|Kč|Ft|lei|Fr\.?|Rs\.?|руб\.?|円|元"
)
_AROUND: Final = re.compile(rf"^\s*(?:{_CURRENCY})\s*|\s*(?:{_CURRENCY}|%)\s*$")
_NO_CENTS: Final = re.compile(r"([.,:])[-–—]{1,2}$")  # 49,- or 49.–
_PLAIN: Final = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d+)?|\.\d+)(?:e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
_COMMA: Final = re.compile(r"[+-]?\d+,(?:\d{1,2}|\d{4,})", re.ASCII)
_GROUPS: Final = re.compile(
    r"(?P<whole>[+-]?\d{1,3}(?P<mark>[.,'’ \u00a0\u202f])\d{3}(?:(?P=mark)\d{3})*)(?:(?P<point>[.,])(?P<cents>\d+))?",
    re.ASCII,
)
_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)
_DATE: Final = re.compile(r"\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d\d)(?!\d)", re.ASCII)
_SIGNS: Final = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_WANTED: Final = "wanted = != < <= > >= between, in (a, b), contains, like or is null after a column"
_PRECISE: Final = Context(prec=200)


class Filter(NamedTuple):
    """A filter as an SQL expression over the table of photos.

    ``ordered`` are the catalogue's columns whose numbers it orders, ``texts`` those whose texts it orders, each with the
    text and whether that is in quotes.
    """

    sql: str
    parameters: tuple[str, ...]
    ordered: tuple[str, ...]
    texts: tuple[tuple[str, str, bool], ...]


class _Value(NamedTuple):
    text: str
    quoted: bool


def compile_filter(text: str, columns: Mapping[str, str]) -> Filter:
    """Return the SQL of a filter.

    Args:
        text: what a user wrote.
        columns: the columns that it may name, each with its name in SQL.

    Raises:
        ValueError: it is not a filter, too long, or names another column; the message says what to write.

    >>> compile_filter("price < 200", {"price": "price"}).parameters
    ('200',)
    """
    return _Compiler(text, columns).filter()


class _Compiler:
    def __init__(self, text: str, columns: Mapping[str, str]) -> None:
        self._text, self._columns = text, columns
        self._values: list[_Value] = []
        self._parameters: list[str] = []
        self._ordered: dict[str, None] = {}
        self._texts: list[tuple[str, str, bool]] = []
        self._comparisons = 0

    def filter(self) -> Filter:
        from sqlglot import parse_one  # noqa: PLC0415  imported only by searches with a filter
        from sqlglot.errors import SqlglotError  # noqa: PLC0415

        if len(self._text) > MAX_CHARACTERS:
            raise ValueError(f"a filter has at most {MAX_CHARACTERS} characters, this one {len(self._text)}")
        sql = " ".join(self._tokens())
        if not sql:
            self._refuse("it is empty")
        try:
            condition = self._condition(parse_one(sql, dialect="sqlite"))
        except RecursionError:
            self._refuse("it is nested too deeply")
        except SqlglotError as error:
            description = str((getattr(error, "errors", None) or [{}])[0].get("description") or "a part")
            missing = "a column, a value or a comparison" if description.startswith("Required") else description
            self._refuse(f"it lacks something or has too much: {missing}")
        return Filter(condition, tuple(self._parameters), tuple(self._ordered), tuple(self._texts))

    def _tokens(self) -> Iterator[str]:
        """Yield the filter's structure in SQL; names and values are replaced by numbered identifiers."""
        at, depth, nots, after_value, previous = 0, 0, 0, False, ""
        while self._text[at:].strip():
            found = _TOKEN.match(self._text, at)
            if not found or not found.lastgroup:
                self._refuse(f"{self._text[at : at + 20].strip()!r} cannot be read; is a quotation mark missing?")
            kind, token = found.lastgroup, found[found.lastgroup]
            at, word = found.end(), token.lower()
            operators = _OPERATORS | _MORE_OPERATORS if after_value else _OPERATORS
            if kind == "sign" or (kind == "word" and word in operators):
                depth += {"(": 1, ")": -1}.get(word, 0)
                nots = nots + 1 if word == "not" else 0
                if depth + nots > MAX_DEPTH:
                    self._refuse("it is nested too deeply")
                if word == "," and depth == 0:
                    self._refuse("a comma separates the values of in (a, b); write numbers with a point: 49.90")
                after_value = word == ")"
                yield operators.get(word, token)
            elif kind == "word" and word == "null" and previous in ("is", "not"):
                after_value = True
                yield "NULL"
            else:
                if after_value:
                    self._refuse(f"{token[:40]!r} is in excess; put text of several words in quotes")
                self._values.append(_Value(_unquoted(token), True) if kind == "text" else _Value(token, False))
                if len(self._values) > MAX_VALUES + MAX_COMPARISONS:
                    self._refuse(f"it has more than {MAX_VALUES} values")
                after_value = True
                yield f'"{len(self._values) - 1}"'
            previous = word

    def _condition(self, node: Any) -> str:
        """Return the SQL of a part of a filter, which is true or false for every row."""
        from sqlglot import expressions as parts  # noqa: PLC0415

        if isinstance(node, parts.And | parts.Or):
            return f"({f' {node.key.upper()} '.join(map(self._condition, node.flatten()))})"
        if isinstance(node, parts.Paren):
            return self._condition(node.this)
        if isinstance(node, parts.Not):
            return f"(NOT {self._condition(node.this)})"
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._refuse(f"it has more than {MAX_COMPARISONS} comparisons; in (a, b, c) compares with many values")
        condition = self._comparison(node)
        return f"(NOT {condition})" if node.args.get("negate") else condition

    def _comparison(self, node: Any) -> str:  # noqa: C901  one case for each comparison
        from sqlglot import expressions as parts  # noqa: PLC0415

        if isinstance(node, parts.Column):
            self._refuse(_WANTED)
        if not isinstance(node.this, parts.Column):
            self._refuse("wanted a column before each comparison")
        column = self._column(self._value(node.this).text)
        sql = self._columns[column]
        match node:
            case parts.EQ():
                test = self._equal(column, [node.expression])
            case parts.NEQ():
                test = f"({sql} IS NOT NULL AND NOT {self._equal(column, [node.expression])})"
            case parts.In(expressions=values) if values and set(node.args) <= {"this", "expressions"}:
                test = self._equal(column, values)
            case parts.LT() | parts.LTE() | parts.GT() | parts.GTE():
                test = self._order(column, _SIGNS[node.key], node.expression)
            case parts.Between():
                low, high = (
                    self._order(column, sign, node.args[name]) for sign, name in ((">=", "low"), ("<=", "high"))
                )
                test = f"({low} AND {high})"
            case parts.ILike():
                test = f"ifnull(instr(fold({sql}), {self._parameter(_fold(self._value(node.expression).text))}), 0)"
            case parts.Like():
                test = f"ifnull(fits({sql}, {self._parameter(self._value(node.expression).text)}), 0)"
            case parts.Is(expression=parts.Null()):
                test = f"({sql} IS NULL)"
            case _:
                self._refuse(_WANTED)
        return test

    def _equal(self, column: str, nodes: list[Any]) -> str:
        values = [self._value(node) for node in nodes]
        tests = []
        for function, convert in (("", str), ("plain", _plain), ("fold", _fold)):
            chosen = [value.text for value in values if self._compared_by(column, value) == function]
            if chosen:
                marks = ", ".join(self._parameter(convert(text)) for text in chosen)
                tests.append(f"ifnull({function}({self._columns[column]}) IN ({marks}), 0)")
        return f"({' OR '.join(tests)})"

    def _compared_by(self, column: str, value: _Value) -> str:
        """Return the function by which a column equals a value: exactly, as a number, or without regard to case."""
        if column in ("item", "photo"):
            return ""
        return "fold" if value.quoted or column in BUILT_IN else "plain"

    def _order(self, column: str, sign: str, node: Any) -> str:
        value, sql = self._value(node), self._columns[column]
        if column not in BUILT_IN and not value.quoted and number(value.text) is not None:
            self._ordered[column] = None
            return f"ifnull(compare({sql}, {self._parameter(value.text)}) {sign} 0, 0)"
        if column not in BUILT_IN:
            self._texts.append((column, value.text, value.quoted))
        return f"ifnull(fold({sql}) {sign} {self._parameter(_fold(value.text))}, 0)"

    def _column(self, name: str) -> str:
        if name in self._columns:
            return name
        folded = {known.casefold(): known for known in reversed(list(self._columns))}
        column: str | None = folded.get(name.casefold(), folded.get(ATTRIBUTE + name.casefold()))
        if column is None and name.casefold().startswith(METADATA):
            column = folded.get(name.casefold().removeprefix(METADATA))
        if column is None or (column in BUILT_IN and name.casefold().startswith(METADATA)):
            raise ValueError(f"there is no column {name[:100]!r}; there are {', '.join(self._columns)}")
        return column

    def _value(self, node: Any) -> _Value:
        name = getattr(node, "name", "")
        if node is None or node.key != "column" or not name.isdigit():
            self._refuse("wanted a single value; put text of several words in quotes, and write numbers with a point")
        return self._values[int(name)]

    def _parameter(self, text: str) -> str:
        self._parameters.append(text)
        return "?"

    def _refuse(self, fault: str) -> NoReturn:
        short = self._text if len(self._text) <= 200 else f"{self._text[:200]}…"
        raise ValueError(f"the filter {short!r} cannot be read: {fault}; {EXAMPLE}")


@lru_cache(maxsize=1 << 16)
def number(text: str) -> Decimal | None:
    """Return the number that a text is, with its currency or without, or None.

    >>> [str(number(text)) for text in ("49,90", "1.299,- €", "US$1,299.00", "1e3", "007", "1,299", "XL")]
    ['49.90', '1299.00', '1299.00', '1E+3', 'None', 'None', 'None']
    """
    if len(text) > 100:
        return None
    bare = _AROUND.sub("", text).replace("\N{MINUS SIGN}", "-").strip()
    bare = _NO_CENTS.sub(lambda mark: f"{mark[1].replace(':', ',')}00", bare)
    if _PLAIN.fullmatch(bare):
        return None if bare != text.strip() and can_mean_thousands(bare) else Decimal(bare)
    if _COMMA.fullmatch(bare):
        return Decimal(bare.replace(",", "."))
    groups = _GROUPS.fullmatch(bare)
    if groups is None or groups["mark"] == groups["point"]:
        return None
    if groups["mark"] in ".," and not groups["point"] and groups["whole"].count(groups["mark"]) < 2:
        return None  # 1,299 can mean two things
    return Decimal(groups["whole"].replace(groups["mark"], "") + "." + (groups["cents"] or "0"))


def is_unordered_date(text: str) -> bool:
    """Return whether a text starts with a date whose order is not that of its text, such as ``31.01.2024``."""
    return _DATE.match(text) is not None


def can_mean_thousands(text: str) -> bool:
    """Return whether the point of a number may group digits rather than start decimals, as in ``1.299``."""
    return _THOUSANDS.fullmatch(text) is not None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _fold(value: str | bytes) -> str:
    """Return a text without regard to case."""
    return _text(value).casefold()


def _plain(value: str | bytes) -> str:
    """Return a text that is equal for equal numbers, and for texts that differ in case alone."""
    amount = number(_text(value))
    return f"={_fold(value)}" if amount is None else f"#{amount.normalize(_PRECISE) + 0}"


def _compare(value: str | bytes, limit: str) -> int | None:
    """Return -1, 0 or 1 where a number is less than, equal to or more than another; None where the text is no number."""
    amount, other = number(_text(value)), number(limit)
    return None if amount is None or other is None else int(amount.compare(other))


def _fits(value: str | bytes, pattern: str) -> int:
    return int(_like(pattern).fullmatch(_fold(value)[:LIKE_CHARACTERS]) is not None)


@lru_cache(maxsize=256)
def _like(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression; what stands between two ``%`` is taken where it comes first.

    >>> _like("a%b_%").pattern
    'a(?>.*?b.).*'
    """
    first, *rest = (re.escape(part).replace("_", ".") for part in pattern.casefold().split("%"))
    between = "".join(f"(?>.*?{part})" for part in rest[:-1])  # atomic, as backtracking could take for ever
    return re.compile(f"{first}{between}.*{rest[-1]}" if rest else first, re.DOTALL)


def _unquoted(token: str) -> str:
    mark = token[0]
    return re.sub(r"\\(.)", r"\1", token[1:-1].replace(mark * 2, mark), flags=re.DOTALL)


def _in_sql(function: Callable[..., T]) -> Callable[..., T | None]:
    """Return a function as SQL calls it: remembering answers about short values, and without one for NULL."""
    remembered = lru_cache(maxsize=1 << 16)(function)

    def call(value: str | bytes | None, *more: str) -> T | None:
        if value is None:
            return None
        return (remembered if len(value) <= REMEMBERED_CHARACTERS else function)(value, *more)

    return call


FUNCTIONS: Final[dict[str, tuple[int, Callable[..., Any]]]] = {
    "fold": (1, _in_sql(_fold)),
    "plain": (1, _in_sql(_plain)),
    "compare": (2, _in_sql(_compare)),
    "fits": (2, _in_sql(_fits)),
}
"""The functions that filters call in SQL, by name, with the count of their arguments."""
