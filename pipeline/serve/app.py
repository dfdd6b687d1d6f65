"""The app: the API and the page around a service, behind the guard; and the server that runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipeline.serve.finding import WrongQuery
from pipeline.serve.guard import Guard
from pipeline.serve.routes import api
from pipeline.serve.service import Service
from pipeline.serve.site import load_assets, site
from stages.errors import GalleryError, ImageError

LOOK_EVERY_S: Final = 1.0
"""How often a new generation of a gallery is looked for."""

_log = logging.getLogger(__name__)


def create_app(service: Service, examples: Sequence[Path] = (), look_every_s: float = LOOK_EVERY_S) -> FastAPI:
    """The app of a service, which it closes in the end.

    Args:
        service: does the work.
        examples: photos that visitors may start from.
        look_every_s: how often new generations are looked for.
    """
    app = FastAPI(
        title="outfinder",
        version=version("outfinder"),
        description="Visual search for fashion: a photo in, similar items of a gallery out.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service, app.state.examples, app.state.assets = service, list(examples), load_assets()
    app.state.look_every_s = look_every_s
    app.include_router(api)
    app.include_router(site)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ImageError, _no_photo)
    app.add_exception_handler(WrongQuery, _wrong)
    app.add_exception_handler(GalleryError, _damaged)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Guard, limits=service.limits, metrics=service.metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    watching = asyncio.create_task(_watch(service, app.state.look_every_s))
    try:
        yield
    finally:
        watching.cancel()
        service.close()


async def _watch(service: Service, every_s: float) -> None:
    """Take up new generations of the galleries as they come."""
    shelves = {id(way.shelf): way.shelf for way in service.ways.values()}.values()
    while True:
        await asyncio.sleep(every_s)
        for shelf in shelves:
            try:
                await asyncio.to_thread(shelf.refresh)
            except Exception:  # noqa: BLE001  whatever it is, the next generation is looked for
                _log.exception("looking for a new generation failed")


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 422)


async def _no_photo(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"the photo {error}"}, 422)


async def _wrong(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 422)


async def _damaged(_request: Request, error: Exception) -> JSONResponse:
    _log.error("%s", error)
    said = {"error": "the gallery is damaged or gone; the server's log says more"}
    return JSONResponse(said, 503, {"Retry-After": "60"})


async def _failed(_request: Request, _error: Exception) -> JSONResponse:
    """The guard logs the error; its words may name what is none of a client's business."""
    return JSONResponse({"error": "something went wrong here; the server's log has the details"}, 500)
