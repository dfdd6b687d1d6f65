"""The report: complete at every moment, safe with hostile names, readable on one page and on many."""

import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from pipeline.report import Report
from pipeline.report_page import pages_html
from pipeline.report_style import COLORS, color_of
from pipeline.search import Garment, PhotoResult
from stages.images import read_image, write_jpeg
from stages.types import LABELS, WHOLE, Box, Match

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x00\udce9<!--/overview-->"


class Page(HTMLParser):
    """A parsed page: its elements and its text; unbalanced elements raise."""

    VOID = frozenset({"meta", "img", "rect", "path", "br", "link"})

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (60, 40, 3), dtype=np.uint8)


def product(match):
    return None if match.item == "gone" else np.full((300, 200, 3), 128, dtype=np.uint8)


def result(name="a.jpg", *, items=("shirt",), metadata=(), mask=None):
    matches = tuple(Match(item, f"{item}.jpg", 0.875, "top", metadata) for item in items)
    return PhotoResult(name, 40, 60, (Garment("top", 0.96, Box(5, 10, 25, 50), mask, matches),))


def report_of(folder, results, **options):
    with Report(folder, product=product, **options) as report:
        for each in results:
            report.add(each, None if each.error else photo())
    return Page(folder / "index.html")


def test_one_photo(tmp_path):
    mask = np.zeros((40, 20), dtype=np.bool_)
    mask[10:30, 5:15] = True
    metadata = (("price", "19.90"), ("currency", "EUR"), ("title", "Blue shirt"), ("fit", "slim"))
    page = report_of(tmp_path, [result(mask=mask, metadata=metadata)], settings={"Embedder": "tiny"})
    for text in (
        "a.jpg",
        "40 × 60 px · 1 garment",
        "0.875",
        "19.90 EUR",
        "Blue shirt",
        "fit: slim",
        "tiny",
        "top 0.96",
    ):
        assert text in page.text
    assert [image["alt"] for image in page.all("img")] == ["a.jpg, showing top", "top in a.jpg", "Item shirt"]
    (path,) = page.all("path")
    assert path["d"] == "M10 20L10 39L19 39L19 20Z"
    assert page.all("rect")[1] == {"x": "5", "y": "10", "width": "20", "height": "40"}
    assert not page.all("nav")
    assert page.all("a")[0]["href"] == "#photo-1-1"
    assert any(element.get("id") == "photo-1-1" for _, element in page.elements)


def test_the_pictures_show_what_they_say(tmp_path):
    image = np.zeros((1200, 800, 3), dtype=np.uint8)
    image[400:800, 200:400] = (0, 200, 0)
    found = PhotoResult("large.jpg", 1600, 2400, (Garment("dress", 1.0, Box(400, 800, 800, 1600)),))
    with Report(tmp_path) as report:
        report.add(found, image)
    sources = [attributes["src"] for attributes in Page(tmp_path / "index.html").all("img")]
    shown, crop = (read_image(tmp_path / source) for source in sources)
    assert shown.shape == (900, 600, 3)
    assert crop.shape[0] == 280
    np.testing.assert_allclose(crop[140, crop.shape[1] // 2], (0, 200, 0), atol=8)
    np.testing.assert_allclose(crop[140, 2], (0, 0, 0), atol=8)  # the context


def test_pages_are_self_contained(tmp_path):
    page = report_of(tmp_path, [result(metadata=(("url", "https://shop.example/a"),))])
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import", (tmp_path / "index.html").read_text())
    for image in page.all("img"):
        assert (tmp_path / image["src"]).is_file()
        assert image["loading"] == "lazy"
    assert [link["href"] for link in page.all("a") if "://" in link["href"]] == ["https://shop.example/a"]


def test_hostile_text_stays_text(tmp_path):
    metadata = (
        ("title", EVIL),
        ("price", EVIL),
        (EVIL, EVIL),
        ("url", "javascript:alert(1)"),
        ("link", 'https://a.example/"onmouseover="alert(3)'),
    )
    garment = Garment(EVIL, 0.5, Box(0, 0, 40, 60), None, (Match(EVIL, EVIL, 0.5, EVIL, metadata),))
    evil = PhotoResult(EVIL, 40, 60, (garment,))
    page = report_of(tmp_path, [evil, PhotoResult(EVIL, error=EVIL)], title=EVIL, settings={EVIL: EVIL})
    assert not page.all("script")
    assert len(page.all("img")) == 3
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert {link["href"].split(":")[0] for link in page.all("a")} <= {"#photo-1-1", "index.html#photo-2", "https"}
    assert "javascript:alert(1)" in page.text
    assert r"\udce9" in page.text
    assert page.text.count("alert(1)</script>") >= 10
    assert "Photos that could not be read" in page.text


def test_one_picture_per_product_and_none_for_a_missing_one(tmp_path):
    page = report_of(tmp_path, [result(items=("shirt", "coat", "gone")), result("b.jpg", items=("shirt", "gone"))])
    products = [image["src"] for image in page.all("img") if image["alt"].startswith("Item")]
    assert len(products) == 3
    assert len(set(products)) == 2
    assert page.text.count("no picture") == 2


def test_products_are_read_from_their_paths(tmp_path):
    write_jpeg(tmp_path / "shirt.jpg", photo())
    matches = tuple(Match(name, str(tmp_path / name), 0.5, "top") for name in ("shirt.jpg", "gone.jpg"))
    with Report(tmp_path / "report") as report:
        report.add(PhotoResult("a.jpg", 40, 60, (Garment("top", 1.0, Box(0, 0, 9, 9), None, matches),)), photo())
    page = Page(tmp_path / "report" / "index.html")
    assert sum(image["alt"].startswith("Item") for image in page.all("img")) == 1


def test_failures_stand_in_their_place_and_in_the_overview(tmp_path):
    page = report_of(tmp_path, [result(), PhotoResult("bad.jpg", error="is truncated"), result("c.jpg")])
    assert page.text.count("is truncated") == 2
    assert "index.html#photo-2" in [link["href"] for link in page.all("a")]
    assert page.text.index("a.jpg") < page.text.index("Not read: is truncated") < page.text.index("c.jpg")
    assert re.search(r"Photos3.*Garments2.*Garments per photo1\.0.*Unreadable photos1", page.text)


def test_many_photos_fill_pages_that_lead_to_each_other(tmp_path):
    results = [PhotoResult(f"photo {number:03}", error="bad") for number in range(1, 61)]
    first = report_of(tmp_path, results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "page-2.html", "page-3.html", "pictures"]
    pages = [first, Page(tmp_path / "page-2.html"), Page(tmp_path / "page-3.html")]
    assert [len(page.all("article")) for page in pages] == [25, 25, 10]
    ids = [article["id"] for page in pages for article in page.all("article")]
    assert ids == [f"photo-{number}" for number in range(1, 61)]
    around = [[link["href"] for link in page.all("a") if "rel" in link] for page in pages]
    assert around == [["page-2.html"], ["index.html", "page-3.html"], ["page-2.html"]]
    assert "and 10 more" in first.text
    assert "page-2.html#photo-26" in [link["href"] for link in first.all("a")]


@pytest.mark.parametrize("count", [0, 1, 25, 26, 51])
def test_a_killed_run_leaves_whole_pages(tmp_path, count):
    report = Report(tmp_path, product=product)
    for number in range(count):
        report.add(PhotoResult(f"photo {number:03}", error="bad"), None)
    paths = [path for path in tmp_path.iterdir() if path.suffix]
    assert {path.suffix for path in paths} == {".html"}
    assert sum(len(Page(path).all("article")) for path in paths) == count
    first = Page(tmp_path / "index.html")
    assert "was cut short" in first.text
    assert f"Photos{count}" in first.text
    links = {link["href"] for path in paths for link in Page(path).all("a") if link.get("rel") == "next"}
    assert links == {path.name for path in paths} - {"index.html"}


def test_an_exception_is_no_finish(tmp_path):
    def fail():
        with Report(tmp_path, product=product) as report:
            report.add(result(), photo())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "was cut short" in Page(tmp_path / "index.html").text


def test_close_says_how_long_it_took(tmp_path):
    report = Report(tmp_path)
    report.close()
    report.close()
    assert re.search(r"0 photos in \d+\.\d s", Page(tmp_path / "index.html").text)


def test_a_folder_that_holds_something_is_refused_untouched(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name a new one"):
        Report(tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_tags_of_the_same_place_do_not_hide_each_other(tmp_path):
    garments = tuple(Garment(label, 0.5, Box(2, 2, 30, 40)) for label in ("top", "dress", "belt"))
    page = report_of(tmp_path, [PhotoResult("a.jpg", 400, 600, garments)])
    tops = [float(re.search(r"top: ([\d.]+)%", link["style"])[1]) for link in page.all("a")]
    assert np.diff(sorted(tops)).min() >= 100 * 18 / 510


def test_a_search_without_matches_and_a_photo_without_garments(tmp_path):
    page = report_of(tmp_path, [result(items=()), PhotoResult("b.jpg", 40, 60)])
    assert "No match." in page.text
    assert "No garment was found." in page.text


def test_long_page_lists_are_shortened():
    html = pages_html(10, 40)
    assert re.findall(r">(\d+|…)<", html) == ["1", "…", "8", "9", "10", "11", "12", "…", "40"]
    assert pages_html(1, 1) == ""


def test_white_text_can_be_read_on_every_color():
    assert set(COLORS) == {*LABELS, WHOLE}
    assert len(set(COLORS.values())) == len(COLORS)
    for label in (*COLORS, "kimono"):
        channels = np.array([int(color_of(label)[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5, label


def test_an_outline_covers_the_mask(tmp_path):
    y, x = np.ogrid[-1:1:200j, -1:1:120j]
    ring = (x * x + y * y <= 0.9) & (x * x + y * y >= 0.2)
    found = PhotoResult("a.jpg", 400, 600, (Garment("top", 0.5, Box(30, 40, 150, 240), ring),))
    (path,) = report_of(tmp_path, [found]).all("path")
    rings = [
        np.array([point.split() for point in part.rstrip("Z").split("L")], dtype=np.int32)
        for part in path["d"].split("M")[1:]
    ]
    drawn = np.zeros((600, 400), dtype=np.uint8)
    cv2.fillPoly(drawn, rings, 1)
    wanted = np.zeros((600, 400), dtype=np.bool_)
    wanted[40:240, 30:150] = ring
    assert (wanted & (drawn > 0)).sum() / (wanted | (drawn > 0)).sum() > 0.95
