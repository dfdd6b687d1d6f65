"""A gallery for agents, asked by the protocol's own client."""

import asyncio
import base64
import json
import sys

import pytest

pytest.importorskip("mcp", reason="needs the extra mcp")
pytest.importorskip("fastapi", reason="needs the extra web")

from mcp import Client, StdioServerParameters
from served import photo, shop

from pipeline.mcp import create_mcp_server


def ask(shop, *calls, photos=None):
    """Return the answer to each call of a tool by a client in this process: its text, and whether it is an error."""

    async def session():
        server = create_mcp_server(shop.app().state.service, photos)
        async with Client(server) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            return tools, [await client.call_tool(name, arguments) for name, arguments in calls]

    tools, answers = asyncio.run(session())
    return tools, [(answer.content[0], answer.is_error) for answer in answers]


def found(shop, name, **arguments):
    _, [(content, is_error)] = ask(shop, (name, arguments))
    assert not is_error, content.text
    return json.loads(content.text)


def test_a_photo_finds_items_for_each_garment(shop, photo):
    garments = found(shop, "search_by_photo", photo_base64=base64.b64encode(photo).decode(), k=1)["garments"]

    assert sorted(garment["results"][0]["matches"][0]["item"] for garment in garments) == ["blue", "red"]
    assert "vector" not in garments[0]["results"][0]


def test_words_an_item_and_a_filter_find_items(shop):
    assert [match["item"] for match in found(shop, "search_by_text", text="blue dress", k=1)["matches"]] == ["blue"]
    similar = found(shop, "search_by_item", item="red", where="price < 40")["matches"]
    assert [match["item"] for match in similar] == ["red dark"]
    assert found(shop, "item", item="green")["price"] == "50"
    assert found(shop, "about")["items"] == 5


def test_an_item_is_shown(shop):
    _, [(content, is_error)] = ask(shop, ("picture", {"item": "red"}))

    assert not is_error
    assert content.type == "image"
    assert base64.b64decode(content.data).startswith(b"\xff\xd8")


def test_photos_of_the_folder_are_named_and_no_others(shop, tmp_path, photo):
    folder = tmp_path / "street"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo)
    outside = ["../example.jpg", str(shop.examples[0]), "", "b.jpg"]

    tools, answers = ask(shop, ("photos", {}), ("search_by_photo", {"photo_file": "a.jpg", "k": 1}),
                         *(("search_by_photo", {"photo_file": name}) for name in outside), photos=folder)  # fmt: skip

    assert "photos" in tools
    assert answers[0][0].text == "a.jpg"
    assert not answers[1][1]
    assert all(is_error and "there is no such photo" in content.text for content, is_error in answers[2:])


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("search_by_photo", {}, "give photo_base64 or photo_file"),
        ("search_by_photo", {"photo_base64": "@"}, "is not base64"),
        ("search_by_photo", {"photo_base64": "eA=="}, "the photo"),
        ("search_by_photo", {"photo_base64": "A" * 30_000_000}, "larger than 20 MB"),
        ("search_by_photo", {"photo_base64": "eA==", "box": "1,2"}, "box"),
        ("search_by_text", {"text": "puce"}, "known"),
        ("search_by_item", {"item": "none"}, "none"),
        ("search_by_item", {"item": "red", "where": "price <"}, "price"),
        ("item", {"item": "none"}, "the gallery has no item 'none'"),
        ("picture", {"item": "red", "number": 9}, "no such picture"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(shop, name, arguments, reason):
    _, [(content, is_error)] = ask(shop, (name, arguments))

    assert is_error
    assert reason in content.text
    assert "Traceback" not in content.text
    assert str(shop.folder) not in content.text


@pytest.mark.slow
def test_the_command_speaks_the_protocol_on_its_standard_streams(shop, photo):
    command = [sys.executable, "-m", "pipeline", "mcp", str(shop.gallery.folder), "--detector", "stages.testing:FakeDetector",
               "--embedder", "stages.testing:FakeEmbedder"]  # fmt: skip

    async def session():
        async with Client(StdioServerParameters(command=command[0], args=command[1:])) as client:
            return await client.call_tool("search_by_text", {"text": "red", "k": 1})

    assert json.loads(asyncio.run(session()).content[0].text)["matches"][0]["item"] in ("red", "red dark")
