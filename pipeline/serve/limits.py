"""What a server accepts: sizes, speeds, numbers of requests and host names; everything else is refused in one sentence."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from fastapi import HTTPException, Request
from prometheus_client import Counter, Gauge
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect

GRACE_S: Final = 5.0
"""How long a body may take whatever its speed."""

MIN_BYTES_PER_S: Final = 8_000
"""The least speed of a body after that."""

UPLOADS_HELD: Final = 16
"""Bodies that are still arriving hold as many bytes as this number of the largest photos; then the oldest is refused."""

OVERFLOW: Final = 4
"""A body that is too large is read and discarded up to this multiple of its limit, so that its sender reads the reason
instead of meeting a broken connection."""

MAX_FIELDS: Final = 50

MAX_PHOTOS: Final = 10
"""Photos that are added to an item at once."""

MAX_WRITES: Final = 4
"""Changes of the gallery that wait or are being made; further ones are refused, so that searches keep their places."""

MAX_CONTENT_TYPE: Final = 1_000
"""Characters of a Content-Type header; parsing takes time with the square of its length."""

RETRY_AFTER_S: Final = 5
"""Seconds after which a refused client may try again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts.

    Attributes:
        max_body: bytes of a photo or a form.
        max_json: bytes of a JSON body.
        max_pixels: pixels of a photo.
        queue: requests that wait or are being answered.
        body_s: seconds in which a body arrives.
        answer_s: seconds in which a request is answered.
        batch: photos that go through a network together.
        batch_wait_s: seconds that the first photo of a batch waits for others.
        hosts: the server's names besides localhost and its addresses, in lower case.
    """

    max_body: int = 20_000_000
    max_json: int = 300_000
    max_pixels: int = 50_000_000
    queue: int = 64
    body_s: float = 20.0
    answer_s: float = 30.0
    batch: int = 8
    batch_wait_s: float = 0.004
    hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        counts = (self.max_body, self.max_json, self.max_pixels, self.queue, self.batch)
        if min(counts) < 1 or min(self.body_s, self.answer_s) <= 0 or self.batch_wait_s < 0:
            raise ValueError(f"a server's limits must be above 0, got {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """The bytes of one or more photo files, and the fields of the form that they came in."""

    photos: tuple[bytes, ...]
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def photo(self) -> bytes:
        """The first photo."""
        return self.photos[0]


def refusal(status: int, error: str, retry_after_s: int | None = None) -> HTTPException:
    """Return the exception that refuses a request: its status, the reason, and when to try again."""
    return HTTPException(status, error, {"Retry-After": str(retry_after_s)} if retry_after_s else None)


def is_allowed_host(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header names this server: an address literal, localhost, or one of ``names``.

    A web page elsewhere can point its own name at this server's address (DNS rebinding) to get around the browser's
    same-origin policy; it cannot do so with an address literal.

    >>> is_allowed_host("192.168.1.5:8000", ()), is_allowed_host("[::1]:80", ()), is_allowed_host("evil.example", ())
    (True, True, False)
    """
    name = (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()
    if name == "localhost" or name in names:
        return True
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    return False


class BodyReader:
    """Reads request bodies into memory, never onto disk, within limits of size, time and speed."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._arriving: dict[asyncio.Timeout, int] = {}  # bytes of each body, the oldest body first

    async def read(self, request: Request, max_bytes: int) -> bytes:
        """Read the whole body of a request.

        Raises:
            HTTPException: it is too large, too slow or incomplete.
        """
        too_large = refusal(413, f"the body is larger than {max_bytes / 1e6:g} MB; send a smaller one")
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and int(length) <= OVERFLOW * max_bytes):
            raise too_large
        body, size, start = bytearray(), 0, asyncio.get_running_loop().time()
        deadline = asyncio.timeout_at(start + min(GRACE_S, self._limits.body_s))
        try:
            async with deadline:
                self._arriving[deadline] = 0
                async for part in request.stream():
                    size += len(part)
                    if size > OVERFLOW * max_bytes:
                        raise too_large
                    body += part if size <= max_bytes else b""
                    if deadline in self._arriving:
                        self._arriving[deadline] = len(body)
                        deadline.reschedule(start + min(GRACE_S + size / MIN_BYTES_PER_S, self._limits.body_s))
                    self._make_room()
        except TimeoutError:
            if deadline not in self._arriving:
                raise refusal(503, "too many uploads are arriving; try again in a moment", RETRY_AFTER_S) from None
            raise refusal(408, "the body arrived too slowly; send a smaller photo") from None
        except ClientDisconnect:
            raise refusal(400, "the connection was closed before the whole body had arrived") from None
        finally:
            self._arriving.pop(deadline, None)
        if size > max_bytes:
            raise too_large
        return bytes(body)

    def _make_room(self) -> None:
        """Refuse the oldest bodies while those that are arriving hold too many bytes."""
        held = sum(self._arriving.values())
        for oldest in list(self._arriving):
            if held <= UPLOADS_HELD * self._limits.max_body:
                return
            held -= self._arriving.pop(oldest)
            if not oldest.expired():
                oldest.reschedule(0)


class RequestQueue:
    """Admits a bounded number of requests whose bodies have arrived, and ends those that take too long."""

    def __init__(self, limits: Limits, in_flight: Gauge, refused: Counter) -> None:
        self._limits, self._gauge, self._refused = limits, in_flight, refused
        self._in_flight = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place in the queue while a request is answered.

        Raises:
            HTTPException: the queue is full, or the answer takes too long.
        """
        if self._in_flight >= self._limits.queue:
            self._refused.inc()
            raise refusal(503, "too many requests at once; try again in a moment", RETRY_AFTER_S)
        self._in_flight += 1
        self._gauge.set(self._in_flight)
        try:
            async with asyncio.timeout(self._limits.answer_s):
                yield
        except TimeoutError:
            raise refusal(503, "this took too long; try again later", RETRY_AFTER_S) from None
        finally:
            self._in_flight -= 1
            self._gauge.set(self._in_flight)


def parse_upload(content_type: str, body: bytes, most_photos: int = 1) -> Upload:
    """Return the photos of a request: the body itself, or the files of a form with the form's text fields.

    Raises:
        HTTPException: there is no photo, or the form is malformed.
    """
    if len(content_type) > MAX_CONTENT_TYPE:
        raise refusal(400, f"the Content-Type has more than {MAX_CONTENT_TYPE} characters")
    kind, parameters = parse_options_header(content_type)
    is_form = kind == b"multipart/form-data"
    upload = _parse_form(body, parameters.get(b"boundary"), most_photos) if is_form else Upload((body,))
    if not all(upload.photos or [b""]):
        raise refusal(422, "there is no photo in the request; send its bytes as the body, or as the file of a form")
    return upload


def _parse_form(body: bytes, boundary: bytes | None, most_photos: int) -> Upload:
    fields, photos = list[tuple[str, str]](), list[bytes]()

    def add_field(field: Field) -> None:
        if len(fields) == MAX_FIELDS:
            raise FormParserError(f"it has more than {MAX_FIELDS} fields")
        fields.append(((field.field_name or b"").decode(), (field.value or b"").decode()))

    def add_file(file: File) -> None:
        if len(photos) == most_photos:
            raise FormParserError(f"it has more than {most_photos} file{'s' * (most_photos > 1)}")
        file.file_object.seek(0)
        photos.append(file.file_object.read())

    config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    try:
        parser = FormParser("multipart/form-data", add_field, add_file, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, LookupError, AssertionError) as error:
        raise refusal(400, f"the form is malformed ({error}); send a photo as its file") from error
    return Upload(tuple(photos), tuple(fields))
