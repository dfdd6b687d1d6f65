"""Datasets of embedders: usable samples, splits, and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from embed_cases import shop_photo
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.embed.data import Dataset, DatasetIssue, Sample, load, merged, percentile_of, split
from stages.errors import CatalogueError
from stages.images import write_jpeg


def dataset(*items: str, **labels: str) -> Dataset:
    return Dataset("set", tuple(Sample(Path(f"{place}.jpg"), item, **labels) for place, item in enumerate(items)))


def test_equal_names_have_equal_numbers() -> None:
    samples = [Sample(Path(f"{k}"), item, style) for k, (item, style) in enumerate(["ax", "bx", "ax", ("c", "")])]
    data = Dataset("set", tuple(samples))
    assert data.item_ids.tolist() == [0, 1, 0, 2]
    assert data.style_ids.tolist() == [0, 0, 0, 1]
    assert data.source_ids.tolist() == [0, 1, 2, 3], "a photo without a source counts as one"


def test_items_of_merged_sets_differ_and_those_of_joined_sets_do_not() -> None:
    both = merged([dataset("x", "x", style="s"), dataset("x")])
    assert (both.item_ids.tolist(), both.style_ids.tolist()) == ([0, 0, 1], [0, 0, 1])
    assert dataset("x", "x").joined(dataset("x")).items == ("x",)


def test_every_sample_needs_an_image() -> None:
    with pytest.raises(ValueError, match="each of 2 samples, got 1"):
        Dataset("set", dataset("x", "y").samples, images=[np.zeros((1, 1, 3), np.uint8)])


@pytest.mark.parametrize("data", [dataset("x"), dataset("x", domain="street")], ids=["none", "all"])
def test_a_domain_needs_photos_inside_and_outside(data: Dataset) -> None:
    with pytest.raises(ValueError, match="domains:"):
        data.in_domain("street")


def test_photos_listed_twice_are_a_problem_and_single_photos_a_note() -> None:
    listed = Dataset("set", (*dataset("a", "a", "b", "b", "alone").samples, Sample(Path("0.jpg"), "a")))
    data = listed.for_training()
    assert [(problem.kind, problem.where) for problem in data.problems] == [(DatasetIssue.TWICE, "0.jpg")]
    assert data.samples == listed.samples[:-1]
    assert data.describe().startswith("set: 1 problem; 5 photos of 3 items can be used\n")
    assert "1 item with one photo, of which two views are a pair" in data.describe()
    with pytest.raises(CatalogueError, match="--skip-bad"):
        data.raise_on_problems()
    data.raise_on_problems(skip_bad=True)


def test_items_in_one_domain_are_left_out_of_pairs_across_domains() -> None:
    samples = [Sample(Path(f"{k}-{d}"), k, domain=d) for k in "ab" for d in ("street", "shop")]
    data = Dataset("set", (*samples, Sample(Path("c"), "c", domain="shop"))).for_training(cross_domain=True)
    assert data.items == ("a", "b")
    assert data.notes == ("1 item with photos in one domain only, left out",)


def test_a_single_item_cannot_be_trained_on() -> None:
    data = dataset("a", "a").for_training()
    assert [problem.kind for problem in data.problems] == [DatasetIssue.FEW]
    with pytest.raises(CatalogueError, match="no two items"):
        data.raise_on_problems(skip_bad=True)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=60),
    st.integers(0, 99),
    st.sampled_from(["item", "source"]),
)
def test_a_split_keeps_all_photos_and_divides_no_item_or_source(
    drawn: list[tuple[int, int]], val: int, by: str
) -> None:
    samples = tuple(Sample(Path(f"{k}.jpg"), f"i{item}", source=f"s{source}") for k, (item, source) in enumerate(drawn))
    parts = split(Dataset("set", samples), val, by)
    assert sorted(sample.path for part in parts for sample in part.samples) == sorted(one.path for one in samples)
    assert set(parts[0].items).isdisjoint(parts[1].items)
    if by == "source":
        assert {one.source for one in parts[0].samples}.isdisjoint(one.source for one in parts[1].samples)


def test_a_split_is_by_the_hash_of_the_style() -> None:
    data = Dataset("set", tuple(Sample(Path(f"{n}.jpg"), f"s{n}-{c}", f"s{n}") for n in range(40) for c in "rb"))
    _, val = split(data, 30)
    assert {sample.style for sample in val.samples} == {f"s{n}" for n in range(40) if percentile_of(f"s{n}") < 30}


def test_unreadable_photos_become_problems(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_jpeg(tmp_path / name, shop_photo((120, 30, 30)))
    (tmp_path / "bad.jpg").write_text("words")
    data = load(Dataset("set", tuple(Sample(tmp_path / f"{name}.jpg", name) for name in ("a", "bad", "bad", "b"))), 30)
    assert data.items == ("a", "b")
    assert [image.shape for image in data.images] == [(30, 20, 3)] * 2
    (problem,) = data.problems
    assert (problem.kind, problem.where) == (DatasetIssue.UNREADABLE, str(tmp_path / "bad.jpg"))


def test_white_borders_are_cut_off_before_a_photo_is_scaled_down(tmp_path: Path) -> None:
    image = np.full((800, 480, 3), 255, np.uint8)
    image[200:600, 120:360] = (150, 30, 30)
    write_jpeg(tmp_path / "a.jpg", image)
    data = Dataset("set", (Sample(tmp_path / "a.jpg", "a"),))
    ((trimmed,), (whole,)) = load(data, 150, trim=True).images, load(data, 150).images
    assert max(trimmed.shape) == max(whole.shape) == 150
    shares = [(pixels.min(axis=2) < 200).mean() for pixels in (trimmed, whole)]
    assert shares == pytest.approx([0.90, 0.25], abs=0.03)
