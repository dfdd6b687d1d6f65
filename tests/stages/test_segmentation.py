import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from stages.detect.annotations import AnnotationError, Instance, mask_of
from stages.detect.segmentation import extent, to_rle


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=35, max_size=35), st.sampled_from([5, 7, 35, 1]))
def test_run_lengths_of_any_mask_come_through(bits: list[bool], height: int) -> None:
    pixels = np.asfortranarray(np.array(bits, np.uint8).reshape(height, -1))
    width = pixels.shape[1]
    encoded = coco_mask.encode(pixels)["counts"]
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff(edges, prepend=0, append=flat.size).tolist()
    size = [height, width]
    assert to_rle({"size": size, "counts": encoded.decode()}, height, width) == encoded
    assert to_rle({"size": size, "counts": runs}, height, width) == encoded
    np.testing.assert_array_equal(mask_of(Instance(1, (0, 0, 1, 1), encoded), height, width), pixels)
    rows, columns = np.nonzero(pixels)
    wanted = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if rows.size else None
    assert extent(encoded, height, width) == wanted


def runs_one_by_one(text: str) -> list[int]:
    """The format by its definition, for strings that are finished."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit >> 4 & 1) << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12), st.integers(1, 40), st.integers(1, 40))
def test_a_string_of_run_lengths_is_good_only_if_it_adds_up(text: str, height: int, width: int) -> None:
    runs = runs_one_by_one(text)
    finished = bool(text) and not (ord(text[-1]) - 48) & 32
    good = finished and min(runs) >= 0 and sum(runs) == height * width
    try:
        rle = to_rle({"size": [height, width], "counts": text}, height, width)
    except AnnotationError:
        assert not good or len(text) > 6, "only a run length of too many characters may be refused beyond that"
    else:
        assert good
        assert mask_of(Instance(1, (0, 0, 1, 1), rle), height, width).sum() == sum(runs[1::2])
