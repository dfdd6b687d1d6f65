"""Items that clients add and remove: who may, what is stored, what outlasts a kill, and that searches go on beside."""

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from hashlib import sha256
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from cli_runs import DETECTOR, EMBEDDER, run
from conftest import draw
from fastapi.testclient import TestClient
from served import ACCESS, CLIENTS, HOSTS, ORIGIN, READER, TOKENS, WRITER, photo, running, shop
from test_serve_cli import FAKES, OUTFINDER
from test_serve_limits import connect, read_all, status, until

from pipeline.catalogue import digest
from pipeline.gallery import Gallery, verify, writing
from pipeline.serve import service as serve_service
from pipeline.serve.access import Access, Client
from pipeline.serve.app import create_app
from pipeline.serve.limits import MAX_WRITES, Limits
from pipeline.serve.service import open_service
from pipeline.serve.writer import UPLOADS
from stages.errors import GalleryError
from stages.images import decode_photo, encode_jpeg, write_jpeg
from stages.testing import FakeDetector

FRONT, BACK = (encode_jpeg(draw("blue", side=side), 95) for side in (72, 96))


@pytest.fixture
def client(shop):
    with TestClient(shop.app(access=ACCESS), headers=WRITER) as client:
        yield client


def post(client, item, /, *photos, headers=None, **metadata):
    files = [("photo", (f"../{number}.php", photo)) for number, photo in enumerate(photos)]
    return client.post("/items", data={"item_id": item, **metadata}, files=files, headers=headers)


def done(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, code, word=""):
    assert (answer.status_code, list(answer.json())) == (code, ["error"])
    assert word in answer.json()["error"]
    return answer


def uploads(shop):
    return {path.name for path in (shop.gallery.folder / UPLOADS).glob("*")}


def names(*photos):
    return {sha256(photo).hexdigest() for photo in photos}


def matches(client, photo=FRONT):
    (garment,) = done(client.post("/search", params={"k": 20}, content=photo))["garments"]
    return {match["item"]: match["similarity"] for match in garment["results"][0]["matches"]}


def generation(client):
    return client.get("/healthz").json()["generation"]


class TestWhoMayWrite:
    @pytest.mark.parametrize("clients", [(), (CLIENTS[0], Client("buyer", CLIENTS[1].digest))])
    def test_a_server_reads_only_unless_it_is_started_otherwise(self, shop, clients):
        with TestClient(shop.app(access=Access(clients)), headers=WRITER) as client:
            refused(post(client, "new", FRONT), 405)
            refused(client.delete("/items/red"), 405)
            assert "/items" not in client.get("/openapi.json").json()["paths"]

    def test_a_writable_server_without_a_writer_is_not_made(self, shop):
        service = open_service(shop.gallery.folder, FAKES, Limits(), writable=True)
        with pytest.raises(ValueError, match="needs a client that may"):
            create_app(service, access=Access(CLIENTS[:1]))
        service.close()

    def test_a_reader_is_refused_and_so_is_one_without_a_token(self, shop, client):
        for headers, code in ((READER, 403), ({"Authorization": "Bearer nobody"}, 401)):
            refused(post(client, "new", FRONT, headers=headers), code, "token")
            refused(client.delete("/items/red", headers=headers), code, "token")
        assert (generation(client), uploads(shop)) == (2, set())

    def test_a_reader_is_refused_before_its_photo_arrives(self, shop):
        head = (
            f"POST /items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\nAuthorization: Bearer {TOKENS['till']}"
        )
        with running(shop.app(access=ACCESS)) as address, connect(address, f"{head}\r\n\r\n".encode()) as connection:
            assert status(connection.recv(1000)) == 403

    def test_a_page_of_another_origin_writes_nothing_even_if_it_may_search(self, client):
        for page in (
            {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, {"Origin": ORIGIN}, {"Origin": "null"},
            {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        ):  # fmt: skip
            refused(post(client, "new", FRONT, headers=WRITER | page), 403, "pages of other")
            refused(client.delete("/items/red", headers=WRITER | page), 403, "pages of other")
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "DELETE"}
        assert client.options("/items/red", headers=asked).status_code == 400
        done(post(client, "new", FRONT, headers={"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}))

    def test_names_of_clients_are_in_metrics_and_logs_and_tokens_are_not(self, client, caplog):
        caplog.set_level(logging.INFO, "pipeline.serve")
        done(post(client, "new\u2028item", FRONT))
        done(client.delete("/items/red"))

        told = client.get("/metrics").text + caplog.text

        assert 'outfinder_items_written_total{change="added",client="buyer"} 1.0' in told
        assert "buyer: added item 'new\\u2028item'" in told
        assert "buyer: removed item 'red'" in told
        assert "0123456789abcdef" not in told


class TestAdding:
    def test_the_answer_is_the_item_with_what_was_found_and_the_next_search_finds_it(self, shop, client):
        told = done(post(client, "Ünï/ぬの", FRONT, category="dress", price="12"))

        assert (told["change"], told["item"], told["price"], told["details"]) == (
            "added", "Ünï/ぬの", "12", {"category": "dress"},
        )  # fmt: skip
        (one,), ((truth,),) = told["photos"], FakeDetector()([decode_photo(FRONT).image])
        assert (one["label"], one["box"]) == ("dress", list(truth.box.corners))
        assert matches(client)["Ünï/ぬの"] == pytest.approx(1, abs=1e-3)
        assert {**done(client.get(f"/items/{quote('Ünï/ぬの')}")), "change": "added"} == told
        assert client.get("/" + one["picture"]).headers["content-type"] == "image/jpeg"
        assert uploads(shop) == names(FRONT)

    @pytest.mark.parametrize("detector", ["whole", "stages.testing:FakeDetector"])
    def test_a_photo_is_indexed_as_the_command_indexes_it(self, tmp_path, detector):
        (tmp_path / "photos").mkdir()
        for name, image in (("two", draw("red", "blue")), ("none", np.full((40, 40, 3), 255, np.uint8))):
            write_jpeg(tmp_path / "photos" / f"{name}.jpg", image)
        settings = FAKES | {"detector": detector}
        run("index", tmp_path / "indexed", tmp_path / "photos", "--detector", detector, *EMBEDDER)
        service = open_service(tmp_path / "served", settings, Limits(hosts=HOSTS), writable=True)
        with TestClient(create_app(service, access=ACCESS), headers=WRITER) as client:
            for path in (tmp_path / "photos").iterdir():
                done(post(client, path.stem, path.read_bytes()))
        one, other = (Gallery.open(tmp_path / name) for name in ("indexed", "served"))
        for item in ("two", "none"):
            (row,), (added,) = one.of_item(item), other.of_item(item)
            for name in ("item", "sha256", "detector", "label", "score", "box", "metadata"):
                assert getattr(row, name) == getattr(added, name)
            assert np.array_equal(one.vectors_of(item), other.vectors_of(item))
        assert one.manifest.settings == other.manifest.settings

    def test_the_same_again_changes_nothing(self, client):
        first = done(post(client, "new", FRONT, BACK, price="5", fit="slim"))
        before = generation(client)
        assert done(post(client, "new", BACK, FRONT, FRONT, fit="slim", price="5")) == first | {"change": "unchanged"}
        assert generation(client) == before

    def test_a_new_photo_is_added_and_metadata_replaces_that_of_every_photo(self, shop, client):
        done(post(client, "red", BACK, price="7", size="M"))
        (shop.folder / "pictures" / "0.jpg").unlink()
        told = done(post(client, "red", FRONT, price="8"))

        assert (told["change"], len(told["photos"]), told["price"]) == ("changed", 3, "8")
        assert {row.metadata for row in Gallery.open(shop.gallery.folder).of_item("red")} == {(("price", "8"),)}
        assert uploads(shop) == names(FRONT, BACK)

    def test_a_photo_that_the_catalogue_has_is_not_stored_again(self, shop, client):
        done(post(client, "green", FRONT))
        indexed = (shop.folder / "pictures" / "1.jpg").read_bytes()
        run("index", shop.gallery.folder, shop.folder / "pictures" / "1.jpg", *DETECTOR, *EMBEDDER)  # as the item "1"
        assert done(post(client, "1", indexed))["change"] == "unchanged"
        assert uploads(shop) == names(FRONT)

    def test_a_bad_photo_leaves_nothing_of_its_request(self, shop, client):
        for bad in (FRONT[: len(FRONT) // 2], b"<svg>", b"GIF89a"):
            refused(post(client, "new", FRONT, bad), 422, "the photo")
        refused(client.post("/items", data={"item_id": "new"}), 422, "no item_id")
        refused(post(client, "new", b""), 422, "no photo")
        refused(post(client, "new", *[FRONT] * 11), 400, "more than 10 files")
        refused(client.post("/items", files={"photo": FRONT}), 422, "no item_id")
        refused(client.post("/items", content=FRONT), 422, "no item_id")
        assert (generation(client), uploads(shop)) == (2, set())
        refused(client.get("/items/new"), 404)

    def test_a_disk_that_fails_leaves_nothing_either(self, shop, client, monkeypatch):
        for broken, error in (
            ("os.fsync", OSError(28, "full")),
            ("pipeline.gallery.Gallery.save", GalleryError("full")),
        ):

            def fail(_file, error=error):
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(broken, fail)
                refused(post(client, "new", FRONT), 503, "cannot be written")
            assert (generation(client), uploads(shop)) == (2, set())
        done(post(client, "new", FRONT))

    def test_the_limits_of_uploads_hold(self, shop):
        for limits, code in ((Limits(max_body=1000, hosts=HOSTS), 413), (Limits(max_pixels=1000, hosts=HOSTS), 422)):
            with TestClient(shop.app(limits, access=ACCESS), headers=WRITER) as client:
                refused(post(client, "new", BACK), code)
        assert uploads(shop) == set()

    def test_an_address_in_a_field_is_metadata_and_nothing_is_fetched(self, client):
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            elsewhere.setblocking(False)
            address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/photo.jpg"
            fields = dict.fromkeys(["url", "image", "image_link", "photo"], address)
            told = done(post(client, "new", FRONT, **fields))
            refused(client.post("/items", data={"item_id": "other", **fields}), 422)
            with pytest.raises(BlockingIOError):
                elsewhere.accept()
        assert told["links"] == [address] * 4

    def test_a_link_in_place_of_the_folder_of_uploads_is_not_followed(self, tmp_path, shop, client):
        (tmp_path / "elsewhere").mkdir()
        (shop.gallery.folder / UPLOADS).symlink_to(tmp_path / "elsewhere")
        refused(post(client, "new", FRONT), 503)
        assert list((tmp_path / "elsewhere").iterdir()) == []


class TestHostileItems:
    def test_an_item_may_have_any_printable_name_in_any_alphabet(self, shop, client):
        for item in (
            "a/../../b", "/etc/passwd", "..", "ぬの", "नमस्ते", "👗\u200d🟦", "شال", "a?b&c#d;e", "'; DROP TABLE photos; --",
            "caf\\udce9", "https://evil.example/x", "x" * 2000, "<script>owned()</script>",
        ):  # fmt: skip
            assert done(post(client, item, FRONT))["item"] == item
            assert done(client.post("/search/item", json={"item": item}))["matches"]
            assert (uploads(shop), sorted(path.name for path in shop.folder.iterdir())) == (
                names(FRONT), ["example.jpg", "gallery", "pictures"],
            )  # fmt: skip
            if item != "..":  # which clients take for a folder
                assert done(client.delete(f"/items/{quote(item, safe='')}"))["photos"] == 1

    def test_what_is_no_name_of_an_item_is_refused(self, shop, client):
        for item in ("", " \t", "a\0b", "a\nb", "\x7f", "x" * 2001, "x" * 10_000):
            refused(post(client, item, FRONT), 422, "item_id")
        for item in ("a\0b", "x" * 10_000, "../../etc/passwd", "caf\udce9"):
            refused(client.delete(f"/items/{quote(item, safe='', errors='surrogateescape')}"), 404)
        assert (generation(client), uploads(shop)) == (2, set())

    def test_fields_are_stored_as_they_are_or_refused(self, shop, client):
        odd = (
            "item",
            "photo",
            "sha256",
            "id",
            "rowid",
            "checksum",
            "constructor",
            "Größe",
            "'; DROP TABLE photos; --",
            "\u202e",
        )
        done(post(client, "new", FRONT, **dict.fromkeys(odd, "1"), **{"attribute.colour": "red", "empty": " "}))
        (row,) = Gallery.open(shop.gallery.folder).of_item("new")
        assert dict(row.metadata) == dict.fromkeys(odd, "1")
        assert verify(shop.gallery.folder) == []
        before = generation(client), uploads(shop)
        for name, value in (("", "1"), ("n" * 101, "1"), ("a", "v" * 10_001), ("a", "b\0c")):
            refused(post(client, "other", BACK, **{name: value}), 422, "metadata")
        refused(
            post(client, "other", BACK, **{str(number): "1" for number in range(10_000)}), 400, "more than 50 fields"
        )
        refused(client.post("/items", data={"item_id": b"\xff"}, files={"photo": BACK}), 400, "malformed")
        assert (generation(client), uploads(shop)) == before

    def test_a_gallery_has_a_most_of_fields(self, shop, client, monkeypatch):
        monkeypatch.setattr(serve_service, "MAX_CATALOGUE_COLUMNS", 6)
        refused(post(client, "new", FRONT, fit="slim", size="M"), 422, "different fields")
        done(post(client, "new", FRONT, fit="slim"))

    def test_a_body_that_lies_about_its_length_stores_nothing(self, shop, client):
        whole = form("new", 0)
        head, _, body = whole.partition(b"\r\n\r\n")
        with running(shop.app(access=ACCESS)) as address:
            for length in (0, 1, 100, len(body) // 2, len(body) - 12, len(body) + 1, 10**12):
                lie = re.sub(rb"(?<=Content-Length: )\d+", b"%d" % length, head) + b"\r\n\r\n" + body
                with connect(address, lie) as connection, suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                    answer = read_all(connection)  # nothing, if the end was awaited
                    assert not answer or status(answer) in (400, 408, 413, 422)
            assert uploads(shop) == set()
            with connect(address, whole) as connection:
                assert status(read_all(connection)) == 200


class TestRemoving:
    def test_an_item_goes_with_the_photos_that_no_other_item_has(self, shop, client):
        done(post(client, "a/b", FRONT, BACK))
        done(post(client, "c", BACK))

        assert done(client.delete("/items/a/b")) == {"item": "a/b", "photos": 2}

        assert (uploads(shop), "a/b" in matches(client)) == (names(BACK), False)
        refused(client.delete("/items/a/b"), 404, "'a/b'")
        refused(client.get("/items/a/b"), 404)

    def test_the_files_of_the_catalogue_stay(self, shop, client):
        done(client.delete("/items/red"))
        assert (shop.folder / "pictures" / "0.jpg").exists()
        refused(client.get("/items/red"), 404)

    def test_what_a_kill_has_left_goes_with_the_next_item(self, shop, client):
        done(post(client, "new", FRONT))
        folder, kept = shop.gallery.folder / UPLOADS, "the shop's own notes.txt"
        for name in (*names(b"old"), f".{'a' * 64}.123.part", kept):
            (folder / name).write_bytes(b"old")
        done(client.delete("/items/green"))
        assert uploads(shop) == {*names(FRONT), kept}


class TestOthersBeside:
    def test_another_server_of_the_gallery_finds_the_item_soon(self, shop, client):
        with TestClient(shop.app()) as other:
            done(post(client, "new", FRONT))
            until(lambda: "new" in matches(other))
            done(client.delete("/items/new"))
            until(lambda: "new" not in matches(other))

    def test_a_change_waits_for_the_lock_and_then_gives_up(self, shop, client, monkeypatch):
        release = threading.Event()

        def hold():
            with writing(shop.gallery.folder):
                held.set()
                release.wait(30)

        held, holder = threading.Event(), threading.Thread(target=hold)
        holder.start()
        assert held.wait(30)
        monkeypatch.setattr(serve_service, "LOCK_WAIT_S", 0.1)
        for answer in (post(client, "new", FRONT), client.delete("/items/red")):
            assert int(refused(answer, 503, "another process is writing").headers["retry-after"]) > 0
        assert "new" not in matches(client)
        monkeypatch.setattr(serve_service, "LOCK_WAIT_S", 30)
        threading.Timer(0.3, release.set).start()
        assert done(post(client, "new", FRONT))["change"] == "added"
        holder.join()

    def test_changes_that_wait_take_no_place_from_searches(self, shop, photo, monkeypatch):
        monkeypatch.setattr(serve_service, "LOCK_WAIT_S", 30)
        app = shop.app(Limits(queue=MAX_WRITES, hosts=HOSTS), access=ACCESS)
        with (
            TestClient(app, headers=WRITER) as client,
            ThreadPoolExecutor(MAX_WRITES + 2) as pool,
            ExitStack() as stack,
        ):
            stack.enter_context(writing(shop.gallery.folder))
            changes = [pool.submit(post, client, str(number), FRONT) for number in range(MAX_WRITES + 2)]
            until(lambda: sum(change.done() for change in changes) == 2)
            for change in filter(Future.done, changes):
                refused(change.result(), 503, "too many")
            assert client.post("/search", content=photo).status_code == 200
            stack.close()
            assert sorted(change.result().status_code for change in changes) == [200] * MAX_WRITES + [503, 503]

    def test_items_are_added_beside_searches_and_none_is_lost(self, shop):
        apps = (TestClient(shop.app(access=ACCESS), headers=WRITER) for _ in range(2))
        with ThreadPoolExecutor(6) as pool, next(apps) as one, next(apps) as two:
            working = [pool.submit(write_four, client, number) for number, client in enumerate((one, two, one))]
            working += [pool.submit(lambda client=client: [matches(client) for _ in range(8)]) for client in (one, two)]
            for future in working:
                assert future.result() is None or all(future.result())
        gallery = Gallery.open(shop.gallery.folder)
        kept = {f"{number}/{step}" for number in range(3) for step in (0, 2)}
        assert {item for item in gallery.items if item[1] == "/"} == kept
        assert uploads(shop) == {row.sha256 for row in gallery.rows if row.sha256}
        assert verify(shop.gallery.folder) == []


def write_four(client, number):
    """Add four items, of which the next search finds each, and remove every second one."""
    for step in range(4):
        item = f"{number}/{step}"
        while (
            answer := post(client, item, encode_jpeg(draw("black", side=60 + step)), step=str(step))
        ).is_server_error:
            assert "retry-after" in answer.headers
        assert item in matches(client)
        if step % 2:
            done(client.delete(f"/items/{item}"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_server_killed_while_items_are_added_has_all_that_it_reported(tmp_path):
    """Starts without a gallery, and is killed and started again three times."""
    folder, tokens = tmp_path / "gallery", tmp_path / "tokens"
    tokens.write_text(f"buyer {TOKENS['buyer']} writer\n")
    tokens.chmod(0o600)
    options = ["--port", 0, "--token-file", tokens, "--writable", *DETECTOR, *EMBEDDER]
    command = [sys.executable, "-c", OUTFINDER, *map(str, ["serve", folder, *options])]
    reported = set()
    for kill in range(3):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            address = next(filter(None, (re.search(r"http://([\d.]+):(\d+)", line) for line in process.stderr)))
            threading.Timer(1 + kill / 7, process.send_signal, [signal.SIGKILL]).start()
            with suppress(OSError, IndexError):
                for number in range(10_000):
                    item = f"{kill} {number}"
                    with connect((address[1], int(address[2])), form(item, number)) as connection:
                        answer = read_all(connection)
                        assert status(answer) == 200
                        assert json.loads(answer.partition(b"\r\n\r\n")[2])["item"] == item
                        reported.add(item)
        gallery = Gallery.open(folder)
        assert reported <= set(gallery.items)
        assert len(gallery.items) <= len(reported) + kill + 1
        assert verify(folder) == []
        assert all(digest(row.photo) == row.sha256 for row in gallery.rows)
    assert len(reported) > 3


def form(item, number):
    photo = encode_jpeg(draw("red", side=60 + number % 500))
    body = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in (("item_id", item.encode()), ('photo"; filename="a', photo))
    )
    head = (
        f"POST /items HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {TOKENS['buyer']}\r\n"
    )
    kind = f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body) + 7}\r\n\r\n"
    return (head + kind).encode() + body + b"--x--\r\n"


def test_serve_says_what_writing_needs(tmp_path, shop):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"till {TOKENS['till']}\n")
    tokens.chmod(0o600)
    for options in ([], ["--token-file", tokens]):
        told = run("serve", shop.gallery.folder, "--writable", *options, status=2).stderr
        assert re.fullmatch("outfinder: --writable needs a --token-file in which .*\n", told)
    tokens.write_text(f"till {TOKENS['till']} writer\n")
    told = run(
        "serve", shop.gallery.folder, "--writable", "--token-file", tokens, "--compare", tmp_path, status=2
    ).stderr
    assert "leave --compare out" in told
