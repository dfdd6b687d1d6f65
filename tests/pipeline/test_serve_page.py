"""The page in a real browser: Debian's chromium, headless, with a mouse, with a finger, and by keyboard alone."""

import base64
import io
import re
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
pytest.importorskip("playwright", reason="needs playwright, of the extra dev")
pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python, of the extra dev")

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from conftest import draw
from PIL import Image as PillowImage
from playwright.sync_api import expect, sync_playwright
from served import EVIL, ITEMS, running, shop

from pipeline.serve.access import Access
from pipeline.serve.limits import Limits

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH: apt-get install chromium")

PATIENCE_MS = 60_000
"""No test waits longer for what must happen."""

expect.set_options(timeout=PATIENCE_MS)

DROP = """([data, type, kind]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], "street.png", { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true })
    : new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


def png(image):
    data = io.BytesIO()
    PillowImage.fromarray(image).save(data, "PNG")
    return data.getvalue()


MAX_BODY = 900_000
TWO = png(draw("red", "blue", side=300))
NONE = png(np.full((200, 300, 3), 255, np.uint8))


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, shop):
    """Opens the page in a new window; in the end nothing may have been logged, or asked of anyone else."""
    said, asked, contexts = [], [], []
    with running(shop.app(Limits(max_body=MAX_BODY))) as (host, port):
        root = f"http://{host}:{port}/"

        def visit(**options):
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
            contexts.append(context)
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(root)
            expect(page.locator("#stock")).to_have_text("5 items in 5 photos")
            return page

        yield visit
        for context in contexts:
            context.close()
    assert [text for text in said if "the server responded with a status of 4" not in text] == []
    assert [url for url in asked if not url.startswith((root, f"blob:{root}"))] == []


def give(page, photo=TWO, kind="drop", mime="image/png"):
    page.evaluate(DROP, [base64.b64encode(photo).decode(), mime, kind])


def items(page, crop="box"):
    return page.locator(f'.side[data-crop="{crop}"] .match').evaluate_all("all => all.map((one) => one.dataset.item)")


def tag(page, number):
    return page.get_by_role("button", name=re.compile(f", garment {number} of 2$"))


def settled(page, status):
    """The page has answered, and said so to a screen reader."""
    expect(page.get_by_role("status")).to_have_text(re.compile(status))
    expect(page.locator("#sides")).to_have_attribute("aria-busy", "false")


def answer(page, searched):
    """Let /search answer this."""
    page.route("**/search?*", lambda route: route.fulfill(json=searched))


EMPTY = {"crop": "box", "vector": [1.0], "matches": [], "notice": ""}


def match(item, style=""):
    return {"item": item, "name": "", "price": "", "links": [], "details": {}, "picture": "picture?item=red",
            "similarity": 0.5, "label": "dress", "verdict": "", "style": style}  # fmt: skip


def searched(result, label="dress"):
    box = [10, 10, 90, 90]
    garment = {"label": label, "score": 0.9, "box": box, "boxes": [box], "outline": [], "results": [result]}
    return {"width": 600, "height": 300, "garments": [garment]}


class TestWidget:
    """A page of another site includes the script of the server."""

    @pytest.fixture
    def shop_page(self, tmp_path):
        (tmp_path / "pages").mkdir()
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "pages"))
        handler.func.log_message = lambda *_: None
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            Thread(target=server.serve_forever).start()
            yield (
                tmp_path / "pages" / "index.html",
                f"http://localhost:{server.server_port}",
            )  # 127.0.0.1 is another site
            server.shutdown()

    def test_its_button_opens_the_search_over_the_shops_page(self, browser, shop, shop_page, tmp_path):
        file, origin = shop_page
        with running(shop.app(Limits(), access=Access(origins=frozenset({origin})))) as (host, port):
            file.write_text(f'<h1>Shop</h1><script src="http://{host}:{port}/widget.js" data-text="By photo"></script>')
            page = browser.new_page()
            page.goto(origin)
            page.get_by_role("button", name="By photo").click()
            frame = page.frame_locator("iframe")
            expect(frame.locator("#stock")).to_have_text("5 items in 5 photos")
            frame.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": TWO})
            expect(frame.get_by_role("status")).to_have_text(re.compile("2 garments found"))
            page.screenshot(path=tmp_path / "widget.png")
            page.get_by_role("button", name="Close").click()
            expect(page.locator("dialog")).not_to_be_visible()
            page.close()

    def test_a_page_that_is_not_allowed_gets_no_frame(self, browser, shop, shop_page):
        file, origin = shop_page
        with running(shop.app(Limits(), access=Access(origins=frozenset({"https://other.example"})))) as (host, port):
            root = f"http://{host}:{port}/"
            file.write_text(f'<iframe src="{root}"></iframe>')
            page = browser.new_page()
            failed = []
            page.on("console", lambda message: failed.append(message.text))
            page.goto(origin)
            page.wait_for_timeout(1000)
            assert any("frame-ancestors" in text for text in failed)
            page.close()


class TestSearching:
    def test_drop_a_photo_click_a_garment_see_matches(self, visit):
        page = visit()
        give(page)
        settled(page, "2 garments found: dress, dress. 5 matches for the dress")
        assert page.locator(".garment-shape").count() == 2
        seen = []
        for number in (0, 1):
            page.locator(".garment-shape").nth(number).click()
            expect(page.locator("#tags button[aria-pressed=true]")).to_have_count(1)
            seen.append(items(page)[0])
        assert sorted(seen) == ["blue", "red"]
        page.locator(".garment-shape").nth(0).click()
        first = page.locator(".match").first
        assert re.search(r"\d\.\d{3}", first.inner_text())
        expect(first.get_by_role("img")).to_have_js_property("complete", True)
        assert first.get_by_role("img").evaluate("img => img.naturalWidth") > 0

    def test_everything_but_the_chosen_garment_is_dimmed(self, visit):
        page = visit()
        give(page)
        settled(page, "2 garments found")
        for number in (0, 1):
            tag(page, number + 1).click()
            chosen = page.locator(".garment-shape.chosen .edge")
            assert page.locator("#lit .inside").get_attribute("d") == chosen.get_attribute("d")
            assert page.locator(".dim").is_visible()
            assert (
                page.locator(".garment-shape .edge").evaluate_all("all => all.map((e) => getComputedStyle(e).fill)")
                == ["rgba(0, 0, 0, 0)"] * 2
            )
        page.get_by_role("button", name="Whole photo").click()
        settled(page, "matches for the whole photo")
        assert not page.locator(".dim").is_visible()

    def test_labels_do_not_cover_each_other(self, visit):
        page = visit(viewport={"width": 390, "height": 844})
        garments = [{"label": "outerwear", "score": 1, "box": [10 + number, 10, 60, 60], "boxes": [[10, 10, 60, 60]],
                     "outline": [], "results": [EMPTY]} for number in range(12)]  # fmt: skip
        answer(page, {"width": 100, "height": 100, "garments": garments})
        give(page)
        settled(page, "12 garments found")
        boxes = [one.bounding_box() for one in page.locator("#tags button").all()]
        for number, one in enumerate(boxes):
            for other in boxes[:number]:
                apart = (
                    one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
                    or one["y"] >= other["y"] + other["height"] or other["y"] >= one["y"] + one["height"]
                )  # fmt: skip
                assert apart

    def test_color_variants_of_a_style_share_a_card(self, visit):
        page = visit()
        matches = [match(item, style) for item, style in (("W1 red", "W1"), ("hat", ""), ("W1 blue", "W1"))]
        answer(page, searched({"crop": "box", "vector": [1.0], "matches": matches, "notice": ""}))
        give(page)
        settled(page, "3 matches for the dress")
        assert items(page) == ["W1 red", "hat"]
        page.get_by_role("button", name="Variant W1 blue").click()
        assert items(page) == ["W1 blue", "hat"]
        expect(page.get_by_role("button", name="Variant W1 blue")).to_be_focused()

    def test_a_kind_that_the_shop_lacks_is_named_and_other_kinds_are_offered(self, visit):
        page = visit()
        answer(page, searched(EMPTY | {"notice": "This shop has no dresses."}))
        give(page)
        expect(page.locator(".nothing")).to_contain_text("This shop has no dresses.")
        sent = []
        page.route(
            "**/search/vector",
            lambda route: (
                sent.append(route.request.post_data_json),
                route.fulfill(json=EMPTY | {"matches": [match("boot")]}),
            ),
        )
        page.get_by_role("button", name="any kind").click()
        settled(page, "1 match for the dress")
        assert sent[0]["any_kind"] is True

    def test_a_photo_without_detection_is_never_called_whole(self, visit):
        page = visit()
        result = {"crop": "box", "vector": [1.0], "matches": [match("hat") | {"label": "whole"}], "notice": ""}
        answer(page, searched(result, label="whole"))
        give(page)
        settled(page, "1 garment found: photo. 1 match for the photo")
        assert re.search(r"\bwhole\b", page.locator("body").inner_text().replace("Whole photo", "")) is None

    def test_metadata_is_text_and_links_are_links(self, visit):
        page = visit()
        give(page)
        settled(page, "matches for the dress")
        assert page.title() == "gallery – outfinder"
        red = page.locator('.match[data-item="red"]')
        expect(red).to_contain_text("20")
        expect(red).to_contain_text(EVIL[:40])
        link = red.get_by_role("link")
        expect(link).to_have_attribute("href", "https://shop.example/red")
        expect(link).to_have_attribute("rel", re.compile("noopener"))
        assert page.locator('.match[data-item="red dark"]').get_by_role("link").count() == 0
        assert page.locator(".match img[src=x], .match script").count() == 0

    def test_paste_and_pick_and_surprise(self, visit):
        page = visit()
        give(page, kind="paste")
        settled(page, "2 garments")
        page.set_input_files("#file", {"name": "none.png", "mimeType": "image/png", "buffer": NONE})
        expect(page.get_by_role("status")).to_contain_text("No garment was found in this photo")
        expect(page.locator("#results")).to_be_hidden()
        page.get_by_role("button", name="Whole photo").click()
        settled(page, "5 matches for the whole photo")
        page.get_by_role("button", name="Surprise me").click()
        settled(page, "garments found")

    def test_what_is_no_photo_is_said_plainly(self, visit):
        page = visit()
        give(page, b"these are words", mime="text/plain")
        expect(page.get_by_role("alert")).to_contain_text("is not a photo of a known format")
        give(page)
        settled(page, "2 garments")
        expect(page.get_by_role("alert")).to_be_hidden()

    def test_a_photo_too_large_for_the_server_is_made_smaller(self, visit):
        noise = np.full((800, 800, 3), 255, np.uint8)
        noise[100:700, 100:700] = np.random.default_rng(0).integers(0, 200, (600, 600, 3), np.uint8)
        page = visit()
        give(page, png(noise))
        assert len(png(noise)) > MAX_BODY  # sent as it is, it would be refused
        settled(page, "found")

    def test_more_like_this_and_back(self, visit):
        page = visit()
        give(page)
        settled(page, "matches for the dress")
        page.locator('.match[data-item="red"]').get_by_role("button", name="More like red").click()
        settled(page, "4 matches for item red")
        assert items(page)[0] == "red dark"
        assert "red" not in items(page)
        expect(page.locator("#like")).to_contain_text("red · 20")
        expect(page.locator("#source").get_by_role("img", name="Item red")).to_be_visible()
        page.get_by_role("button", name="Back").click()
        settled(page, "5 matches for the dress")
        expect(page.get_by_role("button", name="Back")).to_be_hidden()


class TestControls:
    def test_kind_number_and_columns(self, visit):
        page = visit()
        give(page)
        settled(page, "5 matches")
        page.get_by_label("Kind").select_option("top (1)")
        settled(page, "1 match for")
        assert items(page) == ["red dark"]
        page.get_by_label("Kind").select_option("Its own kind")
        settled(page, "3 matches for")
        page.get_by_label("Kind").select_option("All kinds")
        page.get_by_role("slider").fill("2")
        settled(page, "2 matches for")
        page.locator("summary").click()
        page.get_by_label("price from").fill("60")
        page.get_by_label("category").select_option("dress")
        settled(page, "1 match for")
        assert items(page) == ["blue"]
        page.get_by_label("price from").fill("500")
        expect(page.locator(".nothing")).to_contain_text("Nothing in the gallery fits")
        page.get_by_role("button", name="Clear filters").click()
        settled(page, "2 matches for")

    def test_both_crops_side_by_side(self, visit):
        page = visit()
        give(page)
        settled(page, "5 matches for")
        page.get_by_role("radio", name="both").check()
        settled(page, "5 matches by box, 5 matches by mask for the dress")
        assert len(items(page, "box")) == len(items(page, "mask")) == 5
        left, right = (page.locator(f'.side[data-crop="{crop}"]').bounding_box() for crop in ("box", "mask"))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        page.get_by_role("radio", name="mask").check()
        settled(page, "5 matches for")
        expect(page.locator(".side")).to_have_count(1)

    def test_a_box_is_dragged_moved_and_removed(self, visit):
        page = visit()
        give(page)
        settled(page, "2 garments")
        photo = page.locator("#shapes").bounding_box()

        def drag(*points):
            (x, y), *rest = [(photo["x"] + photo["width"] * x, photo["y"] + photo["height"] * y) for x, y in points]
            page.mouse.move(x, y)
            page.mouse.down()
            for x, y in rest:
                page.mouse.move(x, y, steps=4)
            page.mouse.up()

        drag((0.55, 0.05), (0.95, 0.95))
        settled(page, "5 matches for the box")
        assert items(page)[0] == "blue"
        drag((0.75, 0.5), (0.25, 0.5))
        expect(page.locator(".match").first).to_have_attribute("data-item", re.compile("^red"))
        before = page.locator("#region").bounding_box()
        corner = page.locator('#region [data-corner="se"]').bounding_box()
        at = (corner["x"] + 14 - photo["x"]) / photo["width"], (corner["y"] + 14 - photo["y"]) / photo["height"]
        drag(at, (at[0] - 0.1, at[1] - 0.3))
        after = page.locator("#region").bounding_box()
        assert after["height"] < before["height"]
        assert (after["x"], after["y"]) == (before["x"], before["y"])
        page.get_by_role("button", name="Remove the box").click()
        settled(page, "matches for the dress")
        expect(page.locator("#region")).to_be_hidden()


class TestEveryone:
    def test_by_keyboard_alone(self, visit):
        page = visit()

        def tab_to(name, most=40):
            for _ in range(most):
                page.keyboard.press("Tab")
                if re.search(
                    name,
                    page.evaluate(
                        "document.activeElement.ariaLabel || document.activeElement.textContent || document.activeElement.id"
                    ),
                ):
                    return
            raise AssertionError(f"{name} is not reached by Tab")

        tab_to("Surprise me")
        page.keyboard.press("Enter")
        settled(page, "garments found")
        tab_to(", garment 2 of")
        page.keyboard.press("Enter")
        settled(page, "5 matches for the")
        assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        tab_to("Draw a box")
        page.keyboard.press("Enter")
        settled(page, "5 matches for the box")
        before = page.locator("#region").bounding_box()
        for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Enter"):
            page.keyboard.press(key)
        settled(page, "5 matches for the box")
        after = page.locator("#region").bounding_box()
        assert after["x"] < before["x"]
        assert after["y"] < before["y"]
        assert after["width"] > before["width"]
        page.keyboard.press("Escape")
        settled(page, "matches for the dress")
        tab_to("More like")
        page.keyboard.press("Enter")
        settled(page, "4 matches for item")
        assert page.evaluate("document.activeElement.id") == "results"

    @pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
    def test_no_barrier_that_axe_knows(self, visit, scheme, width):
        page = visit(color_scheme=scheme, viewport={"width": width, "height": 844})
        problems = Axe().run(page).response["violations"]
        give(page)
        settled(page, "2 garments")
        page.locator("summary").click()
        page.get_by_role("radio", name="both").check()
        settled(page, "by mask")
        problems += Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in problems] == []
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 22)"
        assert dark == (scheme == "dark")

    def test_a_phone(self, visit):
        page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2)
        expect(page.get_by_role("button", name="Take a photo")).to_be_visible()
        give(page)
        settled(page, "2 garments")
        tag(page, 1).tap()
        settled(page, "5 matches for the dress")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        tops = page.locator(".match").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
        assert tops[0] == tops[1] == tops[2] < tops[3]
        page.get_by_role("radio", name="both").check()
        settled(page, "by mask")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.locator("button:visible, select:visible").evaluate_all(
            "all => all.filter((one) => one.getBoundingClientRect().height < 24).map((one) => one.outerHTML)"
        )
        assert small == []
