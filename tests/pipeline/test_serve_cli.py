"""``outfinder serve`` as a command: what it refuses in a line, and that Ctrl-C ends it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from cli_runs import DETECTOR, EMBEDDER, run
from served import photo, shop, stock

import pipeline.serve
from pipeline.gallery import Gallery
from pipeline.serve.limits import Limits
from pipeline.serve.service import open_service
from stages.crop import BoxCrop, MaskCrop
from stages.errors import GalleryMismatch
from stages.testing import FakeEmbedder

FAKES = {"detector": "stages.testing:FakeDetector", "embedder": "stages.testing:FakeEmbedder"}
OUTFINDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pipeline.cli import main
main(sys.argv[1:], prog_name="outfinder")
"""


def test_what_cannot_be_served_is_told_in_a_line(tmp_path, shop):
    assert "there is no gallery at" in run("serve", tmp_path / "none", "--port", 0, status=2).stderr
    assert "no photos in" in run("serve", shop.gallery.folder, "--examples", shop.gallery.folder, status=2).stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("serve", shop.gallery.folder, "--port", port, *DETECTOR, *EMBEDDER, status=2).stderr
    assert re.fullmatch(
        rf"outfinder: cannot listen on 127.0.0.1:{port} \(.*\); choose another port with --port\n", told
    )


def test_an_index_of_ones_own_is_named_to_be_served(tmp_path, shop, monkeypatch):
    own = "stages.index:ExactIndex"
    Gallery.create(tmp_path / "g", FakeEmbedder(), BoxCrop(), own, settings={"crop": "box"})
    monkeypatch.setattr("pipeline.config._trusted", set())
    told = run("serve", tmp_path / "g", "--port", 0, *DETECTOR, *EMBEDDER, status=2).stderr
    assert f"which is code and not data; if you trust it, name it yourself: --index {own}" in told
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run("serve", tmp_path / "g", "--port", taken.getsockname()[1], "--index", own, status=2)
    open_service(tmp_path / "g", FAKES | {"index": own}, Limits()).close()


def test_without_the_extra_it_says_what_to_install(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setattr(pipeline, "serve", pipeline.serve)  # which importing it again replaces
    for name in [name for name in sys.modules if name.startswith("pipeline.serve")]:
        monkeypatch.delitem(sys.modules, name)
    assert 'pip install "outfinder[web]"' in run("serve", shop.gallery.folder, status=2).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("ending", "status", "message"),
    [(signal.SIGINT, 0, ""), pytest.param(signal.SIGTERM, 143, "outfinder: terminated\n", marks=pytest.mark.slow)],
)
def test_it_serves_until_a_signal_ends_it(shop, photo, ending, status, message):
    options = ["--port", 0, "--examples", shop.folder / "pictures", *DETECTOR, *EMBEDDER]
    command = [sys.executable, "-c", OUTFINDER, *map(str, ["serve", shop.gallery.folder, *options])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"http://\S+", process.stderr.readline())[0]
            with urllib.request.urlopen(urllib.request.Request(address + "search?k=1", photo), timeout=60) as answer:
                assert json.load(answer)["garments"]
            with urllib.request.urlopen(address + "about", timeout=60) as answer:
                assert json.load(answer)["examples"] == 5
        finally:
            process.send_signal(ending)
        stderr = process.stderr.read()
    assert (process.returncode, stderr) == (status, message)


def test_two_galleries_side_by_side(tmp_path, shop):
    other = stock(tmp_path / "masked", tmp_path / "more", {"red": {}, "blue": {}}, MaskCrop())
    service = open_service(shop.gallery.folder, FAKES, Limits(), compare=other.folder)
    try:
        assert [(crop, view.snapshot.items) for crop, view in service.views.items()] == [("box", 5), ("mask", 2)]
    finally:
        service.close()
    with pytest.raises(ValueError, match="both galleries are cut by box"):
        open_service(shop.gallery.folder, FAKES, Limits(), compare=shop.gallery.folder)

    class Other(FakeEmbedder):
        fingerprint = "another"

    Gallery.create(tmp_path / "foreign", Other(), MaskCrop(), settings={"crop": "mask"})
    with pytest.raises(GalleryMismatch):
        open_service(shop.gallery.folder, FAKES, Limits(), compare=tmp_path / "foreign")
