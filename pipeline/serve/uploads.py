"""The photo in a request: the body itself, or the one file of a form. Neither touches the disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pipeline.serve.limits import refusal

_FILE: Final = {"type": "string", "format": "binary"}
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A photo: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF, as the body itself or as the file of a form",
        "content": {
            "image/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["photo"], "properties": {"photo": _FILE}}
            },
        },
    }
}
"""How OpenAPI tells of it."""


class _InMemory(MultiPartParser):
    """Keeps files in memory, whatever their size: the body is bounded already."""

    spool_max_size = 1 << 62

    def close(self) -> None:
        """Let go of every file, of a form that was cut short too."""
        for file in self._files_to_close_on_error:
            file.close()


async def photo_of(request: Request) -> bytes:
    """The bytes of the photo, of whatever is said to be one."""
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        body = await _file_of(request, body)
    if not body:
        raise refusal(422, "there is no photo in the request; send its bytes as the body, or as the file of a form")
    return body


async def _file_of(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = _InMemory(request.headers, stream(), max_files=1)  # whatever fields come with it
    try:
        form = await parser.parse()
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        return await files[0].read() if files else b""
    except (MultiPartException, FormParserError, KeyError, ValueError, LookupError) as error:
        raise refusal(400, f"the form cannot be read ({error}); send one photo as its file") from error
    finally:
        parser.close()


Photo = Annotated[bytes, Depends(photo_of)]
