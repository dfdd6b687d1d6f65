"""What the commands take and refuse: paths, standard input, existing outputs, mistyped names, projects in the way."""

import csv
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from cli_runs import DETECTOR, EMBEDDER, lines, run
from conftest import draw

import pipeline
import stages
from pipeline.catalogue import Indexing, open_set, read_catalogue
from pipeline.config import Config
from pipeline.dedupe import catalogue_rows, write_catalogue
from pipeline.demo import copy_demo
from pipeline.gallery import Gallery, is_gallery, read_manifest, verify
from pipeline.outputs import Options
from pipeline.pipeline import Pipeline
from pipeline.recipes import read_recipe
from pipeline.report import Report
from pipeline.search import open_gallery, search_batch
from pipeline.vector_tables import export_vectors, read_vectors
from pipeline.writers import open_outputs
from stages.crop import BoxCrop
from stages.errors import GalleryMismatch
from stages.images import walk, write_jpeg
from stages.index import HnswIndex
from stages.testing import FakeDetector, FakeEmbedder

ROOT = Path(__file__).parents[2]
FAKES = (*DETECTOR, *EMBEDDER)
ADDRESS = "https://shop.example/a.jpg"


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        (
            [("detect", ""), ("detect", "a.jpg", "-o", ""), ("index", "g", ""), ("index", "", "a"), ("search", "g", ""),
             ("dedupe", ""), ("embed", "a.jpg", "-o", ""), ("train", "embedder", "", "-o", "r"),
             ("train", "detector", "", "p", "-o", "r"), ("train", "embedder", "a.csv", "--val", "", "-o", "r"),
             ("train", "embedder", "a.csv", "--start", "", "-o", "r"), ("index", "g", ".", "--kind-column", ""),
             ("gallery", "remove", "g", "")],
            "It is empty",
        ),
        (
            [("compare", "-", "a.jpg"), ("embed", "a.jpg", "-o", "-"), ("dedupe", ".", "-o", "-"),
             ("detect", "a.jpg", "--coco", "-"), ("benchmark", "crops", "--data", "-")],
            "- stands for neither standard input nor output here",
        ),
        ([("detect", ADDRESS), ("index", "g", ADDRESS)], f"{ADDRESS} is an address; download it first"),
        ([("serach", "g", "a.jpg")], "Did you mean 'search'?"),
        ([("evaluate", "embeder")], "Did you mean 'embedder'?"),
        ([("index", "g", ".", "--crop", "msk", *FAKES)], "did you mean 'mask'?"),
        ([("index", "g", ".", "--embedder", "siamse", *DETECTOR)], "did you mean 'siamese'?"),
        ([("detect", "a.jpg", "--detector", "maskrcnn_mobilenetv2")], "did you mean 'maskrcnn_mobilenet_v2'?"),
    ],
)  # fmt: skip
def test_wrong_argument_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[tuple[str, ...]], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert says in run(*command, status=2).stderr, command


def test_dash_reads_a_list_of_photos_from_standard_input(tmp_path: Path, street: Path, shop: Path) -> None:
    names = [str(path) for path in sorted(street.iterdir())]
    for text in ("\n".join(names).encode(), b"\0".join(map(os.fsencode, names)) + b"\0",
                 "\r\n".join([*names, ""]).encode("utf-8-sig"), "\r\n".join([*names, ""]).encode("utf-16")):  # fmt: skip
        assert [line["photo"] for line in lines(run("detect", "-", *DETECTOR, stdin=text))] == names
    photo = (street / "a two.jpg").read_bytes()
    assert "is a photo, not a list of photos" in run("detect", "-", *DETECTOR, stdin=photo, status=2).stderr
    (line,) = lines(run("detect", "-", *DETECTOR, stdin=b"BMW.jpg\n", status=1))
    assert line == {"photo": "BMW.jpg", "error": "was not found"}
    address, found = lines(run("detect", "-", *DETECTOR, stdin=f"{ADDRESS}\n{names[0]}\n".encode(), status=1))
    assert address["error"].startswith("is an address; download the photo first")
    assert len(found["garments"]) == 2
    told = run("index", tmp_path / "g", "-", *FAKES, stdin=f"{shop / 'green.jpg'}\n{shop / 'blue.jpg'}".encode()).stderr
    assert "2 items in 2 photos" in told


def test_kind_column_that_no_item_has_is_refused(tmp_path: Path, shop: Path) -> None:
    (shop / "c.csv").write_text("item_id,image,Category\n1,green.jpg,hat\n")
    command = ("index", tmp_path / "g", shop / "c.csv", *FAKES, "--kind-column")
    told = run(*command, "Categry", status=2).stderr
    assert "no item has a value in a column 'Categry', did you mean 'Category'?; there are Category" in told
    run(*command, "category")


def test_pictures_are_not_written_among_files_of_others(street: Path) -> None:
    before = {path.name: path.read_bytes() for path in street.iterdir()}
    for option in ("--crops", "--overlays"):
        for more in ((), ("--overwrite",)):
            told = run("detect", street, *DETECTOR, option, street, *more, status=2).stderr
            assert "holds files that outfinder did not write" in told
    assert {path.name: path.read_bytes() for path in street.iterdir()} == before


def test_outputs_that_exist_are_replaced_only_when_asked(tmp_path: Path, street: Path, shop: Path) -> None:
    run("index", tmp_path / "g", shop, *FAKES)
    for command in (
        ("detect", street, *DETECTOR, "-o", tmp_path / "d.jsonl"),
        ("detect", street, *DETECTOR, "--coco", tmp_path / "d.json"),
        ("search", tmp_path / "g", street, "-o", tmp_path / "s.csv"),
        ("search", tmp_path / "g", street, "--report", tmp_path / "report"),
        ("embed", street, *EMBEDDER, "-o", tmp_path / "v.npz"),
        ("dedupe", shop, "--hash-only", "-o", tmp_path / "c.csv"),
    ):
        run(*command)
        assert "exists; give --overwrite to replace it" in run(*command, status=2).stderr
        run(*command, "--overwrite")


def test_outputs_that_cannot_be_written_are_refused_before_a_long_run(tmp_path: Path, shop: Path) -> None:
    gone = tmp_path / "gone"
    for command in (
        ("embed", shop, *EMBEDDER, "-o", gone / "v.npz"),
        ("dedupe", shop, "-o", gone / "c.csv"),
        ("calibrate", shop, *EMBEDDER, "-o", gone / "c.json"),
        ("evaluate", "embedder", shop, *EMBEDDER, "--json", gone / "e.json"),
        ("export", "onnx", *EMBEDDER, "-o", gone / "e.onnx"),
    ):
        told = run(*command, status=2).stderr
        assert f"cannot be written: {gone} is no folder that can be written" in told
        assert "embedded" not in told


def test_values_that_are_left_out_are_reported(tmp_path: Path, shop: Path, street: Path) -> None:
    rows = ("1,green.jpg,S,pink", "1,green.jpg,M,pink", "1,green.jpg,M,pink", "2,blue.jpg,S,")
    (shop / "c.csv").write_text("\n".join(["item_id,image,size,attribute.colour", *rows]))
    told = run("index", tmp_path / "g", shop / "c.csv", *FAKES).stderr
    assert "column 'attribute.colour' is left out" in told
    assert (
        "rows that give a photo of an item other values than before, such as of item 1: 2; the last row counts" in told
    )
    for query in ((street,), ("--item", 1)):
        told = run("search", tmp_path / "g", *query, "--where", "size = XL").stderr
        assert "note: no photo of the gallery passes the filter 'size = XL'" in told


def test_outputs_below_the_inputs_are_not_inputs_of_the_next_run(street: Path) -> None:
    for number in range(2):
        folders = ("--crops", street / "crops", "--overlays", street / "drawn")
        assert len(lines(run("detect", street, *DETECTOR, *folders))) == 2, number
    crops = lines(run("detect", street / "crops", *DETECTOR))
    assert len(crops) == 2, "named by themselves they are photos like any others"


def test_failed_index_leaves_no_gallery_behind(tmp_path: Path, shop: Path) -> None:
    table = tmp_path / "bad.csv"
    for text, status in (("sku,file\n1,a.jpg\n", 2), ("item_id,image\n1,gone.jpg\n", 1)):
        table.write_text(text)
        run("index", tmp_path / "g", table, *FAKES, status=status)
        assert not (tmp_path / "g").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "diary.txt").touch()
    run("index", tmp_path / "kept", table, *FAKES, status=1)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["diary.txt"]
    run("index", tmp_path / "g", shop, *FAKES, "--crop", "mask")


def test_index_summary_counts_what_left_the_catalogue_and_prune_removes_it(
    tmp_path: Path, shop: Path, street: Path
) -> None:
    gallery = tmp_path / "g"
    run("index", gallery, shop, *FAKES)
    (shop / "green.jpg").unlink()
    assert "no longer in the catalogue: 1 photo; --prune" in run("index", gallery, shop).stderr
    assert "removed because no longer in the catalogue: 1 photo" in run("index", gallery, shop, "--prune").stderr
    assert "green" not in run("gallery", "list", gallery).stdout
    run("gallery", "remove", gallery, "--where", "item != ''")
    told = run("search", gallery, street, status=2).stderr
    assert f"gallery {gallery} is empty; add a catalogue with: outfinder index" in told


def test_table_of_matches_has_the_columns_of_the_catalogue(tmp_path: Path, shop: Path, street: Path) -> None:
    rows = "item_id,image,price,url\n1,red/front.jpg,5,=1+1\n2,blue.jpg,,https://shop.example/gr\xfcn\n"
    (shop / "c.csv").write_bytes(rows.encode("latin-1"))
    told = run("index", tmp_path / "g", shop / "c.csv", *FAKES).stderr
    assert told.count("line 3 is not UTF-8") == 1, "notes are printed once"
    run("search", tmp_path / "g", street, "-k", 1, "-o", tmp_path / "found.csv", "--delimiter", ";")
    with (tmp_path / "found.csv").open(encoding="utf-8-sig", newline="") as file:
        found = {(row["item"], row["price"], row["url"]) for row in csv.DictReader(file, delimiter=";")}
    assert found == {("1", "5", "'=1+1"), ("2", "", "https://shop.example/grün"), ("", "", "")}
    run("detect", street, *DETECTOR, "-o", tmp_path / "detected.csv")
    assert "similarity" not in (tmp_path / "detected.csv").read_text()


def test_dedupe_keeps_every_column(tmp_path: Path, shop: Path) -> None:
    shutil.copy(shop / "green.jpg", shop / "copy.jpg")
    (shop / "c.csv").write_text("item_id,image,price,Label\n1,green.jpg,5,hat\n2,copy.jpg,6,bag\n3,blue.jpg,7,bag\n")
    run("dedupe", shop / "c.csv", "--hash-only", "-o", tmp_path / "clean.csv")
    with (tmp_path / "clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clean = [(row["item_id"], Path(row["image"]).name, row["price"], row["Label"]) for row in rows]
    assert list(rows[0]) == ["item_id", "image", "price", "Label"]
    assert clean == [("1", "green.jpg", "5", "hat"), ("3", "blue.jpg", "7", "bag")]


def test_names_of_any_bytes_work_in_every_command(tmp_path: Path, shop: Path) -> None:
    folder = tmp_path / os.fsdecode(b"f\xe9\xff")
    folder.mkdir()
    write_jpeg(folder / os.fsdecode(b"caf\xe9.jpg"), draw("red"))
    shutil.copy(folder / os.fsdecode(b"caf\xe9.jpg"), folder / os.fsdecode(b"\xfe.jpg"))
    run("index", tmp_path / "g", folder, shop, *FAKES)
    (first, *_) = lines(run("search", tmp_path / "g", folder, "-k", 1, "--report", tmp_path / "report"))
    assert first["garments"][0]["matches"][0]["photo"].startswith(str(folder))
    detect = ("detect", folder, *DETECTOR, "-o", tmp_path / "d.csv", "--coco", tmp_path / "d.json")
    run(*detect, "--crops", tmp_path / "crops")
    run(*detect, "--resume")
    run("embed", folder, *EMBEDDER, "-o", tmp_path / "v.npz")
    run("compare", *sorted(folder.iterdir()), *EMBEDDER)
    run("evaluate", "embedder", folder, shop, *EMBEDDER, "--trials", 9, "-o", folder / "page", "--json", "-")
    run("gallery", "verify", tmp_path / "g", "--photos")
    gallery = (tmp_path / "g").rename(folder / "g")
    with closing(sqlite3.connect(gallery / "gallery.sqlite")) as database, database:
        database.execute("UPDATE vectors SET digest = zeroblob(32)")
    assert "is unsound" in run("gallery", "verify", gallery, status=1).stderr
    run("dedupe", folder, "--hash-only", "-o", folder / "clean.csv")
    assert "1 items in 1 photos" in run("index", tmp_path / "clean", folder / "clean.csv", *FAKES).stderr


def test_folder_is_found_by_either_spelling_of_its_name(tmp_path: Path, shop: Path) -> None:
    composed = tmp_path / normalize("NFC", "größe")
    shop.rename(tmp_path / normalize("NFD", "größe"))
    run("dedupe", composed, "--hash-only")
    assert "4 items in 5 photos" in run("index", tmp_path / "g", composed, *FAKES).stderr
    assert run("train", "embedder", composed, "-o", tmp_path / "run", "--steps", 0, status=2).stderr


def test_verify_names_photos_that_have_changed_since_they_were_indexed(tmp_path: Path, shop: Path) -> None:
    run("index", tmp_path / "g", shop, *FAKES)
    run("gallery", "verify", tmp_path / "g", "--photos")
    shutil.copy(shop / "blue.jpg", shop / "green.jpg")
    (shop / "black.jpg").unlink()
    run("gallery", "verify", tmp_path / "g")
    told = run("gallery", "verify", tmp_path / "g", "--photos", status=1)
    assert told.stdout == f"{shop / 'green.jpg'} has changed since it was indexed; index the catalogue again\n"
    assert "1 photos are no longer where they were" in told.stderr


@pytest.mark.parametrize("made_with", ["siamese", "siamese+attributes"])
@pytest.mark.parametrize("given", [{"embedder": "features"}, {"embedder": "features-resnet18"}, {"index": "exact"}])
def test_stage_that_cannot_match_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], made_with: str
) -> None:
    Gallery.create(tmp_path / "g", FakeEmbedder(), BoxCrop(), settings={"embedder": made_with})
    monkeypatch.setattr("pipeline.search.build_embedder", lambda _: pytest.fail("it was loaded"))
    with pytest.raises(GalleryMismatch, match="was made with"):
        open_gallery(str(tmp_path / "g"), given)


def test_paths_may_be_text_and_a_single_one_in_place_of_several_is_refused(
    tmp_path: Path, shop: Path, street: Path
) -> None:
    gallery = Gallery.create(str(tmp_path / "g"), FakeEmbedder(), BoxCrop())
    pipeline = Pipeline(FakeDetector(), BoxCrop(), FakeEmbedder(), main_garment=True)
    Indexing(gallery, pipeline, "fake")(read_catalogue([str(shop)]))
    assert verify(str(tmp_path / "g")) == []
    assert is_gallery(str(tmp_path / "g"))
    assert read_manifest(str(tmp_path / "g")).dim == FakeEmbedder().dim
    export_vectors(Gallery.open(str(tmp_path / "g")), str(tmp_path / "v.npz"))
    assert len(read_vectors(str(tmp_path / "v.npz")).vectors) == 5
    (tmp_path / "recipe.toml").write_text("steps = 1")
    assert read_recipe(str(tmp_path / "recipe.toml")) == {"steps": 1}
    (batch,) = pipeline.batches([str(street / "a two.jpg")])
    (result,) = search_batch(Gallery.open(str(tmp_path / "g")), batch, 1)
    options = Options(labels=FakeDetector.labels)
    with open_outputs(str(tmp_path / "a.jsonl"), {"coco": str(tmp_path / "a.json")}, options) as outputs:
        outputs.write(result)
    with Report(str(tmp_path / "report")) as report:
        report.add(result, None)
    index = HnswIndex(2)
    index.save(str(tmp_path / "a.index"))
    index.load(str(tmp_path / "a.index"), np.zeros(0, np.int64))
    assert Config(embedder_weights="a.safetensors").embedder_weights == Path("a.safetensors")
    table = str(copy_demo(str(tmp_path / "demo")) / "shop.csv")
    photos = open_set([table])
    write_catalogue(photos, str(tmp_path / "again.csv"), catalogue_rows([table]))
    assert [one.item for one in open_set([str(tmp_path / "again.csv")]).samples] == [one.item for one in photos.samples]
    for one in (walk, read_catalogue, pipeline, open_set):
        with pytest.raises(TypeError, match="put it in a list"):
            next(iter(one(str(shop))))


def python(code: str, folder: Path, *path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))} | variables
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_projects_own_modules_are_not_in_the_way_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "__init__.py").touch()
    code = "import sys; sys.argv = ['outfinder', '--version']; import outfinder; outfinder.main()"
    done = python(code, tmp_path, tmp_path)
    assert done.stdout.startswith("outfinder, version"), done.stderr
    done = python("import stages, weights; print(weights.manifest().keys())", tmp_path, tmp_path)
    assert "siamese" in done.stdout, done.stderr
    done = python("import weights, stages", tmp_path, tmp_path)
    assert done.stderr.splitlines()[-1].endswith(f"{tmp_path / 'weights' / '__init__.py'} is in the way; rename it")
    (tmp_path / "weights" / "__init__.py").unlink()
    code = "import sys; root = sys.path.pop(2); import weights; sys.path.append(root); import stages"  # by an editable finder
    done = python(code, tmp_path, tmp_path)
    assert done.stderr.splitlines()[-1].endswith(f"{tmp_path / 'weights'} is in the way; rename it")


def test_names_of_a_catalogue_meet_their_files_in_a_locale_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "größe.jpg").touch()
    code = "from pathlib import Path; from stages.files import existing_spelling as e; assert e(Path('gr\\xf6\\xdfe.jpg')).exists()"
    done = python(code, tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr


def test_public_names_are_imported_lazily(tmp_path: Path) -> None:
    code = (
        "import sys, pipeline, stages; assert not {'torch', 'numpy', 'cv2'} & sys.modules.keys();"
        "from pipeline import Gallery; from stages import Box;"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(hasattr(module, name) for module in (pipeline, stages) for name in module.__all__)
