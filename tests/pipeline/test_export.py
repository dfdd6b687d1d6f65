"""Exports for other programs: what they say is what outfinder computes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import run
from conftest import draw

import weights
from pipeline.config import Config, build_detector, build_embedder
from pipeline.demo import FOLDER as DEMO
from pipeline.gallery import Gallery
from stages.embed.network import Design, SiameseNetwork
from stages.images import read_photo, walk, write_jpeg

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
SNIPPET, HTML = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("python", "html"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_onnx = pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxruntime"))), reason="needs the extra onnx")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An embedder with random weights, which trims and counts colours as the shipped one does."""
    torch.manual_seed(0)
    design = Design("small", input_px=112, dim=32, colour_dim=8, trim=True)
    path = tmp_path / "small.safetensors"
    weights.save(path, SiameseNetwork(design).eval().state_dict(), design.metadata())
    return path


@needs_onnx
def test_the_example_of_the_documentation_gives_the_embedders_vectors(tmp_path, checkpoint, monkeypatch, capsys):
    images = [
        draw("red", "blue", side=50),
        np.pad(draw("green", side=120), ((0, 90), (0, 0), (0, 0)), constant_values=255),
    ]
    for name, image in zip(("left.jpg", "right.jpg"), images, strict=True):
        write_jpeg(tmp_path / name, image)
    monkeypatch.chdir(tmp_path)
    run("export", "onnx", "--embedder", "siamese", "--embedder-weights", checkpoint, "-o", "embedder.onnx")
    capsys.readouterr()

    exec(SNIPPET, {})

    left, right = build_embedder(Config(embedder="siamese", embedder_weights=checkpoint))(
        [read_photo(name).image for name in ("left.jpg", "right.jpg")]
    )
    assert float(capsys.readouterr().out) == pytest.approx(float(left @ right), abs=2e-3)


@needs_onnx
@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and shutil.which("npm")), reason="needs chromium and npm on the PATH")
def test_the_example_in_a_browser_gives_about_the_same_similarity(tmp_path, monkeypatch, capsys):
    playwright = pytest.importorskip("playwright.sync_api")
    done = subprocess.run(["npm", "install", "--prefix", tmp_path, "--ignore-scripts", "onnxruntime-web@1.30"],
                          capture_output=True, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip("onnxruntime-web cannot be had")
    for name, photo in (("left.jpg", "bag-01/front.jpg"), ("right.jpg", "bag-02/front.jpg")):
        shutil.copy(DEMO / "shop" / photo, tmp_path / name)
    (tmp_path / "index.html").write_text(HTML, "utf-8")
    monkeypatch.chdir(tmp_path)
    run("export", "onnx", "--embedder", "siamese", "-o", "embedder.onnx")
    exec(SNIPPET, {})
    expected = float(capsys.readouterr().out)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever).start()
    try:
        with playwright.sync_playwright() as browsers:
            browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.wait_for_function("/\\d/.test(document.body?.innerText)", timeout=120_000)
            found = float(page.inner_text("body"))
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    assert found == pytest.approx(expected, abs=0.02)


@needs_onnx
def test_a_network_that_onnx_lacks_an_operator_for_is_refused_in_one_line(tmp_path, capfd):
    design = Design("small", input_px=64, dim=32, colour_dim=8)  # its cells of colours do not divide its input
    weights.save(tmp_path / "w.safetensors", SiameseNetwork(design).eval().state_dict(), design.metadata())

    result = run("export", "onnx", "--embedder", "siamese", "--embedder-weights", tmp_path / "w.safetensors",
                 "-o", tmp_path / "x.onnx", status=2)  # fmt: skip

    assert "cannot be written as ONNX: Unsupported: ONNX export of operator adaptive_avg_pool2d" in result.stderr
    assert len(result.output.splitlines()) == 1
    assert capfd.readouterr().out == ""


@needs_onnx
@pytest.mark.slow
def test_the_shipped_embedder_and_detectors_are_exported(tmp_path):
    import onnxruntime

    run("export", "onnx", "--embedder", "siamese+attributes", "-o", tmp_path / "embedder.onnx")
    about = json.loads((tmp_path / "embedder.json").read_text())
    assert about["checked"]["least_cosine"] > 0.999
    assert about["attributes"]["type"]["start"] > about["attributes"]["kind"]["start"]

    photo = read_photo(next(walk([DEMO / "street"]))).image
    for name in ("maskrcnn_mobilenet_v2", "fasterrcnn_mobilenet_v2"):
        run("export", "onnx", "--detector", name, "-o", tmp_path / f"{name}.onnx", "--min-score", 0.6)
        boxes, labels, scores, *masks = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(
            None, {"image": photo}
        )
        expected = build_detector(Config(detector=name, min_score=0.6, device="cpu"))([photo])[0]
        names = json.loads((tmp_path / f"{name}.json").read_text())["labels"]
        assert [names[label] for label in labels] == [one.label for one in expected]
        assert np.abs(boxes - [one.box.corners for one in expected]).max() < 2  # a box has whole pixels
        assert np.allclose(scores, [one.score for one in expected], atol=0.01)
        assert all((masks[0] > 0.5).sum(axis=(1, 2)) > 0) if name.startswith("mask") else not masks


@needs_onnx
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "Give an --embedder or a --detector"),
        (["--embedder", "siamese", "--detector", "whole"], "Give an --embedder or a --detector"),
        (["--detector", "whole"], "whole cannot be exported"),
        (["--detector", "maskrcnn_mobilenet_v2+flip"], "cannot be exported"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, options, reason):
    result = run("export", "onnx", *options, "-o", tmp_path / "x.onnx", status=2)

    assert reason in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_graph_that_gives_other_vectors_is_not_written(tmp_path, checkpoint, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("pipeline.export._run", lambda *_: [np.full((20, 32), 32**-0.5, np.float32)])

    result = run("export", "onnx", "--embedder", "siamese", "--embedder-weights", checkpoint,
                 "-o", tmp_path / "x.onnx", status=2)  # fmt: skip

    assert "nothing was written" in result.stderr
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_vectors_are_written_with_the_columns_of_the_catalogue(tmp_path, shop, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    lines = ["item_id,image,label,price,file", *(f"{n},{path},top,{n}0,f" for n, path in enumerate(walk([shop])))]
    (tmp_path / "shop.csv").write_text("\n".join(lines))
    fakes = ("--detector", "whole", "--embedder", "stages.testing:FakeEmbedder", "--index", "exact")
    run("index", tmp_path / "gallery", tmp_path / "shop.csv", *fakes)

    run("export", "vectors", tmp_path / "gallery", "-o", tmp_path / f"out.{suffix}")

    gallery = Gallery.open(tmp_path / "gallery")
    if suffix == "npz":
        with np.load(tmp_path / "out.npz") as table:
            vectors, embedder = table["vectors"], str(table["embedder"])
            columns = {name: list(table[name]) for name in ("item_id", "price", "catalogue.label", "catalogue.file")}
    else:
        from pyarrow import parquet

        read = parquet.read_table(tmp_path / "out.parquet")
        vectors, embedder = np.array(read["vector"].to_pylist()), read.schema.metadata[b"embedder"].decode()
        columns = {name: read[name].to_pylist() for name in ("item_id", "price", "catalogue.label")}
    assert columns["item_id"] == gallery.items
    assert columns["price"] == [f"{n}0" for n in range(len(gallery))]
    assert columns["catalogue.label"] == ["top"] * len(gallery)
    assert np.allclose(vectors, np.concatenate([gallery.vectors_of(item) for item in gallery.items]))
    assert embedder == gallery.manifest.embedder
