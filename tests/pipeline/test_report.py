"""The report: complete at every moment, safe with hostile names, readable on one page and on many."""

import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from pipeline.report import Report, place_tags
from pipeline.search import Garment, PhotoResult
from stages.images import read_image, write_jpeg
from stages.types import WHOLE, Box, Match

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x00\udce9{{ 7 * 7 }}"


class Page(HTMLParser):
    """A parsed page: its elements and its text outside of scripts; unbalanced elements raise."""

    VOID = frozenset({"meta", "img", "rect", "path", "br", "link", "input", "source"})

    def __init__(self, path):
        super().__init__()
        self.elements, self._texts, self._open = [], [], []
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
        if self._open[-1:] not in (["script"], ["style"]):
            self._texts.append(data)

    def all(self, tag, **wanted):
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(attributes.get(key.strip("_")) == value for key, value in wanted.items())
        ]

    @property
    def text(self):
        return "".join(self._texts)

    @property
    def words(self):
        return " ".join(" ".join(self._texts).split())


def photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (60, 40, 3), dtype=np.uint8)


def product(match):
    return None if match.item == "gone" else np.full((300, 200, 3), 128, dtype=np.uint8)


def result(name="a.jpg", *, items=("shirt",), metadata=(), mask=None, **garment):
    matches = tuple(Match(item, f"{item}.jpg", 0.875, "top", metadata) for item in items)
    return PhotoResult(name, 40, 60, (Garment("top", 0.96, Box(5, 10, 25, 50), mask, matches, **garment),))


def report_of(folder, results, **options):
    with Report(folder, product=product, **options) as report:
        for each in results:
            report.add(each, None if each.error else photo())
    return Page(folder / "index.html")


def test_a_photo_shows_its_garment_and_matches(tmp_path):
    mask = np.zeros((40, 20), dtype=np.bool_)
    mask[10:30, 5:15] = True
    metadata = (("price", "19.90"), ("currency", "EUR"), ("title", "Blue shirt"), ("fit", "slim"))
    page = report_of(tmp_path, [result("in/a.jpg", mask=mask, metadata=metadata)], settings={"Embedder": "tiny"})
    for text in [
        "a.jpg in 40 × 60 px · 1 garment",
        "0.875",
        "19.90 EUR",
        "Blue shirt",
        "fit: slim",
        "tiny",
        "top 0.96",
    ]:
        assert text in page.words
    assert [image["alt"] for image in page.all("img")] == ["a.jpg, showing top", "top in a.jpg", "Item shirt"]
    assert {path["d"] for path in page.all("path")} == {"M10 20L10 39L19 39L19 20Z"}
    assert page.all("rect", x="5") == [{"x": "5", "y": "10", "width": "20", "height": "40"}]
    assert [link["href"] for link in page.all("a", class_="tag")] == ["#photo-1-1"]
    assert page.all("li", id="photo-1-1")
    assert not page.all("nav"), "one photo needs neither pages nor an index"


def test_everything_but_the_garments_is_dimmed(tmp_path):
    page = report_of(tmp_path, [result()])
    (dimmed,) = page.all("rect", class_="dim")
    (hole,) = page.all("rect", class_="inside")
    assert page.all("mask", id=re.fullmatch(r"url\(#(.+)\)", dimmed["mask"])[1])
    assert [hole[side] for side in ("x", "y", "width", "height")] == ["5", "10", "20", "40"]


def test_the_pictures_show_what_they_say(tmp_path):
    image = np.zeros((1400, 800, 3), dtype=np.uint8)
    image[400:800, 200:400] = (0, 200, 0)
    found = PhotoResult("large.jpg", 1600, 2800, (Garment("dress", 1.0, Box(400, 800, 800, 1600)),))
    with Report(tmp_path) as report:
        report.add(found, image)
    sources = [attributes["src"] for attributes in Page(tmp_path / "index.html").all("img")]
    shown, crop = (read_image(tmp_path / source) for source in sources)
    assert max(shown.shape) == 1200
    assert crop.shape[0] == 440, "the box and its context"
    np.testing.assert_allclose(crop[220, crop.shape[1] // 2], (0, 200, 0), atol=8)
    np.testing.assert_allclose(crop[220, 2], (0, 0, 0), atol=8)


def test_pages_are_self_contained(tmp_path):
    page = report_of(tmp_path, [result(metadata=(("url", "https://shop.example/a"),)), result("b.jpg")])
    assert not page.all("link")
    assert not any("src" in script for script in page.all("script"))
    assert not re.search(r"url\((?!#)|@import", (tmp_path / "index.html").read_text())
    for image in page.all("img"):
        assert (tmp_path / image["src"]).is_file()
        assert image["loading"] == "lazy"
    for link in page.all("a", class_="enlarge"):
        assert (tmp_path / link["href"]).is_file()
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
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 4
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(re.match(r"#|index\.html#|pictures/|https:", link["href"]) for link in page.all("a"))
    assert "javascript:alert(1)" in page.text
    assert r"\udce9{{ 7 * 7 }}" in page.text
    assert page.text.count("alert(1)</script>") >= 10
    assert "Photos that could not be read" in page.text


def test_each_product_has_one_picture_read_from_its_path_and_none_if_it_is_missing(tmp_path):
    names = ("shirt", "coat", "gone")
    for name in names[:2]:
        write_jpeg(tmp_path / f"{name}.jpg", photo())
    matches = {name: Match(name, str(tmp_path / f"{name}.jpg"), 0.5, "top") for name in names}
    with Report(tmp_path / "report") as report:
        for shown in (names, ("shirt", "gone")):
            garment = Garment("top", 1.0, Box(0, 0, 9, 9), None, tuple(matches[name] for name in shown))
            report.add(PhotoResult("a.jpg", 40, 60, (garment,)), photo())
    page = Page(tmp_path / "report" / "index.html")
    products = [image["src"] for image in page.all("img") if image["alt"].startswith("Item")]
    assert (len(products), len(set(products))) == (3, 2)
    assert page.text.count("no picture") == 2


def test_failures_stand_in_their_place_and_in_the_overview(tmp_path):
    page = report_of(tmp_path, [result(), PhotoResult("bad.jpg", error="is truncated"), result("c.jpg")])
    assert page.text.count("is truncated") == 2
    assert "index.html#photo-2" in [link["href"] for link in page.all("a")]
    assert page.text.index("a.jpg") < page.text.index("Not read: is truncated") < page.text.rindex("c.jpg")
    assert "Photos 3 Garments 2 Garments per photo 1.0 Unreadable photos 1" in page.words


def test_many_photos_fill_pages_with_one_index(tmp_path):
    results = [PhotoResult(f"photo {number:03}", error="bad") for number in range(1, 61)]
    first = report_of(tmp_path, results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "page-2.html", "page-3.html", "pictures"]
    pages = [first, Page(tmp_path / "page-2.html"), Page(tmp_path / "page-3.html")]
    assert [len(page.all("article")) for page in pages] == [25, 25, 10]
    addresses = [
        f"{name}#{article['id']}"
        for name, page in zip(("index.html", "page-2.html", "page-3.html"), pages, strict=True)
        for article in page.all("article")
    ]
    assert [link["href"] for link in first.all("a") if link.get("title", "").startswith("photo")] == addresses
    assert [entry["data-kinds"] for entry in first.all("li") if "data-kinds" in entry] == ["not read"] * 60
    around = [[link["href"] for link in page.all("a") if "rel" in link] for page in pages]
    assert around == [["page-2.html"], ["index.html", "page-3.html"], ["page-2.html"]]
    assert "and 10 more" in first.text


def test_a_killed_run_leaves_whole_pages(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.report.INDEX_SECONDS", 0.0)
    report = Report(tmp_path, product=product)
    for count in range(52):
        if count:
            report.add(PhotoResult(f"photo {count:03}", error="bad"), None)
        if count in (0, 1, 25, 26, 51):
            pages = {path.name: Page(path) for path in tmp_path.iterdir() if path.suffix}
            assert sum(len(page.all("article")) for page in pages.values()) == count
            assert "the run is not finished" in pages["index.html"].text
            assert f"Photos {count} " in pages["index.html"].words
            links = {link["href"] for page in pages.values() for link in page.all("a") if link.get("rel") == "next"}
            assert links == pages.keys() - {"index.html"}


def test_a_run_says_how_long_it_took_unless_an_exception_ended_it(tmp_path):
    def run(folder, *, fails):
        with Report(folder, product=product) as report:
            report.add(result(), photo())
            if fails:
                raise KeyError
        report.close()

    with pytest.raises(KeyError):
        run(tmp_path / "failed", fails=True)
    assert "1 photo so far; the run is not finished" in Page(tmp_path / "failed" / "index.html").text
    run(tmp_path / "complete", fails=False)
    assert re.search(r"1 photo in \d+\.\d s", Page(tmp_path / "complete" / "index.html").text)


def test_a_folder_that_is_not_empty_is_refused_untouched(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name a new one"):
        Report(tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


@pytest.mark.parametrize("y", [0, 300, 560])
def test_labels_do_not_cover_each_other(y):
    groups = [(Garment(label, 0.5, Box(2, y, 30, y + 40)),) for label in ("top", "dress", "belt", "scarf")]
    tops = sorted(float(re.search(r"top: ([\d.]+)%", style)[1]) for style in place_tags(groups, 400, 600))
    assert np.diff(tops).min() >= 100 * 0.055 * 400 / 600
    assert tops[0] >= 0
    assert tops[-1] <= 100 * (1 - 0.055 * 400 / 600)


def test_a_garment_without_matches_says_why(tmp_path):
    shoes = result("c.jpg", items=(), notice="This shop has no shoes.")
    page = report_of(tmp_path, [result(items=()), PhotoResult("b.jpg", 40, 60), shoes])
    assert page.text.count("No match.") == 1
    assert "This shop has no shoes." in page.text
    assert "No garment was found." in page.text
    kinds = [entry["data-kinds"] for entry in page.all("li") if "data-kinds" in entry]
    assert kinds == ["top\nno match", "no garment", "top\nno match"]


def test_the_shoes_of_a_pair_are_one_garment_with_two_boxes(tmp_path):
    left = Garment("shoes", 0.8, Box(2, 50, 12, 58), None, (Match("boot", "a.jpg", 0.5, "shoes"),))
    right = Garment("shoes", 0.9, Box(20, 50, 30, 58), None, (Match("boot", "a.jpg", 0.7, "shoes"),))
    page = report_of(tmp_path, [PhotoResult("a.jpg", 40, 60, (left, right))])
    assert "1 garment" in page.text
    assert "shoes 0.90" in page.words
    assert "0.700" in page.text
    assert "0.500" not in page.text
    assert {box["x"] for box in page.all("rect") if "x" in box} == {"2", "20"}
    assert len(page.all("img", alt="shoes in a.jpg")) == 2


def test_colour_variants_of_a_style_are_one_match(tmp_path):
    page = report_of(tmp_path, [result(items=("wt09-red", "coat", "wt09-blue"))])
    assert len(page.all("li", class_="match")) == 2
    assert "also in" in page.text


@pytest.mark.parametrize("label", [WHOLE, "bag"])  # the embedder may know the kind
def test_a_photo_searched_whole_is_called_a_photo_without_a_score(tmp_path, label):
    whole = Garment(label, 1.0, Box(0, 0, 40, 60), None, (Match("a", "a.jpg", 0.5, WHOLE),))
    page = report_of(tmp_path, [PhotoResult("a.jpg", 40, 60, (whole,))])
    assert "whole" not in page.text
    assert "1.00" not in page.text


def test_an_outline_covers_the_mask(tmp_path):
    y, x = np.ogrid[-1:1:200j, -1:1:120j]
    ring = (x * x + y * y <= 0.9) & (x * x + y * y >= 0.2)
    found = PhotoResult("a.jpg", 400, 600, (Garment("top", 0.5, Box(30, 40, 150, 240), ring),))
    path = report_of(tmp_path, [found]).all("path")[0]
    rings = [
        np.array([point.split() for point in part.rstrip("Z").split("L")], dtype=np.int32)
        for part in path["d"].split("M")[1:]
    ]
    drawn = np.zeros((600, 400), dtype=np.uint8)
    cv2.fillPoly(drawn, rings, 1)
    wanted = np.zeros((600, 400), dtype=np.bool_)
    wanted[40:240, 30:150] = ring
    assert (wanted & (drawn > 0)).sum() / (wanted | (drawn > 0)).sum() > 0.95
