"""The web app around a service, and the server that runs it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from time import perf_counter
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.pages import STYLE, render
from pipeline.serve.access import Access, TokenMiddleware
from pipeline.serve.api import router, writing_router
from pipeline.serve.galleries import QueryError
from pipeline.serve.limits import (
    MAX_WRITES,
    RETRY_AFTER_S,
    BodyReader,
    Limits,
    RequestQueue,
    is_allowed_host,
    refusal,
)
from pipeline.serve.metrics import Metrics, repeated_messages_once
from pipeline.serve.service import NotFoundError, Service
from stages.errors import GalleryBusy, GalleryError, ImageError, OutfinderError

REFRESH_S: Final = 1.0
"""Seconds between two checks for a new generation of a gallery."""

MAX_CONNECTIONS: Final = 512
"""Sockets that are open at once; for a further one the socket that has waited longest for its client is closed."""

CLIENT_TIMEOUT_S: Final = 10.0
"""A connection on which the client neither completes a request's head nor reads its answer for so long is closed."""

SECURITY_HEADERS: Final = {
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
"""Headers of every answer: scripts, styles and pictures come from this server alone, in nobody else's frame."""

WIDGET: Final = "/widget.js"
"""The script that pages of the allowed origins include."""

_FOR_OTHER_ORIGINS: Final = {"Cross-Origin-Resource-Policy": "cross-origin"}
_MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}
_FAILED: Final = {"error": "something went wrong; the server's log has the details"}
_log = logging.getLogger("pipeline.serve")


def create_app(service: Service, refresh_s: float = REFRESH_S, access: Access | None = None) -> FastAPI:
    """Create the app of a service, which it closes when it stops; every ``refresh_s`` it checks for new generations."""
    access = access or Access()
    if service.writer is not None and not any(client.is_writer for client in access.clients):
        raise ValueError("a server that writes needs a client that may; mark one in the token file as a writer")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(_refresh(service, refresh_s))
        with repeated_messages_once(service.metrics):
            try:
                yield
            finally:
                refreshing.cancel()
                service.close()

    about = "Visual search for fashion: a photo in, similar items of a gallery out."
    app = FastAPI(title="outfinder", version=version("outfinder"), description=about, docs_url=None, redoc_url=None,
                  lifespan=lifespan)  # fmt: skip
    app.state.service = service
    app.state.bodies = BodyReader(service.limits)
    app.state.queue = RequestQueue(service.limits, service.metrics.in_flight, service.metrics.refused)
    app.state.writes = RequestQueue(
        replace(service.limits, queue=MAX_WRITES), service.metrics.writes, service.metrics.refused
    )
    app.include_router(router)
    if service.writer is not None:
        app.include_router(writing_router)
    _add_pages(app)
    _add_error_handlers(app)
    if access.clients:
        app.add_middleware(TokenMiddleware, access=access, metrics=service.metrics)
    if access.origins:
        app.add_middleware(CORSMiddleware, allow_origins=sorted(access.origins), allow_methods=["GET", "POST"],
                           allow_headers=["Authorization", "Content-Type"], max_age=3600)  # fmt: skip
    app.add_middleware(ServerMiddleware, limits=service.limits, access=access, metrics=service.metrics)
    return app


class ServerMiddleware:
    """Checks who asks, adds the security headers, answers HEAD as GET, counts requests and reports failures."""

    def __init__(self, app: ASGIApp, limits: Limits, access: Access, metrics: Metrics) -> None:
        self._app, self._limits, self._access, self._metrics = app, limits, access, metrics
        framed_by = " ".join(sorted(access.origins)) or "'none'"
        policy = SECURITY_HEADERS["Content-Security-Policy"].replace("ancestors 'none'", f"ancestors {framed_by}")
        self._headers = SECURITY_HEADERS | {"Content-Security-Policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, head = perf_counter(), 0, scope["method"] == "HEAD"
        headers = Headers(scope=scope)
        inner = dict(scope) | ({"method": "GET"} if head else {}) | self._rooted(scope["path"])
        elsewhere = bool(self._access.origins) and (
            headers.get("origin") in self._access.origins or scope["path"].endswith(WIDGET)
        )

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(self._headers | (_FOR_OTHER_ORIGINS if elsewhere else {}))
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check_client(headers, scope["method"])
            await self._app(inner, receive, send_with_headers)
        except HTTPException as error:
            await JSONResponse({"error": error.detail}, error.status_code)(inner, receive, send_with_headers)
        except Exception:  # noqa: BLE001  a bug; the client learns nothing about it
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await JSONResponse(_FAILED, 500)(inner, receive, send_with_headers)
        path = getattr(inner.get("route"), "path", "other")
        self._metrics.requests.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(perf_counter() - start)

    def _check_client(self, headers: Headers, method: str) -> None:
        if not is_allowed_host(headers.get("host", ""), self._limits.hosts):
            raise refusal(421, "the server does not know this name; allow it with: outfinder serve --allow-host NAME")
        cross_site = headers.get("sec-fetch-site") == "cross-site" and method not in ("GET", "HEAD", "OPTIONS")
        if cross_site and headers.get("origin") not in self._access.origins:
            raise refusal(
                403, "pages of other sites cannot search here; allow one with: outfinder serve --allow-origin"
            )

    def _rooted(self, path: str) -> dict[str, str]:
        """Return the path with the prefix that a proxy has perhaps cut away, for relative links to be right."""
        root = self._access.root_path
        if not root:
            return {}
        whole = path if path == root or path.startswith(f"{root}/") else root + path
        return {"root_path": root, "path": whole}


async def _refresh(service: Service, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        for view in service.views.values():
            try:
                await asyncio.to_thread(view.refresh)
            except Exception:  # noqa: BLE001  a bug; the client learns nothing about it
                _log.exception("checking for a new generation of a gallery failed")


def _add_pages(app: FastAPI) -> None:
    """Add the search page with its parts, and the reference of the API; all are in memory."""
    folder = files("pipeline.serve").joinpath("assets")
    assets = {file.name: file.read_bytes() for file in folder.iterdir()} | {"look.css": STYLE.encode()}

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        media_type = _MEDIA_TYPES.get("." + name.rpartition(".")[2])
        if name not in assets or media_type is None:
            raise refusal(404, "the page has no such part")
        return Response(assets[name], media_type=media_type, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return await asset("index.html")

    @app.get(WIDGET, include_in_schema=False)
    async def widget() -> Response:
        return await asset("widget.js")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return await asset("mark.svg")

    @app.get("/docs", include_in_schema=False)
    async def reference() -> HTMLResponse:
        sheets = ("assets/look.css", "assets/page.css")
        return HTMLResponse(render("reference.html", title="outfinder – HTTP API", schema=app.openapi(), sheets=sheets))


def _add_error_handlers(app: FastAPI) -> None:
    """Turn every foreseen error into a status and one sentence."""

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{field}: {first['msg']}" if field else first["msg"]}, 422)

    for kind, status, before in ((ImageError, 422, "the photo "), (QueryError, 422, ""), (NotFoundError, 404, "")):
        app.add_exception_handler(kind, partial(_answer_error, status, before))

    @app.exception_handler(GalleryBusy)
    async def busy(_request: Request, _error: GalleryBusy) -> JSONResponse:
        problem = {"error": "another process is writing the gallery; try again in a moment"}
        return JSONResponse(problem, 503, {"Retry-After": str(RETRY_AFTER_S)})

    @app.exception_handler(GalleryError)
    async def damaged(_request: Request, error: GalleryError) -> JSONResponse:
        _log.error("a request failed: %s", error)
        problem = {"error": "the gallery is damaged, gone or cannot be written; the server's log says more"}
        return JSONResponse(problem, 503, {"Retry-After": "60"})


async def _answer_error(status: int, before: str, _request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"{before}{error}"}, status)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit on sockets and on how long one waits for its client."""

    _waiting_since = 0.0
    _progress: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; one too many closes the one that has waited longest for its client."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self.loop.call_later(CLIENT_TIMEOUT_S, self._check_progress)
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [one for one in self.connections if isinstance(one, BoundedProtocol) and not one.answering]
            oldest = min(waiting, key=lambda one: one._waiting_since, default=self)  # noqa: SLF001  of this class
            self.connections.discard(oldest)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._waiting_since = self.loop.time()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the answer if the client has closed its side after a whole request."""
        return self.answering

    @property
    def answering(self) -> bool:
        """Whether a whole request has arrived and its answer has not been sent."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _check_progress(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if self.transport.is_closing() and not unsent:
            return
        idle = self.cycle is None or self.cycle.response_complete
        progress = self.cycle, unsent
        if (idle or unsent) and progress == self._progress:
            self.transport.abort()
            return
        self._progress = progress if idle or unsent else None
        self.loop.call_later(CLIENT_TIMEOUT_S, self._check_progress)


def create_server(app: FastAPI, proxies: Sequence[str] = ()) -> uvicorn.Server:
    """Create the server of an app, to be run with a listening socket; only ``proxies`` say who a client is."""
    config = uvicorn.Config(
        app, http=BoundedProtocol, ws="none", lifespan="on", log_level="warning", access_log=False,
        server_header=False, proxy_headers=bool(proxies), forwarded_allow_ips=list(proxies),
        timeout_keep_alive=5, timeout_graceful_shutdown=5, backlog=128,
    )  # fmt: skip
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket to serve on; port 0 means any free port.

    Raises:
        OutfinderError: the address is taken or does not exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutfinderError(f"cannot listen on {host}:{port} ({reason}); choose another port with --port") from error
    except OverflowError:
        raise OutfinderError(f"there is no port {port}; choose one from 0 to 65535") from None


def address_of(listening: socket.socket) -> str:
    """Return the address at which a browser finds a listening socket."""
    host, port = listening.getsockname()[:2]
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104  a comparison
    return f"http://{name}:{port}/"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
