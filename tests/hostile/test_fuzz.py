"""Arbitrary and nearly right bytes at every door by which files come in: an answer or outfinder's own error.

What a request to ``outfinder serve`` holds comes in by ``stages.images.decode_photo``, which is among them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import whole_files
from graphs import Graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weights
from pipeline.catalogue import CataloguePhoto, read_catalogue
from pipeline.gallery import Gallery, Row, arrays, read_manifest
from pipeline.gallery import searcher as searcher_module
from pipeline.gallery.arrays import file_digest
from pipeline.gallery.storage import COPY, MANIFEST
from pipeline.gallery.vectors import encode
from pipeline.integrity import verify
from pipeline.opening import open_for_search, open_or_create
from pipeline.resuming import NOTE, unfinished
from stages.crop import BoxCrop
from stages.detect.coco import read_annotations
from stages.detect.rcnn import from_checkpoint
from stages.embed.calibration import Calibration
from stages.embed.siamese import SiameseEmbedder
from stages.errors import CatalogueError, GalleryError, ImageError, OutfinderError, StageError, WeightsError
from stages.images import decode_photo
from stages.testing import FakeEmbedder
from stages.types import Box

EXAMPLES = int(os.environ.get("FUZZ", "40"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 40, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

PHOTOS = {name: data for name, (data, _) in whole_files().items()}


@st.composite
def nearly(draw, whole):
    """Bytes that were right, with a few stretches changed, taken out, put in, doubled or cut off."""
    data = bytearray(draw(st.sampled_from(whole)) if isinstance(whole, list) else whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(data) - 1, draw(st.sampled_from([8, 64, 512, 1 << 30]))))))
        length = draw(st.sampled_from([1, 1, 2, 4, 30]))
        match draw(st.sampled_from("xxxixdc")):
            case "x":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "i":
                data[at:at] = draw(st.sampled_from([b"\0" * 8, b"\xff" * 8, b"9" * 20, b'"', b"\x80"]))
            case "d":
                data[at:at] = data[at : at + 20 * length]
            case "c":
                del data[at:]
    return bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**12, "", "..", "/etc/passwd", "a\0b", [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def changed(draw, whole):
    """A JSON value with some of its parts replaced, taken out or put in."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        place, within = value, None
        while isinstance(place, dict | list) and place and draw(st.integers(0, 5)):
            within, key = place, draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            place = place[key]
        if within is None:
            return draw(json_values) if not draw(st.integers(0, 9)) else value
        if draw(st.booleans()) or isinstance(within, list):
            within[key] = draw(json_values)
        else:
            del within[key]
    return value


@contextmanager
def may_refuse(kind):
    """What happens within may be refused by an error of this kind, which says something, in printable characters."""
    told = "nothing was refused"
    try:
        yield
    except kind as error:
        told = str(error)
    assert told
    assert len(told.splitlines()) == 1 or kind is CatalogueError


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

CSV = 'item_id;image;price\na;a.jpg;3\nb;"b\n.jpg";\n\ufeffc;ü.jpg;1,5\n'.encode()


@FUZZ
@given(data=nearly(CSV) | st.binary(max_size=200))
def test_catalogues(place, data):
    path = place / "a.csv"
    path.write_bytes(data)
    with may_refuse(CatalogueError):
        assert all(isinstance(photo, CataloguePhoto) for photo in read_catalogue([path]))


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


# --- galleries ---


def made(folder):
    gallery = Gallery.create(folder, FakeEmbedder(), BoxCrop())
    for start in (0, 20):
        drawn = np.random.default_rng(start).normal(size=(20, 49)).astype(np.float32)
        rows = [
            Row(f"i{n // 2}", f"p{n}", f"s{n}", "fake", "top", 0.5, Box(0, 0, 5, 5), (("price", str(n)),))
            for n in range(start, start + 20)
        ]
        gallery.add(rows, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
        gallery.save()
        gallery.remove([f"i{start // 2 + 3}"])
    gallery.save()
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.stat().st_size}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The files of a small gallery with an index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searcher_module, "TAIL", 8)
        folder = tmp_path_factory.mktemp("galleries") / "g"
        logging.disable()  # a damaged index is told; here many are
        yield folder, made(folder)
        logging.disable(logging.NOTSET)


def put(folder, files):
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def sealed(manifest):
    """A manifest with the checksum that it should have: whoever makes a hostile gallery can count."""
    plain = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode("ascii")).hexdigest()
    return json.dumps(plain | {"sha256": digest}).encode()


def resealed(files, name, body):
    """The files with another body of one of them, every checksum as it should be."""
    digests = b"".join(
        hashlib.sha256(body[at : at + arrays.CHUNK]).digest()[: arrays.DIGEST]
        for at in range(0, len(body), arrays.CHUNK)
    )
    told = {"name": name, "size": len(body) + len(digests), "digest": hashlib.sha256(digests).hexdigest()}
    manifest = json.loads(files[MANIFEST])
    for role in ("vectors", "rows"):
        manifest[role] = [told if stored["name"] == name else stored for stored in manifest[role]]
    for role in ("removed", "graph", "graph_ids"):
        if manifest[role] and manifest[role]["name"] == name:
            manifest[role] = told
    return files | {name: body + digests, MANIFEST: sealed(manifest), COPY: sealed(manifest)}


def body_of(data):
    chunks = -(-len(data) // (arrays.CHUNK + arrays.DIGEST))
    return data[: len(data) - chunks * arrays.DIGEST]


def use(folder):
    """Everything that a gallery can be asked, and that can be done to it."""
    with may_refuse(OutfinderError):
        gallery = Gallery.open(folder)
        gallery.search(encode(np.eye(49, dtype=np.float32)[:2], "float32"), k=3)
        assert len(gallery.rows) == len(gallery)
        assert gallery.items is not None
        assert gallery.labels is not None
        gallery.select("price > 3 and item like 'i%'") if "price" in gallery.columns else None
        gallery.index()
        gallery.duplicates()
        gallery.photo_of("i1", "p2", "s2")
        gallery.of_item("i1")
        gallery.remove(["i1"])
        gallery.save()
        gallery.compact()
    with may_refuse(GalleryError):
        assert all(isinstance(line, str) for line in verify(folder))


@FUZZ
@given(data=st.data())
def test_manifests_of_true_checksums(saved, data):
    folder, files = saved
    manifest = json.loads(files[MANIFEST])
    del manifest["sha256"]
    document = data.draw(changed(manifest))
    put(folder, files | dict.fromkeys((MANIFEST, COPY), sealed(document) if isinstance(document, dict) else b"[]"))
    use(folder)


@FUZZ
@given(data=st.data())
def test_gallery_files_of_true_checksums(saved, data):
    folder, files = saved
    name = data.draw(st.sampled_from([name for name in files if name.endswith(".safetensors")]))
    put(folder, resealed(files, name, data.draw(nearly(body_of(files[name])))))
    use(folder)


@FUZZ
@given(data=st.data())
def test_gallery_headers_of_true_checksums(saved, data):
    folder, files = saved
    name = data.draw(st.sampled_from([name for name in files if name.endswith(".safetensors")]))
    body = body_of(files[name])
    length = int.from_bytes(body[:8], "little")
    text = json.dumps(data.draw(changed(json.loads(body[8 : 8 + length])))).encode().ljust(length)
    put(folder, resealed(files, name, len(text).to_bytes(8, "little") + text + body[8 + length :]))
    use(folder)


@FUZZ
@given(data=st.data())
def test_graphs_of_true_checksums(saved, data):
    folder, files = saved
    (name,) = (name for name in files if name.endswith(".bin"))
    body = data.draw(nearly(files[name]))
    hostile = resealed(files, name, body)
    put(folder, hostile | {name: body})
    use(folder)
    manifest = json.loads(hostile[MANIFEST])
    manifest["graph"]["size"] = len(body)
    put(folder, hostile | {name: body, MANIFEST: sealed(manifest), COPY: sealed(manifest)})
    use(folder)


def rewritten(folder, files, role, change):
    """The files with one of a role's arrays changed, every checksum as it should be."""
    put(folder, files)
    manifest = read_manifest(folder)
    stored = manifest.graph_ids if role == "graph_ids" else getattr(manifest, role)[0]
    file = arrays.FileArrays(folder, stored)
    held = {name: np.array(file.part(name)) for name in file.shapes}
    change(held)
    arrays.write_arrays(folder / "new", held)
    return resealed(files, stored.name, body_of((folder / "new").read_bytes()))


def set_to(name, value, place=0):
    def change(held):
        held[name][place] = value

    return change


def without_last_row(held):
    held.update({name: values[:-1] for name, values in held.items()})


def ask_everything(folder):
    gallery = Gallery.open(folder)
    assert gallery.rows
    gallery.search(np.eye(49, dtype=np.float32), k=50)
    gallery.duplicates()
    gallery.index()
    gallery.vectors.take(gallery.ids)


@pytest.mark.parametrize(
    ("role", "change", "told"),
    [
        ("vectors", set_to("vectors", np.nan), "vectors are damaged"),
        ("vectors", set_to("vectors", 1e30), "vectors are damaged"),
        ("vectors", without_last_row, "no vectors? for"),
        ("vectors", set_to("ids", 1, 0), "ids do not rise"),
        ("vectors", set_to("ids", -1, 0), "ids do not rise"),
        ("rows", set_to("item/codes", 999), "column item is damaged"),
        ("rows", set_to("item/codes", -7), "column item is damaged"),
        ("rows", set_to("item/text", 0xFF, slice(None)), "a text in it is none"),
        ("rows", set_to("item/ends", 1 << 40, -1), "not those that others name"),
        ("rows", set_to("box", (5, 5, 0, 0)), "a row of the gallery is damaged"),
        ("rows", lambda held: held.pop("score"), "has no score"),
        ("rows", lambda held: held.update(box=held["box"][:, :3].copy()), r"box is int32 \(\d+, 3\), wanted"),
    ],
)
def test_what_fuzzing_has_found_in_resealed_galleries(saved, role, change, told):
    folder, files = saved
    put(folder, rewritten(folder, files, role, change))
    with pytest.raises(GalleryError, match=told):
        ask_everything(folder)


def test_an_index_of_other_rows_than_it_says_is_made_anew(saved):
    folder, files = saved
    put(folder, files)
    before = Gallery.open(folder).search(np.eye(49, dtype=np.float32), k=3)

    def other(held):
        held["ids"] = held["ids"] + 100_000

    put(folder, rewritten(folder, files, "graph_ids", other))
    gallery = Gallery.open(folder)
    gallery.index()
    assert gallery.search(np.eye(49, dtype=np.float32), k=3) == before


def test_a_graph_of_other_rows_than_its_gallery_is_made_anew(saved):
    folder, files = saved
    put(folder, files)
    before = Gallery.open(folder).search(np.eye(49, dtype=np.float32), k=3)
    (name,) = (name for name in files if name.endswith(".bin"))
    graph = Graph.of(files[name])
    label = slice(graph.header.label_offset, None)
    graph.records[0][label], graph.records[1][label] = graph.records[1][label], (10**6).to_bytes(8, "little")
    manifest = json.loads(files[MANIFEST])
    (folder / name).write_bytes(graph.data())
    manifest["graph"]["digest"] = file_digest(folder / name).digest
    put(folder, files | dict.fromkeys((MANIFEST, COPY), sealed(manifest)) | {name: graph.data()})
    assert any("holds other rows" in line for line in verify(folder))
    gallery = Gallery.open(folder)
    gallery.index()
    assert gallery.search(np.eye(49, dtype=np.float32), k=3) == before


@pytest.mark.parametrize("name", ["../secret", "..", "", "/etc/passwd", "a/../../b", "a\0b", 7, None, ["a"]])
def test_paths_in_a_manifest_cannot_leave_its_folder(saved, name):
    folder, files = saved
    manifest = json.loads(files[MANIFEST])
    manifest["vectors"][0]["name"] = name
    put(folder, files | {MANIFEST: sealed(manifest), COPY: sealed(manifest)})
    with pytest.raises(GalleryError, match=r"damaged|cannot be read|outside"):
        Gallery.open(folder).search(np.eye(49, dtype=np.float32)[:1])


@pytest.mark.parametrize("name", [MANIFEST, COPY, "vectors", "rows", "graph-"])
@pytest.mark.skipif(os.name != "posix", reason="FIFOs are POSIX's")
def test_pipes_in_a_gallery_do_not_hang(saved, name):
    folder, files = saved
    put(folder, files)
    for path in list(folder.iterdir()):
        if path.name.startswith(name) or name == MANIFEST == path.name:
            path.unlink()
            os.mkfifo(path)
    use(folder)


def test_code_that_a_gallery_names_is_not_run(saved, tmp_path, monkeypatch):
    folder, files = saved
    (tmp_path / "evil.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    for field in ("index", "detector", "crop", "embedder"):
        manifest = json.loads(files[MANIFEST])
        manifest["settings"] = {"crop": "box", "embedder": "stages.testing:FakeEmbedder", "detector": "whole"}
        (manifest if field == "index" else manifest["settings"])[field] = "evil:Evil"
        put(folder, files | {MANIFEST: sealed(manifest), COPY: sealed(manifest)})
        for opened in (open_for_search, open_or_create):
            with pytest.raises(StageError, match=f"evil:Evil', which is code .* --{field} evil:Evil"):
                opened(folder, {})
        with pytest.raises(StageError, match="evil") if field == "index" else pytest.raises(ZeroDivisionError):
            Gallery.open(folder).index()
            raise ZeroDivisionError
    assert not (tmp_path / "ran").exists()


def test_a_gallery_cannot_reach_a_server_or_a_file_elsewhere(saved, tmp_path):
    folder, files = saved
    for place in (f"milvus+{tmp_path / 'elsewhere.db'}", "milvus+http://localhost:1"):
        manifest = json.loads(files[MANIFEST])
        manifest["index"] = place
        manifest["settings"] = {"crop": "box", "embedder": "stages.testing:FakeEmbedder", "detector": "whole"}
        put(folder, files | {MANIFEST: sealed(manifest), COPY: sealed(manifest)})
        with pytest.raises(StageError, match=r"milvus.*, which is a place elsewhere; .* --index milvus\+"):
            Gallery.open(folder).index()
        with pytest.raises(StageError, match="which is a place elsewhere"):
            open_for_search(folder, {})
    assert not any(tmp_path.iterdir())


# --- notes and calibrations ---

RUN = {
    "sources": ["/a"],
    "item_pattern": "(a)",
    "given": {"detector": "whole", "min_score": 0.5, "embedder_weights": "/w"},
}


@FUZZ
@given(document=changed(RUN))
def test_notes_of_runs(place, document):
    (place / NOTE).write_text(json.dumps(document))
    with may_refuse(GalleryError):
        run = unfinished(place)
        assert all(isinstance(source, Path) for source in run.sources)
        assert run.pattern is None or run.pattern.pattern == run.item_pattern


def test_a_note_cannot_run_code(place):
    (place / NOTE).write_text(json.dumps(RUN | {"given": {"detector": "evil:Evil"}}))
    with pytest.raises(GalleryError, match="'evil:Evil', which a file cannot name"):
        unfinished(place)


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


def test_the_gallery_of_these_tests_is_sound(saved):
    folder, files = saved
    put(folder, files)
    assert verify(folder) == []
    assert read_manifest(folder).graph
    for name in files:
        if name.endswith(".safetensors"):
            put(folder, resealed(files, name, body_of(files[name])))
            assert verify(folder) == []
