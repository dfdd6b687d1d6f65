"""Filters such as ``category = boots and price < 200``: parsed by sqlglot, compiled to SQL with parameters.

A comparison names a column on its left and a word, a number or a text in quotes on its right. ``=`` ``!=`` ``<`` ``<=``
``>`` ``>=`` ``between``, ``in (a, b)``, ``contains``, ``like`` (``%`` is anything, ``_`` one character) and ``is null``
compare; ``and``, ``or``, ``not`` and parentheses combine. A row without a value in a column fulfils no comparison with
it, and so fulfils the ``not`` of each.

An item id and a file name are compared exactly, other text without regard to case. A bare number compares as an exact
decimal with the numbers of a catalogue's column: ``50€`` and ``49,90`` are numbers, ``007`` is text, and so is ``1,299``,
whose comma can mean two things.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")

MAX_CHARACTERS: Final = 20_000
MAX_COMPARISONS: Final = 200
MAX_VALUES: Final = 2_000
MAX_DEPTH: Final = 20

METADATA: Final = "metadata."
"""Prefix by which a catalogue's column is reached where the gallery has one of the same name."""

EXAMPLE: Final = "a filter is such as: category = boots and price < 200"

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.|"")*"|'(?:[^'\\]|\\.|'')*')|(?P<sign><=|>=|!=|<>|==|[=<>(),])|(?P<word>[^\s=<>!(),"']+))""",
    re.DOTALL,
)
_OPERATORS: Final = {"and": "AND", "or": "OR", "not": "NOT", "in": "IN", "contains": "ILIKE", "like": "LIKE"}
_MORE_OPERATORS: Final = {"is": "IS", "between": "BETWEEN"}
"""Those that are words like any other except after a value."""
_CURRENCIES: Final = frozenset([
    "EUR", "USD", "GBP", "CHF", "JPY", "CNY", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "RON", "TRY", "INR", "AUD", "CAD",
    "NZD", "kr", "zł",
])  # fmt: skip
_DIGITS: Final = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<plain>(?:0|[1-9]\d*)(?:\.\d+)?|\.\d+)(?:e(?P<exponent>[+-]?\d{1,4}))?"
    r"|(?P<comma>\d+),(?P<cents>\d{1,2}|\d{4,})"
    r"|(?P<points>\d{1,3}(?:\.\d{3})+),(?P<after_points>\d+)|(?P<many_points>\d{1,3}(?:\.\d{3}){2,})"
    r"|(?P<commas>\d{1,3}(?:,\d{3})+)\.(?P<after_commas>\d+)|(?P<many_commas>\d{1,3}(?:,\d{3}){2,})"
    r"|(?P<groups>\d{1,3}(?:[ '’\u00a0\u202f]\d{3})+)(?:[.,](?P<after_groups>\d+))?)",
    re.ASCII | re.IGNORECASE,
)
_SIGNS: Final = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_WANTED: Final = "wanted = != < <= > >= between, in (a, b), contains, like or is null after a column"
_EXACT: Final = Context(prec=200)


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as an SQL expression over the table of photos.

    ``functions`` are what it calls, by name, with the count of their arguments. ``ordered`` are the catalogue's columns
    whose numbers it orders, each as filters name it and in SQL.
    """

    sql: str
    parameters: tuple[str, ...]
    ordered: dict[str, str]


def compile_filter(text: str, columns: dict[str, str], exact: frozenset[str], numeric: frozenset[str]) -> Filter:
    """Return the SQL of a filter.

    Args:
        text: what a user wrote.
        columns: the columns that it may name, each with its name in SQL.
        exact: those that are compared exactly, to the letter.
        numeric: those in which a bare number is compared as a number.

    Raises:
        ValueError: it is not a filter, too long, or names another column; the message says what to write.

    >>> compile_filter("price < 200", {"price": "price"}, frozenset(), frozenset(["price"])).parameters
    ('200',)
    """
    return _Compiler(text, columns, exact, numeric).filter()


@dataclass(slots=True)
class _Value:
    text: str
    quoted: bool


@dataclass(slots=True)
class _Compiler:
    text: str
    columns: dict[str, str]
    exact: frozenset[str]
    numeric: frozenset[str]
    values: list[_Value] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    ordered: dict[str, str] = field(default_factory=dict)
    comparisons: int = 0

    def filter(self) -> Filter:
        from sqlglot import parse_one  # noqa: PLC0415  imported only by searches with a filter
        from sqlglot.errors import SqlglotError  # noqa: PLC0415

        if len(self.text) > MAX_CHARACTERS:
            raise ValueError(f"a filter has at most {MAX_CHARACTERS} characters, this one {len(self.text)}")
        sql = " ".join(self._tokens())
        if not sql:
            self._refuse("it is empty")
        try:
            return Filter(self._condition(parse_one(sql, dialect="sqlite")), tuple(self.parameters), self.ordered)
        except RecursionError:
            self._refuse("it is nested too deeply")
        except SqlglotError as error:
            self._refuse(f"it lacks something or has too much: {_described(error)}")

    def _tokens(self) -> Iterator[str]:
        """Yield the filter's structure in SQL; names and values are replaced by numbered identifiers."""
        at, depth, nots, after_value, previous = 0, 0, 0, False, ""
        while self.text[at:].strip():
            found = _TOKEN.match(self.text, at)
            if not found or not found.lastgroup:
                self._refuse(f"{self.text[at : at + 20].strip()!r} cannot be read; is a quotation mark missing?")
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
                value = _Value(_unquoted(token) if kind == "text" else token, kind == "text")
                self.values.append(value)
                if len(self.values) > MAX_VALUES + MAX_COMPARISONS:
                    self._refuse(f"it has more than {MAX_VALUES} values")
                after_value = True
                yield f'"{len(self.values) - 1}"'
            previous = word

    def _condition(self, node: Any) -> str:
        """Return the SQL of a part of a filter, which is true or false for every row."""
        from sqlglot import expressions as parts  # noqa: PLC0415

        if isinstance(node, parts.And | parts.Or):
            joined, kind, todo = list[str](), type(node), [node]
            while todo:  # a chain of many terms is a deep tree
                part = todo.pop()
                if type(part) is kind:
                    todo += [part.expression, part.this]
                else:
                    joined.append(self._condition(part))
            return f"({f' {node.key.upper()} '.join(joined)})"
        if isinstance(node, parts.Paren):
            return self._condition(node.this)
        if isinstance(node, parts.Not):
            return f"(NOT {self._condition(node.this)})"
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS:
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
        sql = self.columns[column]
        match node:
            case parts.EQ():
                test = self._equal(column, [node.expression])
            case parts.NEQ():
                test = f"({sql} IS NOT NULL AND NOT {self._equal(column, [node.expression])})"
            case parts.In(expressions=values) if values and set(node.args) <= {"this", "expressions"}:
                test = self._equal(column, values)
            case parts.LT() | parts.LTE() | parts.GT() | parts.GTE():
                test = self._ordered(column, _SIGNS[node.key], node.expression)
            case parts.Between():
                low = self._ordered(column, ">=", node.args["low"])
                test = f"({low} AND {self._ordered(column, '<=', node.args['high'])})"
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
        sql = self.columns[column]
        if column in self.exact:
            return f"ifnull({sql} IN ({', '.join(self._parameter(value.text) for value in values)}), 0)"
        bare = [_plain(value.text) for value in values if not value.quoted and column in self.numeric]
        text = [_fold(value.text) for value in values if value.quoted or column not in self.numeric]
        tests = [
            f"ifnull({function}({sql}) IN ({', '.join(map(self._parameter, some))}), 0)"
            for function, some in (("plain", bare), ("fold", text))
            if some
        ]
        return f"({' OR '.join(tests)})"

    def _ordered(self, column: str, sign: str, node: Any) -> str:
        value = self._value(node)
        sql = self.columns[column]
        if column in self.numeric and not value.quoted and number(value.text) is not None:
            self.ordered[column] = sql
            return f"ifnull(compare({sql}, {self._parameter(value.text)}) {sign} 0, 0)"
        return f"ifnull(fold({sql}) {sign} {self._parameter(_fold(value.text))}, 0)"

    def _column(self, name: str) -> str:
        if name in self.columns:
            return name
        folded = {known.casefold(): known for known in reversed(self.columns)}
        column = folded.get(name.casefold())
        if column is None and name.casefold().startswith(METADATA):
            column = folded.get(name.casefold().removeprefix(METADATA))
            column = column if column in self.numeric else None
        if column is None:
            raise ValueError(f"there is no column {name[:100]!r}; there are {', '.join(self.columns)}")
        return column

    def _value(self, node: Any) -> _Value:
        name = getattr(node, "name", "")
        if node is None or node.key != "column" or not name.isdigit():
            self._refuse("wanted a single value; put text of several words in quotes, and write numbers with a point")
        return self.values[int(name)]

    def _parameter(self, text: str) -> str:
        self.parameters.append(text)
        return "?"

    def _refuse(self, fault: str) -> NoReturn:
        short = self.text if len(self.text) <= 200 else f"{self.text[:200]}…"
        raise ValueError(f"the filter {short!r} cannot be read: {fault}; {EXAMPLE}")


@lru_cache(maxsize=1 << 16)
def number(text: str) -> Decimal | None:
    """Return the number that a text is, with its currency or without, or None.

    >>> [str(number(text)) for text in ("49,90", "1.299,00 €", "$1,299.00", "1e3", "007", "1,299", "XL")]
    ['49.90', '1299.00', '1299.00', '1E+3', 'None', 'None', 'None']
    """
    bare = text.strip()
    if len(bare) > 100:
        return None
    while bare and unicodedata.category(bare[0]) == "Sc":
        bare = bare[1:].lstrip()
    while bare and unicodedata.category(bare[-1]) == "Sc":
        bare = bare[:-1].rstrip()
    first, _, rest = bare.partition(" ")
    before, _, last = bare.rpartition(" ")
    bare = rest if first in _CURRENCIES else before if last in _CURRENCIES else bare
    if bare[:3] in _CURRENCIES or bare[-3:] in _CURRENCIES:
        bare = bare[3:] if bare[:3] in _CURRENCIES else bare[:-3]
    found = _DIGITS.fullmatch(bare.replace("\N{MINUS SIGN}", "-").strip())
    if not found:
        return None
    part = found.groupdict(default="")
    whole = "".join(
        part[name] for name in ("plain", "comma", "points", "many_points", "commas", "many_commas", "groups")
    )
    if not part["plain"]:
        whole = re.sub(r"\D", "", whole)
    cents = "".join(part[name] for name in ("cents", "after_points", "after_commas", "after_groups"))
    exponent = f"e{part['exponent']}" if part["exponent"] else ""
    return Decimal(f"{part['sign']}{whole}{'.' + cents if cents else ''}{exponent}")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _fold(value: str | bytes) -> str:
    """Return a text without regard to case."""
    return _text(value).casefold()


def _plain(value: str | bytes) -> str:
    """Return a text that is equal for equal numbers, and for texts that differ in case alone."""
    amount = number(_text(value))
    return f"={_fold(value)}" if amount is None else f"#{amount.normalize(_EXACT) + 0}"


def _compare(value: str | bytes, limit: str) -> int | None:
    """Return -1, 0 or 1 where a number is less than, equal to or more than another; None where the text is no number."""
    amount, other = number(_text(value)), number(limit)
    return None if amount is None or other is None else int(amount.compare(other))


def _is_number(value: str | bytes) -> int:
    return int(number(_text(value)) is not None)


def _fits(value: str | bytes, pattern: str) -> int:
    return int(_like(pattern).fullmatch(_fold(value)) is not None)


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


def _described(error: Exception) -> str:
    errors = getattr(error, "errors", None) or [{}]
    description = str(errors[0].get("description") or "")
    return "a column, a value or a comparison" if description.startswith("Required") else description or "a part"


def _in_sql(function: Callable[..., T]) -> Callable[..., T | None]:
    """Return a function as SQL calls it: remembering answers, and without one for NULL."""

    def call(value: str | bytes | None, *more: str) -> T | None:
        return None if value is None else function(value, *more)

    return lru_cache(maxsize=1 << 16)(call)


FUNCTIONS: Final[dict[str, tuple[int, Callable[..., Any]]]] = {
    "fold": (1, _in_sql(_fold)),
    "plain": (1, _in_sql(_plain)),
    "compare": (2, _in_sql(_compare)),
    "is_number": (1, _in_sql(_is_number)),
    "fits": (2, _in_sql(_fits)),
}
"""The functions that filters call in SQL, by name, with the count of their arguments."""
