"""The door: what is too large, too slow, too much or not meant for this server never gets further.

Plain ASGI around the app, so that a body is bounded before anything reads it: it is held in memory, never on disk.
"""

from __future__ import annotations

import asyncio
import logging
import math
from time import perf_counter
from typing import Final

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serve.limits import Limits, refusal
from pipeline.serve.metrics import Metrics

_log = logging.getLogger(__name__)

SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=()",
}
"""Headers of every answer: scripts, styles and pictures of this server alone, in no one's frame."""

_OVERFLOW: Final = 4
"""A body that is too large is read to its end up to so many times the limit, and forgotten, so that its sender hears
why it is refused rather than a broken connection."""


class Guard:
    """Wraps an app: limits, headers, counts, and an answer in words whatever happens."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._in_flight, self._each_s = 0, 0.1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        except HTTPException as no:
            if not status:
                await JSONResponse({"error": no.detail}, no.status_code, no.headers)(scope, receive, sending)
        except Exception:  # noqa: BLE001  a bug; it is logged, and its caller told nothing of it
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                said = {"error": "something went wrong here; the server's log has the details"}
                await JSONResponse(said, 500)(scope, receive, sending)
        path = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(perf_counter() - start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if headers.get("sec-fetch-site") == "cross-site":
            raise refusal(403, "pages of other sites cannot search here")
        if self._in_flight >= self._limits.queue:
            self._metrics.refused.inc()
            raise refusal(503, "too many searches at once; try again in a moment", self._retry_after_s)
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        start = perf_counter()
        try:
            body = await self._body(headers, receive)
            async with asyncio.timeout(self._limits.answer_s):
                await self._app(scope, _replayed(body, receive), send)
        except TimeoutError:
            raise refusal(503, "this took too long; try again later", self._retry_after_s) from None
        finally:
            took = (perf_counter() - start) / self._in_flight
            self._each_s += 0.1 * (took - self._each_s)
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    @property
    def _retry_after_s(self) -> int:
        """When about half of those who wait will have been answered."""
        return min(60, max(1, math.ceil(self._each_s * self._limits.queue / 2)))

    def _check_host(self, host: str) -> None:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._limits.hosts is not None and name.lower() not in self._limits.hosts:
            raise refusal(
                421, "this server is not called by that name; name it with: outfinder serve --allow-host NAME"
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, within its limits of size and time."""
        most = self._limits.max_body
        told = headers.get("content-length", "0")
        too_large = refusal(413, f"more than {most / 1e6:g} MB; send a smaller photo")
        if not (told.isascii() and told.isdigit() and int(told) <= _OVERFLOW * most):
            raise too_large
        parts, size = list[bytes](), 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise refusal(400, "the connection was closed before the whole body had come")
                    more, part = message.get("more_body", False), message.get("body", b"")
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    elif size > _OVERFLOW * most:
                        raise too_large
        except TimeoutError:
            seconds = f"{self._limits.body_s:g}"
            raise refusal(408, f"the body had not come after {seconds} seconds; send a smaller photo") from None
        if size > most:
            raise too_large
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read, then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
