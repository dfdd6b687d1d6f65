"""Photo sets: what is wrong with them is listed, splits never part an item, garments are cut from their photos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from stages.embed import sources
from stages.embed.items import Cut, Kind, PhotoSet, Sample
from stages.embed.loading import items_of, load, read_sample
from stages.embed.splits import percentile_of, split
from stages.errors import CatalogueError, ImageError
from stages.images import write_jpeg
from stages.types import Box, Image


def photo(shade: int = 120, height: int = 90, width: int = 60) -> Image:
    image = np.full((height, width, 3), 255, np.uint8)
    image[height // 4 : -height // 4, width // 4 : -width // 4] = (shade, 30, 30)
    return image


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), photo()[..., ::-1])


def photo_set(*items: str, **fields: str) -> PhotoSet:
    return PhotoSet("set", tuple(Sample(Path(f"{place}.jpg"), item, **fields) for place, item in enumerate(items)))


class TestChecked:
    def test_lists_each_kind_and_keeps_the_rest(self) -> None:
        bad = PhotoSet(
            "set",
            (
                *(Sample(Path(f"{item}{k}.jpg"), item, domain=("street", "shop")[k]) for item in "abc" for k in (0, 1)),
                Sample(Path("alone.jpg"), "alone"),
                Sample(Path("d0.jpg"), "d", domain="shop"),
                Sample(Path("d1.jpg"), "d", domain="shop"),
                Sample(Path("a0.jpg"), "a", domain="street"),
            ),
        )
        checked = bad.checked(cross_domain=True)
        assert [(problem.kind, problem.where) for problem in checked.problems] == [
            (Kind.TWICE, "a0.jpg"),
            (Kind.SINGLE, "alone"),
            (Kind.DOMAIN, "d"),
        ]
        assert checked.items == ("a", "b", "c")
        assert len(checked.samples) == 6
        told = checked.describe()
        assert told.startswith("set: 3 problems; 6 photos of 3 items can be used\n")
        assert "  items with one photo, which has no positive (1):\n    alone: has one photo" in told
        with pytest.raises(CatalogueError, match="--skip-bad"):
            checked.raise_on_problems()
        checked.raise_on_problems(skip_bad=True)

    def test_singles_are_wanted_where_views_are_pairs(self) -> None:
        assert not photo_set("a", "b").checked(singles=True).problems

    def test_nothing_to_tell_apart_cannot_be_skipped(self) -> None:
        checked = photo_set("a", "a").checked()
        assert [problem.kind for problem in checked.problems] == [Kind.FEW]
        with pytest.raises(CatalogueError, match="no two items"):
            checked.raise_on_problems(skip_bad=True)

    def test_long_lists_are_cut(self) -> None:
        told = photo_set(*map(str, range(30))).checked().describe()
        assert "(30):" in told
        assert "and 10 more" in told

    def test_good_sets_have_no_problem(self) -> None:
        assert photo_set("a", "a", "b", "b").checked().describe() == "set: 0 problems; 4 photos of 2 items can be used"


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
        parts = split(PhotoSet("set", samples), by=by, val=val, test=20, together=groups)
        assert sorted(sample.path for part in parts.values() for sample in part.samples) == sorted(
            s.path for s in samples
        )
        home = {item: name for name, part in parts.items() for item in part.items}
        assert sum(len(part.items) for part in parts.values()) == len(items)
        assert all(len({home[item] for item in group}) <= 1 for group in groups)
        if by == "source":
            sources_of = [{sample.source for sample in part.samples} for part in parts.values()]
            assert sum(map(len, sources_of)) == len(set.union(*sources_of))

    def test_is_by_the_hash_of_the_style(self) -> None:
        photos = PhotoSet("set", tuple(Sample(Path(f"{n}.jpg"), f"s{n}-{c}", f"s{n}") for n in range(40) for c in "rb"))
        parts = split(photos, val=30, test=20)
        assert {sample.style for sample in parts["test"].samples} == {
            f"s{n}" for n in range(40) if percentile_of(f"s{n}") < 20
        }
        assert {sample.style for sample in parts["val"].samples} == {
            f"s{n}" for n in range(40) if 20 <= percentile_of(f"s{n}") < 50
        }

    def test_an_empty_part_is_a_problem_only_where_it_was_wanted(self) -> None:
        one = photo_set("a", "a")
        parts = split(one, val=50)
        empty = [name for name, part in parts.items() if any(p.kind is Kind.EMPTY for p in part.problems)]
        assert len(empty) == 1
        assert empty[0] in ("train", "val")

    @pytest.mark.parametrize("shares", [(-1, 0), (60, 40), (0, -5)])
    def test_refuses_shares_that_leave_nothing(self, shares: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="percentages"):
            split(photo_set("a"), val=shares[0], test=shares[1])


class TestSources:
    def test_luma_labels_and_styles(self, tmp_path: Path) -> None:
        write(tmp_path, "mh01-red_main.jpg", "MH01-red_back.jpg", "wb04-blue-0.jpg", "wb01-gray_main.jpg", "msh03-blue_main.jpg", "gift.jpg")  # fmt: skip
        read = sources.luma(tmp_path)
        labels = {sample.path.name: sample.label for sample in read.samples}
        assert labels["wb04-blue-0.jpg"] == "bag"
        assert labels["wb01-gray_main.jpg"] == "top"
        assert labels["msh03-blue_main.jpg"] == "shorts"
        assert {sample.item for sample in read.samples if sample.style == "mh01"} == {"mh01-red"}
        assert read.notes == ("1 photos are not named like SKU-colour_view.jpg, and left out",)

    def test_omniglot_has_drawers_and_alphabets(self, tmp_path: Path) -> None:
        write(tmp_path, *(f"images_background/Latin/character0{c}/000{c}_0{d}.png" for c in (1, 2) for d in (1, 2)))
        write(tmp_path, "images_evaluation/Greek/character01/0009_05.png")
        train = sources.omniglot(tmp_path, ["train"])
        assert train.items == ("Latin/character01", "Latin/character02")
        assert {sample.source for sample in train.samples} == {"01", "02"}
        assert [sample.label for sample in sources.omniglot(tmp_path, ["test"]).samples] == ["Greek"]

    def test_cifar10_has_a_folder_per_class_and_split(self, tmp_path: Path) -> None:
        write(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg")
        assert sources.cifar10(tmp_path, ["train"]).items == ("cat", "dog")
        assert len(sources.cifar10(tmp_path).samples) == 3

    def test_an_archive_is_to_be_unpacked(self, tmp_path: Path) -> None:
        (tmp_path / "images_background.zip").touch()
        with pytest.raises(CatalogueError, match=r"unpack images_background\.zip"):
            sources.omniglot(tmp_path)

    def test_a_split_without_a_photo_is_a_problem(self, tmp_path: Path) -> None:
        sku = next(f"mh{n:02}" for n in range(99) if percentile_of(f"mh{n:02}") < 40)
        write(tmp_path, f"{sku}-red_main.jpg")
        assert [problem.kind for problem in sources.luma(tmp_path, ["train"]).problems] == [Kind.EMPTY]


class TestLoading:
    def test_what_cannot_be_read_is_left_out_and_told(self, tmp_path: Path) -> None:
        write(tmp_path, "a.jpg", "b.jpg")
        (tmp_path / "bad.jpg").write_text("words")
        photos = PhotoSet("set", tuple(Sample(tmp_path / f"{name}.jpg", name) for name in ("a", "bad", "b")))
        read, images = load(photos, keep_px=30)
        assert [sample.item for sample in read.samples] == ["a", "b"]
        assert [image.shape for image in images] == [(30, 20, 3)] * 2
        assert [(problem.kind, problem.where) for problem in read.problems] == [
            (Kind.UNREADABLE, str(tmp_path / "bad.jpg"))
        ]

    def test_white_is_cut_away_before_a_photo_is_made_small(self, tmp_path: Path) -> None:
        """A thing that fills half of a large photo comes as large as is kept, from a decoding that is large enough."""
        image = np.full((800, 480, 3), 255, np.uint8)
        image[200:600, 120:360] = (150, 30, 30)
        write_jpeg(tmp_path / "a.jpg", image)
        photos = PhotoSet("set", (Sample(tmp_path / "a.jpg", "a"),))
        ((thing,), (whole,)) = load(photos, 150, trim=True)[1], load(photos, 150)[1]
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
        photos, images = load(PhotoSet("set, train", samples))
        red, other = items_of(photos, images)
        assert (red.kind, red.style, red.colour, red.label) == ("set", "set/x", "red", "bag")
        assert red.domains == ("street", "shop")
        assert len(red.photos) == 2
        assert (other.identity, other.source, other.domains) == (("set/y", ""), "anna", ())

    @pytest.fixture
    def cut(self, tmp_path: Path) -> tuple[Path, bytes]:
        image = np.random.default_rng(0).integers(0, 200, (80, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "street.png"), image)
        cv2.imwrite(str(tmp_path / "other.png"), np.full((90, 90, 3), (10, 200, 30), np.uint8))
        mask = np.zeros((80, 60), np.uint8, order="F")
        mask[30:50, 20:40] = 1
        return tmp_path, coco_mask.encode(mask)["counts"]

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
    def test_a_garment_is_cut_on_each_ground(self, cut: tuple[Path, bytes]) -> None:
        folder, rle = cut
        box = Box(10, 20, 50, 60)
        grounds = [Cut(box), Cut(box, "white", rle), Cut(box, folder / "other.png", rle)]
        own, white, other = (read_sample(Sample(folder / "street.png", "i", cut=one)) for one in grounds)
        garment = (slice(10, 30), slice(10, 30))
        assert own.shape == white.shape == other.shape == (40, 40, 3)
        for image in (white, other):
            np.testing.assert_array_equal(image[garment], own[garment])
        assert (white[:10] == 255).all()
        assert (other[:10] == (30, 200, 10)).all()

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
    def test_cuts_of_one_photo_come_in_order(self, cut: tuple[Path, bytes]) -> None:
        folder, rle = cut
        boxes = [Box(0, 0, 10, 10), Box(5, 5, 45, 60)]
        samples = tuple(
            Sample(folder / "street.png", str(k), cut=Cut(box, "white", rle)) for k, box in enumerate(boxes)
        )
        _, images = load(PhotoSet("set", samples))
        assert [image.shape for image in images] == [(10, 10, 3), (55, 40, 3)]

    def test_a_box_out_of_its_photo_is_told(self, tmp_path: Path) -> None:
        write_jpeg(tmp_path / "a.jpg", photo())
        with pytest.raises(ImageError, match="annotated photo"):
            read_sample(Sample(tmp_path / "a.jpg", "i", cut=Cut(Box(0, 0, 61, 10))))
        with pytest.raises(ValueError, match="mask"):
            Cut(Box(0, 0, 5, 5), "white")
