"""A gallery for agents: search by photo, in words and by item over the Model Context Protocol (https://modelcontextprotocol.io)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field, ValidationError

from pipeline.serve import schemas
from pipeline.serve.galleries import QueryError
from pipeline.serve.service import NotFoundError, Service
from stages.errors import GalleryError, ImageError
from stages.files import read_whole
from stages.images import walk

T = TypeVar("T")

_log = logging.getLogger("pipeline.mcp")

INSTRUCTIONS: Final = """Visual search in the catalogue of a fashion shop. about tells what it holds and which columns a filter
may use, such as: category = boots and price < 200. Similarities lie between -1 and 1; a notice says why there is no match."""

MOST_PHOTOS: Final = 1000
"""The most photos of the folder that are listed."""

Count = Annotated[int, Field(ge=1, le=schemas.MAX_K, description="Number of items")]
Filter = Annotated[str | None, Field(max_length=1000, description="Only items that match, such as: price < 200")]
Refinement = Annotated[str | None, Field(max_length=1000, description="Like this, but …, such as: in red")]


class Tools:
    """The tools of a server, each of which answers in JSON or raises a ToolError of one sentence.

    Args:
        service: searches.
        photos: a folder whose photos a client may name; others are sent as base64.
    """

    def __init__(self, service: Service, photos: Path | None = None) -> None:
        self._service, self._folder = service, photos

    async def about(self) -> dict[str, Any]:
        """Tell what the gallery holds: items, kinds, columns to filter by, and whether it can be searched in words."""
        await self._refresh()
        return _plain(self._service.about(), "colors", "crops", "examples")

    async def search_by_photo(
        self,
        photo_base64: Annotated[str | None, Field(description="The photo's bytes (JPEG, PNG, WebP …)")] = None,
        photo_file: Annotated[str | None, Field(description="Or its name, as the tool photos lists it")] = None,
        box: Annotated[str | None, Field(description="x1,y1,x2,y2 in pixels: search this region only")] = None,
        k: Count = 5,
        where: Filter = None,
        text: Refinement = None,
    ) -> dict[str, Any]:
        """Find every garment in a photo and, for each, the most similar items of the catalogue."""
        query = _query(schemas.PhotoQuery, box=box, k=k, where=where, text=text)
        photo = await self._read(photo_base64, photo_file)
        return _plain(await self._answer(self._service.search(photo, query)), "vector", "outline", "boxes")

    async def search_by_text(
        self,
        text: Annotated[str, Field(min_length=1, max_length=1000, description="Such as: navy checked shirt")],
        k: Count = 5,
        where: Filter = None,
    ) -> dict[str, Any]:
        """Find items that fit a description in English; words that are not known are named in the answer."""
        query = _query(schemas.TextQuery, text=text, k=k, where=where)
        return _plain(await self._answer(self._service.search_text(query)), "vector")

    async def search_by_item(
        self,
        item: Annotated[str, Field(min_length=1, max_length=2000, description="The item's identifier")],
        k: Count = 5,
        where: Filter = None,
        text: Refinement = None,
    ) -> dict[str, Any]:
        """Find items that resemble an item of the catalogue."""
        query = _query(schemas.ItemQuery, item=item, k=k, where=where, text=text)
        return _plain(await self._answer(self._service.search_item(query)), "vector")

    async def item(self, item: Annotated[str, Field(description="The item's identifier")]) -> dict[str, Any]:
        """Return what the catalogue says about an item."""
        return _plain(await self._answer(self._service.item(item)))

    async def picture(
        self,
        item: Annotated[str, Field(description="The item's identifier")],
        number: Annotated[int, Field(ge=0, le=1_000_000, description="Which of its photos, from 0")] = 0,
    ) -> Image:
        """Show a photo of an item."""
        return Image(data=await self._answer(self._service.picture(item, number, None)), format="jpeg")

    async def photos(self) -> list[str]:
        """List the photos that search_by_photo can be given by name."""
        return (await asyncio.to_thread(_names, self._folder))[:MOST_PHOTOS] if self._folder else []

    async def _refresh(self) -> None:
        """Search the newest generation of the gallery."""
        for view in self._service.views.values():
            await asyncio.to_thread(view.refresh)

    async def _answer(self, work: Awaitable[T]) -> T:
        """Await an answer from the newest generation; what is wrong with a request becomes one sentence, without paths."""
        await self._refresh()
        try:
            return await work
        except ImageError as error:
            raise ToolError(f"the photo {error}") from error
        except (QueryError, NotFoundError) as error:
            raise ToolError(str(error)) from error
        except GalleryError as error:
            _log.error("a search failed: %s", error)
            raise ToolError("the gallery is damaged or gone; the server's log says more") from error

    async def _read(self, photo_base64: str | None, photo_file: str | None) -> bytes:
        """Return the bytes of a photo that was sent or named."""
        most = self._service.limits.max_body
        if photo_file is not None and photo_base64 is None:
            if self._folder is None or photo_file not in await asyncio.to_thread(_names, self._folder):
                raise ToolError("there is no such photo; the tool photos lists those that can be named")
            try:
                return await asyncio.to_thread(read_whole, self._folder / photo_file, most)
            except OSError as error:
                raise ToolError(f"{photo_file} cannot be read: {error.strerror or error}") from error
        if photo_base64 is None or photo_file is not None:
            raise ToolError("give photo_base64 or photo_file, and not both")
        if len(photo_base64) > 4 * most // 3 + 4:
            raise ToolError(f"the photo is larger than {most / 1e6:g} MB; send a smaller one")
        try:
            return base64.b64decode(photo_base64, validate=True)
        except binascii.Error as error:
            raise ToolError(f"photo_base64 is not base64: {error}") from error


def create_mcp_server(service: Service, photos: Path | None = None) -> MCPServer:
    """Create a server of a service, which it closes when it stops; see :class:`Tools`."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    server = MCPServer("outfinder", instructions=INSTRUCTIONS, version=version("outfinder"), lifespan=lifespan,
                       log_level="WARNING")  # fmt: skip
    tools = Tools(service, photos)
    for tool in (
        tools.about,
        tools.search_by_photo,
        tools.search_by_text,
        tools.search_by_item,
        tools.item,
        tools.picture,
    ):
        server.add_tool(tool)
    if photos is not None:
        server.add_tool(tools.photos)
    return server


def _names(folder: Path) -> list[str]:
    """Return the photos of a folder, relative to it; a client can name these alone."""
    return [path.relative_to(folder).as_posix() for path in walk([folder])]


def _query(schema: type[T], **values: Any) -> T:
    try:
        return schema(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise ToolError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _plain(model: BaseModel, *without: str) -> dict[str, Any]:
    """Return an answer as JSON, without what is no use to a reader."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: pruned(part) for name, part in value.items() if name not in without and part not in ("", None)
            }
        return [pruned(part) for part in value] if isinstance(value, list | tuple) else value

    plain: dict[str, Any] = pruned(model.model_dump(mode="json"))
    return plain
