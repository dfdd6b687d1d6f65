"""Recipes: TOML files with the settings of a plan, which ``--set KEY=VALUE`` overrides."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stages.errors import OutfinderError

T = TypeVar("T")
Settings = dict[str, Any]
"""The values of a recipe by key; sections are nested tables."""

PATHS = ("train", "val")  # keys of paths that are relative to the recipe's folder
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class RecipeError(OutfinderError):
    """A recipe that cannot be read, or an unknown setting."""


def read_recipe(path: str | Path) -> Settings:
    """Read a recipe; raise a RecipeError if it is not a TOML file."""
    path = Path(path)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not a TOML file: {error}") from error
    return settings | {key: _relative(settings[key], path.parent) for key in PATHS if key in settings}


def assign(settings: Settings, plan: type, text: str) -> None:
    """Set a value of a recipe for a plan, a dataclass, in place, by ``KEY=VALUE``.

    The key may omit its section if no other section has such a key.

    Raises:
        RecipeError: the key is unknown or ambiguous.

    >>> @dataclasses.dataclass
    ... class Plan:
    ...     steps: int = 0
    >>> settings = {}
    >>> assign(settings, Plan, "steps=20")
    >>> settings
    {'steps': 20}
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise RecipeError(f"cannot set {text!r}; wanted KEY=VALUE, such as lr=0.001")
    hints = dict(_keys(plan))
    if get_origin(hints.get(key.rpartition(".")[0])) is dict:
        hints[key] = str
    matches = [key] if key in hints else [name for name in hints if name.endswith(f".{key}")]
    if len(matches) != 1:
        known = [*hints, *(name.rpartition(".")[2] for name in hints)]
        raise _unknown(key, matches or difflib.get_close_matches(key, known, 3))
    *sections, last = matches[0].split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[last] = value.strip("\"'") if hints[matches[0]] is str else _parsed(value)


def comma_separated(text: str) -> list[str]:
    """Return the values of a list; a value with a comma needs quotes.

    >>> comma_separated('"shirt, blouse", bag')
    ['shirt, blouse', 'bag']
    """
    return [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]


def given_keys(settings: Settings, section: str = "") -> set[str]:
    """Return the dotted keys that a recipe sets.

    >>> sorted(given_keys({"start": "imagenet", "loss": {"name": "triplet"}}))
    ['loss', 'loss.name', 'start']
    """
    nested = (given_keys(value, f"{section}{key}.") for key, value in settings.items() if isinstance(value, dict))
    return {section + key for key in settings}.union(*nested)


def build(plan: type[T], settings: Settings, section: str = "") -> T:
    """Make a plan of a recipe's settings.

    Raises:
        RecipeError: a key is unknown, or a value has the wrong type.
        ValueError: a value is invalid.
    """
    hints = get_type_hints(plan)
    for key in settings:
        if key not in hints:
            raise _unknown(section + key, difflib.get_close_matches(key, hints, 3))
    return plan(**{key: _converted(hints[key], value, section + key) for key, value in settings.items()})


def _converted(hint: Any, value: Any, key: str) -> Any:
    """Convert a TOML value to the type of a field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, f"{key}.")  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        (inner,) = (one for one in arguments if one is not NoneType)
        return _converted(inner, value, key)
    if origin is tuple and isinstance(value, list | str):
        parts = comma_separated(value) if isinstance(value, str) else value
        kinds = [arguments[0]] * len(parts) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(parts):
            return tuple(_converted(kind, part, key) for kind, part in zip(kinds, parts, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _converted(arguments[1], part, f"{key}.{name}") for name, part in value.items()}
    if type(value) is hint or (origin is Literal and value in arguments) or (hint is float and type(value) is int):
        return float(value) if hint is float else value
    wanted = " or ".join(map(str, arguments)) if origin is Literal else _NAMES.get(hint, "a table or a list")
    raise RecipeError(f"{key} must be {wanted}, got {value!r}")


def _keys(plan: type, section: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the type of every setting."""
    for name, hint in get_type_hints(plan).items():
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{section}{name}.")  # type: ignore[arg-type]
        else:
            yield section + name, hint


def _unknown(key: str, near: list[str]) -> RecipeError:
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return RecipeError(f"there is no setting {key!r}{hint}")


def _parsed(text: str) -> Any:
    """Parse a value in TOML syntax; anything else is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_relative(part, folder) for part in value]
    return str(folder / value) if isinstance(value, str) else value
