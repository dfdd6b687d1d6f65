"""Who may use a server: clients with a token, pages of other origins, and proxies in front of it."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.serve.metrics import Metrics
from stages.errors import OutfinderError
from stages.files import read_whole

LEAST_TOKEN: Final = 16
"""Characters of a token: fewer could be guessed."""

OPEN_PATHS: Final = frozenset({"/healthz"})
"""Paths that need no token, so that a load balancer can check the server's health without one."""

_LINE: Final = re.compile(r"\s*(?P<name>[\w.-]{1,50})\s+(?P<token>\S+)(?P<writer>\s+writer)?\s*")
_ORIGIN: Final = re.compile(r"https?://[\w.:\[\]-]+")
_ROOT_PATH: Final = re.compile(r"(/[\w.~-]+)*")
_MOST_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Client:
    """A client with a token: its name, the token's sha256, and whether it may add and remove items."""

    name: str
    digest: bytes
    is_writer: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use a server.

    Attributes:
        clients: those with a token; without any, everyone may search and nobody may write.
        origins: the pages that may search from elsewhere and show the server in a frame, such as https://shop.example.
        root_path: the prefix of the server's addresses behind a proxy, such as /search; empty for none.
        proxies: addresses whose X-Forwarded-For and X-Forwarded-Proto headers are believed.

    Raises:
        ValueError: an origin or the prefix is malformed.
    """

    clients: tuple[Client, ...] = ()
    origins: frozenset[str] = frozenset()
    root_path: str = ""
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"an origin is written https://shop.example, without a path, got {origin!r}")
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(f"a path prefix is written /search, without a slash at its end, got {self.root_path!r}")

    def client(self, authorization: str) -> Client | None:
        """Return the client whose token an Authorization header has, or None.

        A token comes as ``Bearer TOKEN``, or as the password of ``Basic``, which browsers ask for by themselves.
        """
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return None
        elif scheme.lower() != "bearer":
            return None
        digest = sha256(value.strip().encode()).digest()
        matching = [client for client in self.clients if hmac.compare_digest(client.digest, digest)]
        return matching[0] if matching else None


def read_tokens(path: Path) -> tuple[Client, ...]:
    """Read a file with a client's name and its token in each line, and the word writer if the client may write.

    Empty lines and those that begin with # do not count.

    Raises:
        OutfinderError: the file cannot be read, can be read by others, or has a line of another form.
    """
    try:
        status = path.stat()
        text = read_whole(path, _MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise OutfinderError(f"tokens {path} are not UTF-8 text") from error
    except OSError as error:
        raise OutfinderError(f"tokens {path} cannot be read: {error.strerror or error}") from error
    if os.name == "posix" and status.st_mode & 0o077:
        raise OutfinderError(f"tokens {path} can be read by other users; protect the file first: chmod 600 {path}")
    clients: list[Client] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise OutfinderError(
                f"line {number} of {path} has to be a name and a token with a space between them, and for a client that"
                " may write the word writer after another space"
            )
        if len(parts["token"]) < LEAST_TOKEN:
            raise OutfinderError(
                f"the token in line {number} of {path} has fewer than {LEAST_TOKEN} characters;"
                " a good one comes from: openssl rand -hex 24"
            )
        client = Client(parts["name"], sha256(parts["token"].encode()).digest(), parts["writer"] is not None)
        if any(client.name == other.name or client.digest == other.digest for other in clients):
            raise OutfinderError(f"line {number} of {path} repeats a name or a token")
        clients.append(client)
    if not clients:
        raise OutfinderError(f"{path} has no tokens; write a name and a token in each line")
    return tuple(clients)


class TokenMiddleware:
    """Refuses requests without a token, and counts those of each client."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        self._app, self._access, self._metrics = app, access, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "").removeprefix(self._access.root_path)
        if scope["type"] == "http" and path not in OPEN_PATHS:
            client = self._access.client(Headers(scope=scope).get("authorization", ""))
            if client is None:
                problem = {"error": "this server wants a token: Authorization: Bearer TOKEN"}
                headers = {"WWW-Authenticate": 'Bearer, Basic realm="outfinder: the token is the password"'}
                await JSONResponse(problem, 401, headers)(scope, receive, send)
                return
            self._metrics.clients.labels(client.name).inc()
            scope.setdefault("state", {})["client"] = client
        await self._app(scope, receive, send)
