"""Photos by address: what is fetched, kept, asked for again, and refused."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import remote
from pipeline.catalogue import CatalogueEntry, Indexing, fetched, open_set, read_catalogue
from pipeline.cli import main
from pipeline.gallery import Gallery
from pipeline.pipeline import Pipeline
from pipeline.remote import Fetcher, cached_path, reduce_cache
from stages.crop import BoxCrop
from stages.errors import ImageError
from stages.images import encode_jpeg
from stages.testing import FakeDetector, FakeEmbedder

PHOTO = encode_jpeg(np.full((40, 30, 3), 200, np.uint8))
HTML = b"<!doctype html><title>Log in</title>"
ANSWERS = {
    "/gone.jpg": (404, b"", {}),
    "/round.jpg": (302, b"", {"Location": "/round.jpg"}),
    "/moved.jpg": (301, b"", {"Location": "/a.jpg"}),
    "/file.jpg": (302, b"", {"Location": "file:///etc/hostname"}),
    "/page.jpg": (200, HTML, {"Content-Type": "text/html; charset=utf-8"}),
    "/huge.jpg": (200, b"", {"Content-Length": "5000000000", "Connection": "close"}),
    "/endless.jpg": (200, PHOTO * 20_000, {"Content-Length": "", "Connection": "close"}),
}


class Shop(ThreadingHTTPServer):
    """A shop's server, whose answers tests change; it counts requests and how many are served at a time.

    While ``crowded`` is clear, a request waits for a second one.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.photo, self.busy = PHOTO, defaultdict[str, int](int)
        self.asked, self.sent, self.at_once, self.most = Counter[str](), Counter[str](), 0, 0
        self.lock, self.crowded = threading.Lock(), threading.Event()
        self.crowded.set()
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Shop
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        shop, name = self.server, self.path
        with shop.lock:
            shop.asked[name] += 1
            shop.at_once += 1
            shop.most = max(shop.most, shop.at_once)
            if shop.at_once > 1:
                shop.crowded.set()
        shop.crowded.wait(10)
        try:
            self._answer(shop, name)
        finally:
            with shop.lock:
                shop.at_once -= 1

    def _answer(self, shop: Shop, name: str) -> None:
        etag = f'"{hash(shop.photo)}"'
        if shop.busy[name] > 0:
            shop.busy[name] -= 1
            self._send(503, b"", {"Retry-After": "0"})
        elif name in ANSWERS:
            self._send(*ANSWERS[name])
        elif self.headers.get("If-None-Match") == etag:
            self._send(304, b"", {"ETag": etag})
        else:
            shop.sent[name] += 1
            self._send(200, shop.photo + name.encode(), {"ETag": etag, "Content-Type": "image/jpeg"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.close_connection |= "Connection" in headers
        with suppress(OSError):  # the client has seen enough
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("OUTFINDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "MAX_BYTES", 1_000_000)
    server = Shop()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(shop: Shop) -> Iterator[Fetcher]:
    with Fetcher() as fetcher:
        yield fetcher


def test_photo_is_fetched_once_and_sent_again_only_when_it_has_changed(shop: Shop, fetch: Fetcher) -> None:
    url = f"{shop.url}/a.jpg?size=large"
    fetch(url)
    path = cached_path(url)
    assert path.read_bytes().startswith(PHOTO)
    assert path.suffix == ".jpg"
    before = path.stat()
    fetch(url)
    assert (path.stat().st_mtime_ns, shop.asked["/a.jpg?size=large"], shop.sent["/a.jpg?size=large"]) == (
        before.st_mtime_ns,
        2,
        1,
    )
    shop.photo = encode_jpeg(np.zeros((20, 20, 3), np.uint8))
    fetch(url)
    assert path.read_bytes().startswith(shop.photo)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.jpg", "answers 404 Not Found"),
        ("round.jpg", "redirects more than 5 times"),
        ("file.jpg", "is not an address that can be fetched"),
        ("page.jpg", "is text/html of 36 bytes, not a photo"),
        ("huge.jpg", "is larger than 1 MB"),
        ("endless.jpg", "is larger than 1 MB"),
    ],
)
def test_photo_that_cannot_be_had_says_why_and_leaves_nothing(shop: Shop, fetch: Fetcher, name: str, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        fetch(f"{shop.url}/{name}")
    assert not cached_path(f"{shop.url}/{name}").exists()
    assert shop.asked[f"/{name}"] in (1, 6)


def test_busy_server_is_asked_again_and_a_dead_one_costs_nothing_that_was_fetched(shop: Shop, fetch: Fetcher) -> None:
    shop.busy["/a.jpg"] = 2
    fetch(f"{shop.url}/a.jpg")
    assert (shop.asked["/a.jpg"], fetch.unchecked) == (3, 0)
    shop.busy["/a.jpg"] = shop.busy["/b.jpg"] = 99
    fetch(f"{shop.url}/a.jpg")
    assert fetch.unchecked == 1
    with pytest.raises(ImageError, match="answers 503 Service Unavailable"):
        fetch(f"{shop.url}/b.jpg")
    with pytest.raises(ImageError, match=r"cannot be fetched: .*[Cc]onnect"):
        fetch("http://127.0.0.1:1/a.jpg")


def test_host_that_keeps_failing_is_given_up_but_what_was_fetched_is_used(
    shop: Shop, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0)
    fetch(f"{shop.url}/a.jpg")
    for number in (0, "gone", *range(remote.GIVE_UP)):
        if number == "gone":  # an answer, so that the host is not given up after ten others in all
            with pytest.raises(ImageError, match="answers 404"):
                fetch(f"{shop.url}/gone.jpg")
            continue
        shop.busy[f"/{number}.jpg"] = 99
        with pytest.raises(ImageError, match="answers 503"):
            fetch(f"{shop.url}/{number}.jpg")
    with pytest.raises(ImageError, match="is not tried, because 10 photos in a row"):
        fetch(f"{shop.url}/new.jpg")
    fetch(f"{shop.url}/a.jpg")
    assert (fetch.unchecked, shop.asked["/new.jpg"], shop.asked["/a.jpg"]) == (1, 0, 1)


def test_cache_that_cannot_be_written_is_named(shop: Shop, fetch: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ImageError, match=r"cannot be kept in .*cache/photos"):
        fetch(f"{shop.url}/a.jpg")


def test_server_is_asked_for_few_photos_at_a_time_and_they_come_in_order(shop: Shop, fetch: Fetcher) -> None:
    urls = [f"{shop.url}/{number % 40}.jpg" for number in range(60)] + [f"{shop.url}/gone.jpg"]
    entries = [CatalogueEntry(cached_path(url), url, url=url) for url in urls]
    local = CatalogueEntry(Path("here.jpg"), "local")
    shop.crowded.clear()  # the first request is answered once there is a second
    *photos, last = fetched([local, *entries], fetch)
    assert [photo.item for photo in photos] == ["local", *urls[:-1]]
    assert all(photo.error is None for photo in photos)
    assert last.error == "answers 404 Not Found"
    assert 1 < shop.most <= remote.PER_HOST


def test_gallery_takes_photos_by_address_and_keeps_those_that_cannot_be_fetched_now(shop: Shop, tmp_path: Path) -> None:
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True)
    gallery = Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop())
    table = tmp_path / "shop.csv"
    host = shop.url.removeprefix("http://")
    table.write_text(
        f"item_id,image\n1,http://me:secret@{host}/a.jpg\n2,{shop.url}/moved.jpg|{shop.url}/c.jpg\n3,{shop.url}/gone.jpg\n"
    )

    def index() -> list[int]:
        with Fetcher() as fetch:
            tally = Indexing(gallery, pipeline, "fake", prune=True)(fetched(read_catalogue([table]), fetch))
        return [tally.added, tally.unchanged, tally.pruned, len(tally.failed)]

    assert index() == [3, 0, 0, 1]
    assert index() == [0, 3, 0, 1]
    first = next(row for row in gallery.rows if row.item == "1")
    assert dict(first.metadata) == {"image_url": f"{shop.url}/a.jpg"}
    cached_path(f"{shop.url}/c.jpg").unlink()
    shop.busy["/c.jpg"] = 99
    assert index() == [0, 2, 0, 2]
    table.write_text(table.read_text().replace(f"|{shop.url}/c.jpg", ""))
    assert index() == [0, 2, 1, 1]
    assert len(open_set([table]).samples) == 2


def test_command_maps_columns_and_names_each_photo_that_fails(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text(f"sku,photo\n7,{shop.url}/a.jpg\n8,{shop.url}/page.jpg\n")
    options = ["--detector", "whole", "--embedder", "siamese_box", "--no-isolate"]
    arguments = ["index", str(tmp_path / "gallery"), str(tmp_path / "shop.csv")]
    result = CliRunner().invoke(main, [*arguments, *options, "--columns", "item_id=sku, image=photo"])
    assert result.exit_code == 1, result.output
    assert f"{shop.url}/page.jpg: is text/html of 36 bytes, not a photo" in result.output
    assert "1 items in 1 photos" in result.output
    result = CliRunner().invoke(main, [*arguments, "--columns", "sku"])
    assert "'sku' is not OURS=THEIRS" in result.output


class Bucket(MemoryFileSystem):
    """An object store in memory."""

    protocol = "s3"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("s3://")))


def test_bucket_is_read_through_fsspec(shop: Shop, fetch: Fetcher) -> None:
    fsspec.register_implementation("s3", Bucket, clobber=True)
    Bucket().pipe({"/bucket/a.jpg": PHOTO, "/bucket/b.jpg": b"no photo"})
    fetch("s3://bucket/a.jpg")
    assert cached_path("s3://bucket/a.jpg").read_bytes() == PHOTO
    for name, says in (("b.jpg", "is not a photo: 8 bytes"), ("c.jpg", "does not exist")):
        with pytest.raises(ImageError, match=says):
            fetch(f"s3://bucket/{name}")


def test_full_cache_loses_what_was_used_least_recently(
    shop: Shop, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        fetch(f"{shop.url}/{name}.jpg")
    fetch(f"{shop.url}/a.jpg")
    monkeypatch.setattr(remote, "CACHE_BYTES", 3 * len(PHOTO) - 1)
    assert reduce_cache() == 1
    assert [cached_path(f"{shop.url}/{name}.jpg").exists() for name in "abc"] == [True, False, True]
