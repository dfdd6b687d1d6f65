"""Galleries of true checksums that are nearly right, or lie: an answer or an error of ours."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nearly import FUZZ, changed, may_refuse, nearly

from pipeline.gallery import Gallery, Row, store, verify
from pipeline.gallery import database as database_module
from pipeline.gallery import search as search_module
from pipeline.search import open_gallery, open_or_create
from stages.crop import BoxCrop
from stages.errors import GalleryError, OutfinderError, StageError
from stages.testing import FakeEmbedder
from stages.types import Box

QUERIES = np.eye(49, dtype=np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of a small gallery with an index."""
    folder = tmp_path_factory.mktemp("galleries") / "g"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTFINDER_CACHE", str(folder.parent / "cache"))
        patch.setattr(search_module, "TAIL", 8)
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
        gallery.close()
        logging.disable()  # a damaged index is told; here many are
        yield (folder / "gallery.sqlite").read_bytes()
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "g"


def put(folder, whole, change=None):
    """A gallery of its own with a change made to the database."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "gallery.sqlite").write_bytes(whole)
    if change:
        with closing(sqlite3.connect(folder / "gallery.sqlite", isolation_level=None)) as database:
            change(database)


def resealed(database):
    """Every checksum as it should be: whoever makes a hostile gallery can count."""
    values = database.execute("SELECT * FROM gallery").fetchone()[:-1]
    database.execute("UPDATE gallery SET checksum = ?", (database_module.checksum_of(values, ()),))
    names = [values[1] for values in database.execute("PRAGMA table_info(photos)")]
    own = len(database_module.FIELDS)
    for row in database.execute("SELECT * FROM photos").fetchall():
        told = [pair for pair in zip(names[own + 1 :], row[own + 1 :], strict=True) if pair[1] is not None]
        summed = database_module.checksum_of((row[0], *row[1:own]), told)
        database.execute("UPDATE photos SET checksum = ? WHERE id = ?", (summed, row[0]))
    for number, *parts, _ in database.execute("SELECT * FROM blocks").fetchall():
        if all(isinstance(part, bytes) for part in parts):
            database.execute(
                "UPDATE blocks SET checksum = ? WHERE number = ?", (store._block_sum(number, *parts), number)
            )
            (data,) = database.execute("SELECT data FROM vectors WHERE block = ?", (number,)).fetchone() or (b"",)
            if isinstance(data, bytes) and len(parts[0]) % 8 == 0:
                digest = store._block_digest(np.frombuffer(parts[0], "<i8"), data)
                database.execute("UPDATE vectors SET digest = ? WHERE block = ?", (digest, number))


def use(folder):
    """Everything that a gallery can be asked, and that can be done to it."""
    with may_refuse(OutfinderError):
        gallery = Gallery.open(folder)
        gallery.search(QUERIES[:2], k=3)
        assert len(gallery.rows) == len(gallery)
        assert gallery.items is not None
        assert gallery.labels is not None
        gallery.select("price > 3 and item like 'i%'") if "price" in gallery.columns else None
        gallery.index()
        gallery.duplicates()
        gallery.photo_of("i1", "p2", "s2")
        gallery.of_item("i1")
        gallery.remove(["i1"] if gallery.of_item("i1") else [])
        gallery.save()
        gallery.compact()
    with may_refuse(GalleryError):
        assert all(isinstance(line, str) for line in verify(folder))


@FUZZ
@given(data=st.data())
def test_bytes_that_are_nearly_right(whole, folder, data):
    put(folder, data.draw(nearly(whole)))
    use(folder)


CELLS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=40) | st.text(
    st.characters(codec="utf-8"), max_size=10
)  # fmt: skip


@FUZZ
@given(data=st.data())
def test_cells_of_true_checksums(whole, folder, data):
    table = data.draw(st.sampled_from(["gallery", "photos", "blocks", "vectors"]))

    def change(database):
        names = [values[1] for values in database.execute(f"PRAGMA table_info({table})")]
        name = data.draw(st.sampled_from(names))
        row = data.draw(st.integers(0, 2))
        database.execute(
            f'UPDATE OR IGNORE {table} SET "{name}" = ? WHERE rowid = (SELECT rowid FROM {table} LIMIT 1 OFFSET ?)',
            (data.draw(CELLS), row),
        ) if name not in ("id", "number", "block") else database.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
        if data.draw(st.booleans()):
            resealed(database)

    put(folder, whole, change)
    use(folder)


@FUZZ
@given(data=st.data())
def test_arrays_of_true_checksums(whole, folder, data):
    column, table, key = data.draw(
        st.sampled_from([("ids", "blocks", "number"), ("items", "blocks", "number"), ("live", "blocks", "number"),
                         ("data", "vectors", "block")])
    )  # fmt: skip

    def change(database):
        (blob,) = database.execute(f"SELECT {column} FROM {table} WHERE {key} = 0").fetchone()
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = 0", (data.draw(nearly(blob)),))
        resealed(database)

    put(folder, whole, change)
    use(folder)


@FUZZ
@given(data=st.data())
def test_settings_and_columns_of_true_checksums(whole, folder, data):
    def change(database):
        for name in ("settings", "columns"):
            (text,) = database.execute(f"SELECT {name} FROM gallery").fetchone()
            document = json.dumps(data.draw(changed(json.loads(text))))
            database.execute(f"UPDATE gallery SET {name} = ?", (document,))
        resealed(database)

    put(folder, whole, change)
    use(folder)
    with may_refuse((OutfinderError, ValueError)):
        open_gallery(folder, {"detector": "whole", "embedder": "stages.testing:FakeEmbedder"})


def setting(**values):
    def change(database):
        for name, value in values.items():
            database.execute(f'UPDATE gallery SET "{name}" = ?', (value,))
        resealed(database)

    return change


def ask_everything(folder):
    gallery = Gallery.open(folder)
    gallery.search(QUERIES, k=50)
    assert gallery.rows
    gallery.vectors.take(gallery.ids)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE photos SET x1 = 9", "damaged: photo"),
        ("UPDATE photos SET score = 'high'", "damaged: photo"),
        ("UPDATE photos SET item = 5.5", None),
        ("UPDATE photos SET item = x'ff'", "a text in it is none"),
        ("UPDATE vectors SET data = x'00'", "no vector for some photos"),
        ("UPDATE vectors SET data = zeroblob(length(data))", "vectors are damaged"),
        ("UPDATE blocks SET ids = zeroblob(length(ids))", "do not rise"),
        ("UPDATE gallery SET next_id = 3", "has photo 39 and should not"),
        ("UPDATE gallery SET dim = 1 << 40", "manifest"),
        ("UPDATE gallery SET storage = 'int4'", "manifest"),
        ("DELETE FROM photos WHERE id = 1", "not those of its vectors|rows are missing"),
        ("UPDATE photos SET id = 1000 WHERE id = 1", "not those of its vectors|rows are missing"),
    ],
)  # fmt: skip
def test_lies_of_true_checksums_are_told(whole, folder, sql, told):
    def change(database):
        database.execute(sql)
        resealed(database)

    put(folder, whole, change)
    if told is None:
        use(folder)
        return
    with pytest.raises(GalleryError, match=told):
        ask_everything(folder)


def test_code_that_a_gallery_names_is_not_run(whole, folder, tmp_path, monkeypatch):
    for module in ("evil", "torchvision"):
        (tmp_path / f"{module}.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.config._trusted", set())
    monkeypatch.setattr(search_module, "TAIL", 8)
    for field in ("index", "detector", "crop", "embedder"):
        for name in ("evil:Evil", "stages.testing:FakeDetector"):
            settings = {"crop": "box", "embedder": "siamese", "detector": "whole"}
            change = setting(index=name) if field == "index" else setting(settings=json.dumps(settings | {field: name}))
            put(folder, whole, change)
            for opened in (open_gallery, open_or_create):
                with pytest.raises(StageError, match=f"{name}', which is code .* --{field} {name}"):
                    opened(folder, {})
            if field == "index":
                with pytest.raises(StageError, match="which is code"):
                    Gallery.open(folder).index()
    assert not (tmp_path / "ran").exists()


def test_a_gallery_cannot_reach_a_server_or_a_file_elsewhere(whole, folder, tmp_path):
    for place in (f"milvus+{tmp_path / 'elsewhere.db'}", "milvus+http://localhost:1"):
        settings = {"crop": "box", "embedder": "siamese", "detector": "whole"}
        put(folder, whole, setting(index=place, settings=json.dumps(settings)))
        with pytest.raises(StageError, match="which is a place elsewhere"):
            open_gallery(folder, {})
    for option in ("embedder_weights", "detector_weights"):
        put(folder, whole, setting(settings=json.dumps({option: "/etc/passwd"})))
        with pytest.raises(GalleryError, match=r"not a \.safetensors file"):
            open_gallery(folder, {})
    assert not any(tmp_path.iterdir())


def test_the_gallery_of_these_tests_is_sound(whole, folder):
    put(folder, whole)
    assert verify(folder) == []
    put(folder, whole, resealed)
    assert verify(folder) == []
