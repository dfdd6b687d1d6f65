"""Tables of vectors: a gallery's come back as they were, and those of other programs make a gallery."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from cli_runs import DETECTOR, EMBEDDER, lines, run

from pipeline.gallery import Gallery
from pipeline.vector_tables import export_vectors, read_vectors
from stages.errors import CatalogueError
from stages.images import walk
from stages.testing import FakeEmbedder


@pytest.fixture
def gallery(tmp_path, shop):
    """A gallery whose catalogue has columns with reserved names."""
    rows = [f"item {n % 4},{path},top,{n}0,f,x" for n, path in enumerate(walk([shop]))]
    text = "\n".join(["item_id,image,label,price,file,catalogue.file", *rows])
    (tmp_path / "shop.csv").write_text(text)
    run("index", tmp_path / "gallery", tmp_path / "shop.csv", *DETECTOR, *EMBEDDER, "--index", "exact")
    return Gallery.open(tmp_path / "gallery")


def save(path, **changes):
    """Write a table as another program might: three items of one photo each."""
    given = {"item_id": np.array([7, 8, 9]), "image": np.array(["a.jpg", "b.jpg", "c.jpg"]),
             "vectors": np.array([[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0]])} | changes  # fmt: skip
    np.savez_compressed(path, **{name: value for name, value in given.items() if value is not None})
    return path


def remade(path, name, data, *, declared=None):
    """Replace an array of a table by bytes, of which ``declared`` are said to be there."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in (members | {f"{name}.npy": data}).items():
            archive.writestr(each, content)
        if declared:
            archive.getinfo(f"{name}.npy").file_size = declared
    return path


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_an_exported_gallery_is_imported_with_the_same_answers(tmp_path, gallery, street, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    table, copy = tmp_path / f"t.{suffix}", tmp_path / "copy"
    run("export", "vectors", gallery.folder, "-o", table)

    run("import", "vectors", copy, table, "--index", "exact")

    imported = Gallery.open(copy)
    assert (imported.manifest.embedder, imported.manifest.crop) == (gallery.manifest.embedder, gallery.manifest.crop)
    for one, other in zip(gallery.rows, imported.rows, strict=True):
        assert (one.item, one.photo, one.group, one.box) == (other.item, other.photo, other.group, other.box)
        assert dict(one.metadata) == dict(other.metadata)
    assert np.array_equal(imported.vectors.take(imported.ids), gallery.vectors.take(gallery.ids))
    for query in ((street,), ("--item", "item 1"), (street, "--where", "price > 5", "--same-label")):
        assert run("search", copy, *query).stdout == run("search", gallery.folder, *query).stdout
    run("import", "vectors", copy, table)
    assert len(Gallery.open(copy)) == len(gallery)  # the same photos replace themselves


def test_vectors_made_elsewhere_are_searched_by_item_and_a_photo_is_refused_in_one_sentence(tmp_path, street):
    table = save(tmp_path / "t.npz", price=np.array([5.5, 20, 30]), label=np.array(["top", "", "bag"]))
    run("import", "vectors", tmp_path / "g", table, "--embedder-name", "clip-b32", *DETECTOR)

    (found,) = lines(run("search", tmp_path / "g", "--item", "7", "--where", "price < 25"))
    assert [(match["item"], match["similarity"]) for match in found["matches"]] == [("8", 0.8)]
    shown = lines(run("gallery", "show", tmp_path / "g", "9"))[0]
    assert (shown["photo"], shown["label"]) == (str(tmp_path / "c.jpg"), "bag")
    result = run("search", tmp_path / "g", street, status=2)
    assert "made elsewhere, by 'clip-b32'" in result.stderr
    assert "search by item" in result.stderr
    assert len(result.output.splitlines()) == 1
    assert "import vectors" in run("index", tmp_path / "g", street, status=2).stderr
    assert "was made with embedder 'clip-b32'" in run("search", tmp_path / "g", street, *EMBEDDER, status=2).stderr


def test_vectors_of_an_embedder_that_outfinder_has_are_searched_by_photo(tmp_path, shop, street):
    from stages.images import read_photo

    photos = list(walk([shop]))
    vectors = FakeEmbedder()([read_photo(path).image for path in photos])
    table = save(tmp_path / "t.npz", item_id=np.array([path.stem for path in photos]),
                 image=np.array([str(path.relative_to(tmp_path)) for path in photos]), vectors=vectors)  # fmt: skip

    run("import", "vectors", tmp_path / "g", table, *EMBEDDER, *DETECTOR, "--crop", "whole")

    found = lines(run("search", tmp_path / "g", street / "a two.jpg", "-k", 1))
    assert len(found[0]["garments"]) == 2
    assert found[0]["garments"][0]["matches"][0]["similarity"] > 0
    assert {row.photo for row in Gallery.open(tmp_path / "g").rows} == set(map(str, photos))


def test_a_served_gallery_of_vectors_made_elsewhere_answers_by_item_and_vector(tmp_path, photo_bytes):
    pytest.importorskip("fastapi", reason="needs the extra web")
    from fastapi.testclient import TestClient

    from pipeline.serve.app import create_app
    from pipeline.serve.limits import Limits
    from pipeline.serve.service import open_service

    run("import", "vectors", tmp_path / "g", save(tmp_path / "t.npz"), "--embedder-name", "clip-b32")
    service = open_service(tmp_path / "g", {"detector": "whole"}, Limits(hosts=frozenset({"testserver"})))
    with TestClient(create_app(service)) as client:
        items = client.post("/search/item", json={"item": "7"}).json()["matches"]
        by_vector = client.post("/search/vector", json={"vector": [0, 0, 2, 0]}).json()["matches"]
        refused = [client.post(path, content=photo_bytes) for path in ("/search", "/embed")]

    assert [match["item"] for match in items] == ["8", "9"]
    assert by_vector[0]["item"] == "9"
    assert [answer.status_code for answer in refused] == [422, 422]
    assert all("made elsewhere, by 'clip-b32'" in answer.json()["error"] for answer in refused)


@pytest.fixture
def photo_bytes(street):
    return (street / "a two.jpg").read_bytes()


def test_rows_that_cannot_be_used_cost_themselves(tmp_path):
    vectors = np.array([[3, 0], [0, 0], [np.nan, 1], [1e300, 1e300], [0, 1], [0, 1], [1, 0]])
    table = save(tmp_path / "t.npz", item_id=np.array(["a", "b", "c", "d", "a", "", "e"]), vectors=vectors,
                 image=np.array(["p", "p", "p", "p", "p", "p", "p"]),
                 box=np.array([[0, 0, 2, 2]] * 6 + [[3, 0, 2, 2]]))  # fmt: skip

    result = run("import", "vectors", tmp_path / "g", table, "--embedder-name", "mine", status=1)

    gallery = Gallery.open(tmp_path / "g")
    assert gallery.items == ["a", "d"]
    assert np.allclose(gallery.vectors_of("d"), 0.5**0.5)
    assert np.allclose(gallery.vectors_of("a"), [[1, 0]])
    for reason, row in (("vector of zeros", 2), ("not finite", 3), ("an earlier row", 5), ("without an item_id", 6),
                        ("with a box", 7)):  # fmt: skip
        assert any(reason in line and line.endswith(f"such as row {row}") for line in result.stderr.splitlines())
    assert "2 vectors of another length than 1 normalised" in result.stderr


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vectors": None}, "lacks the column vectors"),
        ({"item_id": None, "image": None}, "lacks the column item_id and photo"),
        ({"vectors": np.eye(4)}, "it has 4 vectors and 3 values of item_id"),
        ({"vectors": np.ones(3)}, "wanted (n, dim) of floats"),
        ({"vectors": np.ones((3, 4), int)}, "wanted (n, dim) of floats"),
        ({"vectors": np.zeros((3, 4))}, "no usable row (3 rows; with a vector of zeros"),
        ({"item_id": np.array([{}, {}, {}], object)}, "its array item_id: holds Python objects, which could run code"),
        ({"price": np.ones((3, 2))}, "its column price"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_is_refused_in_one_sentence(tmp_path, changes, reason):
    result = run("import", "vectors", tmp_path / "g", save(tmp_path / "t.npz", **changes), "--embedder-name", "mine",
                 status=2)  # fmt: skip

    assert reason in result.stderr
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "g").exists()


def header(shape, descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


def test_a_file_that_lies_about_its_size_or_runs_code_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.vector_tables.MOST_BYTES", 1_000_000)
    loaded = []
    monkeypatch.setattr("pickle.loads", loaded.append)
    monkeypatch.setattr("pickle.load", loaded.append)
    table = tmp_path / "t.npz"
    faults = [
        (header((10**12, 4)) + bytes(64), None, "is said to be float32 of shape"),
        (header((-1, -4)), None, "its array vectors"),
        (header((10**9, 4)), 4 * 4 * 10**9, "it takes 16,000 MB unpacked"),
        (bytes(10_000_000), None, "it takes 10 MB unpacked"),
        (pickle.dumps([1]), None, "its array vectors"),
        (header((1,), "|O") + pickle.dumps([1]), None, "holds Python objects"),
        (b"\x93NUMPY\x01\x00v\x00" + b"(" * 118, None, "its array vectors"),
    ]
    for data, declared, reason in faults:
        remade(save(table), "vectors", data, declared=declared)
        with pytest.raises(CatalogueError, match=reason):
            read_vectors(table)
    for content in (b"", b"PK\x03\x04 no zip", save(table).read_bytes()[:-40]):
        table.write_bytes(content)
        with pytest.raises(CatalogueError, match=r"t\.npz cannot be read"):
            read_vectors(table)
    save(table, item_id=np.full(20_000, "a"), image=np.full(20_000, "b"), vectors=np.ones((20_000, 1), np.float16))
    with pytest.raises(CatalogueError, match="it takes 4 MB unpacked"):  # as texts of Python's
        read_vectors(table)
    assert not loaded


def test_a_small_parquet_file_of_very_many_rows_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr("pipeline.vector_tables.MOST_BYTES", 1_000_000)
    same = {"item_id": ["a"] * 20_000, "photo": ["b" * 100] * 20_000, "vector": [[1.0]] * 20_000}
    parquet.write_table(pa.table(same), tmp_path / "t.parquet")

    with pytest.raises(CatalogueError, match="it takes 1 MB unpacked"):
        read_vectors(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 10_000


def test_damaged_parquet_and_lists_of_different_lengths_are_refused_in_one_sentence(tmp_path, gallery):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = tmp_path / "t.parquet"
    columns = {"item_id": ["a", "b"], "photo": ["p", None], "vector": [[1.0, 0.0], [0.0, 1.0]]}
    for changes, reason in (
        ({"vector": [[1.0], [0.0, 1.0]]}, "different lengths, such as 1 and 2"),
        ({"vector": [[1.0, 0.0], None]}, "different lengths"),
        ({"vector": ["a", "b"]}, "wanted lists of floats"),
        ({"price": [[1], [2]]}, "its column price holds list"),
    ):
        parquet.write_table(pa.table(columns | changes), table)
        with pytest.raises(CatalogueError, match=reason):
            read_vectors(table)
    parquet.write_table(pa.table(columns), table)
    assert read_vectors(table).problems == [f"{table}: 1 row without an item_id or a photo left out, such as row 2"]
    export_vectors(gallery, table)
    whole = table.read_bytes()
    for place in range(0, len(whole), 97):
        table.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with suppress(CatalogueError):  # nothing else is raised
            read_vectors(table)


def test_it_is_known_what_made_the_vectors(tmp_path, gallery):
    table, exported = save(tmp_path / "t.npz"), tmp_path / "e.npz"
    export_vectors(gallery, exported)
    stated = save(tmp_path / "s.npz", embedder=np.array("clip-b32"))

    def refused(*arguments):
        return run("import", "vectors", *arguments, status=2).stderr

    assert "does not say what made its vectors" in refused(tmp_path / "g", table)
    assert "holds vectors of 4 numbers" in refused(tmp_path / "g", table, *EMBEDDER)
    assert "says that 'clip-b32' made its vectors, asked for is 'other'" in refused(
        tmp_path / "g", stated, "--embedder-name", "other"
    )
    assert "not both" in refused(tmp_path / "g", table, *EMBEDDER, "--embedder-name", "mine")
    assert not (tmp_path / "g").exists()
    run("import", "vectors", tmp_path / "g", stated)
    assert "was made with embedder" in refused(tmp_path / "g", exported)
    assert "was made with embedder" in refused(gallery.folder, stated)
    assert "was made with crop" in refused(gallery.folder, exported, "--crop", "whole")
    assert "was made with index 'exact'" in refused(gallery.folder, exported, "--index", "hnsw")
    assert "was made with vectors 'float32'" in refused(gallery.folder, exported, "--vectors", "int8")
    run("export", "vectors", tmp_path / "g", "-o", tmp_path / "again.npz")
    run("import", "vectors", tmp_path / "g2", tmp_path / "again.npz")
    assert Gallery.open(tmp_path / "g2").manifest.embedder == "clip-b32"


def test_a_table_cannot_choose_code(tmp_path):
    settings = {"embedder": "os:abort", "crop": "box"}
    table = save(tmp_path / "t.npz", embedder=np.array("x"), settings=np.array(json.dumps(settings)))

    result = run("import", "vectors", tmp_path / "g", table, status=2)

    assert "names 'os:abort', which is code and not data" in result.stderr
