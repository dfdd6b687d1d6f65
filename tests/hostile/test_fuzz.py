"""Arbitrary and nearly right bytes at every door by which files come in, but for galleries: an answer or an error of ours.

What a request to ``outfinder serve`` holds comes in by ``stages.images.decode_photo``, which is among them.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pytest
import torch
from corpus import whole_files
from hypothesis import given
from hypothesis import strategies as st
from nearly import FUZZ, changed, may_refuse, nearly
from pyarrow import parquet

import weights
from pipeline.catalogue import CatalogueEntry, read_catalogue
from stages.detect.coco import read_annotations
from stages.detect.rcnn import from_checkpoint
from stages.embed.calibration import Calibration
from stages.embed.siamese import SiameseEmbedder
from stages.errors import CatalogueError, ImageError, OutfinderError, WeightsError
from stages.images import decode_photo

PHOTOS = {name: data for name, (data, _) in whole_files().items()}


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# --- photos ---


@FUZZ
@given(data=nearly(list(PHOTOS.values())), at_least=st.sampled_from([None, 1, 20, 10_000]))
def test_photos(data, at_least):
    with may_refuse(ImageError):
        photo = decode_photo(data, at_least)
        assert photo.image.ndim == 3
        assert photo.image.dtype == np.uint8
        assert min(photo.width, photo.height) >= 1


# --- catalogues and annotations ---


def _packed(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _workbook() -> openpyxl.Workbook:
    workbook = openpyxl.Workbook()
    for row in (["item_id", "image", "price"], ["a", "a.jpg|b.jpg", 9.5], [7, "c.jpg", None]):
        workbook.active.append(row)
    return workbook


TABLES = {
    "csv": 'item_id;image;price\na;a.jpg;3\nb;"b\n.jpg";\n\ufeffc;ü.jpg;1,5\n'.encode(),
    "jsonl": b'{"item_id": 1, "image": ["a.jpg", "https://shop.example/b.jpg"], "price": 1e9}\n{"item_id": "b", "image": {}}\n',
    "xml": b'<rss xmlns:g="g"><item><g:id>1</g:id><g:image_link>s3://a/b.jpg</g:image_link></item><entry/></rss>',
    "parquet": _packed(
        lambda file: parquet.write_table(pa.table({"item_id": ["a"], "image": ["a.jpg"], "n": [1.5]}), file)
    ),
    "xlsx": _packed(lambda file: _workbook().save(file)),
}


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("suffix", TABLES)
def test_catalogues(place, suffix, data):
    path = place / f"a.{suffix}"
    path.write_bytes(data.draw(nearly(TABLES[suffix]) | st.binary(max_size=200)))
    with may_refuse(CatalogueError):
        assert all(isinstance(photo, CatalogueEntry) for photo in read_catalogue([path]))


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
    "categories": [{"id": 1, "name": "top"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 5, 1, 5, 5]], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [10, 20], "counts": [20, 30, 150]}},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": {"size": [10, 20], "counts": "d05c5"}},
    ],
}  # fmt: skip


@FUZZ
@given(document=changed(COCO))
def test_annotations(place, document):
    path = place / "a.json"
    path.write_text(json.dumps(document))
    with may_refuse(CatalogueError):
        found = read_annotations(path, place, check_images=False)
        for photo in found.photos:
            assert photo.width * photo.height > 10**7 or photo.masks().shape[1:] == (photo.height, photo.width)


@FUZZ
@given(data=nearly(json.dumps(COCO).encode()))
def test_annotations_that_are_hardly_json(place, data):
    path = place / "a.json"
    path.write_bytes(data)
    with may_refuse(CatalogueError):
        read_annotations(path, place, check_images=False)


# --- calibrations ---

ENDS = {"value": 0.5, "low": 0.4, "high": 0.6}
THRESHOLDS = {
    "same": ENDS,
    "different": ENDS,
    "fmr": 0.1,
    "fnmr": 0.1,
    "same_pairs": 9,
    "different_pairs": 9,
    "items": 5,
}
CALIBRATION = {"fingerprint": "f", "wanted_fmr": 0.1, "wanted_fnmr": 0.1, "data": "d", "every": THRESHOLDS, "labels": {"top": THRESHOLDS}}  # fmt: skip


@FUZZ
@given(document=changed(CALIBRATION))
def test_calibrations(place, document):
    path = place / "c.json"
    path.write_text(json.dumps(document))
    with may_refuse(OutfinderError):
        Calibration.read(path)


# --- weights ---


@pytest.fixture(scope="module")
def checkpoint(place):
    path = place / "own.safetensors"
    weights.save(path, {"w": torch.ones(3, 4), "n": torch.tensor([3])}, {"dim": "2"})
    return path.read_bytes()


def read(place, data):
    path = place / "w.safetensors"
    path.write_bytes(data)
    with may_refuse(WeightsError):
        weights.read(path)


@FUZZ
@given(data=st.data())
def test_weights(place, checkpoint, data):
    read(place, data.draw(nearly(checkpoint)))


@FUZZ
@given(data=st.data())
def test_headers_of_weights(place, checkpoint, data):
    length = int.from_bytes(checkpoint[:8], "little")
    text = json.dumps(data.draw(changed(json.loads(checkpoint[8 : 8 + length])))).encode()
    read(place, len(text).to_bytes(8, "little") + text + checkpoint[8 + length :])


def refused_cheaply(act, match):
    """An act is refused before it takes memory."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=match):
            act()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head",
    [
        (1 << 60).to_bytes(8, "little") + b"{}",
        (90_000_000).to_bytes(8, "little") + b"{" + b" " * 1000,
        b"\x80\x05}\x94." + bytes(100),
        b"PK\3\4" + bytes(100),
        b"",
        b"{}",
    ],
)  # fmt: skip
def test_headers_that_lie_about_their_length_are_refused_at_once(place, head):
    path = place / "lie.safetensors"
    path.write_bytes(head)
    refused_cheaply(lambda: weights.read(path), "are not a safetensors file|are a pickle")


@pytest.mark.skipif(os.name != "posix", reason="FIFOs are POSIX's")
def test_weights_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(WeightsError, match=r"cannot be read: (not a regular file|Is a directory)"):
            weights.read(path)


@pytest.mark.parametrize(
    ("name", "build", "lie"),
    [
        ("siamese", SiameseEmbedder, {"dim": "65536"}),
        ("siamese", SiameseEmbedder, {"dim": "1000000000000"}),
        ("siamese", SiameseEmbedder, {"dim": "-1"}),
        ("siamese", SiameseEmbedder, {"input_px": "1000000"}),
        ("siamese", SiameseEmbedder, {"input_px": "4096", "pooling": "flatten"}),
        ("siamese", SiameseEmbedder, {"input_px": "many"}),
        ("siamese", SiameseEmbedder, {"mean": "nan nan"}),
        ("siamese", SiameseEmbedder, {"architecture": "siamese-vgg16"}),
        ("siamese", SiameseEmbedder, {"architecture": "os:system"}),
        ("maskrcnn_mobilenet_v2", from_checkpoint, {"labels": "a\n" * 2_000_000}),
        ("maskrcnn_mobilenet_v2", from_checkpoint, {"input_px": "1000000"}),
        ("maskrcnn_mobilenet_v2", from_checkpoint, {"input_px": "-5"}),
        ("maskrcnn_mobilenet_v2", from_checkpoint, {"input_px": "x"}),
        ("maskrcnn_mobilenet_v2", from_checkpoint, {"thresholds": "1e400 nan"}),
        ("maskrcnn_mobilenet_v2", from_checkpoint, {"architecture": "maskrcnn_resnet50_fpn"}),
    ],
)  # fmt: skip
def test_weights_that_lie_about_their_network_are_refused(name, build, lie):
    from dataclasses import replace

    true = weights.load(name)
    with pytest.raises(WeightsError):
        build(replace(true, metadata=true.metadata | lie))
