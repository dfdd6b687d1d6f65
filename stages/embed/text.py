"""Search in words: short English texts as vectors in the space of an image embedder.

The vector of a text is the sum of the vectors of its words, which were trained against one image embedder
(:attr:`WordEmbedder.embedder`). Unknown words are reported rather than guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

import weights
from stages.embed.attributes import unit_rows
from stages.errors import WeightsError
from stages.labels import COLOURS, GENDERS, PATTERNS, TYPES, USAGES
from stages.protocols import TextEmbedder
from stages.types import Vectors
from weights import Checkpoint

ARCHITECTURE: Final = "words"
MOST_CHARACTERS: Final = 1000
LEAST_CORRECTED: Final = 4  # shorter words resemble too many others to be corrected
_WORD: Final = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*")
_SILENT: Final = frozenset({
    "a", "an", "and", "any", "but", "by", "for", "from", "i", "in", "into", "is", "it", "item", "items", "like",
    "looking", "made", "me", "more", "my", "of", "on", "one", "or", "same", "show", "some", "something", "style",
    "that", "the", "these", "this", "to", "want", "with", "without",
})  # fmt: skip
"""Words that say nothing about a garment."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The known words of a text, in order, and its unknown words as written."""

    words: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def notice(self) -> str:
        """A sentence that lists the unknown words; "" if there are none."""
        names = ", ".join(f"'{word}'" for word in self.unknown)
        return f"{names} {'is' if len(self.unknown) == 1 else 'are'} not known" if names else ""


class WordEmbedder:
    """Embeds texts in the space of the image embedder whose fingerprint is ``embedder``.

    Raises:
        WeightsError: the checkpoint does not hold vectors of words.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.describes("architecture") != ARCHITECTURE:
            raise WeightsError(f"{checkpoint.name} does not hold vectors of words")
        words = checkpoint.describes("words").split("\n")
        rows = checkpoint.tensors.get("vectors")
        if rows is None or rows.ndim != 2 or len(rows) != len(words):
            raise WeightsError(f"{checkpoint.name} does not hold one vector for each of its {len(words)} words")
        self._rows: Vectors = rows.numpy()
        self._places = {word: place for place, word in enumerate(words)}
        self.dim, self.embedder = rows.shape[1], checkpoint.describes("embedder")

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """Return ``(len(texts), dim)`` float32 unit rows.

        Raises:
            ValueError: a text is empty or too long, or none of its words is known.
        """
        readings = [self.read(text) for text in texts]
        return np.concatenate([np.empty((0, self.dim), np.float32), *map(self.embed_reading, readings)])

    def embed_reading(self, reading: Reading) -> Vectors:
        """Return what was read as a unit row, ``(1, dim)``; raise a ValueError if no word of it is known."""
        if not reading.words:
            what = (
                f"no word of {' '.join(reading.unknown)[:50]!r} is known"
                if reading.unknown
                else "the text names no garment"
            )
            raise ValueError(f"{what}; texts are English, such as: navy checked shirt")
        return unit_rows(self._rows[[self._places[word] for word in reading.words]].sum(axis=0, keepdims=True))

    def read(self, text: str) -> Reading:
        """Return the words of a text; synonyms, plurals and one-letter misspellings become known words.

        Raises:
            ValueError: the text is empty or too long.
        """
        if not text.strip():
            raise ValueError("the text is empty; say what to look for, such as: navy checked shirt")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"the text has {len(text)} characters, and at most {MOST_CHARACTERS} are allowed")
        words: list[str] = []
        unknown: list[str] = []
        folded = unicodedata.normalize("NFKC", text).casefold()
        for word, written in self._phrases(re.findall(r"[^\s,.;:!?/()\"]+", folded)):
            if word is None:
                unknown.append(written)
            else:
                words += word
        return Reading(tuple(words), tuple(dict.fromkeys(unknown)))

    def _phrases(self, tokens: Sequence[str]) -> Iterator[tuple[list[str] | None, str]]:
        """Yield the known words, or None, and the text of each phrase of one to three tokens."""
        place = 0
        while place < len(tokens):
            for length in (3, 2, 1):
                written = " ".join(tokens[place : place + length])
                if length > 1 and (synonym := self._synonyms.get(written)):
                    yield synonym, written
                    place += length
                    break
            else:
                if (word := tokens[place].strip("'’-")) and word not in _SILENT:
                    yield self._look_up(word), word
                place += 1

    def _look_up(self, word: str) -> list[str] | None:
        for form in _singulars(word):
            if form in self._synonyms:
                return self._synonyms[form]
            if form in self._places:
                return [form]
        if "-" in word:
            parts = [self._look_up(part) for part in word.split("-") if part]
            return [one for part in parts if part for one in part] if all(parts) else None
        close = next((form for form in _one_letter_off(word) if form in self._corrections), None)
        return self._corrections[close] if close and len(word) >= LEAST_CORRECTED and _WORD.fullmatch(word) else None

    @cached_property
    def _corrections(self) -> dict[str, list[str]]:
        """The words that misspellings are corrected to."""
        long = (word for word in self._places if len(word) >= LEAST_CORRECTED)
        return {word: [word] for word in long} | {
            word: known for word, known in self._synonyms.items() if " " not in word and len(word) >= LEAST_CORRECTED
        }

    @cached_property
    def _synonyms(self) -> dict[str, list[str]]:
        """The known words for each name and alias of a type, colour, pattern, gender or usage."""
        tables: list[Mapping[str, tuple[str, ...]]] = [
            {one.name: one.aliases for one in TYPES}, COLOURS, PATTERNS, GENDERS, USAGES,
        ]  # fmt: skip
        return {
            alias: [name]
            for table in tables
            for name, aliases in table.items()
            if name in self._places
            for alias in (name, *aliases)
        }


def _singulars(word: str) -> Iterator[str]:
    """Yield a word, and the words that it may be the plural or possessive of."""
    yield word
    stem = re.sub(r"['’]s$", "", word)
    if stem != word:
        yield stem
    if stem.endswith("ies"):
        yield stem[:-3] + "y"
    if stem.endswith("es"):
        yield stem[:-2]
    if stem.endswith("s"):
        yield stem[:-1]
    else:
        yield stem + "s"


def _one_letter_off(word: str) -> Iterator[str]:
    """Yield all words that one inserted, dropped, replaced or swapped letter makes of a word, likelier slips first."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    places = range(len(word))
    yield from (word[:place] + word[place + 1] + word[place] + word[place + 2 :] for place in places[:-1])
    yield from (word[:place] + word[place + 1 :] for place in places)
    yield from (word[:place] + letter + word[place:] for place in (*places, len(word)) for letter in letters)
    yield from (word[:place] + letter + word[place + 1 :] for place in places for letter in letters)


def text_embedder(embedder: object, words: Checkpoint | None = None) -> TextEmbedder | None:
    """Return the text embedder in the space of an image embedder, or None if there is none.

    That is the embedder itself if it embeds text, else the given vectors of words, or the shipped ones, if they belong to
    it.
    """
    if isinstance(embedder, TextEmbedder):
        return embedder
    return words_for(getattr(embedder, "fingerprint", ""), words)


def words_for(fingerprint: str, words: Checkpoint | None = None) -> WordEmbedder | None:
    """Return the given or the shipped vectors of words if they belong to the embedder with this fingerprint, else None."""
    reader = WordEmbedder(words or weights.load("words"))
    return reader if reader.embedder == fingerprint else None
