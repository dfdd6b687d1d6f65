"""Attacks on a served gallery: slow uploads, raw sockets, hostile bodies and filters, and scripts in a real browser.

    sh scripts/test.sh -m slow tests/hostile/test_serve_attacks.py

Slow: each attack is larger than a test of a single limit, and the server must still answer others while it lasts.
"""

import json
import random
import socket
import threading
import time
from contextlib import ExitStack, suppress
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from served import ACCESS, WRITER, Shop, photo, running, shop, stock
from test_serve_limits import connect, post, read_all, status, until
from test_serve_page import CHROMIUM, browser, give, settled

from pipeline.gallery import Gallery, Row
from pipeline.serve import app as serve_app
from pipeline.serve import limits as serve_limits
from pipeline.serve.limits import Limits
from stages.crop import BoxCrop
from stages.testing import FakeEmbedder
from stages.types import Box

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
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 0\r\n\r\n",
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
    "<object data=javascript:owned()>", "<embed src=//evil.example>", "<video><source onerror=document.title='owned'>",
    "<details open ontoggle=document.title='owned'>", "<body onload=owned()>", "<input autofocus onfocus=document.title='owned'>",
    "<textarea></textarea><script>document.title='owned'</script>", "</style><script>document.title='owned'</script>",
    "<template><script>owned()</script></template>", "<noscript><img src=x onerror=owned()></noscript>", "`${owned()}`",
    "<a href='data:text/html,<script>owned()</script>'>x</a>", "<img srcset='//evil.example/a 1x'>", "url(//evil.example/b)",
    "jAvAsCrIpT:document.title='owned'", "java\tscript:document.title='owned'", "\x00<script>owned()</script>",
    "constructor", "__proto__", "<svg><script href=//evil.example/x.js /></svg>", "<img src=x\nonerror=document.title='owned'>",
    "https://user@evil.example\\@localhost/", "<portal src=//evil.example>", "<slot onslotchange=owned()>", "\u2028owned()",
]  # fmt: skip


JSON_BOMBS = [
    b"[" * 290_000, b'{"a":' * 50_000, b'{"vector":' + b"[" * 280_000, b'{"vector":[' + b"9" * 280_000 + b"]}",
    b"{" + b",".join(b'"%d":0' % number for number in range(25_000)) + b"}", b'{"vector":[' + b"1e999," * 40_000 + b"1]}",
    b'{"vector":[' + b'"a",' * 60_000 + b"1]}", b"{" + b'"item":"a",' * 25_000 + b'"item":"a"}', b" " * 290_000,
    b'{"item":"' + b"\\ud800" * 40_000 + b'"}', b'{"item":"a","k":' + b"9" * 280_000 + b"}", b'{"vector":[NaN]}',
    b'{"item":"a","where":"' + b"(" * 200_000 + b'"}', b'{"vector":[1e308,-1e308]}', b"\xff" * 290_000, b"null",
]  # fmt: skip
FORM = b'--x\r\nContent-Disposition: form-data; name="p"; filename="a"\r\n\r\n'
FORMS = [
    (b"x", FORM + b"\r\n-" * 2_000_000), (b"x", FORM + b"\r" * 6_000_000), (b"x", b"--x\r\n" + b"A" * 6_000_000),
    (b"x", b"--x\r\n" + b"A: b\r\n" * 900_000), (b"x", b"--x\r\nContent-Disposition: form-data; name=p\r\n\r\n" * 100_000),
    (b"x" * 50_000, FORM), (b";" * 50_000, FORM), (b'a="' * 15_000, FORM), (b"x; charset=" + b"y" * 40_000, FORM),
]  # fmt: skip
FILTERS = [
    f"note like '%{'_a' * 450}b%'", f"note like '{'%a' * 450}b'", f"note like '%{'a' * 900}b%'", f"note contains '{'a' * 900}b'",
    f"price in ({','.join('1' * 480)})", " or ".join(["note like '%_a_b%'"] * 38), " and ".join(["price < 9e999"] * 60),
    " or ".join(["note > 'aaaaaaaa'"] * 40), f"note in ({','.join(['aaa'] * 240)})", " and ".join(["not note contains b"] * 40),
    f"{'not ' * 19}note like '%_%_%_%_%_%_b%'", "(" * 18 + "price = 1" + ")" * 18, "item like '%_%_%_%_%_%_%_%_%_b'",
]  # fmt: skip


def is_well(address):
    with connect(address, HEALTH) as health:
        assert status(read_all(health)) == 200


def ask(address, path, body, headers=b""):
    """Return the status and the text of an answer; nothing if the connection was closed."""
    with connect(address) as connection, suppress(OSError):
        connection.sendall(post(path, len(body)).replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n") + body)
        answer = read_all(connection)
        return status(answer), answer.partition(b"\r\n\r\n")[2].decode()
    return None, ""


def _answer(upload):
    """Return the answer; nothing if the server closed the connection while a byte was on its way."""
    try:
        return read_all(upload)
    except ConnectionResetError:
        return b""


def test_idle_and_dripping_uploads_stop_no_search(shop, photo, monkeypatch, tried):
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
            answers = [_answer(upload) for upload in uploads]
        finally:
            stop.set()
            dripping.join()
        assert all(not answer or status(answer) == 408 for answer in answers)
        tried("idle and dripping uploads", len(uploads))


def test_1300_connections_leave_health_and_a_short_log(shop, photo, caplog, tried):
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
    tried("idle connections at once", 1300)


def test_no_raw_request_breaks_the_server(shop, monkeypatch, caplog, tried):
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
                tried("raw requests on sockets")
            is_well(address)
    assert "Traceback" not in caplog.text


def test_no_body_takes_long_or_breaks_the_server(shop, photo, caplog, tried):
    bodies = [(path, b"Content-Type: application/json\r\n", body) for body in JSON_BOMBS
              for path in ("/search/vector", "/search/item")]  # fmt: skip
    bodies += [(path, b"Content-Type: multipart/form-data; boundary=" + boundary + b"\r\n", body)
               for path in ("/search", "/items") for boundary, body in FORMS]  # fmt: skip
    token = f"Authorization: {WRITER['Authorization']}\r\n".encode()
    with running(shop.app(access=ACCESS)) as address:
        for path, headers, body in bodies:
            waiting = threading.Thread(target=ask, args=(address, path, body, token + headers))
            start = time.monotonic()
            waiting.start()
            is_well(address)
            assert time.monotonic() - start < 5
            code, text = ask(address, path, body, token + headers)
            assert code in (None, 400, 404, 413, 422), (code, text[:300])
            assert len(text) < 1000
            assert time.monotonic() - start < 30
            waiting.join()
            tried("hostile JSON bodies and forms")
        assert ask(address, "/search", photo, token)[0] == 200
    assert not (shop.gallery.folder / "uploads").exists()
    assert "Traceback" not in caplog.text


def test_no_filter_stops_the_searches_of_others(tmp_path, photo, tried):
    """On 20,000 items with long texts; some searches read rows that are not in memory yet."""
    count = 20_000
    gallery = Gallery.create(tmp_path / "gallery", FakeEmbedder(), BoxCrop(), settings={"crop": "box"})
    drawn = np.random.default_rng(0).normal(size=(count, 49)).astype(np.float32)
    rows = [
        Row(f"i{number}", f"p{number}", "", "fake", "dress", 0.5, Box(0, 0, 9, 9), (("price", str(number)), ("note", "ab" * 1000)))
        for number in range(count)
    ]  # fmt: skip
    gallery.add(rows, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    gallery.save()
    with running(Shop(tmp_path, gallery).app(Limits(queue=64))) as address:
        assert ask(address, f"/search?where={quote('price < 5')}", photo)[0] == 200
        answers, slowest = [], 0.0
        for where in FILTERS:
            attack = [
                threading.Thread(target=lambda: answers.append(ask(address, f"/search?where={quote(where)}", photo)))  # noqa: B023
                for _ in range(4)
            ]
            for thread in attack:
                thread.start()
            while any(thread.is_alive() for thread in attack):
                start = time.monotonic()
                vector = np.random.default_rng().normal(size=49).tolist()
                assert ask(address, "/search/vector", json.dumps({"vector": vector, "k": 50}).encode())[0] == 200
                slowest = max(slowest, time.monotonic() - start)
                is_well(address)
            tried("slow filters", len(attack))
    assert {code for code, _ in answers} <= {200, 422, 503}
    assert slowest < 3


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH: apt-get install chromium")
def test_no_text_of_a_catalogue_runs_in_a_browser(tmp_path, browser, tried):
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
        assert {urlsplit(link).scheme for link in links} <= {"http", "https"}
        assert {urlsplit(link).hostname for link in links} == {"evil.example"}
        page.goto(root + "docs")
        context.close()
    tried("script payloads in Chromium", len(PAYLOADS))
    assert len(titles) == 1
    assert "owned" not in titles.pop().replace(PAYLOADS[1].replace("/", " "), "")
    assert [url for url in foreign if not url.startswith((root, f"blob:{root}"))] == []


def test_a_flood_of_searches_is_answered_or_refused(shop, photo, tried):
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
    tried("searches at once", len(statuses))
