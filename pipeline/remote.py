"""Photos by address (http, https, s3, gs), fetched into a bounded cache in the user's cache folder.

Nothing that was fetched is trusted more than a file: it is read like any photo. Only indexing, training and evaluation
fetch what a catalogue names; a server never fetches.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

from pipeline.gallery.graphs import cache_folder
from stages.errors import ImageError
from stages.files import replacing
from stages.formats import HEAD_BYTES, sniff
from stages.images import SUFFIXES

if TYPE_CHECKING:
    from httpx2 import Client, Response

WEB: Final = ("http", "https")
BUCKETS: Final = {"s3": "s3fs", "gs": "gcsfs"}
"""The schemes of object stores, with the package that fsspec reads them by."""

MAX_BYTES: Final = 100_000_000
MAX_REDIRECTS: Final = 5
PER_HOST: Final = 4
"""Photos that are fetched from one host at a time."""

TRIES: Final = 3
GIVE_UP: Final = 10
CONNECT_S, READ_S, TOTAL_S = 10.0, 20.0, 120.0
MAX_WAIT_S: float = 60.0
"""The longest wait that a server may ask for."""

FIRST_WAIT_S: float = 1.0
CACHE_BYTES: int = 20_000_000_000
"""The size that the cache is reduced to after a run; the photos fetched or checked least recently go first."""

_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_BLOCK: Final = 1 << 16


class _BusyError(ImageError):
    """A failure that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def is_remote(name: str) -> bool:
    """Return whether a photo's name is an address to fetch; raise a ValueError for one of an unknown scheme."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", name)
    if match is None or (scheme := match[1].lower()) == "file":
        return False
    if scheme not in (*WEB, *BUCKETS) or "::" in name:
        known = ", ".join(f"{one}://" for one in (*WEB, *BUCKETS))
        raise ValueError(f"names {without_password(name)[:200]}: photos are read from files and from {known}")
    return True


def without_password(url: str) -> str:
    """Return an address without the user and password that it may contain.

    >>> without_password("https://anna:secret@shop.example/a.jpg")
    'https://shop.example/a.jpg'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def cached_path(url: str) -> Path:
    """Return where a photo is kept once it has been fetched."""
    name = sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return cache_folder() / "photos" / name[:2] / (name + (suffix if suffix in SUFFIXES else ""))


@dataclass(slots=True)
class _Host:
    """A host: how many photos are fetched at a time, each by one thread, and how many have failed since one was fetched."""

    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(PER_HOST))
    files: list[threading.Lock] = field(default_factory=lambda: [threading.Lock() for _ in range(4 * PER_HOST)])
    failures: int = 0


class Fetcher:
    """Fetches photos into the cache; one that is there is asked for only if it has changed. May be called by many threads.

    At most :data:`PER_HOST` photos are fetched from a host at a time. Failures that may pass are tried :data:`TRIES`
    times, waiting longer each time; after that, the photo in the cache is used if there is one. A host that fails for
    :data:`GIVE_UP` photos in a row is not asked again.

    A context manager, which closes its connections.

    Attributes:
        unchecked: photos that were used although they could not be asked for again.
    """

    def __init__(self) -> None:
        self.unchecked = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._hosts = defaultdict[str, _Host](_Host)
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._client is not None:
            self._client.close()

    def __call__(self, url: str) -> None:
        """Make :func:`cached_path` the photo at an address.

        Raises:
            ImageError: the photo cannot be fetched, and is not in the cache.
        """
        path, parts = cached_path(url), urlsplit(url)
        fetch = self._fetch_web if parts.scheme.lower() in WEB else _fetch_bucket
        with self._lock:
            host = self._hosts[parts.netloc.rpartition("@")[2].lower()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with host.gate, host.files[hash(path) % (4 * PER_HOST)]:
                self._try(host, fetch, url, path)
        except _BusyError:
            if not path.exists():
                raise
            with self._lock:
                self.unchecked += 1
        except OSError as error:
            raise ImageError(f"cannot be kept in {path.parent}: {error.strerror}") from error

    def _try(self, host: _Host, fetch: Callable[[str, Path], None], url: str, path: Path) -> None:
        if host.failures >= GIVE_UP:
            raise _BusyError(f"is not tried, because {GIVE_UP} photos in a row could not be fetched from its host")
        for attempt in range(1, TRIES + 1):
            try:
                fetch(url, path)
            except _BusyError as error:
                if attempt == TRIES or self._closed.is_set():
                    host.failures += 1
                    raise
                wait = FIRST_WAIT_S * 4 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  only for politeness
                self._closed.wait(min(MAX_WAIT_S, max(wait, error.wait_s or 0.0)))
            except ImageError:  # the host has answered
                host.failures = 0
                raise
            else:
                host.failures = 0
                return

    def _fetch_web(self, url: str, path: Path) -> None:
        from httpx2 import HTTPError, InvalidURL, TooManyRedirects, TransportError, UnsupportedProtocol

        known = _conditions(path)
        headers = {
            name: known[key] for name, key in (("If-None-Match", "etag"), ("If-Modified-Since", "date")) if key in known
        }
        try:
            with self._shared().stream("GET", url, headers=headers) as response:
                if response.status_code == HTTPStatus.NOT_MODIFIED and path.exists():
                    _sidecar(path).touch()
                    return
                _check(response)
                content = _read(response)
                given = {"etag": response.headers.get("etag"), "date": response.headers.get("last-modified")}
        except TooManyRedirects as error:
            raise ImageError(f"redirects more than {MAX_REDIRECTS} times") from error
        except (InvalidURL, UnsupportedProtocol) as error:
            raise ImageError(f"is not an address that can be fetched: {error}") from error
        except TransportError as error:
            raise _BusyError(f"cannot be fetched: {str(error) or type(error).__name__}") from error
        except HTTPError as error:
            raise ImageError(f"cannot be fetched: {error}") from error
        _store(path, content, url, {key: value for key, value in given.items() if value})

    def _shared(self) -> Client:
        from httpx2 import Client, Limits, Timeout

        with self._lock:
            if self._client is None:
                self._client = Client(
                    headers={
                        "User-Agent": f"outfinder/{_version()}",
                        "Accept": "image/*",
                        "Accept-Encoding": "identity",
                    },
                    timeout=Timeout(READ_S, connect=CONNECT_S),
                    limits=Limits(max_connections=None, max_keepalive_connections=32),
                    follow_redirects=True,
                    max_redirects=MAX_REDIRECTS,
                )
            return self._client


def _version() -> str:
    try:
        return version("outfinder")
    except PackageNotFoundError:
        return "0"


def _check(response: Response) -> None:
    status = response.status_code
    if status == HTTPStatus.OK:
        if int(response.headers.get("content-length") or 0) > MAX_BYTES:
            raise ImageError(_too_large())
        return
    reason = f"answers {status} {response.reason_phrase}".strip()
    if status not in _BUSY:
        raise ImageError(reason)
    after = response.headers.get("retry-after") or ""
    raise _BusyError(reason, float(after) if after.isdecimal() else None)


def _read(response: Response) -> bytes:
    """Return the content of an answer; a server that sends it too slowly is given up."""
    content, stop = bytearray(), time.monotonic() + TOTAL_S
    for block in response.iter_bytes(_BLOCK):
        content += block
        if len(content) > MAX_BYTES:
            raise ImageError(_too_large())
        if time.monotonic() > stop:
            raise ImageError(f"takes longer than {TOTAL_S:.0f} s")
    kind = response.headers.get("content-type", "").partition(";")[0]
    if not sniff(bytes(content[:HEAD_BYTES])):
        raise ImageError(f"is {kind or 'something unknown'} of {len(content)} bytes, not a photo")
    return bytes(content)


def _too_large() -> str:
    return f"is larger than {MAX_BYTES / 1e6:.0f} MB"


def _fetch_bucket(url: str, path: Path) -> None:
    """Fetch a photo from an object store, whose credentials are those of the environment."""
    import fsspec

    scheme = urlsplit(url).scheme.lower()
    try:
        files, name = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImageError(f"needs: pip install {BUCKETS[scheme]}") from error
    try:
        key = str(files.ukey(name))
        if path.exists() and _conditions(path).get("etag") == key:
            _sidecar(path).touch()
            return
        with files.open(name, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ImageError("does not exist") from error
    except PermissionError as error:
        raise ImageError(f"may not be read: {error}") from error
    except Exception as error:  # the packages of object stores raise errors of their own
        raise _BusyError(f"cannot be fetched: {error or type(error).__name__}") from error
    if len(content) > MAX_BYTES:
        raise ImageError(_too_large())
    if not sniff(content[:HEAD_BYTES]):
        raise ImageError(f"is not a photo: {len(content)} bytes")
    _store(path, content, url, {"etag": key})


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _conditions(path: Path) -> dict[str, str]:
    """Return the etag and date of a photo in the cache; none if they cannot be read."""
    try:
        values: Any = json.loads(_sidecar(path).read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, str) and value.isascii() and value.isprintable()
    }


def _store(path: Path, content: bytes, url: str, given: dict[str, str]) -> None:
    """Keep a photo; the same content again leaves the file as it is, so that its times do not change."""
    if not (path.exists() and path.stat().st_size == len(content) and path.read_bytes() == content):
        _sidecar(path).unlink(missing_ok=True)  # never beside other content than its own
        with replacing(path) as part:
            part.write_bytes(content)
    with replacing(_sidecar(path)) as part:
        part.write_text(json.dumps({"url": without_password(url), **given}), encoding="utf-8")


def reduce_cache() -> int:
    """Remove the photos that were fetched or checked least recently while the cache has over :data:`CACHE_BYTES`.

    Returns:
        The number of photos removed.
    """
    photos = []
    for sidecar in (cache_folder() / "photos").glob("*/*.json"):
        path = sidecar.with_suffix("")
        with suppress(OSError):
            photos.append((sidecar.stat().st_mtime, path.stat().st_size, path))
    size, removed = sum(size for _, size, _ in photos), 0
    for _, size_of_photo, path in sorted(photos):
        if size <= CACHE_BYTES:
            break
        with suppress(OSError):
            path.unlink()
            _sidecar(path).unlink()
            size, removed = size - size_of_photo, removed + 1
    return removed
