"""The HTTP API: what it answers, and that every bad request is told in words."""

import io
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from conftest import draw
from fastapi.testclient import TestClient
from PIL import Image as PillowImage
from served import EVIL, HOSTS, ITEMS, add, blank, client, photo, shop

from pipeline.serve.limits import Limits
from stages.crop import BoxCrop
from stages.images import encode_jpeg
from stages.testing import FakeDetector, FakeEmbedder

BLACK = "black /../a?b&c#d/"


def found(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status, *words):
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.json()["error"]
    for word in words:
        assert word in answer.json()["error"]


class TestText:
    def test_words_alone_find_what_they_say(self, client):
        told = found(client.post("/search/text", json={"text": "blue dress", "k": 1}))
        assert [match["item"] for match in told["matches"]] == ["blue"]
        assert client.get("/about").json()["reads_text"] is True

    def test_words_pull_the_matches_of_a_garment_of_a_vector_and_of_an_item_towards_them(self, client, photo):
        asked = {"k": 1, "text": "but in green", "text_weight": 0.95}
        of_photo = found(client.post("/search", params=asked, content=photo))
        vector = of_photo["garments"][0]["results"][0]["vector"]
        answers = [
            *(garment["results"][0] for garment in of_photo["garments"]),
            found(client.post("/search/vector", json={**asked, "vector": vector})),
            found(client.post("/search/item", json={**asked, "item": "red"})),
        ]
        assert {match["item"] for answer in answers for match in answer["matches"]} == {"green"}

    @pytest.mark.parametrize("text", ["", "puce", "x" * 1001], ids=["empty", "unknown", "too long"])
    def test_a_text_that_says_nothing_is_refused(self, client, photo, text):
        refused(client.post("/search/text", json={"text": text}), 422)
        assert client.post("/search", params={"text": text}, content=photo).status_code == 422


class TestSearch:
    def test_a_photo_gives_garments_with_their_matches(self, client, photo):
        told = found(client.post("/search", params={"k": 2}, content=photo))
        assert (told["width"], told["height"]) == (128, 64)
        by_place = sorted(told["garments"], key=lambda garment: garment["box"])
        tops = [garment["results"][0]["matches"][0]["item"] for garment in by_place]
        assert tops == ["red", "blue"]
        for garment in told["garments"]:
            (result,) = garment["results"]
            assert result["crop"] == "box"
            assert len(result["matches"]) == 2
            assert len(result["vector"]) == 49
            assert garment["outline"]

    def test_a_form_is_as_good_as_a_body(self, client, photo):
        raw = found(client.post("/search", content=photo))
        assert raw == found(client.post("/search", files={"photo": ("a.jpg", photo, "image/jpeg")}))
        assert raw == found(client.post("/search", files={"anything": ("x.exe", photo, "text/html")}))

    def test_the_fields_of_a_form_are_parameters(self, client, photo):
        def search(data, **params):
            return client.post("/search", params=params, data=data, files={"photo": ("a.jpg", photo)})

        told = found(search({"k": "1", "where": "price < 30", "crop": ["box", "mask"]}))
        for garment in told["garments"]:
            assert [len(result["matches"]) for result in garment["results"]] == [1, 1]
            assert garment["results"][0]["matches"][0]["item"] == "red"
        assert told == found(client.post("/search?k=1&where=price<30&crop=box&crop=mask", content=photo))
        assert len(found(search({"k": "1"}, k=3))["garments"][0]["results"][0]["matches"]) == 3
        refused(search({"k": "many"}), 422, "k: ")
        refused(search({"wher": "price < 30"}), 422, "wher")
        refused(search({f"field {number}": "" for number in range(51)}), 400, "more than 50 fields")

    def test_the_other_crop_stands_beside(self, client, photo):
        told = found(client.post("/search", params={"crop": ["box", "mask", "box"]}, content=photo))
        for garment in told["garments"]:
            assert [result["crop"] for result in garment["results"]] == ["box", "mask"]
        refused(client.post("/search", params={"crop": "circle"}, content=photo), 422, "circle", "box, mask")

    def test_filters(self, client, photo):
        def items(**query):
            told = found(client.post("/search", params={"k": 10, **query}, content=photo))
            return {match["item"] for garment in told["garments"] for match in garment["results"][0]["matches"]}

        assert items() == set(ITEMS)
        assert items(label="top") == {"red dark"}
        assert items(same_label=True) == {"red", "green", "blue"}
        assert items(where="price < 60 and category = dress") == {"red", "green"}
        assert items(min_similarity=1) <= {"red", "blue"}
        refused(client.post("/search", params={"where": "price <"}, content=photo), 422, "it lacks something")
        refused(client.post("/search", params={"where": "photo like '%'"}, content=photo), 422, "no column 'photo'")
        refused(client.post("/search", params={"where": "colour = red"}, content=photo), 422, "no column 'colour'")

    def test_a_kind_that_the_shop_lacks_is_named_in_a_notice(self, client, photo):
        (result, *_), *_ = [
            one["results"] for one in found(client.post("/search?label=scarf", content=photo))["garments"]
        ]
        assert (result["matches"], result["notice"]) == ([], "this shop has no scarves")
        told = found(client.post("/search/item", json={"item": "red", "label": "top", "min_similarity": 1}))
        assert (told["matches"], told["notice"]) == ([], "")
        assert found(client.post("/search?any_kind=true", content=photo))["garments"][0]["results"][0]["notice"] == ""

    @pytest.mark.parametrize("column", ["photo", "detector", "PHOTO", "sha256", "stamp"])
    def test_filters_know_only_what_the_catalogue_says(self, client, shop, photo, column):
        for where in (f"{column} like '%pictures%'", f"price < 500 or {column} < 5", f"not {column} contains x"):
            answer = client.post("/search", params={"where": where}, content=photo)
            refused(answer, 422, "no column", "item, label, found, category, price")
            assert str(shop.folder) not in answer.text
            assert answer.status_code == client.post("/search/item", json={"item": "red", "where": where}).status_code

    def test_no_answer_names_a_path_of_the_server(self, client, shop, photo):
        answers = [client.post("/search", content=photo), client.get("/about"), client.get("/items/red"),
                   client.post("/search", params={"where": "item < 5"}, content=photo), client.get("/openapi.json")]  # fmt: skip
        for answer in answers:
            assert str(shop.folder) not in answer.text
            assert ".jpg" not in answer.text

    def test_a_box_is_searched_by_hand(self, client, photo):
        told = found(client.post("/search", params={"box": "0,0,64,64"}, content=photo))
        (garment,) = told["garments"]
        assert (garment["label"], garment["box"], garment["outline"]) == ("region", [0, 0, 64, 64], [])
        assert garment["results"][0]["matches"][0]["item"].startswith("red")

    @pytest.mark.parametrize("box", ["0,0,129,64", "5,5,5,9", "9,0,5,5", "1,2,3", "a,b,c,d", "0,0,-1,5", "1e3,0,4,4"])
    def test_a_box_that_is_none(self, client, photo, box):
        refused(client.post("/search", params={"box": box}, content=photo), 422)

    def test_nothing_found_is_an_answer(self, client, blank):
        assert found(client.post("/search", content=blank))["garments"] == []

    def test_the_two_shoes_of_a_pair_are_one_garment(self, shop):
        class ShoeDetector(FakeDetector):
            labels = ("shoes",)

            def __call__(self, images):
                return [[replace(found, label="shoes") for found in garments] for garments in super().__call__(images)]

        photo = encode_jpeg(draw("red", "red"), 95)
        with TestClient(shop.app(detector=ShoeDetector())) as client:
            boxes = [garment["box"] for garment in found(client.post("/detect", content=photo))["garments"]]
            (pair,) = found(client.post("/search", content=photo))["garments"]
        assert (pair["label"], sorted(pair["boxes"]), len(pair["outline"])) == ("shoes", sorted(boxes), 2)
        assert pair["box"] == [*np.min(boxes, axis=0)[:2], *np.max(boxes, axis=0)[2:]]
        assert pair["results"][0]["matches"][0]["item"] == "red"
        np.testing.assert_allclose(np.linalg.norm(pair["results"][0]["vector"]), 1, atol=1e-5)

    def test_color_variants_share_a_style(self, shop, photo):
        add(
            shop.gallery,
            shop.folder / "pictures",
            {"red W1": {"style_id": "W1"}, "blue W1": {"style_id": "W1"}},
            BoxCrop(),
        )
        with TestClient(shop.app()) as client:
            matches = found(client.post("/search", content=photo))["garments"][0]["results"][0]["matches"]
        assert {match["item"]: match["style"] for match in matches} == dict.fromkeys(ITEMS, "") | dict.fromkeys(
            ["red W1", "blue W1"], "W1"
        )

    def test_a_box_counts_in_pixels_of_the_full_size_photo(self, client):
        image = draw("red", "blue", side=1600)
        told = found(client.post("/search", params={"box": "1650,50,3150,1550"}, content=encode_jpeg(image)))
        assert (told["width"], told["height"]) == (3200, 1600)
        assert told["garments"][0]["results"][0]["matches"][0]["item"] == "blue"
        garments = found(client.post("/detect", content=encode_jpeg(image)))["garments"]
        widest = max(garments, key=lambda garment: garment["box"][2] - garment["box"][0])["box"]
        assert np.allclose(widest[1::2], [200, 1400], atol=8)
        whole = max(garments, key=lambda garment: garment["box"][2] - garment["box"][0])
        corners = np.concatenate([np.array(ring) for ring in whole["outline"]])
        assert np.allclose([*corners.min(axis=0), *corners.max(axis=0)], whole["box"], atol=8)


class TestAgain:
    """The same search with other filters, without the photo."""

    def test_a_vector_finds_what_its_photo_found(self, client, photo):
        garment = found(client.post("/search", content=photo))["garments"][0]
        (result,) = garment["results"]
        again = found(client.post("/search/vector", json={"vector": result["vector"], "crop": "box"}))
        assert again["matches"] == result["matches"]
        longer = [7 * number for number in result["vector"]]
        assert found(client.post("/search/vector", json={"vector": longer}))["matches"] == result["matches"]

    @pytest.mark.parametrize("vector", [[], [1.0], [0.0] * 49, ["x"] * 49, [1e300] * 49, "vector", None])
    def test_a_vector_that_is_none(self, client, vector):
        refused(client.post("/search/vector", json={"vector": vector}), 422)

    def test_json_that_is_none(self, client):
        refused(client.post("/search/vector", content=b"{", headers={"Content-Type": "application/json"}), 422)
        nan = b'{"vector": [NaN]}'
        refused(client.post("/search/vector", content=nan, headers={"Content-Type": "application/json"}), 422)

    def test_more_like_an_item(self, client):
        told = found(client.post("/search/item", json={"item": "red", "k": 4}))
        items = [match["item"] for match in told["matches"]]
        assert items[0] == "red dark"
        assert "red" not in items
        assert len(items) == 4
        similarities = [match["similarity"] for match in told["matches"]]
        assert similarities == sorted(similarities, reverse=True)
        refused(client.post("/search/item", json={"item": "purple"}), 404, "purple")
        only = found(client.post("/search/item", json={"item": "red", "where": "price > 100"}))
        assert [match["item"] for match in only["matches"]] == [BLACK]


class TestStages:
    def test_detect_is_the_detector(self, client, photo):
        told = found(client.post("/detect", content=photo))
        image = np.array(PillowImage.open(io.BytesIO(photo)))
        (truth,) = FakeDetector()([image])
        assert [garment["box"] for garment in told["garments"]] == [list(one.box.corners) for one in truth]
        assert "results" not in told["garments"][0]

    def test_embed_is_the_embedder(self, client, photo):
        told = found(client.post("/embed", content=photo))
        image = np.array(PillowImage.open(io.BytesIO(photo)))
        assert told["embedder"] == FakeEmbedder.fingerprint
        np.testing.assert_allclose(told["vector"], FakeEmbedder()([image])[0], atol=1e-6)


class TestItems:
    @pytest.mark.parametrize("item", ITEMS)
    def test_an_item_and_its_picture_by_its_id_alone(self, client, item):
        from urllib.parse import quote

        told = found(client.get(f"/items/{quote(item, safe='')}"))
        assert told["item"] == item
        (one,) = told["photos"]
        answer = client.get("/" + one["picture"])
        assert answer.headers["content-type"] == "image/jpeg"
        assert PillowImage.open(io.BytesIO(answer.content)).size == (64 + list(ITEMS).index(item),) * 2

    def test_links_are_addresses_and_nothing_else(self, client):
        assert found(client.get("/items/red"))["links"] == ["https://shop.example/red"]
        dark = found(client.get("/items/red dark"))
        assert dark["links"] == []
        assert dark["details"]["url"] == "javascript:alert(1)"
        assert found(client.get("/items/blue"))["name"] == EVIL

    @pytest.mark.parametrize(
        "path",
        ["/items/purple", "/items/", "/items/../../etc/passwd", "/items/%2e%2e%2fmanifest.json", "/picture?item=purple",
         "/picture?item=red&number=1", "/picture?item=/etc/passwd", "/picture?item=../pictures/0.jpg", "/nothing",
         "/examples/1", "/assets/nothing.js", "/assets/..%2f..%2fapp.py", "/assets/%2e%2e/app.py", "/assets/__init__.py"],
    )  # fmt: skip
    def test_what_there_is_not(self, client, path):
        refused(client.get(path), 404)

    def test_a_file_that_is_no_photo_is_never_handed_out(self, client, shop):
        (shop.folder / "pictures" / "0.jpg").write_text("secret words")
        answer = client.get("/picture", params={"item": "red"})
        refused(answer, 404, "no photo any more")
        (shop.folder / "pictures" / "0.jpg").unlink()
        refused(client.get("/picture", params={"item": "red"}), 404)

    def test_examples(self, client, shop):
        assert found(client.get("/about"))["examples"] == 1
        assert PillowImage.open(io.BytesIO(client.get("/examples/0").content)).size == (128, 64)
        shop.examples[0].write_text("secret words")
        refused(client.get("/examples/0"), 404)


class TestWhatIsNoPhoto:
    @pytest.mark.parametrize("path", ["/search", "/detect", "/embed"])
    @pytest.mark.parametrize(
        ("body", "word"),
        [(b"", "no photo in the request"), (b"<svg onload=alert(1)>", "known format"), (b"\xff\xd8\xff" * 9, "photo is"),
         (b"GIF89a", "truncated"), (b"%PDF-1.7", "known format")],
    )  # fmt: skip
    def test_is_refused_by_its_content(self, client, path, body, word):
        answer = client.post(path, content=body, headers={"Content-Type": "image/jpeg"})
        refused(answer, 422, word)

    def test_a_cut_photo(self, client, photo):
        refused(client.post("/detect", content=photo[: len(photo) // 2]), 422, "truncated")

    @pytest.mark.parametrize(
        ("kind", "body"),
        [("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"x"), ("multipart/form-data; boundary=", b""),
         ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--"),
         ("multipart/form-data; boundary=\xff", b"--x"), ("multipart/form-data; charset=nope; boundary=x", b"--x--")],
    )  # fmt: skip
    def test_a_broken_form(self, client, kind, body):
        answer = client.post("/search", content=body, headers={"Content-Type": kind.encode("latin-1")})
        assert answer.status_code in (400, 422), answer.text
        assert list(answer.json()) == ["error"]

    def test_too_many_pixels_are_refused_by_the_header(self, shop):
        with TestClient(shop.app(Limits(max_pixels=1000, hosts=HOSTS))) as client:
            refused(client.post("/detect", content=encode_jpeg(draw("red"))), 422, "megapixels")
