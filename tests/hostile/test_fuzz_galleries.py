"""Galleries of true checksums whose files are nearly right, or lie: an answer or an error of ours."""

from __future__ import annotations

import hashlib
import json
import logging
import os

import numpy as np
import pytest
from graphs import Graph
from hypothesis import given
from hypothesis import strategies as st
from nearly import FUZZ, changed, may_refuse, nearly

from pipeline.gallery import Gallery, Row, arrays, read_manifest
from pipeline.gallery import searcher as searcher_module
from pipeline.gallery.arrays import file_digest
from pipeline.gallery.storage import COPY, MANIFEST
from pipeline.gallery.vectors import encode
from pipeline.integrity import verify
from pipeline.search import open_gallery, open_or_create
from stages.crop import BoxCrop
from stages.errors import GalleryError, OutfinderError, StageError
from stages.testing import FakeEmbedder
from stages.types import Box


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
        for opened in (open_gallery, open_or_create):
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
            open_gallery(folder, {})
    assert not any(tmp_path.iterdir())


def test_the_gallery_of_these_tests_is_sound(saved):
    folder, files = saved
    put(folder, files)
    assert verify(folder) == []
    assert read_manifest(folder).graph
    for name in files:
        if name.endswith(".safetensors"):
            put(folder, resealed(files, name, body_of(files[name])))
            assert verify(folder) == []
