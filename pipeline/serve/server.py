"""Running an app: one process, one event loop, and no connection that only waits."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from stages.errors import OutfinderError

HEAD_S: Final = 10.0
"""A connection that has begun no request for as long, however slowly it sends one, is closed."""

CONNECTIONS: Final = 512


class PromptProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, with an end for connections that never come to a request."""

    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_S, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._seen:  # since the last look
            self.transport.close()
            return
        self._seen = self.cycle if idle else object()
        self.loop.call_later(HEAD_S, self._look)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0 is any that is free.

    Raises:
        OutfinderError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutfinderError(f"{host}:{port} cannot be listened on ({reason}); choose another with --port") from error
    except OverflowError:
        raise OutfinderError(f"there is no port {port}; there are 0 to 65535") from None


def address_of(listening: socket.socket) -> str:
    """Where a browser finds what listens there."""
    host, port = listening.getsockname()[:2]
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104  a comparison
    return f"http://{name}:{port}/"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server of an app, to be run with a listening socket; Ctrl-C ends it."""
    return uvicorn.Server(
        uvicorn.Config(
            app, http=PromptProtocol, ws="none", log_level="warning", access_log=False, server_header=False,
            limit_concurrency=CONNECTIONS, timeout_keep_alive=5, timeout_graceful_shutdown=5, lifespan="on",
        )
    )  # fmt: skip
