"""``outfinder evaluate embedder``, ``calibrate``, ``dedupe``, and ``compare`` with a calibration, with a fake embedder."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cli_runs import EMBEDDER, lines, run
from sklearn.metrics import auc

import weights
from pipeline.catalogue import open_set
from pipeline.evaluation import embed_photos
from pipeline.evaluation_pages import MAP_HEIGHT, MAP_WIDTH, curve_points, map_picture, projected, verification_panels
from stages.embed.calibration import Calibration, Verdict, add_verdicts, calibration_path, find_calibration
from stages.embed.data import Dataset, DatasetIssue, Sample, load, numbered
from stages.embed.evaluation import Protocol, evaluate
from stages.embed.metrics import precomputed, retrieve
from stages.embed.network import Design, SiameseNetwork
from stages.embed.siamese import PairVerifier
from stages.errors import CatalogueError, OutfinderError
from stages.images import read_image, write_jpeg
from stages.testing import FakeEmbedder
from stages.types import Image, Match, Vectors


def look(item: int, photo: int) -> Image:
    """A photo of an item, which is a pattern; photos differ a little in light and grain."""
    pattern = np.random.default_rng(item).integers(20, 236, (4, 4, 3))
    image = cv2.resize(pattern.astype(np.float32), (64, 64), interpolation=cv2.INTER_NEAREST)
    grain = np.random.default_rng(1000 * item + photo).normal(0, 14, image.shape)
    return np.clip(image * (1 - 0.04 * photo) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve items with three photos each, in a folder per item."""
    folder = tmp_path_factory.mktemp("items")
    for item in range(12):
        (folder / f"item{item:02}").mkdir()
        for photo in range(3):
            write_jpeg(folder / f"item{item:02}" / f"{photo}.jpg", look(item, photo))
    return folder


@pytest.fixture
def listed(items: Path, tmp_path: Path) -> Path:
    """The same items as a CSV with labels and styles, and a row that names no photo."""
    rows = [
        f"i{item},{items / f'item{item:02}' / f'{photo}.jpg'},s{item // 2},{'bag' if item % 2 else '<b>'}"
        for item in range(12)
        for photo in range(3)
    ]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(["item_id,image,style,label", *rows, "gone,gone.jpg,,"]))
    return path


class TestEvaluate:
    def test_the_table_has_all_figures(self, items: Path) -> None:
        output = run("evaluate", "embedder", items, *EMBEDDER, "--trials", 100).stdout
        rows = {line.split("  ")[0]: line for line in output.splitlines() if line}
        assert "36 photos of 12 items, 0 distractors" in output
        assert rows["queries"].split() == ["queries", "36"]
        assert re.fullmatch(r"recall@1 +1\.000 \[0\.750, 1\.000\]", rows["recall@1"])
        assert [rows[name].split()[-1] for name in ("same pairs", "different pairs")] == ["36", "594"]
        assert re.search(r" 0\.\d{3}$", rows["similarity at the EER"])
        assert "1.000 [0.750, 1.000]" in rows["5-way"]
        assert "20-way one-shot needs 20 classes" in output
        assert "resampled by item" in output

    def test_json_has_all_figures(self, listed: Path, tmp_path: Path) -> None:
        command = ("evaluate", "embedder", listed, *EMBEDDER, "--trials", 50, "--ways", 3, "--json")
        result = run(*command, "-", status=1)
        out = json.loads(result.stdout)
        assert "gone.jpg: was not found" in result.stderr
        assert (out["fingerprint"], out["dim"]) == (FakeEmbedder.fingerprint, FakeEmbedder.dim)
        assert list(out["retrieval"]) == ["item", "style"]
        assert list(out["retrieval"]["item"]["recall@1"]) == ["value", "low", "high"]
        assert out["retrieval"]["style"]["queries"] == 36
        assert (list(out["one_shot"]), out["labels"]["bag"]["photos"]) == (["3"], 18)
        assert len(out["problems"]) == 1
        assert not out["collapsed"]
        assert "retrieval" in run(*command, tmp_path / "f.json", status=1).stdout
        again = json.loads((tmp_path / "f.json").read_text())
        assert again | {"seconds_per_photo": 0} == out | {"seconds_per_photo": 0}

    def test_the_page_opens_offline_and_shows_pictures(self, listed: Path, tmp_path: Path) -> None:
        page = tmp_path / "page"
        run("evaluate", "embedder", listed, *EMBEDDER, "-o", page, "--trials", 50, "--query", "i3", status=1)
        html = (page / "index.html").read_text(encoding="utf-8")
        assert not re.search(r"https?://|<script|@import|url\(", html)
        pictures = set(re.findall(r'(?:src|srcset)="([^"]+)"', html))
        assert {"curves.png", "curves-dark.png", "map.jpg"} < pictures
        assert all(read_image(page / name).size for name in pictures)
        assert len(list((page / "photos").iterdir())) == len(pictures) - 3
        assert "&lt;b&gt;" in html
        assert "<b><" not in html
        assert html.count('class="strip"') == 24 + 48
        (row,) = re.findall(r'<li class="strip long".*?</li>', html, re.DOTALL)
        assert re.findall(r'<bdi class="soft">(\w+)</bdi>', row)[:3] == ["i3", "i3", "i3"]
        assert re.findall(r"thumb (\w+)", row)[:4] == ["anchor", "right", "right", "wrong"]
        assert json.loads((page / "figures.json").read_text())["photos"] == 36
        assert not list(page.rglob("*.part"))

    def test_photos_are_embedded_larger_than_they_are_kept(self, tmp_path: Path) -> None:
        """An embedder may trim white; and a bad photo is one problem, however many garments it shows."""
        for name in ("a", "b", "c"):
            write_jpeg(tmp_path / f"{name}.jpg", cv2.resize(look(0, ord(name)), (1024, 512)))
        (tmp_path / "bad.jpg").write_text("words")
        names = [*"a" * 63, *["bad"] * 3, *"b" * 66, "c"]
        photos = Dataset("set", tuple(Sample(tmp_path / f"{name}.jpg", name) for name in names))
        seen: list[Image] = []

        class Seeing(FakeEmbedder):
            input_px = 256

            def __call__(self, images: Sequence[Image]) -> Vectors:
                seen.extend(images)
                return super().__call__(images)

        found = embed_photos(Seeing(), photos, photos)
        assert {image.shape for image in seen} == {(256, 512, 3)}
        assert {image.shape for image in found.images} == {(128, 256, 3)}
        assert [sample.item for sample in found.samples] == [*"a" * 63, *"b" * 66, "c"] * 2
        assert found.distractors == 130
        assert [problem.where for problem in found.photos.problems] == [str(tmp_path / "bad.jpg")] * 2
        np.testing.assert_array_equal(found.vectors, FakeEmbedder()(seen))
        large = embed_photos(Seeing(), photos, keep_large=True)
        assert {image.shape for image in large.images} == {(256, 512, 3)}

    def test_distractors_lower_the_recall(self, items: Path, tmp_path: Path) -> None:
        (tmp_path / "more" / "item00").mkdir(parents=True)
        write_jpeg(tmp_path / "more" / "item00" / "copy.jpg", look(0, 0))
        command = ("evaluate", "embedder", items, *EMBEDDER, "--trials", 10, "--json", "-")
        alone, among = (json.loads(run(*command, *more).stdout) for more in ((), ("--distractors", tmp_path / "more")))
        assert among["distractors"] == 1
        recalls = [figures["retrieval"]["item"]["recall@1"]["value"] for figures in (alone, among)]
        assert recalls[1] < recalls[0] == 1

    def test_distractors_of_the_query_domain_do_not_count(self, listed: Path, tmp_path: Path) -> None:
        rows = [line for line in listed.read_text().splitlines()[1:] if not line.startswith("gone")]
        for name, domains in (("own", ("street", "shop", "shop")), ("more", ("street", "shop", ""))):
            listed_with_domains = [f"{name}{line},{domains[number % 3]}" for number, line in enumerate(rows)]
            (tmp_path / f"{name}.csv").write_text("\n".join(["item_id,image,style,label,domain", *listed_with_domains]))
        command = ("evaluate", "embedder", tmp_path / "own.csv", *EMBEDDER, "--trials", 10, "--json", "-")
        command += ("--query-domain", "street", "--gallery-domain", "shop", "--distractors")
        assert json.loads(run(*command, tmp_path / "more.csv").stdout)["distractors"] == 24
        lines_of = (tmp_path / "more.csv").read_text().splitlines()
        street = "\n".join(line for line in lines_of if not line.endswith((",shop", ",")))
        (tmp_path / "street.csv").write_text(street)
        assert "no distractor is of the domain shop" in run(*command, tmp_path / "street.csv", status=2).stderr

    def test_a_collapsed_embedder_is_reported(
        self, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "collapsed.py").write_text(
            "import numpy as np\nclass One:\n    dim, input_px, fingerprint = 4, 16, 'one'\n"
            "    def __call__(self, images):\n        return np.full((len(images), 4), 0.5, np.float32)\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("pipeline.evaluation_pages.draw", lambda *_, **__: None)
        page = tmp_path / "page"
        output = run("evaluate", "embedder", items, "--embedder", "collapsed:One", "--trials", 10, "-o", page).stdout
        assert output.startswith("COLLAPSED")
        assert re.search(r"recall@1 +0\.000", output)
        assert "COLLAPSED" in (page / "index.html").read_text()

    def test_a_pair_head_compares_instead_of_vectors(self, items: Path, tmp_path: Path) -> None:
        torch.manual_seed(0)
        design = Design("small", "average", "sigmoid", 6, 32, "relu")
        path = tmp_path / "pair.safetensors"
        weights.save(path, SiameseNetwork(design).state_dict(), design.metadata())
        command = ("evaluate", "embedder", items, "--embedder-weights", path, "--trials", 20, "--json", "-")
        out, plain = json.loads(run(*command, "--pair-head").stdout), json.loads(run(*command).stdout)
        assert (out["compared by"], out["smaller_vectors"]) == ("pair head", {})
        photos = load(open_set([items]))
        verifier = PairVerifier(weights.read(path))
        features = verifier.features(photos.images)
        labels = numbered([sample.item for sample in photos.samples])
        found = retrieve(precomputed(verifier.similarities(features, features)), labels)
        assert out["retrieval"]["item"]["map_at_r"]["value"] == pytest.approx(found.average_precisions.mean(), abs=1e-4)
        assert plain["smaller_vectors"]
        command = ("evaluate", "embedder", items, *EMBEDDER, "--pair-head")
        assert "only weights that you have trained have a pair head" in run(*command, status=2).stderr

    def test_impossible_evaluations_are_refused(self, items: Path, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").touch()
        for arguments, message in (
            ((items, "--item-pattern", "("), "is not a regular expression"),
            ((items / "item00", "--item-pattern", ".*"), "needs a label that occurs twice"),
            ((items, "-o", tmp_path / "full"), "exists; give --overwrite"),
        ):
            assert message in run("evaluate", "embedder", *arguments, *EMBEDDER, status=2).stderr


def test_a_csv_file_has_columns_and_bad_rows(listed: Path) -> None:
    photos = open_set([listed])
    assert (photos.samples[0].style, photos.samples[3].label) == ("s0", "bag")
    listed.write_text("item_id,image,domain\na,1.jpg,street\n,2.jpg,shop\n")
    photos = open_set([listed])
    assert [problem.kind for problem in photos.problems] == [DatasetIssue.ROW]
    assert photos.samples[0].domain == "street"
    listed.write_text("item_id,image\n")
    with pytest.raises(CatalogueError, match="no photo"):
        open_set([listed])


class TestCalibrate:
    @pytest.fixture
    def calibration(self, items: Path, tmp_path: Path) -> Path:
        path = tmp_path / "c.json"
        told = run("calibrate", items, *EMBEDDER, "--fmr", 0.02, "--fnmr", 0.2, "-o", path)
        assert "same from" in told.stdout
        return path

    def test_compare_gives_a_verdict_unless_another_embedder_was_calibrated(
        self, items: Path, calibration: Path
    ) -> None:
        def compared(other: str, *options: object) -> dict[str, object]:
            (line,) = lines(run("compare", items / "item03/0.jpg", items / other, *EMBEDDER, *options))
            return line

        assert compared("item03/1.jpg", "--calibration", calibration)["verdict"] == "same item"
        assert compared("item04/1.jpg", "--calibration", calibration)["verdict"] == "different"
        assert "verdict" not in compared("item04/0.jpg")
        calibration.write_text(json.dumps(json.loads(calibration.read_text()) | {"fingerprint": "another"}))
        photos = (items / "item03/0.jpg", items / "item04/0.jpg")
        output = run("compare", *photos, *EMBEDDER, "--calibration", calibration, status=2).stderr
        assert "made with the embedder 'another', not 'fake mean colours'" in output

    def test_matches_have_the_verdicts_of_their_label(self, calibration: Path) -> None:
        read = Calibration.read(calibration)
        matches = [Match("i", "p", similarity, "bag") for similarity in (1.0, -1.0)]
        assert [match.verdict for match in add_verdicts(read, "bag", matches)] == [Verdict.SAME, Verdict.DIFFERENT]

    def test_a_calibration_beside_the_weights_is_used_if_it_belongs_to_them(
        self, calibration: Path, tmp_path: Path
    ) -> None:
        checkpoint = tmp_path / "own.safetensors"
        assert find_calibration("fake mean colours", None, checkpoint) is None
        calibration_path(checkpoint).write_bytes(calibration.read_bytes())
        assert find_calibration("fake mean colours", None, checkpoint) == Calibration.read(calibration)
        assert find_calibration("trained further", None, checkpoint) is None
        with pytest.raises(OutfinderError, match="made with the embedder"):
            find_calibration("trained further", calibration, checkpoint)

    def test_search_gives_a_verdict_on_each_match(self, items: Path, calibration: Path, tmp_path: Path) -> None:
        run("index", tmp_path / "gallery", items, "--as-is", "--crop", "whole", *EMBEDDER)
        search = ("search", tmp_path / "gallery", items / "item03/1.jpg", "--as-is", "-k", 12)
        (plain,) = lines(run(*search))
        assert all("verdict" not in match for match in plain["garments"][0]["matches"])
        (found,) = lines(run(*search, "--calibration", calibration, "--report", tmp_path / "report"))
        matches = found["garments"][0]["matches"]
        assert [match["item"] for match in matches if match["verdict"] == "same item"] == ["item03"]
        assert matches[-1]["verdict"] == "different"
        assert "same item" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
        run(*search, "--calibration", calibration, "-o", tmp_path / "found.csv")
        with (tmp_path / "found.csv").open(newline="") as file:
            assert [row["verdict"] for row in csv.DictReader(file)] == [match["verdict"] for match in matches]

    def test_impossible_calibrations_are_refused(self, items: Path, tmp_path: Path) -> None:
        assert "say where to write" in run("calibrate", items, *EMBEDDER, status=2).stderr
        command = ("calibrate", items, *EMBEDDER, "--fmr", 0.0001, "-o", tmp_path / "c.json")
        assert "594 pairs of different items, wanted 50000" in run(*command, status=2).stderr
        assert not (tmp_path / "c.json").exists()


class TestDedupe:
    @pytest.fixture
    def doubled(self, items: Path, tmp_path: Path) -> Path:
        """Two items, and a copy of a photo under another name, saved in lower quality."""
        folder = tmp_path / "doubled"
        for source in sorted(items.glob("item0[01]/*.jpg")):
            (folder / source.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / source.parent.name / source.name).write_bytes(source.read_bytes())
        (folder / "other").mkdir()
        write_jpeg(folder / "other" / "copy.jpg", read_image(items / "item00" / "0.jpg"), quality=60)
        write_jpeg(folder / "other" / "own.jpg", look(7, 0))
        return folder

    def test_near_duplicates_are_grouped_and_left_out(self, doubled: Path, tmp_path: Path) -> None:
        clean = tmp_path / "clean.csv"
        result = run("dedupe", doubled, "--hash-only", "-o", clean)
        (group,) = lines(result)
        assert group["items"] == ["item00", "other"]
        assert {Path(photo).name for photo in group["photos"]} >= {"0.jpg", "copy.jpg"}
        assert {pair["by"] for pair in group["pairs"]} == {"hash"}
        assert "1 group of near-duplicates in 8 photos, 1 of them across items" in result.stderr
        rows = list(csv.DictReader(clean.read_text().splitlines()))
        assert {row["item_id"] for row in rows} == {"item00", "item01"}
        assert not any("copy" in row["image"] for row in rows)
        assert any("own" in row["image"] for row in rows)
        assert lines(run("dedupe", clean, "--hash-only")) == []

    def test_vectors_find_near_duplicates_too(self, doubled: Path) -> None:
        groups = lines(run("dedupe", doubled, *EMBEDDER, "--bits", 0, "--similarity", 0.999))
        assert {pair["by"] for group in groups for pair in group["pairs"]} >= {"vectors"}

    def test_duplicates_of_another_set_are_left_out(self, items: Path, doubled: Path, tmp_path: Path) -> None:
        result = run("dedupe", doubled, "--against", items, "--hash-only", "--within-items", "-o", tmp_path / "c.csv")
        assert lines(result)
        rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
        names = {Path(row["image"]).parent.name + "/" + Path(row["image"]).name for row in rows}
        assert "other/copy.jpg" not in names
        assert not any(name.startswith(("item00", "item01")) for name in names)


class TestPictures:
    def test_similar_photos_are_close_on_the_map(self) -> None:
        rng = np.random.default_rng(0)
        centres = np.eye(3)[np.repeat(np.arange(3), 20)]
        vectors = (centres + 0.05 * rng.normal(size=(60, 3))).astype(np.float32)
        plane = projected(vectors)
        within = max(np.ptp(plane[k * 20 : k * 20 + 20], axis=0).max() for k in range(3))
        middles = np.array([plane[k * 20 : k * 20 + 20].mean(axis=0) for k in range(3)])
        apart = min(np.linalg.norm(middles[a] - middles[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert apart > 2 * within
        picture = map_picture([look(k // 20, k) for k in range(60)], vectors)
        assert picture.shape == (MAP_HEIGHT, MAP_WIDTH, 3)

    def test_one_photo_or_equal_photos_make_a_map(self) -> None:
        assert np.isfinite(projected(np.ones((3, 1), np.float32))).all()
        assert map_picture([look(0, 0)], np.ones((1, 4), np.float32)).shape == (MAP_HEIGHT, MAP_WIDTH, 3)

    def test_curves_end_at_the_limits_and_have_the_area_of_the_auc(self) -> None:
        vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        samples = [Sample(Path(f"{k}.jpg"), str(k % 10)) for k in range(30)]
        evaluation = evaluate(vectors, samples, protocol=Protocol(ways=(2,), trials=5))
        points = curve_points(evaluation.verification.rates)
        assert (points["fmr"][-1], points["fnmr"][-1]) == (1, 0)
        assert points["threshold"] == sorted(points["threshold"], reverse=True)
        area = auc([0, *points["fmr"]], [1 - fnmr for fnmr in [1, *points["fnmr"]]])
        assert area == pytest.approx(evaluation.verification.auc.value, abs=0.01)
        histograms = verification_panels(evaluation)[3].lines
        assert [sum(line.y) for line in histograms] == pytest.approx([1, 1])
