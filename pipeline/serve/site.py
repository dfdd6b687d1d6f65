"""What a browser gets: the page and its parts, examples to start from, and how the server is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse

from pipeline.report_style import STYLE, color_of
from pipeline.serve import wire
from pipeline.serve.limits import refusal
from pipeline.serve.reference import reference_html
from pipeline.serve.routes import FOUND, Served

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
site = APIRouter()


def load_assets() -> dict[str, tuple[bytes, str]]:
    """Everything that the page is made of, by name, with its type; the style is the report's and some more."""
    there = {path.name: path.read_bytes() for path in files("pipeline.serve").joinpath("assets").iterdir()}
    typed = {name: (data, _TYPES[suffix]) for name, data in there.items() if (suffix := Path(name).suffix) in _TYPES}
    return typed | {"look.css": (STYLE.encode(), "text/css"), "index.html": (there["index.html"], "text/html")}


@site.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page to search from."""
    return _asset(request, "index.html")


@site.get("/favicon.ico", include_in_schema=False)
async def mark(request: Request) -> Response:
    """What browsers show beside the title."""
    return _asset(request, "mark.svg")


@site.get("/assets/{name}", include_in_schema=False)
async def part(request: Request, name: str) -> Response:
    """A part of the page."""
    return _asset(request, name)


@site.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API's reference, from its OpenAPI schema."""
    return HTMLResponse(reference_html(request.app.openapi()))


@site.get("/about")
async def about(request: Request, service: Served) -> wire.About:
    """What is served: what a page shows, filters by, and may send."""
    stock = service.main.shelf.stock
    labels = {wire.plain(label): count for label, count in stock.labels.items()}
    columns = [
        wire.Column(
            column=wire.plain(facet.column), kind=facet.kind, values=[wire.plain(value) for value in facet.values],
            least=facet.least, most=facet.most,
        )
        for facet in stock.facets
    ]  # fmt: skip
    colors = {label: color_of(label) for label in {*labels, *service.labels}}
    crops = [wire.Way(crop=way.crop, gallery_crop=way.shelf.crop) for way in service.ways.values()]
    return wire.About(
        gallery=wire.plain(stock.gallery.folder.resolve().name), items=stock.items, photos=len(stock.gallery),
        generation=service.main.shelf.generation, labels=labels, colors=colors, columns=columns, crops=crops,
        embedder=service.embedder.fingerprint, calibrated=service.calibration is not None,
        examples=len(request.app.state.examples), max_bytes=service.limits.max_body,
        max_pixels=service.limits.max_pixels,
    )  # fmt: skip


@site.get("/examples/{number}", response_class=Response,
          responses={200: {"content": {"image/jpeg": {}}, "description": "The photo, as a JPEG"}, **FOUND})  # fmt: skip
async def example(request: Request, service: Served, number: Annotated[int, InPath(ge=0, le=10_000_000)]) -> Response:
    """A photo to search from, of the folder that was given with --examples."""
    examples: list[Path] = request.app.state.examples
    data = None
    if number < len(examples):
        data = await service.picture(partial(service.jpegs.example, examples[number]))
    if data is None:
        raise refusal(404, "there is no such example, or it is no photo")
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


@site.get("/healthz")
async def healthz(service: Served) -> wire.Health:
    """Whether the server answers, and with which generation of the gallery."""
    return wire.Health(status="ok", generation=service.main.shelf.generation)


@site.get("/metrics", response_class=Response,
          responses={200: {"content": {"text/plain": {}}, "description": "Counts and times, for Prometheus"}})  # fmt: skip
async def metrics(service: Served) -> Response:
    """Counts and times, for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _asset(request: Request, name: str) -> Response:
    assets: Mapping[str, tuple[bytes, str]] = request.app.state.assets
    if name not in assets:
        raise refusal(404, "the page has no such part")
    data, kind = assets[name]
    return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})
