"""A served gallery of fake stages: fast, and what it finds is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from conftest import draw

pytest.importorskip("fastapi", reason="needs the extra web")
from fastapi.testclient import TestClient

from pipeline.gallery import Gallery, Row
from pipeline.pipeline import Pipeline
from pipeline.serve.access import Access, Client
from pipeline.serve.app import create_app, create_server, listen
from pipeline.serve.galleries import GalleryView
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import Metrics
from pipeline.serve.service import Service
from stages.crop import BoxCrop, MaskCrop
from stages.images import encode_jpeg, write_jpeg
from stages.testing import FakeDetector, FakeEmbedder
from stages.types import Box

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
HOSTS = frozenset({"testserver"})
ORIGIN = "https://www.shop.example"
TOKENS = {"till": "0123456789abcdef-till", "buyer": "0123456789abcdef-buyer"}
CLIENTS = tuple(Client(name, sha256(token.encode()).digest(), name == "buyer") for name, token in TOKENS.items())
ACCESS = Access(CLIENTS, frozenset({ORIGIN}))
"""The buyer may write, the till may only read."""

READER, WRITER = ({"Authorization": f"Bearer {token}"} for token in TOKENS.values())


def stock(folder: Path, pictures: Path, items: dict[str, dict[str, str]], crop: Any) -> Gallery:
    """A gallery of drawn garments, one photo of each item; an item is named after its colour."""
    pictures.mkdir(exist_ok=True)
    gallery = Gallery.create(folder, FakeEmbedder(), crop, settings={"crop": crop.fingerprint.split()[0]})
    add(gallery, pictures, items, crop)
    return gallery


def add(gallery: Gallery, pictures: Path, items: dict[str, dict[str, str]], crop: Any) -> None:
    for number, (item, metadata) in enumerate(items.items()):
        image = draw(item.split()[0], side=64 + number)
        path = pictures / f"{len(gallery)}.jpg"
        write_jpeg(path, image)
        found = FakeDetector()([image])
        (crops,) = crop([image], found)
        row = Row(item, str(path), "", "fake", "dress", 1.0, Box(0, 0, 9, 9), tuple(metadata.items()))
        gallery.add([row], FakeEmbedder()([crops[0].image]))
    gallery.save()


ITEMS = {
    "red": {"category": "dress", "price": "20", "url": "https://shop.example/red", "note": EVIL},
    "red dark": {"category": "top", "price": "35.5", "url": "javascript:alert(1)"},
    "green": {"category": "dress", "price": "50"},
    "blue": {"category": "dress", "price": "80", "name": EVIL},
    "black /../a?b&c#d/": {"category": "bag", "price": "120"},
}


@dataclass
class Shop:
    """What a test serves, and where it lies."""

    folder: Path
    gallery: Gallery
    examples: list[Path] = field(default_factory=list)

    def app(
        self, limits: Limits | None = None, detector: Any = None, calibration: Any = None, access: Any = None
    ) -> Any:
        """The app, its gallery searched by two crops; it can be written if a client of ``access`` is a writer."""
        embedder, metrics = FakeEmbedder(), Metrics()
        gallery = Gallery.open(self.gallery.folder)
        views = [
            GalleryView("box", BoxCrop(), gallery, embedder, metrics),
            GalleryView("mask", MaskCrop(), gallery, embedder, metrics),
        ]
        limits = limits or Limits(hosts=HOSTS)
        service = Service(detector or FakeDetector(), embedder, views, limits, metrics, calibration, self.examples)
        if access is not None and any(client.is_writer for client in access.clients):
            pipeline = Pipeline(FakeDetector(), BoxCrop(), embedder, main_garment=True)
            service.allow_writing(pipeline, "stages.testing:FakeDetector")
        return create_app(service, refresh_s=0.05, access=access)


def make_shop(folder: Path) -> Shop:
    """A gallery of drawn items, and a photo to search from."""
    gallery = stock(folder / "gallery", folder / "pictures", ITEMS, BoxCrop())
    example = folder / "example.jpg"
    write_jpeg(example, draw("red", "blue"))
    return Shop(folder, gallery, [example])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return make_shop(tmp_path)


@pytest.fixture
def client(shop: Shop) -> Iterator[TestClient]:
    with TestClient(shop.app()) as client:
        yield client


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A red garment and a blue one beside it."""
    return encode_jpeg(draw("red", "blue"), 95)


@pytest.fixture(scope="session")
def blank() -> bytes:
    """No garment."""
    return encode_jpeg(np.full((40, 60, 3), 255, np.uint8))


@contextmanager
def running(app: Any) -> Iterator[tuple[str, int]]:
    """The app on a real socket, in a thread; its host and port."""
    with listen("127.0.0.1", 0) as listening:
        server = create_server(app)
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)
