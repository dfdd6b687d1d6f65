"""The HTTP endpoints: each reads its request, asks the service and returns what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar
from unicodedata import normalize

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from pipeline.serve import schemas
from pipeline.serve.access import Client
from pipeline.serve.limits import MAX_PHOTOS, RequestQueue, Upload, parse_upload, refusal
from pipeline.serve.service import Service

S = TypeVar("S", bound=schemas.Schema)

_PROBLEMS: Final = {
    400: "The request is malformed",
    403: "The client's token is not a writer's, or a page of another origin asks",
    404: "There is no such thing",
    408: "The body arrived too slowly",
    413: "The body is too large",
    422: "The photo or a parameter cannot be used",
    503: "Too many requests, or the gallery is damaged; Retry-After says when to try again",
}
_FILE: Final = {"type": "string", "format": "binary"}

router = APIRouter()
writing_router = APIRouter()
"""The endpoints of a server that does not only read."""


def service_of(request: Request) -> Service:
    """Return the app's service."""
    service: Service = request.app.state.service
    return service


def writes_of(request: Request) -> RequestQueue:
    """Return the app's queue of changes."""
    queue: RequestQueue = request.app.state.writes
    return queue


def queue_of(request: Request) -> RequestQueue:
    """Return the app's queue of searches."""
    queue: RequestQueue = request.app.state.queue
    return queue


Served = Annotated[Service, Depends(service_of)]
Queue = Annotated[RequestQueue, Depends(queue_of)]
Writes = Annotated[RequestQueue, Depends(writes_of)]


async def photo_body(request: Request, service: Served) -> bytes:
    """Read the body of a request with a photo."""
    return bytes(await request.app.state.bodies.read(request, service.limits.max_body))


async def json_body(request: Request, service: Served) -> bytes:
    """Read the body of a request in JSON."""
    return bytes(await request.app.state.bodies.read(request, service.limits.max_json))


def upload_of(request: Request, body: Annotated[bytes, Depends(photo_body)]) -> Upload:
    """Return the photo of a request; FastAPI runs a function that is not async in a thread."""
    return parse_upload(request.headers.get("content-type", ""), body)


Photo = Annotated[Upload, Depends(upload_of)]


def photo_query(request: Request, query: Annotated[schemas.PhotoQuery, Query()], upload: Photo) -> schemas.PhotoQuery:
    """Return a search's parameters: those of the address, and those among the fields of a form."""
    values = defaultdict[str, list[str]](list)
    for name, value in upload.fields:
        values[name].append(value)
    fields = {name: given if name == "crop" else given[-1] for name, given in values.items()}
    given = query.model_dump(include=set(request.query_params))  # older FastAPI counts defaults as set
    return _validated(lambda: schemas.PhotoQuery.model_validate(fields | given))


async def writing_client(request: Request) -> str:
    """Return the name of a client that may write, before its request's body is read.

    Raises:
        HTTPException: it may not, or the request comes from a page of another origin: browsers send tokens by themselves.
    """
    client: Client = request.state.client
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if not client.is_writer:
        raise refusal(403, "this token may only read; in the token file, a writer's line ends with the word writer")
    if site not in ("none", "same-origin") or (origin and origin.partition("://")[2] != request.headers.get("host")):
        raise refusal(403, "pages of other origins cannot write here, even if they may search")
    return client.name


def parsed_item(request: Request, body: Annotated[bytes, Depends(photo_body)]) -> tuple[schemas.NewItem, Upload]:
    """Return the item of a form with its photos; further fields are metadata, whatever their names."""
    upload = parse_upload(request.headers.get("content-type", ""), body, MAX_PHOTOS)
    fields = {name.strip(): normalize("NFC", value.strip()) for name, value in upload.fields}
    if "item_id" not in fields:
        raise refusal(422, "there is no item_id; send a form (multipart/form-data) with item_id and photos")
    item = {"item_id": fields.pop("item_id"), "metadata": {name: value for name, value in fields.items() if value}}
    return _validated(lambda: schemas.NewItem.model_validate(item)), upload


Writer = Annotated[str, Depends(writing_client)]


def parsed_json(schema: type[S]) -> Callable[[bytes], S]:
    """Return a dependency that parses a JSON body in a thread, so that a large one delays nobody else."""

    def parse(body: Annotated[bytes, Depends(json_body)]) -> S:
        return _validated(lambda: schema.model_validate_json(body))

    return parse


def _validated(validate: Callable[[], S]) -> S:
    try:
        return validate()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RequestValidationError([first | {"loc": ("body", *first["loc"])}]) from error


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.ErrorInfo, "description": _PROBLEMS[status]} for status in statuses}


def _takes_photo(fields: type[schemas.Schema] | None = None) -> dict[str, Any]:
    """Describe an endpoint whose body is a photo, or a form with a photo and fields."""
    properties = (fields.model_json_schema()["properties"] if fields else {}) | {"photo": _FILE}
    form = {"type": "object", "required": ["photo"], "properties": properties}
    schema_of = {"image/*": _FILE, "application/octet-stream": _FILE, "multipart/form-data": form}
    body = {
        "required": True,
        "description": "A photo: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF, as the body or as the file of a form",
        "content": {media_type: {"schema": schema} for media_type, schema in schema_of.items()},
    }
    return {"responses": _problems(400, 408, 413, 422, 503), "openapi_extra": {"requestBody": body}}


def _takes_json(schema: type[schemas.Schema], *more: int) -> dict[str, Any]:
    """Describe an endpoint whose body is JSON."""
    body = {"required": True, "content": {"application/json": {"schema": schema.model_json_schema()}}}
    return {"responses": _problems(400, 408, 413, 422, 503, *more), "openapi_extra": {"requestBody": body}}


def _takes_item() -> dict[str, Any]:
    """Describe the endpoint whose body is a form with an item's id, photos and metadata."""
    properties = schemas.NewItem.model_json_schema()["properties"]
    (value,) = properties["metadata"]["patternProperties"].values()
    photos = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_PHOTOS}
    form = {"type": "object", "required": ["item_id", "photo"], "additionalProperties": value,
            "properties": {"item_id": properties["item_id"], "photo": photos}}  # fmt: skip
    body = {
        "required": True,
        "description": "A form with the item's id, its photos as files, and any further fields, which are metadata",
        "content": {"multipart/form-data": {"schema": form}},
    }
    return {"responses": _problems(400, 403, 408, 413, 422, 503), "openapi_extra": {"requestBody": body}}


def _returns_file(media_type: str, description: str, *problems: int) -> dict[str, Any]:
    """Describe an endpoint that returns no JSON."""
    answer = {"content": {media_type: {}}, "description": description}
    return {"response_class": Response, "responses": {200: answer, **_problems(*problems)}}


@router.post("/search", **_takes_photo(schemas.PhotoQuery))
async def search(
    service: Served, queue: Queue, photo: Photo, query: Annotated[schemas.PhotoQuery, Depends(photo_query)]
) -> schemas.Searched:
    """Find similar items for every garment of a photo, or for one region of it."""
    async with queue.place():
        return await service.search(photo.photo, query)


@router.post("/search/vector", **_takes_json(schemas.VectorQuery))
async def search_vector(
    service: Served, queue: Queue, query: Annotated[schemas.VectorQuery, Depends(parsed_json(schemas.VectorQuery))]
) -> schemas.Matches:
    """Find similar items for a vector: an earlier search with other filters, without sending the photo again."""
    async with queue.place():
        return await service.search_vector(query)


@router.post("/search/text", **_takes_json(schemas.TextQuery))
async def search_text(
    service: Served, queue: Queue, query: Annotated[schemas.TextQuery, Depends(parsed_json(schemas.TextQuery))]
) -> schemas.Matches:
    """Find items that fit a text."""
    async with queue.place():
        return await service.search_text(query)


@router.post("/search/item", **_takes_json(schemas.ItemQuery, 404))
async def search_item(
    service: Served, queue: Queue, query: Annotated[schemas.ItemQuery, Depends(parsed_json(schemas.ItemQuery))]
) -> schemas.Matches:
    """Find items that resemble any photo of an item, without the item itself."""
    async with queue.place():
        return await service.search_item(query)


@router.post("/detect", **_takes_photo())
async def detect(service: Served, queue: Queue, photo: Photo) -> schemas.Detected:
    """Find the garments of a photo."""
    async with queue.place():
        return await service.detect(photo.photo)


@router.post("/embed", **_takes_photo())
async def embed(service: Served, queue: Queue, photo: Photo) -> schemas.Embedded:
    """Embed a whole photo as a vector."""
    async with queue.place():
        return await service.embed(photo.photo)


@router.get("/items/{item:path}", responses=_problems(404, 422, 503))
async def item(service: Served, item: str) -> schemas.Item:
    """Return what the gallery knows about an item."""
    return await service.item(item)


@router.get("/picture", **_returns_file("image/jpeg", "The picture, as a JPEG", 404, 422, 503))
async def picture(
    service: Served,
    item: Annotated[str, Query(max_length=2000, description="The item's identifier")],
    number: Annotated[int, Query(ge=0, le=1_000_000, description="Which of its photos, from 0")] = 0,
    crop: Annotated[str | None, Query(max_length=100, description="The crop whose gallery has it")] = None,
) -> Response:
    """Return a photo of an item, as a JPEG of at most 480 pixels."""
    data = await service.picture(item, number, crop)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})


@router.get("/examples/{number}", **_returns_file("image/jpeg", "The photo, as a JPEG", 404, 422, 503))
async def example(service: Served, number: Annotated[int, Path(ge=0, le=10_000_000)]) -> Response:
    """Return a photo to start from, of the folder that was given with --examples."""
    data = await service.example(number)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


@router.get("/about")
async def about(service: Served) -> schemas.About:
    """Describe what is served: what a page shows, filters by, and may send."""
    return service.about()


@router.get("/healthz")
async def healthz(service: Served) -> schemas.Health:
    """Return whether the server answers, and the gallery's generation."""
    return schemas.Health(status="ok", generation=service.main.generation)


@router.get("/metrics", **_returns_file("text/plain", "Metrics in Prometheus' text format"))
async def metrics(service: Served) -> Response:
    """Return counts and times for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


@writing_router.post("/items", **_takes_item())
async def add_item(
    client: Writer,
    service: Served,
    writes: Writes,
    parsed: Annotated[tuple[schemas.NewItem, Upload], Depends(parsed_item)],
) -> schemas.WrittenItem:
    """Add photos to an item, new or not, and replace its metadata; each photo's main garment is found, cut out and embedded.

    The same photos and metadata again change nothing. Nothing that a field names is fetched.
    """
    item, upload = parsed
    async with writes.place():
        return await service.add_item(client, item, upload.photos)


@writing_router.delete("/items/{item:path}", responses=_problems(403, 404, 422, 503))
async def remove_item(client: Writer, service: Served, writes: Writes, item: str) -> schemas.RemovedItem:
    """Remove an item, and those of its uploaded photos that no other item has."""
    async with writes.place():
        return await service.remove_item(client, item)
