"""The HTTP API."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.gallery import Gallery, Row
from pipeline.report_photo import described
from pipeline.serve import wire
from pipeline.serve.finding import Placed
from pipeline.serve.finding import Query as Wanted
from pipeline.serve.limits import refusal
from pipeline.serve.service import Seen, Service, Way, group_of
from pipeline.serve.uploads import BODY, Photo
from stages.types import Box, Vectors


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "The request cannot be read",
        404: "There is no such thing",
        408: "The body came too slowly",
        413: "The body is too large",
        422: "No photo that can be used, or a parameter that cannot be",
        503: "Too many requests, or the gallery is damaged; Retry-After says when to come again",
    }
    return {status: {"model": wire.Problem, "description": said[status]} for status in statuses}


POSTED: Final = _problems(400, 408, 413, 422, 503)
FOUND: Final = _problems(404, 422, 503)
api = APIRouter()


def service_of(request: Request) -> Service:
    """The app's service."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]


@api.post("/search", responses=POSTED, openapi_extra=BODY)
async def search(service: Served, photo: Photo, query: Annotated[wire.PhotoQuery, Query()]) -> wire.Searched:
    """Similar items for every garment of a photo, or for one region of it."""
    ways = [_way(service, name) for name in dict.fromkeys(query.crop)] or [service.main]
    seen = await service.look(photo, _box(query.box))
    wanted, groups = _wanted(query), [group_of(garment) for garment in seen.found]
    found = [
        (way, vectors, await service.search(way, vectors, groups, wanted))
        for way, vectors in zip(ways, await service.vectors(seen, ways), strict=True)
    ]
    garments = [
        wire.SearchedGarment(
            **garment, results=[_matches(way, vectors[number], own[number]) for way, vectors, own in found]
        )
        for number, garment in enumerate(_garments(seen))
    ]
    return wire.Searched(**_size(seen), garments=garments)


@api.post("/search/vector", responses=POSTED)
async def search_vector(service: Served, query: wire.VectorQuery) -> wire.Matches:
    """Similar items for a vector: the same search again with another filter, without sending the photo again."""
    way = _way(service, query.crop)
    vectors = _unit(query.vector, service.embedder.dim)
    (found,) = await service.search(way, vectors, [query.garment], _wanted(query))
    return _matches(way, vectors[0], found)


@api.post("/search/item", responses={**POSTED, **FOUND})
async def search_item(service: Served, query: wire.ItemQuery) -> wire.Matches:
    """More like an item of the gallery: what looks like any of its photos, without itself."""
    way = _way(service, query.crop)
    found = await service.more_like(way, wire.unplain(query.item), _wanted(query))
    if found is None:
        raise refusal(404, f"the gallery has no item {query.item!r}")
    vectors, placed = found
    return _matches(way, vectors[0], placed)


@api.post("/detect", responses=POSTED, openapi_extra=BODY)
async def detect(service: Served, photo: Photo) -> wire.Detected:
    """The garments of a photo."""
    seen = await service.look(photo)
    return wire.Detected(**_size(seen), garments=[wire.Garment(**garment) for garment in _garments(seen)])


@api.post("/embed", responses=POSTED, openapi_extra=BODY)
async def embed(service: Served, photo: Photo) -> wire.Embedded:
    """A photo as a vector, taken whole."""
    (vector,) = await service.embed(photo)
    return wire.Embedded(embedder=service.embedder.fingerprint, dim=len(vector), vector=_numbers(vector))


@api.get("/items/{item:path}", responses=FOUND)
async def item(service: Served, item: str) -> wire.Item:
    """What the gallery knows of an item."""
    rows = await service.asked(service.main, partial(_rows_of, item=wire.unplain(item)))
    if not rows:
        raise refusal(404, f"the gallery has no item {item!r}")
    photos = [
        wire.ItemPhoto(
            picture=_picture(row.item, number), label=wire.plain(row.group), score=row.score, box=row.box.corners
        )
        for number, row in enumerate(rows)
    ]
    return wire.Item(item=wire.plain(rows[-1].item), photos=photos, **_told(rows[-1].metadata))


@api.get(
    "/picture",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "The picture, as a JPEG"}, **FOUND},
)
async def picture(
    service: Served,
    item: Annotated[str, Query(max_length=2000, description="The item's id")],
    number: Annotated[int, Query(ge=0, le=1_000_000, description="Which of its photos, from 0")] = 0,
    crop: Annotated[str | None, Query(max_length=100, description="The way of cutting whose gallery has it")] = None,
) -> Response:
    """A product picture, as a JPEG of at most 480 pixels."""
    rows = await service.asked(_way(service, crop), partial(_rows_of, item=wire.unplain(item)))
    if number >= len(rows):
        raise refusal(404, "there is no such picture in the gallery")
    data = await service.picture(partial(service.jpegs.picture, Path(rows[number].photo)))
    if data is None:
        raise refusal(404, "the picture's file is gone, or is no photo any more; index the catalogue again")
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})


def _rows_of(gallery: Gallery, item: str) -> list[Row]:
    return gallery.of_item(item)


def _way(service: Service, name: str | None) -> Way:
    if name is None:
        return service.main
    if name not in service.ways:
        raise refusal(422, f"no way of cutting is called {name!r} here; there are {', '.join(service.ways)}")
    return service.ways[name]


def _box(text: str | None) -> Box | None:
    try:
        return None if text is None else Box(*map(int, text.split(",")))
    except ValueError as error:
        raise refusal(422, str(error)) from error


def _wanted(query: wire.Asked) -> Wanted:
    same_label = isinstance(query, wire.PhotoQuery) and query.same_label
    return Wanted(query.k, query.label, same_label, query.where, query.min_similarity)


def _unit(vector: list[float], dim: int) -> Vectors:
    if len(vector) != dim:
        raise refusal(422, f"a vector here has {dim} numbers, got {len(vector)}; /embed makes one")
    row = np.array([vector], np.float64)
    length = float(np.linalg.norm(row))
    if length < 1e-6:
        raise refusal(422, "a vector without a length points nowhere; /embed makes one")
    return np.asarray(row / length, np.float32)


def _numbers(vector: Vectors) -> list[float]:
    return [round(number, 7) for number in vector.tolist()]


def _size(seen: Seen) -> dict[str, int]:
    return {"width": seen.photo.width, "height": seen.photo.height}


def _garments(seen: Seen) -> list[dict[str, Any]]:
    return [
        {"label": one.label, "score": round(one.score, 4), "box": box.corners, "outline": outline}
        for one, box, outline in zip(seen.found, seen.boxes, seen.outlines, strict=True)
    ]


def _matches(way: Way, vector: Vectors, placed: list[Placed]) -> wire.Matches:
    return wire.Matches(crop=way.crop, vector=_numbers(vector), matches=[_match(way, one) for one in placed])


def _match(way: Way, placed: Placed) -> wire.Match:
    match = placed.match
    return wire.Match(
        item=wire.plain(match.item),
        picture=_picture(match.item, placed.number, way.crop),
        similarity=round(match.similarity, 4),
        label=wire.plain(match.label),
        verdict=match.verdict,
        **_told(match.metadata),
    )


def _picture(item: str, number: int, crop: str | None = None) -> str:
    asked = {"item": wire.plain(item), "number": number} | ({"crop": crop} if crop else {})
    return f"picture?{urlencode(asked)}"


def _told(metadata: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """An item's metadata by how it is shown; never HTML."""
    told = described((wire.plain(key), wire.plain(value)) for key, value in metadata)
    return {"name": told.name, "price": told.price, "links": list(told.links), "details": dict(told.details)}
