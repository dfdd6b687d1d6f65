"""Datasets of embedders: what can be used, splits, pixels, and the readers of public sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from embed_cases import shop_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from stages.embed import public_sets
from stages.embed.data import (
    Cut,
    Dataset,
    DatasetIssue,
    Sample,
    load,
    merged,
    percentile_of,
    read_sample,
    split,
)
from stages.embed.mixed import in_memory, items_of
from stages.errors import CatalogueError, ImageError
from stages.images import write_jpeg
from stages.types import Box


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), shop_photo((120, 30, 30))[..., ::-1])


def dataset(*items: str, **labels: str) -> Dataset:
    return Dataset("set", tuple(Sample(Path(f"{place}.jpg"), item, **labels) for place, item in enumerate(items)))


class TestDataset:
    def test_equal_labels_have_equal_numbers(self) -> None:
        samples = [Sample(Path(f"{k}"), item, style) for k, (item, style) in enumerate(["ax", "bx", "ax", ("c", "")])]
        data = Dataset("set", tuple(samples))
        assert data.item_ids.tolist() == [0, 1, 0, 2]
        assert data.style_ids.tolist() == [0, 0, 0, 1]
        assert data.source_ids.tolist() == [0, 1, 2, 3], "a photo without a source is its own"

    def test_items_of_merged_sets_are_different(self) -> None:
        both = merged([dataset("x", "x", style="s"), dataset("x")])
        assert both.item_ids.tolist() == [0, 0, 1]
        assert both.style_ids.tolist() == [0, 0, 1]
        joined = dataset("x", "x").joined([dataset("x")])
        assert joined.items == ("x",)

    def test_every_sample_needs_an_image(self) -> None:
        with pytest.raises(ValueError, match="each of 2 samples, got 1"):
            Dataset("set", dataset("x", "y").samples, images=[np.zeros((1, 1, 3), np.uint8)])

    def test_a_domain_needs_photos_in_it_and_in_another(self) -> None:
        for data in (dataset("x"), dataset("x", domain="street")):
            with pytest.raises(ValueError, match="domains:"):
                data.in_domain("street")


class TestTrainingData:
    def test_photos_listed_twice_are_a_problem_and_single_photos_a_note(self) -> None:
        listed = Dataset("set", (*dataset("a", "a", "b", "b", "alone").samples, Sample(Path("0.jpg"), "a")))
        data = listed.for_training()
        assert [(problem.kind, problem.where) for problem in data.problems] == [(DatasetIssue.TWICE, "0.jpg")]
        assert data.items == ("a", "b", "alone")
        summary = data.describe()
        assert summary.startswith("set: 1 problem; 5 photos of 3 items can be used\n")
        assert "1 item with one photo, of which two views are a pair" in summary
        with pytest.raises(CatalogueError, match="--skip-bad"):
            data.raise_on_problems()
        data.raise_on_problems(skip_bad=True)

    def test_items_of_one_domain_are_left_out_of_pairs_across_domains(self) -> None:
        samples = [Sample(Path(f"{k}-{d}"), k, domain=d) for k in "ab" for d in ("street", "shop")]
        data = Dataset("set", (*samples, Sample(Path("c"), "c", domain="shop"))).for_training(cross_domain=True)
        assert data.items == ("a", "b")
        assert data.notes == ("1 item with photos in one domain only, left out",)

    def test_a_single_item_cannot_be_trained_on(self) -> None:
        data = dataset("a", "a").for_training()
        assert [problem.kind for problem in data.problems] == [DatasetIssue.FEW]
        with pytest.raises(CatalogueError, match="no two items"):
            data.raise_on_problems(skip_bad=True)


class TestSplit:
    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=60),
        st.integers(0, 60),
        st.data(),
    )
    def test_no_photo_is_lost_and_no_item_nor_group_is_parted(
        self, drawn: list[tuple[int, int]], val: int, data: st.DataObject
    ) -> None:
        samples = tuple(
            Sample(Path(f"{k}.jpg"), f"i{item}", source=f"s{source}") for k, (item, source) in enumerate(drawn)
        )
        items = sorted({sample.item for sample in samples})
        groups = data.draw(st.lists(st.lists(st.sampled_from(items), max_size=4), max_size=3))
        by = data.draw(st.sampled_from(["item", "source"]))
        parts = split(Dataset("set", samples), by=by, val=val, test=20, together=groups)
        paths = sorted(sample.path for part in parts.values() for sample in part.samples)
        assert paths == sorted(sample.path for sample in samples)
        part_of = {item: name for name, part in parts.items() for item in part.items}
        assert sum(len(part.items) for part in parts.values()) == len(items)
        assert all(len({part_of[item] for item in group}) <= 1 for group in groups)
        if by == "source":
            sources = [{sample.source for sample in part.samples} for part in parts.values()]
            assert sum(map(len, sources)) == len(set.union(*sources))

    def test_is_by_the_hash_of_the_style(self) -> None:
        data = Dataset("set", tuple(Sample(Path(f"{n}.jpg"), f"s{n}-{c}", f"s{n}") for n in range(40) for c in "rb"))
        parts = split(data, val=30, test=20)
        for name, low, high in (("test", 0, 20), ("val", 20, 50), ("train", 50, 100)):
            wanted = {f"s{n}" for n in range(40) if low <= percentile_of(f"s{n}") < high}
            assert {sample.style for sample in parts[name].samples} == wanted

    def test_an_empty_part_is_a_problem_only_if_it_has_a_share(self) -> None:
        parts = split(dataset("a", "a"), val=50)
        (empty,) = [name for name, part in parts.items() if part.problems]
        assert empty in ("train", "val")
        assert parts[empty].problems[0].kind == DatasetIssue.EMPTY

    @pytest.mark.parametrize("shares", [(-1, 0), (60, 40), (0, -5)])
    def test_refuses_shares_that_leave_nothing(self, shares: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="percentages"):
            split(dataset("a"), val=shares[0], test=shares[1])


class TestLoading:
    def test_photos_that_cannot_be_read_are_left_out_as_problems(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jpg", "b.jpg")
        (tmp_path / "bad.jpg").write_text("words")
        data = load(Dataset("set", tuple(Sample(tmp_path / f"{name}.jpg", name) for name in ("a", "bad", "b"))), 30)
        assert data.items == ("a", "b")
        assert [image.shape for image in data.images] == [(30, 20, 3)] * 2
        assert [(problem.kind, problem.where) for problem in data.problems] == [
            (DatasetIssue.UNREADABLE, str(tmp_path / "bad.jpg"))
        ]

    def test_white_borders_are_cut_away_before_a_photo_is_scaled_down(self, tmp_path: Path) -> None:
        image = np.full((800, 480, 3), 255, np.uint8)
        image[200:600, 120:360] = (150, 30, 30)
        write_jpeg(tmp_path / "a.jpg", image)
        data = Dataset("set", (Sample(tmp_path / "a.jpg", "a"),))
        ((thing,), (whole,)) = load(data, 150, trim=True).images, load(data, 150).images
        assert max(thing.shape) == max(whole.shape) == 150
        shares = [(pixels.min(axis=2) < 200).mean() for pixels in (thing, whole)]
        assert shares == pytest.approx([0.90, 0.25], abs=0.03)

    def test_items_have_their_photos_in_order(self, tmp_path: Path) -> None:
        write(tmp_path, "1.jpg", "2.jpg", "3.jpg")
        samples = (
            Sample(tmp_path / "1.jpg", "x-red", "x", "bag", "street"),
            Sample(tmp_path / "2.jpg", "y", source="anna"),
            Sample(tmp_path / "3.jpg", "x-red", "x", "bag", "shop"),
        )
        red, other = items_of(load(Dataset("set, train", samples)))
        assert (red.kind, red.style, red.colour, red.label) == ("set", "set/x", "red", "bag")
        assert red.domains == ("street", "shop")
        assert len(red.photos) == 2
        assert (other.identity, other.source, other.domains) == (("set/y", ""), "anna", ())

    @pytest.fixture
    def street(self, tmp_path: Path) -> tuple[Path, bytes]:
        image = np.random.default_rng(0).integers(0, 200, (80, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "street.png"), image)
        cv2.imwrite(str(tmp_path / "other.png"), np.full((90, 90, 3), (10, 200, 30), np.uint8))
        mask = np.zeros((80, 60), np.uint8, order="F")
        mask[30:50, 20:40] = 1
        return tmp_path, coco_mask.encode(mask)["counts"]

    def test_a_garment_is_cut_out_on_each_background(self, street: tuple[Path, bytes]) -> None:
        folder, rle = street
        box = Box(10, 20, 50, 60)
        cuts = [Cut(box), Cut(box, "white", rle), Cut(box, folder / "other.png", rle)]
        own, white, other = (read_sample(Sample(folder / "street.png", "i", cut=cut)) for cut in cuts)
        garment = (slice(10, 30), slice(10, 30))
        assert own.shape == white.shape == other.shape == (40, 40, 3)
        for image in (white, other):
            np.testing.assert_array_equal(image[garment], own[garment])
        assert (white[:10] == 255).all()
        assert (other[:10] == (30, 200, 10)).all()
        samples = (
            Sample(folder / "street.png", "0", cut=cuts[1]),
            Sample(folder / "street.png", "1", cut=Cut(Box(0, 0, 9, 5))),
        )
        assert [image.shape for image in load(Dataset("set", samples)).images] == [(40, 40, 3), (5, 9, 3)]

    def test_a_box_that_leaves_its_photo_is_an_error(self, tmp_path: Path) -> None:
        write_jpeg(tmp_path / "a.jpg", shop_photo((1, 2, 3)))
        with pytest.raises(ImageError, match="annotated photo"):
            read_sample(Sample(tmp_path / "a.jpg", "i", cut=Cut(Box(0, 0, 61, 10))))
        with pytest.raises(ValueError, match="mask"):
            Cut(Box(0, 0, 5, 5), "white")


class TestPublicSets:
    def test_luma_items_are_sku_and_colour_and_splits_share_no_sku(self, tmp_path: Path) -> None:
        skus = [f"mh{number:02}" for number in range(30)]
        names = [f"{sku}-{end}.jpg" for sku in skus for end in ("red_main", "red_back", "blue-0")]
        write(tmp_path, *names, "wb04-blue-0.jpg", "wb01-gray_main.jpg", "msh03-blue_main.jpg", "gift.jpg")
        data = public_sets.luma(tmp_path)
        labels = {sample.path.name: sample.label for sample in data.samples}
        assert [labels[name] for name in ("wb04-blue-0.jpg", "wb01-gray_main.jpg", "msh03-blue_main.jpg")] == [
            *("bag", "top", "shorts")
        ]
        assert data.notes == ("1 photos are not named like SKU-colour_view.jpg, and left out",)
        test = in_memory(public_sets.luma(tmp_path, ["test"]).only(lambda sample: sample.style in skus))
        assert {item.style for item in test} == {f"luma/{sku}" for sku in skus if percentile_of(sku) < 40}
        assert {(item.colour, len(item.photos)) for item in test} == {("red", 2), ("blue", 1)}
        assert [public_sets.luma_split(sku) for sku in ("mh01", "MH01", "wt09", "wp01")] == [
            "test",
            "test",
            "val",
            "train",
        ]

    def test_shoes_are_pairs_of_a_photographer(self, tmp_path: Path) -> None:
        write(tmp_path, *(f"u00{p}_{k}_{side}_m.jpg" for p in range(3) for k in (1, 2) for side in ("left", "right")))
        data = public_sets.shoes(tmp_path)
        assert data.items == tuple(f"u00{p}_{k}_m" for p in range(3) for k in (1, 2))
        assert {(sample.item[:4], sample.source) for sample in data.samples} == {(f"u00{p}",) * 2 for p in range(3)}

    def test_clothing_is_split_by_its_id(self, tmp_path: Path) -> None:
        ids = [f"photo{number}" for number in range(40)]
        write(tmp_path / "images", *(f"{name}.jpg" for name in ids))
        rows = [f"{name},7,Shirt,False" for name in [*ids, "absent"]]
        (tmp_path / "images.csv").write_text("\n".join(["image,sender_id,label,kids", *rows]))
        val = public_sets.clothing(tmp_path, ["val"])
        assert set(val.items) == {name for name in ids if 10 <= percentile_of(name) < 20}
        assert val.notes == ("1 photos that the list names are not there",)

    def test_omniglot_and_cifar_have_folders(self, tmp_path: Path) -> None:
        (tmp_path / "images_background.zip").touch()
        with pytest.raises(CatalogueError, match=r"unpack images_background\.zip"):
            public_sets.omniglot(tmp_path)
        write(tmp_path, *(f"images_background/Latin/character0{c}/000{c}_0{d}.png" for c in (1, 2) for d in (1, 2)))
        write(tmp_path, "images_evaluation/Greek/character01/0009_05.png", "train/cat/1.jpg", "test/cat/1.jpg")
        data = public_sets.omniglot(tmp_path, ["train"])
        assert data.items == ("Latin/character01", "Latin/character02")
        assert {(sample.source, sample.label) for sample in data.samples} == {("01", "Latin"), ("02", "Latin")}
        assert len(public_sets.cifar10(tmp_path).samples) == 2

    def test_folders_without_photos_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogueError, match="jpg"):
            public_sets.luma(tmp_path, ["train"])
        with pytest.raises(CatalogueError, match=r"images\.csv"):
            public_sets.clothing(tmp_path)
        sku = next(f"mh{n:02}" for n in range(99) if percentile_of(f"mh{n:02}") < 40)
        write(tmp_path, f"{sku}-red_main.jpg")
        assert [problem.kind for problem in public_sets.luma(tmp_path, ["train"]).problems] == [DatasetIssue.EMPTY]
