"""Limits of the server: sizes, speeds, numbers of requests, names; batches; new generations; metrics."""

import asyncio
import logging
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from fastapi.testclient import TestClient
from served import EVIL, HOSTS, add, blank, client, photo, running, shop

from pipeline.gallery import Gallery
from pipeline.serve import app as serve_app
from pipeline.serve import limits as serve_limits
from pipeline.serve.batcher import Batcher
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import Metrics, repeated_messages_once
from pipeline.serve.schemas import ItemQuery
from stages.crop import BoxCrop, MaskCrop
from stages.embed.calibration import Calibration, Thresholds
from stages.embed.metrics import Estimate
from stages.testing import FakeDetector, FakeEmbedder

PATIENCE_S = 30
"""No test waits longer for what must happen."""


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def connect(address, text=b""):
    connection = socket.create_connection(address, PATIENCE_S)
    connection.sendall(text)
    return connection


def post(path, length, host="localhost"):
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def status(answer):
    return int(answer.split(b" ", 2)[1])


class PausedDetector(FakeDetector):
    """Waits until it may go on."""

    def __init__(self):
        self.go, self.sizes = threading.Event(), []

    def __call__(self, images):
        assert self.go.wait(PATIENCE_S)
        self.sizes.append(len(images))
        return super().__call__(images)


class TestBodies:
    def test_a_body_over_the_limit_is_refused_with_its_size(self, shop, photo):
        with TestClient(shop.app(Limits(max_body=5000, hosts=HOSTS))) as client:
            assert client.post("/detect", content=photo).status_code == 200
            for body in (bytes(5001), bytes(50_000), iter([bytes(4000)] * 3)):
                answer = client.post("/detect", content=body)
                assert answer.status_code == 413
                assert "larger than 0.005 MB" in answer.json()["error"]

    def test_json_has_a_limit_of_its_own(self, client):
        body = b"{" + b",".join(b'"%d": 0' % number for number in range(100_000)) + b"}"
        assert len(body) < Limits().max_body
        for path in ("/search/vector", "/search/item"):
            assert client.post(path, content=body).status_code == 413
        largest = {"vector": [-0.12345678901234567] * 8192}
        assert "numbers, got 8192" in client.post("/search/vector", json=largest).json()["error"]

    def test_json_is_parsed_outside_the_event_loop(self, client, monkeypatch):
        threads = []

        def validate(cls, body):
            threads.append(threading.current_thread())
            return cls(item="red")

        monkeypatch.setattr(ItemQuery, "model_validate_json", classmethod(validate))
        assert client.post("/search/item", content=b"{}").status_code == 200
        assert "AnyIO worker" in threads[0].name

    def test_idle_uploads_take_no_place_in_the_queue(self, shop, photo):
        with running(shop.app(Limits(queue=2))) as address:
            idle = [connect(address, post("/search", 1000) + b"abc") for _ in range(64)]
            with connect(address, post("/search", len(photo)) + photo) as other:
                assert status(read_all(other)) == 200
            for connection in idle:
                connection.close()

    def test_a_body_slower_than_the_least_speed_is_ended(self, shop, monkeypatch):
        monkeypatch.setattr(serve_limits, "GRACE_S", 0.3)
        with running(shop.app(Limits(body_s=600))) as address, connect(address, post("/detect", 1000) + b"abc") as slow:
            assert status(read_all(slow)) == 408

    def test_the_oldest_unfinished_upload_makes_room_for_others(self, shop, photo, monkeypatch):
        monkeypatch.setattr(serve_limits, "UPLOADS_HELD", 1)
        app = shop.app(Limits(max_body=3 * len(photo)))
        unfinished = post("/detect", 3 * len(photo)) + bytes(2 * len(photo) + 1000)
        with running(app) as address, connect(address, unfinished) as hoarder:
            until(lambda: sum(app.state.bodies._arriving.values()) > 2 * len(photo))
            with connect(address, post("/detect", len(photo)) + photo) as other:
                assert status(read_all(other)) == 200
            assert status(read_all(hoarder)) == 503


class TestConnections:
    def test_one_that_never_asks_is_closed(self, shop, monkeypatch):
        monkeypatch.setattr(serve_app, "CLIENT_TIMEOUT_S", 0.2)
        with running(shop.app()) as address, connect(address, b"GET / HT") as slow:
            assert slow.recv(10) == b""

    def test_one_that_never_reads_its_answer_is_closed(self, shop, monkeypatch):
        monkeypatch.setattr(serve_app, "CLIENT_TIMEOUT_S", 0.3)
        lost, connection_lost = threading.Event(), serve_app.BoundedProtocol.connection_lost

        def note(protocol, error):
            lost.set()
            connection_lost(protocol, error)

        monkeypatch.setattr(serve_app.BoundedProtocol, "connection_lost", note)
        app = shop.app()

        @app.get("/large")
        async def large():
            return "x" * 50_000_000

        with running(app) as address, connect(address, b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n") as slow:
            assert lost.wait(PATIENCE_S)
            assert len(read_all(slow)) < 50_000_000

    def test_idle_ones_make_room_and_health_is_answered(self, shop, monkeypatch):
        monkeypatch.setattr(serve_app, "MAX_CONNECTIONS", 20)
        with running(shop.app()) as address:
            idle = [connect(address) for _ in range(60)]
            with connect(address, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n") as health:
                assert status(read_all(health)) == 200
            until(lambda: sum(is_closed(one) for one in idle) >= 40)
            for connection in idle:
                connection.close()

    def test_a_client_that_closes_its_side_gets_its_answer(self, shop, photo):
        with running(shop.app()) as address, connect(address, post("/search", len(photo)) + photo) as half_closed:
            half_closed.shutdown(socket.SHUT_WR)
            assert status(read_all(half_closed)) == 200


def is_closed(connection):
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class TestQueue:
    def test_a_slow_answer_ends_with_503(self, shop, photo):
        detector = PausedDetector()
        with TestClient(shop.app(Limits(answer_s=0.2, hosts=HOSTS), detector)) as client:
            answer = client.post("/detect", content=photo)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            detector.go.set()
            until(lambda: client.post("/detect", content=photo).status_code == 200)

    def test_a_full_queue_says_when_to_try_again(self, shop, photo):
        detector = PausedDetector()
        with TestClient(shop.app(Limits(queue=3, hosts=HOSTS), detector)) as client, ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(client.post, "/detect", content=photo) for _ in range(3)]
            until(lambda: "outfinder_requests_in_flight 3.0" in client.get("/metrics").text)
            answer = client.post("/detect", content=photo)
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert client.get("/healthz").status_code == 200
            detector.go.set()
            assert [future.result().status_code for future in waiting] == [200] * 3
            assert client.post("/detect", content=photo).status_code == 200
            assert "outfinder_requests_refused_total 1.0" in client.get("/metrics").text

    def test_slow_filters_delay_no_other_search(self, shop, photo, monkeypatch):
        started, go, search = threading.Event(), threading.Event(), Gallery.search

        def slow_search(gallery, *args, **options):
            if options.get("where"):
                started.set()
                assert go.wait(PATIENCE_S)
            return search(gallery, *args, **options)

        monkeypatch.setattr(Gallery, "search", slow_search)
        with TestClient(shop.app()) as client, ThreadPoolExecutor(6) as pool:
            slow = [
                pool.submit(client.post, f"/search?where=price < {price}", content=photo) for price in range(60, 66)
            ]
            assert started.wait(PATIENCE_S)
            assert client.post("/search", content=photo).status_code == 200
            assert client.get("/items/red").status_code == 200
            go.set()
            assert {future.result().status_code for future in slow} == {200}

    @pytest.mark.parametrize("where", ["(" * 990, "not " * 240 + "price < 1", "price in (" + "1," * 480 + "1)"])
    def test_a_long_filter_is_answered_or_refused(self, client, photo, where):
        assert client.post("/search", params={"where": where}, content=photo).status_code in (200, 422)


class TestBatches:
    def test_concurrent_requests_go_through_the_network_together(self, shop, photo):
        detector = PausedDetector()
        with TestClient(shop.app(Limits(batch=4, hosts=HOSTS), detector)) as client, ThreadPoolExecutor(9) as pool:
            answers = [pool.submit(client.post, "/search", content=photo) for _ in range(9)]
            until(lambda: "outfinder_requests_in_flight 9.0" in client.get("/metrics").text)
            time.sleep(0.5)  # all but the first batch are decoded
            detector.go.set()
            results = [answer.result().json() for answer in answers]
        assert all(result == results[0] for result in results)
        assert sum(detector.sizes) == 9
        assert max(detector.sizes) == 4

    @pytest.mark.parametrize("count", [1, 5, 23])
    def test_each_request_gets_its_own_result(self, count):
        async def ask():
            with ThreadPoolExecutor(1) as pool:
                twice = Batcher(lambda batch: [2 * value for value in batch], pool, 4, 0.001)
                return await asyncio.gather(*(twice(number) for number in range(count)))

        assert asyncio.run(ask()) == [2 * number for number in range(count)]

    def test_one_bad_input_fails_by_itself(self):
        async def ask():
            with ThreadPoolExecutor(1) as pool:
                inverse = Batcher(lambda batch: [1 / value for value in batch], pool, 8, 0.01)
                return await asyncio.gather(*map(inverse, [1, 0, 2]), return_exceptions=True)

        one, error, half = asyncio.run(ask())
        assert (one, half) == (1, 0.5)
        assert isinstance(error, ZeroDivisionError)

    def test_inputs_that_nobody_awaits_are_dropped(self):
        sizes = []

        def work(batch):
            sizes.append(len(batch))
            time.sleep(0.05)
            return batch

        async def ask():
            with ThreadPoolExecutor(1) as pool:
                same = Batcher(work, pool, 1, 0)
                tasks = [asyncio.create_task(same(number)) for number in range(3)]
                await asyncio.sleep(0.01)
                tasks[1].cancel()
                return await asyncio.gather(*tasks, return_exceptions=True)

        first, second, third = asyncio.run(ask())
        assert (first, third, sizes) == (0, 2, [1, 1])
        assert isinstance(second, asyncio.CancelledError)


class TestTrust:
    def test_every_answer_has_the_security_headers(self, client, photo):
        answers = [client.get("/"), client.get("/nothing"), client.get("/picture?item=red"), client.head("/about"),
                   client.post("/search", content=photo), client.post("/search", content=b"")]  # fmt: skip
        for answer in answers:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    def test_an_unknown_host_name_is_refused_and_address_literals_are_not(self, shop):
        with TestClient(shop.app(Limits(hosts=frozenset({"shop.example"}))), base_url="http://evil.example") as client:
            answer = client.get("/about")
            assert answer.status_code == 421
            assert "--allow-host" in answer.json()["error"]
            for host in (
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "evil.example:127.0.0.1",
                "[evil]:80",
                "127",
            ):
                assert client.get("/about", headers={"Host": host}).status_code == 421, host
            for host in ("localhost:8000", "127.0.0.1:80", "LOCALHOST", "10.1.2.3", "[::1]:8000", "shop.EXAMPLE:80"):
                assert client.get("/about", headers={"Host": host}).status_code == 200, host

    def test_other_sites_cannot_make_a_browser_search(self, client, photo):
        for site, expected in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
            answer = client.post("/detect", content=photo, headers={"Sec-Fetch-Site": site})
            assert answer.status_code == expected

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/search"), ("HEAD", "/search"), ("PUT", "/search"), ("DELETE", "/items/red")]
    )
    def test_a_method_that_does_not_exist_is_refused(self, client, method, path):
        assert client.request(method, path).status_code == 405

    @pytest.mark.parametrize("path", ["/", "/healthz", "/about", "/picture?item=red", "/nothing"])
    def test_head_is_answered_like_get_without_a_body(self, client, path):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == get.headers["content-length"]

    def test_a_failing_stage_is_logged_once_and_reveals_nothing(self, shop, photo, caplog):
        class BrokenDetector(FakeDetector):
            def __call__(self, images):
                raise RuntimeError("weights at a secret place")

        with TestClient(shop.app(detector=BrokenDetector()), raise_server_exceptions=False) as client:
            for _ in range(5):
                answer = client.post("/detect", content=photo)
                assert answer.status_code == 500
                assert "secret" not in answer.text
            assert client.get("/healthz").status_code == 200
            assert 'outfinder_errors_total{message="%s %s failed"} 5.0' in client.get("/metrics").text
        assert caplog.text.count("POST /detect failed") == 1

    def test_a_repeated_message_is_logged_again_with_its_count(self, caplog, monkeypatch):
        log = logging.getLogger("pipeline.serve")
        with repeated_messages_once(Metrics()):
            for number in range(3):
                log.warning("request %d failed", number)
            monkeypatch.setattr("pipeline.serve.metrics.LOG_EVERY_S", -1)
            log.warning("request %d failed", 3)
        assert caplog.messages == [
            "request 0 failed",
            "request 3 failed (and 2 times more since the last such message)",
        ]

    def test_no_upload_touches_the_disk(self, client, photo, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))  # a temporary file would fail
        large = photo + bytes(3_000_000)
        assert client.post("/search", files={"photo": large}).status_code == 200
        assert client.post("/search", content=large).status_code == 200

    def test_the_page_refers_to_no_other_server(self, client):
        page = client.get("/").text
        names = re.findall(r'(?:src|href)="(assets/[^"]+)"', page)
        assert len(names) >= 4
        modules = {f"assets/{name}" for name in re.findall(r'from "\./([^"]+)"', client.get("/assets/main.js").text)}
        for name in {*names, *modules, "", "docs"}:
            answer = client.get(f"/{name}")
            assert answer.status_code == 200
            assert not re.findall(r"""(?:src|href|url|from|import)\W{1,4}(?:https?:)?//""", answer.text), name

    def test_the_reference_lists_every_endpoint_and_runs_no_script(self, client):
        text = client.get("/docs").text
        schema = client.get("/openapi.json").json()
        for name in (*schema["paths"], *schema["components"]["schemas"]):
            assert name in text
        assert "min_similarity" in text
        assert "<script" not in text
        assert "style=" not in text


class TestGenerations:
    def test_a_new_one_is_searched_and_a_removed_item_is_gone(self, shop, client, photo):
        until(lambda: client.get("/about").json()["photos"] == 5)
        add(shop.gallery, shop.folder / "pictures", {"red new": {"category": "dress"}}, BoxCrop())
        until(lambda: client.get("/about").json()["photos"] == 6)
        assert client.get("/items/red new").status_code == 200
        assert client.get("/healthz").json()["generation"] == shop.gallery.manifest.generation
        shop.gallery.remove(["red", "red dark"])
        shop.gallery.compact()
        until(lambda: client.get("/about").json()["photos"] == 4)
        garments = client.post("/search", content=photo).json()["garments"]
        assert {garment["results"][0]["matches"][0]["item"] for garment in garments} == {"red new", "blue"}
        assert client.get("/items/red").status_code == 404
        assert 'outfinder_gallery_reloads_total{crop="box",outcome="loaded"} 2.0' in client.get("/metrics").text

    def test_one_made_with_another_crop_is_ignored(self, shop, client, photo, caplog):
        shutil.rmtree(shop.gallery.folder)
        Gallery.create(shop.gallery.folder, FakeEmbedder(), MaskCrop(), settings={"crop": "mask"})
        until(lambda: 'crop="box",outcome="ignored"' in client.get("/metrics").text)
        assert client.get("/about").json()["photos"] == 5
        assert client.post("/search", content=photo).status_code == 200
        assert caplog.text.count("is ignored") == 1

    def test_a_deleted_gallery_stays_searchable(self, shop, client, photo):
        for file in shop.gallery.folder.glob("gallery.sqlite*"):
            file.unlink()
        time.sleep(0.2)
        assert client.post("/search", content=photo).status_code == 200


def test_a_calibrated_embedder_gives_matches_verdicts(shop, photo):
    thresholds = Thresholds(Estimate(0.9, 0.9, 0.9), Estimate(0.5, 0.5, 0.5), 0.01, 0.01, 100, 100, 50)
    calibration = Calibration("fake mean colours", 0.01, 0.05, "drawn", thresholds)
    with TestClient(shop.app(calibration=calibration)) as client:
        assert client.get("/about").json()["calibrated"]
        for garment in client.post("/search", content=photo).json()["garments"]:
            for match in garment["results"][0]["matches"]:
                low, high = match["similarity"] < 0.5, match["similarity"] >= 0.9
                assert match["verdict"] == ("different" if low else "same item" if high else "not sure")


def test_metrics_count_requests_and_time_stages(client, photo):
    client.post("/search", content=photo)
    client.post("/search", content=b"x")
    client.get("/made/up/path")
    text = client.get("/metrics").text
    for line in (
        'outfinder_requests_total{path="/search",status="200"} 1.0',
        'outfinder_requests_total{path="/search",status="422"} 1.0',
        'outfinder_requests_total{path="other",status="404"} 1.0',
        'outfinder_batch_size_count{stage="detect"} 1.0',
        'outfinder_gallery_photos{crop="box"} 5.0',
        *(f'outfinder_stage_seconds_count{{stage="{stage}"}}' for stage in ("decode", "detect", "crop", "search")),
    ):
        assert line in text
    assert EVIL not in text
