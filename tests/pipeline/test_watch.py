"""A watched catalogue: changes reach the gallery, half-written files and broken tables do no harm."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cli_runs import DETECTOR, EMBEDDER, run
from conftest import draw
from filelock import FileLock

from pipeline.catalogue import Indexing, read_catalogue
from pipeline.gallery import Gallery, writing
from pipeline.pipeline import Pipeline
from pipeline.watch import Follower, Watch
from stages.crop import BoxCrop
from stages.images import write_jpeg
from stages.testing import FakeDetector, FakeEmbedder

OUTFINDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pipeline.cli import main
main(sys.argv[1:], prog_name="outfinder")
"""


class Shop:
    """A catalogue, its gallery, and what a watch has reported."""

    def __init__(self, folder, sources, *, prune=False):
        self.folder = folder / "gallery"
        run("index", self.folder, *sources, *DETECTOR, *EMBEDDER, "--index", "exact")
        pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True, workers=1)
        make = partial(Indexing, pipeline=pipeline, detector="stages.testing:FakeDetector", prune=None)
        self.lines = []
        self.watch = Watch(sources, lambda source: read_catalogue([source], note=lambda _: None))
        self.follower = Follower(
            self.folder, lambda gallery, count: make(gallery, progress=count), self.lines.append, prune
        )

    def look(self, times=3):
        """Look several times and return the lines that were reported."""
        self.lines.clear()
        for _ in range(times):
            self.follower.take(self.watch.look())
        return self.lines

    @property
    def items(self):
        return sorted(Gallery.open(self.folder).items)


@pytest.fixture
def table(tmp_path, shop, monkeypatch):
    """A table of two of the shop's four items."""
    monkeypatch.setattr("pipeline.watch.GONE_S", 0.0)
    monkeypatch.setattr("pipeline.watch.WAIT_S", 0.0)
    path = tmp_path / "shop.csv"
    path.write_text("item_id,image,price\ngreen,catalogue/green.jpg,10\nblue,catalogue/blue.jpg,20\n")
    return path


def test_photos_and_rows_that_come_change_and_leave_reach_the_gallery(tmp_path, shop, table):
    watched = Shop(tmp_path, [table], prune=True)
    assert watched.look() == []

    table.write_text(table.read_text().replace("10", "12") + "red,catalogue/red/front.jpg,30\n")
    lines = watched.look()
    assert sorted(line.rpartition(": ")[2] for line in lines) == ["added", "redescribed"]
    assert watched.items == ["blue", "green", "red"]
    write_jpeg(shop / "green.jpg", draw("black"))
    assert watched.look() == [f"{shop / 'green.jpg'}: replaced"]
    table.write_text("item_id,image,price\nred,catalogue/red/front.jpg,30\ngreen,catalogue/green.jpg,12\n")
    assert watched.look() == [f"{shop / 'blue.jpg'}: removed"]
    assert watched.items == ["green", "red"]
    assert watched.look() == []


def test_a_photo_that_is_still_being_written_is_left_alone(tmp_path, shop, table):
    watched = Shop(tmp_path, [shop])
    whole = (shop / "green.jpg").read_bytes()
    with (shop / "new.jpg").open("wb") as file:
        for start in range(0, len(whole), len(whole) // 4 + 1):
            file.write(whole[start : start + len(whole) // 4 + 1])
            file.flush()
            assert watched.look(1) == []
    assert watched.look() == [f"{shop / 'new.jpg'}: added"]
    shutil.move(shop / "new.jpg", shop / "moved.jpg")  # another item, as the file names it
    assert set(watched.look()) == {
        f"{shop / 'moved.jpg'}: added",
        f"{shop / 'new.jpg'}: no longer in the catalogue, and stays in the gallery without --prune",
    }


def test_a_table_that_is_broken_for_a_moment_is_reported_once_and_read_again(tmp_path, shop, table):
    watched = Shop(tmp_path, [table], prune=True)
    good = table.read_text()

    for broken, reason in (("item_id,im", "lacks the column image"), (None, "there is no"), ("", "is empty"),
                           ("item_id,image\n", "holds no photo any more")):  # fmt: skip
        table.unlink() if broken is None else table.write_text(broken)
        (line,) = watched.look(5)
        assert reason in line
        assert "what the gallery has of it stays" in line
    table.write_text(good + "red\n")
    (line,) = watched.look(5)
    assert "lacks an item_id or an image" in line
    table.write_text(good.replace("green", "red", 1).replace("green.jpg", "red/back.jpg"))
    assert {line.rpartition(": ")[2] for line in watched.look(5)} == {"added", "removed"}
    assert watched.items == ["blue", "red"]


def test_a_folder_that_is_not_there_for_a_moment_loses_nothing(tmp_path, shop, table):
    watched = Shop(tmp_path, [shop], prune=True)
    before = watched.items
    shop.rename(tmp_path / "away")
    assert [line.startswith("there is no") for line in watched.look(5)] == [True]
    shop.mkdir()
    assert ["holds no photo any more" in line for line in watched.look(5)] == [True]
    shop.rmdir()
    (tmp_path / "away").rename(shop)
    assert watched.look() == []
    assert watched.items == before
    shutil.copy(shop / "green.jpg", shop / "red" / "third.jpg")
    (shop / "red" / "front.jpg").unlink()
    assert set(watched.look()) == {f"{shop}/red/third.jpg: added", f"{shop}/red/front.jpg: removed"}
    assert watched.items == before


def test_a_copy_takes_the_place_of_the_photo_that_leaves(tmp_path, shop, table):
    shutil.copy(shop / "red" / "front.jpg", shop / "red" / "copy.jpg")  # comes first, so that it is the gallery's
    watched = Shop(tmp_path, [shop], prune=True)
    (shop / "red" / "copy.jpg").unlink()
    watched.look()

    photos = {row.photo.rpartition("/")[2] for row in Gallery.open(watched.folder).of_item("red")}
    assert photos == {"front.jpg", "back.jpg"}


def test_changes_wait_while_another_process_writes(tmp_path, shop, table):
    watched = Shop(tmp_path, [shop])
    shutil.copy(shop / "green.jpg", shop / "new.jpg")
    with FileLock(watched.folder / "lock"):  # not this process's, as that one may hold it twice
        lines = list(watched.look(4))
    assert len(lines) == 1
    assert re.search(r"is being written by another process.*it is tried again", lines[0])
    assert watched.look(1) == [f"{shop / 'new.jpg'}: added"]
    with writing(watched.folder):  # it is not held between changes
        assert "new" in watched.items


def test_a_row_with_an_address_is_fetched_and_named_by_it(tmp_path, shop, table, monkeypatch):
    monkeypatch.setenv("OUTFINDER_CACHE", str(tmp_path / "cache"))
    watched = Shop(tmp_path, [table])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=shop))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        table.write_text(table.read_text() + f"black,{address}/black.jpg,1\nnone,{address}/none.jpg,1\n")
        lines = watched.look(5)
    finally:
        server.shutdown()
        server.server_close()
    assert f"{address}/black.jpg: added" in lines
    assert [line for line in lines if line.startswith(f"{address}/none.jpg: ")] == [
        line for line in lines if "404" in line
    ]
    assert len(lines) == 2


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if condition():
                return
        time.sleep(0.2)
    pytest.fail(f"{what} took more than {seconds} s")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_served_gallery_shows_what_a_watching_process_takes_up(tmp_path, shop):
    pytest.importorskip("fastapi", reason="needs the extra web")
    table, folder = tmp_path / "shop.csv", tmp_path / "gallery"
    table.write_text("item_id,image\ngreen,catalogue/green.jpg\n")

    def start(*arguments):
        command = [sys.executable, "-c", OUTFINDER, *map(str, [*arguments, *DETECTOR, *EMBEDDER])]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    with start("index", folder, table, "--watch", "--prune") as indexing:
        heard = []
        for line in indexing.stderr:
            heard.append(line)
            if line.startswith("watching"):
                break
        reader = threading.Thread(target=lambda: heard.extend(indexing.stderr))
        reader.start()
        with start("serve", folder, "--port", 0) as serving:
            address = re.search(r"http://\S+", serving.stderr.readline())[0]

            def shown():
                with urllib.request.urlopen(address + "about", timeout=60) as answer:
                    return json.load(answer)["items"]

            assert shown() == 1
            table.write_text(table.read_text() + "blue,catalogue/blue.jpg\nblack,catalogue/black.jpg\n")
            wait_for(lambda: shown() == 3, "showing two new rows")
            run("gallery", "remove", folder, "black")  # another process writes in between
            wait_for(lambda: shown() == 2, "showing a removal")
            write_jpeg(shop / "blue.jpg", draw("red"))
            wait_for(lambda: any("blue.jpg: replaced" in line for line in heard), "taking up a changed photo")
            table.write_text("item_id,image\nblue,catalogue/blue.jpg\n")
            wait_for(lambda: shown() == 1, "removing a row")
            serving.send_signal(signal.SIGINT)
        indexing.send_signal(signal.SIGINT)
        reader.join()
    assert indexing.returncode == 0
    assert heard[-1] == "stopped; everything reported is saved\n"
    assert run("gallery", "verify", folder).exit_code == 0
    assert Gallery.open(folder).items == ["blue"]
