"""Filters: ``category = boots and price < 200``, read by a small parser and answered column by column.

A comparison names a column on its left; on its right a word, a number, or a text in quotes. ``=`` ``!=`` ``<`` ``<=``
``>`` ``>=`` compare, ``in (a, b)`` chooses, ``contains`` looks within, ``like`` knows ``%`` (anything) and ``_`` (one
character); ``and``, ``or``, ``not`` and parentheses combine. A bare number compares with numbers, everything else as
text, without regard to case. A row that has no value in a column fulfils no comparison with it, and thus the ``not``
of every one.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Look = Callable[[str], tuple[NDArray[np.int32], list[str]]]
"""Gives a column: for each row the number of its value, -1 for none, and the values."""

Compare = Callable[[Any, Any], bool]

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<sign><=|>=|!=|<>|==|[=<>(),])|(?P<word>[^\s=<>!(),"']+))"""
)
_COMPARISONS: Final[dict[str, Compare]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_KEYWORDS: Final = ("and", "or", "not", "in", "contains", "like")
_MAX_DEPTH: Final = 50


class Condition(Protocol):
    """A filter, or a part of one."""

    def mask(self, look: Look) -> Mask:
        """Which rows fulfil it."""


class Token(NamedTuple):
    """A word, a sign or a text in quotes, and where it stands."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class _Test:
    """A comparison: what a value of the column must be."""

    column: str
    test: Callable[[str], bool]
    of_numbers: bool = False

    def mask(self, look: Look) -> Mask:
        codes, values = look(self.column)
        if self.of_numbers and values and all(_number(value) is None for value in values):
            raise ValueError(
                f"column {self.column!r} has no numbers to compare with, its values are such as {values[0]!r};"
                " put the value in quotes to compare as text"
            )
        fulfil = np.array([*map(self.test, values), False], np.bool_)  # the last is that of no value
        return fulfil[codes]


@dataclass(frozen=True, slots=True)
class _Both:
    first: Condition
    second: Condition
    either: bool = False

    def mask(self, look: Look) -> Mask:
        first, second = self.first.mask(look), self.second.mask(look)
        return first | second if self.either else first & second


@dataclass(frozen=True, slots=True)
class _Not:
    inner: Condition

    def mask(self, look: Look) -> Mask:
        return ~self.inner.mask(look)


def parse(text: str) -> Condition:
    """The filter that a text says.

    Raises:
        ValueError: it says none; the message shows where it goes wrong.

    >>> columns = {"kind": (np.array([0, 1, -1]), ["Boots", "bag"]), "price": (np.array([0, 1, 1]), ["90", "1e3"])}
    >>> parse("kind = boots and price < 200").mask(columns.__getitem__).tolist()
    [True, False, False]
    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent, one method for each rule."""

    def __init__(self, text: str) -> None:
        self._text, self._tokens, self._depth = text, list[Token](), 0
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if not found or not found.lastgroup:
                self._refuse(at + len(text[at:]) - len(text[at:].lstrip()), "this cannot be read")
            kind = found.lastgroup
            self._tokens.append(Token(kind, found[kind], found.start(kind)))
            at = found.end()
        self._tokens.append(Token("end", "", len(text)))

    def whole(self) -> Condition:
        condition = self._either()
        if self._tokens[0].kind != "end":
            self._refuse(self._tokens[0].at, "the filter could end here; put a value of several words in quotes")
        return condition

    def _either(self) -> Condition:
        condition = self._both()
        while self._takes("or"):
            condition = _Both(condition, self._both(), either=True)
        return condition

    def _both(self) -> Condition:
        condition = self._one()
        while self._takes("and"):
            condition = _Both(condition, self._one())
        return condition

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._refuse(self._tokens[0].at, "this is nested too deeply")
        if self._takes("not"):
            condition: Condition = _Not(self._one())
        elif self._takes("("):
            condition = self._either()
            self._wants(")")
        else:
            condition = self._comparison()
        self._depth -= 1
        return condition

    def _comparison(self) -> Condition:
        column, _ = self._value("the name of a column")
        for sign, compare in _COMPARISONS.items():
            if self._takes(sign):
                return _compared(column, compare, *self._value("a value"))
        negated = self._takes("not")
        if self._takes("in"):
            condition: Condition = self._choice(column)
        elif self._takes("contains"):
            part = self._value("a value")[0].casefold()
            condition = _Test(column, lambda value: part in value.casefold())
        elif self._takes("like"):
            pattern = self._value("a pattern")[0].casefold()
            wild = re.compile(_like(pattern), re.DOTALL)
            condition = _Test(column, lambda value: wild.fullmatch(value.casefold()) is not None)
        else:
            self._refuse(self._tokens[0].at, "wanted = != < <= > >= in, contains or like here")
        return _Not(condition) if negated else condition

    def _choice(self, column: str) -> Condition:
        self._wants("(")
        condition: Condition = _compared(column, operator.eq, *self._value("a value"))
        while self._takes(","):
            condition = _Both(condition, _compared(column, operator.eq, *self._value("a value")), either=True)
        self._wants(")")
        return condition

    def _value(self, what: str) -> tuple[str, bool]:
        """The text of a word or of what is in quotes, and whether it was in quotes."""
        kind, text, at = self._tokens[0]
        if kind == "text":
            text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        elif kind != "word" or text.lower() in _KEYWORDS:
            self._refuse(at, f"wanted {what} here")
        del self._tokens[0]
        return text, kind == "text"

    def _takes(self, word: str) -> bool:
        kind, text, _ = self._tokens[0]
        if kind in ("word", "sign") and text.lower() == word:
            del self._tokens[0]
            return True
        return False

    def _wants(self, sign: str) -> None:
        if not self._takes(sign):
            self._refuse(self._tokens[0].at, f"wanted {sign} here")

    def _refuse(self, at: int, fault: str) -> NoReturn:
        raise ValueError(
            f"the filter {self._text[:at]!r} >here< {self._text[at:]!r}: {fault};"
            " a filter is such as: category = boots and price < 200"
        )


def _compared(column: str, compare: Compare, text: str, quoted: bool) -> _Test:
    number = None if quoted else _number(text)
    if number is None:
        folded = text.casefold()
        return _Test(column, lambda value: compare(value.casefold(), folded))

    def test(value: str) -> bool:
        own = _number(value)
        return own is not None and compare(own, number)

    return _Test(column, test, of_numbers=True)


def _like(pattern: str) -> str:
    """A pattern as a regular expression; what stands between two ``%`` is taken where it comes first, for good.

    >>> _like("a%b_%")
    'a(?>.*?b.).*'
    """
    first, *rest = (re.escape(part).replace("_", ".") for part in pattern.split("%"))
    between = "".join(f"(?>.*?{part})" for part in rest[:-1])  # atomic: backtracking could take for ever
    return f"{first}{between}.*{rest[-1]}" if rest else first


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
