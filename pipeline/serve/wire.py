"""What goes over the wire, as OpenAPI describes it; and text that any JSON and any address can hold."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_K = 100
"""Items asked for at most."""

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class Wire(BaseModel):
    """Immutable, and without fields that are not told here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(Wire):
    """An item that looks like what was searched for, shown by its best photo."""

    item: str
    picture: str = Field(description="Where its picture is, relative to the server's root")
    similarity: float = Field(description="Cosine, from -1 to 1")
    label: str = Field(description="Its garment group")
    verdict: str = Field("", description="same item, not sure or different, where the embedder is calibrated")
    name: str = ""
    price: str = ""
    links: list[str] = Field(default_factory=list, description="The addresses among its metadata, http and https only")
    details: dict[str, str] = Field(default_factory=dict, description="The other metadata")


class Matches(Wire):
    """What one way of cutting found."""

    crop: str
    vector: list[float] = Field(description="What was searched for, as a unit vector")
    matches: list[Match]


class Garment(Wire):
    """A garment of a photo, in pixels of the full-size photo, upright."""

    label: str
    score: float
    box: tuple[int, int, int, int] = Field(description="x1, y1, x2, y2, half open")
    outline: list[list[tuple[int, int]]] = Field(description="The mask's outlines, holes too; none without a mask")


class SearchedGarment(Garment):
    """A garment with its matches, for each way of cutting."""

    results: list[Matches]


class Detected(Wire):
    """The garments of a photo, by falling score."""

    width: int
    height: int
    garments: list[Garment]


class Searched(Wire):
    """The garments of a photo with their matches."""

    width: int
    height: int
    garments: list[SearchedGarment]


class Embedded(Wire):
    """A photo as a unit vector, taken as it is: whole, without looking for garments."""

    embedder: str = Field(description="What made it: vectors of the same embedder can be compared")
    dim: int
    vector: list[float]


class Asked(Wire):
    """What matches are wanted."""

    k: int = Field(12, ge=1, le=MAX_K, description="Items wanted")
    label: str | None = Field(None, max_length=200, description="Only items of this garment group")
    where: str | None = Field(
        None, max_length=1000, description="Only items that fulfil it, such as: category = boots and price < 200"
    )
    min_similarity: float = Field(-1.0, ge=-1, le=1, description="Matches below it are left out")


class PhotoQuery(Asked):
    """What is wanted of a photo."""

    same_label: bool = Field(False, description="Only items of each garment's own group")
    crop: list[str] = Field(
        [], max_length=4, description="Ways of cutting, of those that /about names; the gallery's own if none"
    )
    box: str | None = Field(
        None,
        pattern=r"^[0-9]{1,6},[0-9]{1,6},[0-9]{1,6},[0-9]{1,6}$",
        description="x1,y1,x2,y2 in pixels of the full-size photo: search this region, and look for no garments",
        examples=["10,20,310,420"],
    )


class VectorQuery(Asked):
    """A search by a vector that /embed or /search gave, of any length above 0."""

    vector: list[Number] = Field(min_length=1, max_length=8192)
    crop: str | None = Field(None, max_length=100, description="The way of cutting whose gallery is searched")
    garment: str = Field("", max_length=200, description="The garment's own group, for its verdicts' thresholds")


class ItemQuery(Asked):
    """A search for more like an item of the gallery."""

    item: str = Field(min_length=1, max_length=2000)
    crop: str | None = Field(None, max_length=100, description="The way of cutting whose gallery is searched")


class ItemPhoto(Wire):
    """A photo of an item."""

    picture: str
    label: str
    score: float
    box: tuple[int, int, int, int]


class Item(Wire):
    """What the gallery knows of an item."""

    item: str
    name: str
    price: str
    links: list[str]
    details: dict[str, str]
    photos: list[ItemPhoto]


class Column(Wire):
    """A column that filters know, and how it is best asked for."""

    column: str
    kind: str = Field(description="number, choice or text")
    values: list[str]
    least: float
    most: float


class Way(Wire):
    """A way of cutting garments out, and how the gallery that it searches was cut."""

    crop: str
    gallery_crop: str


class About(Wire):
    """What is served, for a page to show."""

    gallery: str
    items: int
    photos: int
    generation: int
    labels: dict[str, int]
    colors: dict[str, str]
    columns: list[Column]
    crops: list[Way]
    embedder: str
    calibrated: bool
    examples: int
    max_bytes: int
    max_pixels: int


class Health(Wire):
    """That the server answers, and of which generation."""

    status: str
    generation: int


class Problem(Wire):
    """Why a request was not answered."""

    error: str


def plain(text: str) -> str:
    """Text as JSON and addresses can hold it: bytes of file names that are no text become escapes.

    >>> plain("caf" + chr(0xdce9)) == "caf" + chr(92) + "udce9"
    True
    """
    return text.encode("utf-8", "backslashreplace").decode()


def unplain(text: str) -> str:
    """What :func:`plain` was given.

    >>> unplain(plain("caf" + chr(0xdce9))) == "caf" + chr(0xdce9)
    True
    """
    return re.sub(r"\\u(d[89a-f][0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)
