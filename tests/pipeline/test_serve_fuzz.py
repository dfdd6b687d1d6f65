"""Arbitrary and nearly right bytes as the body of each request: an answer in words, never a 500."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from conftest import draw
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import make_shop

from stages.images import encode_jpeg

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PHOTO = encode_jpeg(draw("red", "blue"))
QUESTIONS = {
    "/search/vector": json.dumps({"vector": [0.5] * 8, "k": 3}).encode(),
    "/search/item": json.dumps({"item": "red", "k": 3}).encode(),
}
TYPES = (
    "application/octet-stream", "application/json", "image/jpeg", "multipart/form-data; boundary=x", "text/plain", "",
    "multipart/form-data",
)  # fmt: skip


@st.composite
def bodies(drawn, right: bytes):
    """Anything at all, or what is right with stretches changed or cut off, or as a form's file."""
    data = bytearray(right)
    for _ in range(drawn(st.integers(0, 4))):
        at = drawn(st.integers(0, len(data)))
        data[at : at + drawn(st.integers(0, 20))] = drawn(st.binary(max_size=20))
    form = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n' + data + b"\r\n--x--\r\n"
    return drawn(
        st.sampled_from([bytes(data), bytes(data[: len(data) // 2]), form, form[:-9]]) | st.binary(max_size=400)
    )


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    with TestClient(make_shop(tmp_path_factory.mktemp("fuzz")).app(), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/search", "/detect", "/embed", "/search/vector", "/search/item"])
def test_no_body_breaks_the_server(asking, path):
    @FUZZ
    @given(bodies(QUESTIONS.get(path, PHOTO)), st.sampled_from(TYPES))
    def ask(body, kind):
        answer = asking.post(path, content=body, headers={"content-type": kind} if kind else {})
        assert answer.status_code in (200, 400, 413, 422), answer.text
        assert isinstance(answer.json(), dict)

    ask()
    assert asking.get("/healthz").status_code == 200
