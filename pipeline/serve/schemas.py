"""The JSON that the HTTP API accepts and returns, as OpenAPI describes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.pages import described, is_link

MAX_K: Final = 100
"""The most items that a request may ask for."""

MAX_ITEM_ID: Final = 2000
"""Characters of an item's id."""

MAX_CHOICES: Final = 40
"""A column with more distinct values is filtered by text, not by a list to choose from."""

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class Schema(BaseModel):
    """The base of every schema: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Query(Schema):
    """Which matches are wanted."""

    k: int = Field(12, ge=1, le=MAX_K, description="Number of items")
    label: str | None = Field(None, max_length=200, description="Only items of this garment group")
    any_kind: bool = Field(
        False, description="Rank items of other kinds than the garment's as if they were of its kind"
    )
    where: str | None = Field(
        None, max_length=1000, description="Only items that match a filter, such as: category = boots and price < 200"
    )
    min_similarity: float = Field(-1.0, ge=-1, le=1, description="Leave out matches below this cosine similarity")


class RefinedQuery(Query):
    """Which matches are wanted, perhaps also in words."""

    text: str | None = Field(
        None, max_length=1000, description="Also in words: like this, but in red", examples=["in red"]
    )
    text_weight: float = Field(0.5, ge=0, le=1, description="How much the words count beside the rest")


class TextQuery(Query):
    """A search in words, which /about says are understood."""

    text: str = Field(max_length=1000, description="What to look for", examples=["navy checked shirt"])
    crop: str | None = Field(None, max_length=100, description="The crop whose gallery is searched")


class PhotoQuery(RefinedQuery):
    """Which matches are wanted for a photo."""

    same_label: bool = Field(False, description="Only items of each garment's own group")
    crop: list[str] = Field(
        [], max_length=4, description="How garments are cut out, of the crops that /about lists; by default its first"
    )
    box: str | None = Field(
        None,
        pattern=r"^[0-9]{1,6},[0-9]{1,6},[0-9]{1,6},[0-9]{1,6}$",
        description="x1,y1,x2,y2 in pixels of the full-size photo: search this region instead of detecting garments",
        examples=["10,20,310,420"],
    )


class VectorQuery(RefinedQuery):
    """A search by a vector from /embed or /search, of any length above 0."""

    vector: list[Number] = Field(min_length=1, max_length=8192)
    crop: str | None = Field(None, max_length=100, description="The crop whose gallery is searched")
    garment: str = Field("", max_length=200, description="The garment's group, which selects the verdicts' thresholds")


class ItemQuery(RefinedQuery):
    """A search for items similar to an item of the gallery."""

    item: str = Field(min_length=1, max_length=MAX_ITEM_ID)
    crop: str | None = Field(None, max_length=100, description="The crop whose gallery is searched")


class ItemInfo(Schema):
    """What the catalogue says about an item."""

    item: str
    name: str = ""
    price: str = ""
    links: list[str] = Field(default_factory=list, description="The http and https addresses among its metadata")
    details: dict[str, str] = Field(default_factory=dict, description="The remaining metadata")


class MatchInfo(ItemInfo):
    """An item that resembles the query, represented by its most similar photo."""

    picture: str = Field(description="The picture's address, relative to the server's root")
    similarity: float = Field(description="Cosine similarity, from -1 to 1")
    label: str = Field(description="The item's garment group")
    verdict: str = Field("", description="same item, not sure or different, if the embedder is calibrated")
    style: str = Field("", description="Equal for the color variants of one style; empty for an item without any")


class Matches(Schema):
    """The matches of one garment, cut out in one way."""

    crop: str
    vector: list[float] = Field(description="The query as a unit vector")
    matches: list[MatchInfo]
    notice: str = Field("", description="Why there are no matches, such as: this shop has no shoes")
    unknown: str = Field("", description="Which words of the text are not known, such as: 'paisley' is not known")


class Attribute(Schema):
    """What the embedder sees in a garment, such as its colour, and how sure it is."""

    name: str
    value: str
    confidence: float


class GarmentInfo(Schema):
    """A garment of a photo, in pixels of the upright full-size photo."""

    label: str
    score: float
    box: tuple[int, int, int, int] = Field(description="x1, y1, x2, y2, half open")
    outline: list[list[tuple[int, int]]] = Field(description="The mask's outlines and holes; empty without a mask")


class SearchedGarment(GarmentInfo):
    """A garment with its matches for each crop; the two shoes of a pair are one garment."""

    boxes: list[tuple[int, int, int, int]] = Field(description="The boxes of its parts: two for a pair of shoes")
    attributes: list[Attribute] = Field(description="Type, colour, pattern, gender and usage, as far as they are sure")
    colours: dict[str, float] = Field(
        description="Up to three colours by name, with their shares of the garment's pixels"
    )
    results: list[Matches]


class Detected(Schema):
    """The garments of a photo, by descending score."""

    width: int
    height: int
    garments: list[GarmentInfo]


class Searched(Schema):
    """The garments of a photo with their matches."""

    width: int
    height: int
    garments: list[SearchedGarment]


class Embedded(Schema):
    """A whole photo as a unit vector."""

    embedder: str = Field(description="The embedder's fingerprint: only its own vectors are comparable")
    dim: int
    vector: list[float]


class ItemPhoto(Schema):
    """A photo of an item."""

    picture: str
    label: str
    score: float
    box: tuple[int, int, int, int]


class Item(ItemInfo):
    """An item of the gallery with its photos."""

    photos: list[ItemPhoto]


class NewItem(Schema):
    """An item to be added: its id, and what the catalogue says about it."""

    item_id: str = Field(min_length=1, max_length=MAX_ITEM_ID, pattern=r"^[^\x00-\x1f\x7f]*$")
    metadata: dict[
        Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")],
        Annotated[str, Field(max_length=10_000, pattern=r"^[^\x00]*$")],
    ]


class WrittenItem(Item):
    """An item after photos were added to it: every photo of it, and what was found in each."""

    change: Literal["added", "changed", "unchanged"]


class RemovedItem(Schema):
    """An item that was removed, and how many photos it had."""

    item: str
    photos: int


class Column(Schema):
    """A column of the catalogue that filters can use, with the control that suits its values."""

    column: str
    kind: Literal["number", "choice", "text"]
    values: list[str] = Field(default_factory=list, description="The values to choose from")
    least: float = 0.0
    most: float = 0.0


class CropInfo(Schema):
    """How garments are cut out of a photo, and how the searched gallery's photos were cut."""

    crop: str
    gallery_crop: str


class About(Schema):
    """What the server serves and accepts."""

    gallery: str
    items: int
    photos: int
    generation: int
    labels: dict[str, int]
    colors: dict[str, str]
    columns: list[Column]
    crops: list[CropInfo]
    embedder: str
    reads_text: bool = Field(description="Whether it can be searched in words")
    calibrated: bool
    examples: int
    max_bytes: int
    max_pixels: int


class Health(Schema):
    """That the server answers, and the generation of the gallery that it searches."""

    status: str
    generation: int


class ErrorInfo(Schema):
    """Why a request failed."""

    error: str


def item_info(item: str, metadata: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return the fields of :class:`ItemInfo`: plain text, never HTML."""
    shown = described((to_plain(key), to_plain(value)) for key, value in metadata)
    return {
        "item": to_plain(item),
        "name": shown.name,
        "price": shown.price,
        "links": list(shown.links),
        "details": dict(shown.details),
    }


def filter_column(column: str, counts: Mapping[str, int]) -> Column | None:
    """Return how to filter by a column, given the count of each value; None if filtering by it is pointless.

    >>> filter_column("price", {"9.5": 2, "20": 1})
    Column(column='price', kind='number', values=[], least=9.5, most=20.0)
    >>> filter_column("fit", {"slim": 2, "": 1, "Loose": 5}).values
    ['Loose', 'slim']
    """
    values = [value for value in counts if value.strip()]
    if len(values) < 2 or any(map(is_link, values)):
        return None
    name = to_plain(column)
    numbers = [number for number in map(_number, values) if number is not None]
    if len(numbers) == len(values):
        return Column(column=name, kind="number", least=min(numbers), most=max(numbers))
    if len(values) <= MAX_CHOICES and len(values) < sum(counts[value] for value in values):
        return Column(column=name, kind="choice", values=sorted(map(to_plain, values), key=str.casefold))
    return Column(column=name, kind="text")


def to_plain(text: str) -> str:
    r"""Escape what JSON and addresses cannot hold: the bytes of file names that are not valid text.

    >>> print(to_plain("caf\udce9"))
    caf\udce9
    """
    return text.encode("utf-8", "backslashreplace").decode()


def from_plain(text: str) -> str:
    r"""Undo :func:`to_plain`.

    >>> from_plain(to_plain("caf\udce9")) == "caf\udce9"
    True
    """
    return re.sub(r"\\u(d[89a-f][0-9a-f]{2})", lambda escape: chr(int(escape[1], 16)), text)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
