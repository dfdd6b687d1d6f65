"""Schemathesis asks what the OpenAPI schema allows, and what it does not: no answer is outside it, and none a 500."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")

from conftest import draw
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from served import make_shop, running

from stages.images import encode_jpeg

PHOTO = encode_jpeg(draw("red", "blue"))
OPERATIONS = [
    "POST /search", "POST /search/vector", "POST /search/item", "POST /detect", "POST /embed", "GET /items/{item}",
    "GET /picture", "GET /about", "GET /examples/{number}", "GET /healthz", "GET /metrics",
]  # fmt: skip
WITHOUT_INPUT = ("GET /about", "GET /healthz", "GET /metrics")
ANY_TEXT = ("GET /items/{item}",)
POSTED = ("POST /search", "POST /detect", "POST /embed")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with running(make_shop(tmp_path_factory.mktemp("schema")).app()) as (host, port):
        yield schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json")


def of(api, operation):
    return next(found.ok() for found in api.get_all_operations() if found.ok().label == operation)


def test_every_operation_is_asked(api):
    assert sorted(found.ok().label for found in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("operation", "mode"),
    [(operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
    + [(operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation not in WITHOUT_INPUT + ANY_TEXT],
)
def test_every_answer_is_told_by_the_schema(api, operation, mode):
    @settings(
        max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )
    @given(of(api, operation).as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call()
        # what the schema allows may still be no such item, no photo, no such column, no such crop
        excluded = [CHECKS.get_one("positive_data_acceptance")] if answer.status_code in (404, 422) else []
        case.validate_response(answer, excluded_checks=excluded)

    ask()


@pytest.mark.parametrize("operation", POSTED)
def test_the_same_with_a_photo(api, operation):
    @settings(
        max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )
    @given(of(api, operation).as_strategy())
    def ask(case):
        case.body, case.media_type = PHOTO, "application/octet-stream"
        assert case.call().status_code in (200, 422)

    ask()
