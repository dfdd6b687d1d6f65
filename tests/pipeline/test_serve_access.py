"""A server that others can reach: tokens, pages of other origins, and a path prefix behind a proxy."""

import base64
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from cli_runs import run
from fastapi.testclient import TestClient
from served import photo, shop

from pipeline.serve.access import Access, read_tokens
from stages.errors import OutfinderError

TOKENS = {"till": "0123456789abcdef-till", "web": "0123456789abcdef-web"}
SHOP = "https://www.shop.example"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# who and what\n" + "".join(f"{name} {token}\n" for name, token in TOKENS.items()))
    path.chmod(0o600)
    return path


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'anyone:{password}'.encode()).decode()}"


class TestTokens:
    @pytest.fixture
    def client(self, shop, tokens):
        with TestClient(shop.app(access=Access(read_tokens(tokens)))) as client:
            yield client

    @pytest.mark.parametrize("path", ["/", "/about", "/metrics", "/items/red", "/assets/main.js", "/nothing"])
    def test_nothing_but_health_answers_without_one(self, client, path):
        answer = client.get(path)

        assert (answer.status_code, list(answer.json())) == (401, ["error"])
        assert "Bearer" in answer.headers["www-authenticate"]
        assert client.get("/healthz").status_code == 200

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Bearer 0123456789abcdef", f"Token {TOKENS['web']}", "Basic !", basic("no"),
                   "Bearer \xe9" * 3],
    )  # fmt: skip
    def test_a_wrong_one_is_refused(self, client, header):
        assert client.get("/about", headers={"Authorization": header.encode("latin-1")}).status_code == 401

    @pytest.mark.parametrize("header", [f"Bearer {TOKENS['web']}", f"bearer  {TOKENS['web']}", basic(TOKENS["web"])])
    def test_a_right_one_is_counted_by_its_clients_name_alone(self, client, photo, header):
        headers = {"Authorization": header}
        assert client.post("/search", content=photo, headers=headers).status_code == 200

        metrics = client.get("/metrics", headers=headers).text

        assert 'outfinder_client_requests_total{client="web"} 2.0' in metrics
        assert "0123456789abcdef" not in metrics

    def test_a_file_that_others_can_read_is_refused(self, tokens):
        tokens.chmod(0o640)
        with pytest.raises(OutfinderError, match="chmod 600"):
            read_tokens(tokens)

    def test_the_word_writer_after_a_token_lets_its_client_write(self, tokens):
        tokens.write_text("till 0123456789abcdef-1\n  writer\t0123456789abcdef-2  writer \n")
        assert [(client.name, client.is_writer) for client in read_tokens(tokens)] == [
            ("till", False),
            ("writer", True),
        ]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "has no tokens"),
            ("till\n", "line 1 of .* has to be a name and a token"),
            ("a b 0123456789abcdef0123", "line 1"),
            ("till short-token", "fewer than 16 characters"),
            ("a 0123456789abcdef-1\na 0123456789abcdef-2", "line 2 of .* repeats"),
            ("a 0123456789abcdef-1\nb 0123456789abcdef-1", "line 2 of .* repeats"),
            ("a\x00b 0123456789abcdef-1", "line 1"),
            ("a 0123456789abcdef-1 admin", "line 1 .* may write the word writer"),
            ("a 0123456789abcdef-1 writer b", "line 1"),
        ],
    )
    def test_a_bad_file_is_refused_without_quoting_a_token(self, tokens, text, reason):
        tokens.write_text(text)
        with pytest.raises(OutfinderError, match=reason) as caught:
            read_tokens(tokens)
        assert "0123456789abcdef" not in str(caught.value)


class TestOrigins:
    @pytest.fixture
    def client(self, shop, tokens):
        with TestClient(shop.app(access=Access(read_tokens(tokens), frozenset({SHOP})))) as client:
            yield client

    def test_an_allowed_page_may_ask_and_search(self, client, photo):
        asked = {
            "Origin": SHOP,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert client.options("/search", headers=asked).headers["access-control-allow-origin"] == SHOP

        headers = {"Origin": SHOP, "Authorization": f"Bearer {TOKENS['web']}", "Sec-Fetch-Site": "cross-site"}
        answer = client.post("/search", content=photo, headers=headers)

        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SHOP)
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert f"frame-ancestors {SHOP}" in answer.headers["content-security-policy"]

    def test_any_other_page_may_not(self, client, photo):
        headers = {
            "Origin": "https://evil.example",
            "Authorization": f"Bearer {TOKENS['web']}",
            "Sec-Fetch-Site": "cross-site",
        }
        answer = client.post("/search", content=photo, headers=headers)

        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"

    @pytest.mark.parametrize(
        "origin", ["*", "www.shop.example", "https://shop.example/", "https://a.example 'self'", "null"]
    )
    def test_what_is_no_origin_is_refused(self, origin):
        with pytest.raises(ValueError, match="an origin is written"):
            Access(origins=frozenset({origin}))


class TestRootPath:
    @pytest.mark.parametrize("prefix", ["", "/find"], ids=["cut away by the proxy", "left in by the proxy"])
    def test_the_page_and_the_api_answer_below_it(self, shop, photo, prefix):
        with TestClient(shop.app(access=Access(root_path="/find"))) as client:
            assert client.post(f"{prefix}/search", content=photo).status_code == 200
            assert client.get(f"{prefix}/items/red").json()["item"] == "red"
            page = client.get(f"{prefix}/").text
            for link in re.findall(r'(?:src|href)="(assets/[^"]+)"', page):
                assert client.get(f"{prefix}/{link}").status_code == 200
            assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/find"}]

    def test_the_prefix_alone_leads_to_the_page(self, shop):
        with TestClient(shop.app(access=Access(root_path="/find"))) as client:
            answer = client.get("/find", follow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["location"].endswith("/find/")

    @pytest.mark.parametrize("prefix", ["find", "/find/", "//find", "/a b", "/../x?"])
    def test_what_is_no_prefix_is_refused(self, prefix):
        with pytest.raises(ValueError, match="a path prefix is written"):
            Access(root_path=prefix)


def test_serve_says_what_is_wrong_with_its_options(tmp_path, tokens):
    tokens.chmod(0o644)
    assert "chmod 600" in run("serve", tmp_path, "--token-file", tokens, status=2).stderr
    assert "an origin is written" in run("serve", tmp_path, "--allow-origin", "shop.example", status=2).stderr
