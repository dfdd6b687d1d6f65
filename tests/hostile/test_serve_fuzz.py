"""Generated requests, within the OpenAPI schema and outside it: every answer is one that the schema allows, none a 500."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")

import nearly
from conftest import draw
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from served import ACCESS, WRITER, make_shop, running

from stages.images import encode_jpeg

PHOTO = encode_jpeg(draw("red", "blue"))
OPERATIONS = [
    "POST /search", "POST /search/text", "POST /search/vector", "POST /search/item", "POST /detect", "POST /embed", "GET /items/{item}",
    "POST /items", "DELETE /items/{item}",
    "GET /picture", "GET /about", "GET /examples/{number}", "GET /healthz", "GET /metrics",
]  # fmt: skip
WITHOUT_INPUT = ("GET /about", "GET /healthz", "GET /metrics")
ANY_TEXT = ("GET /items/{item}", "DELETE /items/{item}")
FORM = (
    b"".join(
        b"--x\r\nContent-Disposition: form-data; name=" + name + b"\r\n\r\n" + value + b"\r\n"
        for name, value in ((b"item_id", b"new"), (b"price", b"5"), (b'"photo"; filename="a.jpg"', PHOTO))
    )
    + b"--x--\r\n"
)
BODIES = {
    "/items": FORM,
    "/search/text": json.dumps({"text": "red dress", "k": 3}).encode(),
    "/search/vector": json.dumps({"vector": [0.5] * 8, "k": 3}).encode(),
    "/search/item": json.dumps({"item": "red", "k": 3}).encode(),
}
CONTENT_TYPES = (
    "application/octet-stream", "application/json", "image/jpeg", "multipart/form-data; boundary=x", "text/plain", "",
    "multipart/form-data",
)  # fmt: skip
TIMES = max(1, nearly.EXAMPLES // 40)
QUICK = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=TIMES == 1
)  # fmt: skip
EXAMPLES = settings(QUICK, max_examples=10 * TIMES, phases=[Phase.generate])


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("fuzz")).app


@pytest.fixture(scope="module")
def api(app):
    with running(app(access=ACCESS)) as (host, port):
        yield schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json", headers=WRITER)


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app(access=ACCESS), raise_server_exceptions=False, headers=WRITER) as client:
        yield client


def operation_of(api, name):
    return next(result.ok() for result in api.get_all_operations() if result.ok().label == name)


def test_every_operation_is_tried(api):
    assert sorted(result.ok().label for result in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("operation", "mode"),
    [(operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
    + [(operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation not in WITHOUT_INPUT + ANY_TEXT],
)
def test_every_answer_is_allowed_by_the_schema(api, tried, operation, mode):
    @EXAMPLES
    @given(operation_of(api, operation).as_strategy(generation_mode=mode))
    def ask(case):
        tried("generated requests")
        answer = case.call(headers=WRITER)
        # what the schema allows may still name no item, no column and no crop, or hold no photo
        excluded = [CHECKS.get_one("positive_data_acceptance")] if answer.status_code in (404, 422) else []
        case.validate_response(answer, excluded_checks=excluded)

    ask()


@pytest.mark.parametrize("operation", ["POST /search", "POST /detect", "POST /embed"])
def test_any_parameters_with_a_photo_are_answered_or_refused(api, tried, operation):
    @EXAMPLES
    @given(operation_of(api, operation).as_strategy())
    def ask(case):
        tried("generated requests")
        case.body, case.media_type = PHOTO, "application/octet-stream"
        assert case.call(headers=WRITER).status_code in (200, 422)

    ask()


@st.composite
def bodies(drawn, valid: bytes):
    """Any bytes, or a valid body with stretches changed or cut off, or that as a form's file."""
    data = bytearray(valid)
    for _ in range(drawn(st.integers(0, 4))):
        at = drawn(st.integers(0, len(data)))
        data[at : at + drawn(st.integers(0, 20))] = drawn(st.binary(max_size=20))
    form = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n' + data + b"\r\n--x--\r\n"
    return drawn(
        st.sampled_from([bytes(data), bytes(data[: len(data) // 2]), form, form[:-9]]) | st.binary(max_size=400)
    )


@pytest.mark.parametrize(
    "path", ["/search", "/detect", "/embed", "/search/text", "/search/vector", "/search/item", "/items"]
)
def test_no_body_breaks_the_server(client, tried, path):
    @settings(QUICK, max_examples=60 * TIMES)
    @given(bodies(BODIES.get(path, PHOTO)), st.sampled_from(CONTENT_TYPES))
    def ask(body, content_type):
        tried("generated requests")
        answer = client.post(path, content=body, headers={"content-type": content_type} if content_type else {})
        assert answer.status_code in (200, 400, 413, 422), answer.text
        assert isinstance(answer.json(), dict)

    ask()
    assert client.get("/healthz").status_code == 200
