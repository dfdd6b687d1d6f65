"""What the door lets through: sizes, times, numbers, names; batches; new generations; what is told of it all."""

import asyncio
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from fastapi.testclient import TestClient
from served import EVIL, HOSTS, add, blank, client, photo, running, shop

from pipeline.gallery import Gallery
from pipeline.serve.batching import Batcher
from pipeline.serve.limits import Limits
from stages.crop import BoxCrop, MaskCrop
from stages.embed.calibration import Calibration, Thresholds
from stages.embed.metrics import Estimate
from stages.testing import FakeDetector, FakeEmbedder


class Held(FakeDetector):
    """A detector that waits until it is let go."""

    def __init__(self):
        self.go, self.sizes = threading.Event(), []

    def __call__(self, images):
        assert self.go.wait(20)
        self.sizes.append(len(images))
        return super().__call__(images)


class TestBounds:
    def test_too_large_a_body(self, shop, photo):
        with TestClient(shop.app(Limits(max_body=5000, hosts=HOSTS))) as client:
            assert client.post("/detect", content=photo).status_code == 200
            for body in (bytes(5001), bytes(50_000)):
                answer = client.post("/detect", content=body)
                assert (answer.status_code, answer.json()["error"][:17]) == (413, "more than 0.005 M")
            chunked = client.post("/detect", content=iter([bytes(4000)] * 3))
            assert chunked.status_code == 413
            assert client.post("/search/vector", json={"vector": [0.123456] * 5000}).status_code == 413

    def test_a_body_that_does_not_come(self, shop):
        with running(shop.app(Limits(body_s=0.3))) as (host, port), socket.create_connection((host, port), 5) as slow:
            slow.sendall(b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            answer = slow.recv(65536)
            assert b" 408 " in answer.split(b"\r\n")[0]

    def test_a_connection_that_never_asks_is_closed(self, shop, monkeypatch):
        monkeypatch.setattr("pipeline.serve.server.HEAD_S", 0.2)
        with running(shop.app()) as (host, port), socket.create_connection((host, port), 60) as slow:
            slow.sendall(b"GET / HT")
            assert slow.recv(10) == b""

    def test_an_answer_that_takes_too_long(self, shop, photo):
        held = Held()
        with TestClient(shop.app(Limits(answer_s=0.2, hosts=HOSTS), held)) as client:
            answer = client.post("/detect", content=photo)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            held.go.set()
            assert client.post("/detect", content=photo).status_code == 200

    def test_a_full_queue_says_when_to_come_again(self, shop, photo):
        held = Held()
        with (
            TestClient(shop.app(Limits(queue=3, hosts=HOSTS), held)) as client,
            ThreadPoolExecutor(3) as pool,
        ):
            waiting = [pool.submit(client.post, "/detect", content=photo) for _ in range(3)]
            deadline = time.monotonic() + 10
            while "outfinder_requests_in_flight 3.0" not in client.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            answer = client.post("/detect", content=photo)
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert client.get("/healthz").status_code == 200
            held.go.set()
            assert [future.result().status_code for future in waiting] == [200] * 3
            assert client.post("/detect", content=photo).status_code == 200
            assert "outfinder_requests_refused_total 1.0" in client.get("/metrics").text


class TestBatches:
    def test_requests_that_come_together_are_looked_at_together(self, shop, photo):
        held = Held()
        with TestClient(shop.app(Limits(batch=4, hosts=HOSTS), held)) as client, ThreadPoolExecutor(9) as pool:
            answers = [pool.submit(client.post, "/search", content=photo) for _ in range(9)]
            time.sleep(0.5)  # all but the first batch are waiting
            held.go.set()
            told = [answer.result().json() for answer in answers]
        assert all(one == told[0] for one in told)
        assert sum(held.sizes) == 9
        assert max(held.sizes) == 4

    @pytest.mark.parametrize("count", [1, 5, 23])
    def test_each_gets_its_own(self, count):
        def work(batch):
            return [2 * value for value in batch]

        async def ask():
            with ThreadPoolExecutor(1) as pool:
                twice = Batcher(work, pool, 4, 0.001)
                return await asyncio.gather(*(twice(number) for number in range(count)))

        assert asyncio.run(ask()) == [2 * number for number in range(count)]

    def test_one_that_fails_fails_alone(self):
        def work(batch):
            return [1 / value for value in batch]

        async def ask():
            with ThreadPoolExecutor(1) as pool:
                inverse = Batcher(work, pool, 8, 0.01)
                return await asyncio.gather(*map(inverse, [1, 0, 2]), return_exceptions=True)

        one, none, half = asyncio.run(ask())
        assert (one, half) == (1, 0.5)
        assert isinstance(none, ZeroDivisionError)

    def test_who_has_left_is_passed_over(self):
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


class TestSafety:
    def test_headers_of_every_answer(self, client, photo):
        answers = [client.get("/"), client.get("/nothing"), client.get("/picture?item=red"),
                   client.post("/search", content=photo), client.post("/search", content=b"")]  # fmt: skip
        for answer in answers:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    def test_another_name_is_another_server(self, shop):
        with TestClient(shop.app(), base_url="http://evil.example") as client:
            answer = client.get("/about")
            assert answer.status_code == 421
            assert "--allow-host" in answer.json()["error"]
            for host in ("localhost:8000", "127.0.0.1:80", "LOCALHOST"):
                assert client.get("/about", headers={"Host": host}).status_code == 200
        with TestClient(shop.app(Limits(hosts=None)), base_url="http://evil.example") as client:
            assert client.get("/about").status_code == 200

    def test_other_sites_cannot_make_a_browser_search(self, client, photo):
        for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
            answer = client.post("/detect", content=photo, headers={"Sec-Fetch-Site": site})
            assert answer.status_code == status

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/search"), ("PUT", "/search"), ("DELETE", "/items/red"), ("POST", "/")]
    )
    def test_methods_that_there_are_not(self, client, method, path):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert list(answer.json()) == ["error"]

    def test_a_stage_that_fails_tells_no_trace(self, shop, photo, caplog):
        class Broken(FakeDetector):
            def __call__(self, images):
                raise RuntimeError("weights at a secret place")

        with TestClient(shop.app(detector=Broken()), raise_server_exceptions=False) as client:
            answer = client.post("/detect", content=photo)
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert "Traceback" not in answer.text
            assert client.get("/healthz").status_code == 200
        assert "secret place" in caplog.text

    def test_no_upload_is_kept(self, client, photo, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))  # a file on disk would fail
        big = photo + bytes(3_000_000)
        assert client.post("/search", files={"photo": big}).status_code == 200
        assert client.post("/search", content=big).status_code == 200

    def test_the_page_asks_no_one_else(self, client):
        page = client.get("/").text
        names = re.findall(r'(?:src|href)="(assets/[^"]+)"', page)
        assert len(names) >= 4
        for name in names:
            assert client.get(f"/{name}").status_code == 200
        for name in [
            *names,
            "",
            "docs",
            *(f"assets/{module}" for module in ("api.js", "photo.js", "scene.js", "region.js")),
        ]:
            text = client.get(f"/{name}").text
            assert not re.findall(r"""(?:src|href|url|from|import)\W{1,4}(?:https?:)?//""", text), name

    def test_the_report_and_the_page_have_one_style(self, client):
        from pipeline.report_style import STYLE

        assert client.get("/assets/look.css").text == STYLE

    def test_docs_tell_every_endpoint_and_run_nothing(self, client):
        text = client.get("/docs").text
        for path in client.get("/openapi.json").json()["paths"]:
            assert path in text
        assert "<script" not in text
        assert "style=" not in text


class TestGenerations:
    def wait(self, client, photos):
        deadline = time.monotonic() + 20
        while client.get("/about").json()["photos"] != photos:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_a_new_one_is_taken_up(self, shop, client, photo):
        self.wait(client, 5)
        add(shop.gallery, shop.folder / "pictures", {"red new": {"category": "dress"}}, BoxCrop())
        self.wait(client, 6)
        assert client.get("/items/red new").status_code == 200
        assert client.get("/healthz").json()["generation"] == shop.gallery.manifest.generation
        shop.gallery.remove(["red", "red dark"])
        shop.gallery.compact()
        self.wait(client, 4)
        tops = {
            garment["results"][0]["matches"][0]["item"]
            for garment in client.post("/search", content=photo).json()["garments"]
        }
        assert tops == {"red new", "blue"}
        assert client.get("/items/red").status_code == 404
        assert 'outfinder_gallery_reloads_total{crop="box",outcome="taken up"} 2.0' in client.get("/metrics").text

    def test_one_made_otherwise_is_left_alone(self, shop, client, photo, caplog):
        import shutil

        shutil.rmtree(shop.gallery.folder)
        Gallery.create(shop.gallery.folder, FakeEmbedder(), MaskCrop(), settings={"crop": "mask"})
        deadline = time.monotonic() + 20
        while 'outcome="refused"' not in client.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.get("/about").json()["photos"] == 5
        assert client.post("/search", content=photo).status_code == 200
        assert caplog.text.count("is not taken up") == 1

    def test_a_gallery_that_is_gone_goes_on(self, shop, client, photo):
        (shop.gallery.folder / "manifest.json").write_text("{")
        (shop.gallery.folder / "manifest-copy.json").unlink()
        time.sleep(0.2)
        assert client.post("/search", content=photo).status_code == 200


def test_verdicts_where_the_embedder_is_calibrated(shop, photo):
    thresholds = Thresholds(Estimate(0.9, 0.9, 0.9), Estimate(0.5, 0.5, 0.5), 0.01, 0.01, 100, 100, 50)
    calibration = Calibration("fake mean colours", 0.01, 0.05, "drawn", thresholds)
    with TestClient(shop.app(calibration=calibration)) as client:
        assert client.get("/about").json()["calibrated"]
        for garment in client.post("/search", content=photo).json()["garments"]:
            for match in garment["results"][0]["matches"]:
                low, high = match["similarity"] < 0.5, match["similarity"] >= 0.9
                assert match["verdict"] == ("different" if low else "same item" if high else "not sure")


def test_metrics_count_what_was_done(client, photo):
    client.post("/search", content=photo)
    client.post("/search", content=b"x")
    client.get("/made/up/path")
    text = client.get("/metrics").text
    assert 'outfinder_requests_total{path="/search",status="200"} 1.0' in text
    assert 'outfinder_requests_total{path="/search",status="422"} 1.0' in text
    assert 'outfinder_requests_total{path="other",status="404"} 1.0' in text
    assert 'outfinder_batch_size_count{stage="detect"} 1.0' in text
    for stage in ("decode", "detect", "crop", "embed", "search"):
        assert f'outfinder_stage_seconds_count{{stage="{stage}"}}' in text
    assert 'outfinder_gallery_photos{crop="box"} 5.0' in text
    assert EVIL not in text
