"""``outfinder index``, ``search`` and ``gallery``, with fake stages that are named as users name their own."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cli_runs import DETECTOR, EMBEDDER, bad_files, check_bad_lines, lines, run
from click.testing import Result
from conftest import draw

from stages.images import write_jpeg

MINE = """
from stages.testing import FakeEmbedder

class Other(FakeEmbedder):
    fingerprint = "another net"
"""


def index(folder: Path, *more: object, status: int = 0) -> Result:
    return run("index", folder, *more, *DETECTOR, *EMBEDDER, status=status)


@pytest.fixture
def gallery(tmp_path: Path, shop: Path) -> Path:
    index(tmp_path / "gallery", shop)
    return tmp_path / "gallery"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module in the current folder."""
    (tmp_path / "my_stages.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def info(gallery: Path) -> dict[str, object]:
    (line,) = lines(run("gallery", "info", gallery))
    return line


class TestIndex:
    def test_a_csv_and_its_metadata(self, tmp_path: Path, shop: Path, street: Path) -> None:
        rows = "item_id;image;category;price\nR1;red/front.jpg;Bag;9,90\nG1;green.jpg;;\n;blue.jpg;;\nB2;gone.jpg;;\n"
        (shop / "catalogue.csv").write_text(rows)
        result = index(tmp_path / "g", shop / "catalogue.csv", status=1)
        assert f"{shop / 'catalogue.csv'}: line 4 lacks an item_id" in result.stderr
        assert f"{shop / 'gone.jpg'}: was not found" in result.stderr
        assert "2 items in 2 photos (2 added, 0 replaced, 0 redescribed, 0 unchanged, 2 failed)" in result.stderr
        best = lines(run("search", tmp_path / "g", street / "a two.jpg"))[0]["garments"][0]["matches"][0]
        assert (best["item"], best["label"]) == ("R1", "bag")
        assert best["metadata"] == {"category": "Bag", "price": "9,90"}

    def test_item_ids_by_pattern(self, tmp_path: Path) -> None:
        photos = tmp_path / "photos"
        photos.mkdir()
        for name in ("A1_front", "A1_back", "B2_front", "nameless"):
            write_jpeg(photos / f"{name}.jpg", draw("red", side=40 + len(name)))
        result = index(tmp_path / "g", photos, "--item-pattern", "^([A-Z][0-9])_", status=1)
        assert "nameless.jpg: has no item id" in result.stderr
        assert "2 items in 3 photos" in result.stderr
        assert "not a regular expression" in index(tmp_path / "g", photos, "--item-pattern", "(", status=2).stderr

    def test_another_crop_index_storage_or_embedder_is_refused_by_both_names(
        self, gallery: Path, shop: Path, street: Path, mine: None
    ) -> None:
        before = info(gallery)
        for option, value, *names in (
            ("--crop", "mask", "'box margin=0.05'", "'mask background=white margin=0.05'"),
            ("--embedder", "my_stages:Other", "'fake mean colours'", "'another net'"),
            ("--index", "exact", "'hnsw'", "'exact'"),
            ("--vectors", "int8", "was made with vectors 'float32', not 'int8'"),
        ):
            told = run("index", gallery, shop, option, value, status=2).stderr
            assert all(name in told for name in names), told
        assert info(gallery) == before
        told = run("search", gallery, street, "--embedder", "my_stages:Other", status=2).stderr
        assert "'fake mean colours'" in told
        assert "'another net'" in told

    def test_missing_sources_and_folders_without_photos_are_reported(self, tmp_path: Path, shop: Path) -> None:
        assert "there is no" in index(tmp_path / "g", shop, tmp_path / "nowhere", status=2).stderr
        assert not (tmp_path / "g").exists()
        (tmp_path / "empty").mkdir()
        assert "no photos found" in index(tmp_path / "g", tmp_path / "empty", status=2).stderr

    @pytest.mark.parametrize("stage", ["detector", "crop", "embedder", "index"])
    def test_stages_that_are_unknown_or_cannot_be_built(self, tmp_path: Path, shop: Path, stage: str) -> None:
        told = run("index", tmp_path / "g", shop, *DETECTOR, *EMBEDDER, f"--{stage}", "nosuch", status=2).stderr
        assert f"no {stage} is called 'nosuch'; there are" in told
        told = run("index", tmp_path / "g", shop, *DETECTOR, *EMBEDDER, f"--{stage}", "no.such:Thing", status=2).stderr
        assert "no.such:Thing cannot be built: ModuleNotFoundError" in told

    def test_photos_that_have_moved_are_found_at_their_new_place(self, gallery: Path, shop: Path, street: Path) -> None:
        moved = shop.rename(shop.with_name("moved"))
        assert "5 photos are no longer where they were" in run("gallery", "verify", gallery).stderr
        assert "5 redescribed" in run("index", gallery, moved).stderr
        run("gallery", "verify", gallery)
        first = lines(run("search", gallery, street / "a two.jpg"))[0]["garments"][0]["matches"][0]
        assert Path(first["photo"]).is_file()
        moved = moved.rename(shop.with_name("moved again"))  # analysed again with another detector
        assert "4 items in 5 photos (0 added, 5 replaced" in index(gallery, moved, "--as-is").stderr
        run("gallery", "verify", gallery)
        assert info(gallery)["labels"] == {"whole": 5}

    def test_a_photo_is_the_same_from_wherever_it_is_named(
        self, gallery: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_jpeg(shop / "green.jpg", draw("blue", side=48))
        monkeypatch.chdir(shop / "red")
        assert "4 items in 5 photos (0 added, 1 replaced" in run("index", gallery, Path("..")).stderr

    def test_other_files_in_the_gallerys_folder_are_left_alone(self, tmp_path: Path, shop: Path) -> None:
        folder = tmp_path / "g"
        (folder / "photos-2024").mkdir(parents=True)
        for name in ("photos-1.jpg", "vectors-old.npy"):
            (folder / name).write_bytes(b"mine")
        index(folder, shop)
        assert {"photos-2024", "photos-1.jpg", "vectors-old.npy"} <= {path.name for path in folder.iterdir()}


class TestSearch:
    def test_one_line_per_photo_in_the_documented_shape(self, gallery: Path, shop: Path, street: Path) -> None:
        two, none = lines(run("search", gallery, street))  # with the gallery's stages
        assert list(two) == ["photo", "width", "height", "garments"]
        assert (two["photo"], two["width"], two["height"]) == (str(street / "a two.jpg"), 128, 64)
        assert none == {"photo": str(street / "b none.jpg"), "width": 40, "height": 40, "garments": []}
        assert {garment["matches"][0]["item"] for garment in two["garments"]} == {"red", "blue"}
        for garment in two["garments"]:
            assert list(garment) == ["label", "score", "box", "matches"]
            assert garment["label"] == "dress"
            assert len({match["item"] for match in garment["matches"]}) == 4
            best = garment["matches"][0]
            assert list(best) == ["item", "photo", "similarity", "label"]
            assert shop in Path(best["photo"]).parents
            similarities = [match["similarity"] for match in garment["matches"]]
            assert similarities == sorted(similarities, reverse=True)
            x1, y1, x2, y2 = garment["box"]
            assert (x2 - x1, y2 - y1) == pytest.approx((32, 48), abs=3)

    def test_k_and_min_similarity(self, gallery: Path, street: Path) -> None:
        (found,) = lines(run("search", gallery, street / "a two.jpg", "-k", 2))
        assert [len(garment["matches"]) for garment in found["garments"]] == [2, 2]
        (found,) = lines(run("search", gallery, street / "a two.jpg", "--min-similarity", 0.97))
        matches = [match for garment in found["garments"] for match in garment["matches"]]
        assert {match["item"] for match in matches} == {"red", "blue"}
        assert min(match["similarity"] for match in matches) >= 0.97
        run("search", gallery, street, "-k", 0, status=2)

    def test_where(self, gallery: Path, street: Path) -> None:
        (found,) = lines(run("search", gallery, street / "a two.jpg", "--where", "item in (green, 'black')"))
        for garment in found["garments"]:
            assert {match["item"] for match in garment["matches"]} == {"green", "black"}
        told = run("search", gallery, street, "--where", "price < 3", "-o", street / "o.csv", status=2).stderr
        assert "no column 'price'; there are item, photo, label" in told
        assert not (street / "o.csv").exists()
        assert "wanted = != <" in run("search", gallery, street, "--where", "label", status=2).stderr

    def test_same_label(self, tmp_path: Path, shop: Path, street: Path) -> None:
        write_jpeg(shop / "wide.jpg", draw("red").transpose(1, 0, 2))
        index(tmp_path / "g", shop)
        for option, wide in (((), True), (("--same-label",), False)):
            (found,) = lines(run("search", tmp_path / "g", street / "a two.jpg", "-k", 9, *option))
            for garment in found["garments"]:
                assert ("wide" in {match["item"] for match in garment["matches"]}) == wide
                assert {"red", "green", "blue", "black"} <= {match["item"] for match in garment["matches"]}

    def test_a_report_beside_the_lines(self, tmp_path: Path, gallery: Path, street: Path) -> None:
        reasons = bad_files(street)
        options = ("-k", 3, "--min-similarity", 0.25, "--same-label")
        result = run("search", gallery, street, "--report", tmp_path / "report", *options, status=1)
        check_bad_lines(lines(result), street, reasons)
        page = (tmp_path / "report" / "index.html").read_text()
        settings = ("<dt>-k</dt><dd>3", "<dt>--min-similarity</dt><dd>0.25", "<dt>--same-label</dt><dd>yes")
        assert all(text in page for text in ("a two.jpg", "red", reasons["bomb.png"], *settings))
        assert f"report: {tmp_path / 'report' / 'index.html'}" in result.stderr

    def test_missing_gallery_is_not_created(self, tmp_path: Path, street: Path) -> None:
        told = run("search", tmp_path / "nowhere", street, status=2).stderr
        assert f"make one with: outfinder index {tmp_path / 'nowhere'}" in told
        assert not (tmp_path / "nowhere").exists()


class TestGallery:
    def test_info(self, gallery: Path) -> None:
        about = info(gallery)
        assert (about["items"], about["photos"], about["labels"], about["dim"]) == (4, 5, {"dress": 5}, 49)
        assert (about["embedder"], about["crop"], about["index"]) == ("fake mean colours", "box margin=0.05", "hnsw")

    def test_a_missing_gallery_is_neither_opened_nor_created(self, tmp_path: Path) -> None:
        for command in ("info", "compact", "rebuild", "verify", "list"):
            assert "there is no gallery" in run("gallery", command, tmp_path / "no", status=2).stderr
        run("gallery", "remove", tmp_path / "no", "red", status=2)
        assert not (tmp_path / "no").exists()

    def test_remove_by_item_and_by_filter(self, gallery: Path, shop: Path) -> None:
        told = run("gallery", "remove", gallery, "red", "yellow", status=2).stderr
        assert "no item yellow; nothing was removed" in told
        told = run("gallery", "remove", gallery, "green", "--where", "photo like '%back.jpg' or item = red").stderr
        assert "removed 2 items in 3 photos; 2 items are left" in told
        assert "removed 0 items" in run("gallery", "remove", gallery, "--where", "item = red").stderr
        assert "removed 1 item in 1 photos; 1 items are left" in run("gallery", "remove", gallery, "blue").stderr
        assert (shop / "red" / "front.jpg").exists()
        assert "Give an ITEM or --where" in run("gallery", "remove", gallery, status=2).stderr

    def test_list_and_show(self, gallery: Path, shop: Path) -> None:
        assert len(lines(run("gallery", "list", gallery))) == 5
        (green,) = lines(run("gallery", "list", gallery, "--where", "item = green"))
        assert list(green) == ["item", "photo", "label", "score", "box", "detector", "metadata"]
        assert (green["item"], green["photo"], green["label"]) == ("green", str(shop / "green.jpg"), "dress")
        assert [line["item"] for line in lines(run("gallery", "show", gallery, "red"))] == ["red", "red"]
        assert "no item yellow" in run("gallery", "show", gallery, "yellow", status=2).stderr

    def test_duplicates(self, tmp_path: Path, gallery: Path) -> None:
        write_jpeg(tmp_path / "scarlet.jpg", draw("red"))
        index(gallery, tmp_path / "scarlet.jpg")
        (group,) = lines(run("gallery", "duplicates", gallery, "--similarity", 0.9999))
        assert {photo["item"] for photo in group["photos"]} == {"red", "scarlet"}
        assert lines(run("gallery", "duplicates", gallery, "--where", "item != red")) == []

    def test_compact_and_rebuild(self, gallery: Path, street: Path) -> None:
        run("gallery", "remove", gallery, "green")
        before = run("search", gallery, street).stdout
        assert "bytes now" in run("gallery", "compact", gallery).stderr
        assert "its vectors are searched directly" in run("gallery", "rebuild", gallery).stderr
        assert run("search", gallery, street).stdout == before
        assert info(gallery)["removed"] == 0

    def test_vectors_of_int8(self, tmp_path: Path, shop: Path, street: Path) -> None:
        index(tmp_path / "g", shop, "--vectors", "int8")
        assert info(tmp_path / "g")["vectors"] == "int8"
        (found,) = lines(run("search", tmp_path / "g", street / "a two.jpg", "-k", 1))
        assert {garment["matches"][0]["item"] for garment in found["garments"]} == {"red", "blue"}

    def test_verify(self, gallery: Path) -> None:
        assert "is sound: generation 2" in run("gallery", "verify", gallery).stderr
        with closing(sqlite3.connect(gallery / "gallery.sqlite", isolation_level=None)) as database:
            database.execute("UPDATE photos SET label = 'hat' WHERE item = 'green'")
        result = run("gallery", "verify", gallery, status=1)
        assert "the checksum of photo" in result.stdout
        assert "is unsound" in result.stderr
