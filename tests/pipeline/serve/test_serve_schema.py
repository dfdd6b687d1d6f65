"""Schemathesis asks what the OpenAPI schema allows, and what it does not: no answer is outside it, and none a 500."""

import io

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")

from conftest import draw
from hypothesis import HealthCheck, Phase, settings
from served import ITEMS, make_shop, running

from stages.images import encode_jpeg

PHOTO = encode_jpeg(draw("red", "blue"))
schema = schemathesis.pytest.from_fixture("api")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with running(make_shop(tmp_path_factory.mktemp("schema")).app()) as (host, port):
        yield schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json")


def not_accepted(statuses):
    """What schema-valid requests may meet as well: no such item, no photo, no such column, no such crop."""
    return {404, 422} | statuses


@schema.parametrize()
@settings(
    max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
def test_every_answer_is_told_by_the_schema(case):
    answer = case.call()
    excluded = [schemathesis.specs.openapi.checks.positive_data_acceptance] if answer.status_code in (404, 422) else []
    case.validate_response(answer, excluded_checks=excluded)


@schema.include(method="POST", path_regex="^/(search|detect|embed)$").parametrize()
@settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_the_same_with_a_photo(case):
    case.body, case.media_type = PHOTO, "application/octet-stream"
    answer = case.call()
    assert answer.status_code in (200, 422)
    case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])
