"""Attacks on a served gallery: slow uploads, raw sockets, and scripts in every text of a catalogue in a real browser.

    sh scripts/test.sh -m slow tests/pipeline/test_serve_attacks.py

Slow: each attack is larger than a test of a single limit, and the server must still answer others while it lasts.
"""

import random
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from served import Shop, photo, running, shop, stock
from test_serve_limits import connect, post, read_all, status, until
from test_serve_page import CHROMIUM, browser, give, settled

from pipeline.serve import app as serve_app
from pipeline.serve import limits as serve_limits
from pipeline.serve.limits import Limits
from stages.crop import BoxCrop

pytestmark = pytest.mark.slow

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REQUESTS = [
    b"", b"\r\n" * 50, b"\x00" * 100, b"\xff" * 5000, b"GET", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"CONNECT evil.example:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /%00%0d%0aX:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /assets/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e3\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST /search HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
    b"POST /search/vector HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60_000,
    HEALTH.replace(b"Connection: close\r\n", b"") * 500,
]  # fmt: skip

PAYLOADS = [
    "<script>document.title='owned'</script>", "<img src=x onerror=document.title='owned'>", "</script><script>owned()</script>",
    "<svg/onload=document.title='owned'>", "\"><img src=x onerror=document.title='owned'>", "' onmouseover='owned()", "</title><b>",
    "<iframe srcdoc='<script>parent.document.title=1</script>'>", "javascript:document.title='owned'", "{{7*7}}", "${7*7}",
    "data:text/html,<script>opener.document.title=1</script>", "<style>*{display:none}</style>", "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>", "<meta http-equiv=refresh content=0;url=//evil.example>", "\u202egnp.exe",
    "<a href=javascript:owned()>x</a>", "<form action=//evil.example><input name=x>", "<!--", "]]>", "\\u003cscript\\u003e",
    'https://evil.example/"onclick=owned()', "http://evil.example/' onfocus=owned() autofocus='", "&lt;script&gt;", "<math><mi//xlink:href=x>",
]  # fmt: skip


def is_well(address):
    with connect(address, HEALTH) as health:
        assert status(read_all(health)) == 200


def test_idle_and_dripping_uploads_stop_no_search(shop, photo, monkeypatch):
    monkeypatch.setattr(serve_limits, "GRACE_S", 2.0)
    with running(shop.app(Limits(queue=4))) as address, ExitStack() as stack:
        uploads = [stack.enter_context(connect(address, post("/search", 10**6) + b"x")) for _ in range(400)]
        stop = threading.Event()

        def drip():
            while not stop.wait(0.05):
                for upload in uploads[::4]:
                    with suppress(OSError):
                        upload.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for _ in range(20):
                with connect(address, post("/search", len(photo)) + photo) as other:
                    assert status(read_all(other)) == 200
                is_well(address)
            answers = [read_all(upload) for upload in uploads]
        finally:
            stop.set()
            dripping.join()
        assert all(not answer or status(answer) == 408 for answer in answers)


def test_1300_connections_leave_health_and_a_short_log(shop, photo, caplog):
    with running(shop.app()) as address, ExitStack() as stack:
        for number in range(1300):
            connection = stack.enter_context(socket.create_connection(address, 30))
            with suppress(OSError):
                connection.sendall([b"", b"GET / HT", b"\x00\x00\r\n\r\n", post("/search", 1000)][number % 4])
            if number % 100 == 0:
                is_well(address)
        with connect(address, post("/search", len(photo)) + photo) as other:
            assert status(read_all(other)) == 200
    assert len(caplog.text) < 5_000


def test_no_raw_request_breaks_the_server(shop, monkeypatch, caplog):
    monkeypatch.setattr(serve_app, "CLIENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(serve_limits, "GRACE_S", 0.5)
    randomly = random.Random(0)
    with running(shop.app()) as address:
        for request in REQUESTS:
            cuts = [len(request), *(randomly.randrange(len(request) + 1) for _ in range(7))]
            for cut in cuts:
                with socket.create_connection(address, 30) as connection, suppress(OSError):
                    connection.sendall(request[:cut])
                    answer = read_all(connection).removeprefix(CONTINUE)
                    assert not answer or 200 <= status(answer) < 500 or status(answer) == 501
                    assert b"Traceback" not in answer
                    assert b"root:" not in answer
            is_well(address)
    assert "Traceback" not in caplog.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH: apt-get install chromium")
def test_no_text_of_a_catalogue_runs_in_a_browser(tmp_path, browser):
    items = {
        f"red {payload} {number}": dict.fromkeys(["name", "price", "category", "url", payload], payload)
        | {"fit": PAYLOADS[number % 5]}
        for number, payload in enumerate(PAYLOADS)
    }
    gallery = stock(tmp_path / PAYLOADS[1].replace("/", " "), tmp_path / "pictures", items, BoxCrop())
    foreign, titles = [], set()
    with running(Shop(tmp_path, gallery).app()) as (host, port):
        root = f"http://{host}:{port}/"
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: foreign.append(request.url))
        page.on("dialog", lambda dialog: foreign.append(f"dialog {dialog.message}"))
        page.goto(root)
        page.locator("#stock").wait_for()
        page.locator("#k").evaluate("slider => { slider.value = 60 }")
        give(page)
        settled(page, f"{len(items)} matches for the dress")
        assert page.locator(".match").count() == len(items)
        page.locator("summary").click()
        assert page.get_by_label("fit").locator("option").all_inner_texts()[1:] == sorted(
            PAYLOADS[:5], key=str.casefold
        )
        for more in range(3):
            titles.add(page.title())
            page.locator(".more").nth(more).click()
            settled(page, "matches for item")
            page.get_by_role("button", name="Back").click()
            settled(page, "matches for the dress")
        assert (
            page.locator(
                ".match script, .match iframe, .match img[onerror], .match svg, main base, main form[action]"
            ).count()
            == 0
        )
        links = page.locator(".match a").evaluate_all("all => all.map((link) => link.href)")
        assert all(link.startswith(("http://evil.example/", "https://evil.example/")) for link in links)
        page.goto(root + "docs")
        context.close()
    assert len(titles) == 1
    assert "owned" not in titles.pop().replace(PAYLOADS[1].replace("/", " "), "")
    assert [url for url in foreign if not url.startswith((root, f"blob:{root}"))] == []


def test_a_flood_of_searches_is_answered_or_refused(shop, photo):
    statuses = []

    def search():
        with suppress(OSError), connect(address, post("/search", len(photo)) + photo) as connection:
            statuses.append(status(read_all(connection)))

    with running(shop.app(Limits(queue=8))) as address:
        threads = [threading.Thread(target=search) for _ in range(150)]
        for thread in threads:
            thread.start()
            time.sleep(0.002)
        is_well(address)
        for thread in threads:
            thread.join()
        is_well(address)
    assert set(statuses) <= {200, 503}
    assert len(statuses) == 150
    assert statuses.count(200) >= 8
