"""The HTTP API: what it answers, and that every bad request is told in words."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from served import blank, client, photo, shop


def test_a_photo_gives_garments_with_their_matches(client, photo):
    answer = client.post("/search", params={"k": 2}, content=photo)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["width"], found["height"]) == (128, 64)
    tops = [garment["results"][0]["matches"][0]["item"] for garment in found["garments"]]
    assert sorted(tops) == ["blue", "red"]
