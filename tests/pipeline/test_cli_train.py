"""``outfinder train``: every recipe at toy size, resumed runs, and refusals."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cli_runs import run
from click.testing import CliRunner
from conftest import few_scenes

import omniglot
import public_sets
import weights
from pipeline.training import read_lines
from stages.embed.data import percentile_of
from stages.embed.network import SiameseNetwork
from stages.embed.sampling import Batch
from stages.embed.siamese import PairVerifier, SiameseEmbedder
from stages.embed.training import EmbedderTrainer, Validator
from stages.images import walk
from stages.testing import check_embedder

ROOT = Path(__file__).parents[2]


def settings(**values: object) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


SMALL = settings(
    backbone="small", pooling="average", dim=8, input_px=32, batch_size=12, views__default="flip", precision="float32",
    steps=4, validate_steps=2, hold_out=30,
)  # fmt: skip
DETECTOR = ("--architecture", "fasterrcnn_mobilenet_v2", "--input-px", 96, "--workers", 0, "--rounds", 1)
DETECTOR += ("--set", "precision=float32")


def write(folder: Path, *names: str, px: int = 40, seed: int = 0) -> None:
    """Photos of one item: blocks of colour with different noise."""
    rng = np.random.default_rng(seed)
    blocks = cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (px, px), interpolation=cv2.INTER_NEAREST)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = rng.integers(-15, 15, (px, px, 3))
        assert cv2.imwrite(str(folder / name), np.clip(blocks.astype(int) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip drawing, which takes longer than training at this size, except in a test of each network."""
    if "is_trained" not in request.function.__name__:
        monkeypatch.setattr("pipeline.training.draw", lambda _panels, path: path.write_bytes(b"\x89PNG"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny versions of the public sets of the recipes, in their upstream layouts."""
    folder = tmp_path_factory.mktemp("data")
    write_classes(folder)
    write_shoes(folder / "shoe-pairs")
    for pair in range(3):
        write(folder / "luma" / "product", *(f"mb{pair:02}-blue-{view}.jpg" for view in (0, 1)), seed=pair)
    few_scenes(folder / "sample", 4)
    (folder / "clothing" / "images").mkdir(parents=True)
    write(folder / "clothing" / "images", "a.jpg")
    (folder / "clothing" / "images.csv").write_text("image,sender_id,label,kids\na,7,Shirt,False\n")
    return folder


def write_classes(folder: Path) -> None:
    """Characters by alphabet, small pictures, classes, and styles listed in a CSV."""
    for part, characters, alphabets in (("background", 12, 3), ("evaluation", 20, 1)):
        unpacked = folder / "unpacked" / part
        for character in range(characters):
            place = unpacked / f"images_{part}" / f"alphabet{character % alphabets}" / f"character{character:02}"
            write(place, *(f"{character:04}_{drawer:02}.png" for drawer in (1, 2)), px=105, seed=character)
        shutil.make_archive(str(folder / "omniglot" / f"images_{part}"), "zip", unpacked)
    (folder / "styles").mkdir()
    for part in ("train", "test"):
        for number in range(4):
            write(folder / "cifar10" / part / f"class{number}", *(f"{k}.png" for k in range(4)), px=32, seed=number)
        rows = ["item_id,image,label"]
        for number in range(8):
            names = [f"{k}.jpg" for k in range(3)]
            write(folder / "classes" / part / f"class{number}", *names, seed=number)
            rows += [f"{number}-{name},../classes/{part}/class{number}/{name},style{number}" for name in names]
        (folder / "styles" / f"{part}.csv").write_text("\n".join(rows))


def write_shoes(folder: Path) -> None:
    """Pairs by several photographers, three of them for validation, and by one for the test."""
    of_val = [number for number in range(200) if percentile_of(f"u{number:03}") < 10][:3]
    shot = [("train", person, "m") for person in sorted({*range(8), *of_val})]
    for part, person, wearer in [*shot, ("test_m", 0, "m"), ("test_w", 0, "w")]:
        for pair in range(2):
            names = (f"u{person:03}_{pair}_{side}_{wearer}.jpg" for side in ("left", "right"))
            write(folder / part, *names, seed=2 * person + pair)


@pytest.fixture(scope="module")
def items(data: Path) -> Path:
    return data / "classes" / "train"


@pytest.fixture(scope="module")
def street(data: Path) -> tuple[Path, Path]:
    return data / "sample" / "street.json", data / "sample" / "street"


def commands() -> dict[str, tuple[str, list[str]]]:
    """The ``train embedder`` commands of docs/recipes.md by run, each with the ``evaluate embedder`` commands of its weights."""
    joined = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    outfinder ")]
    found: dict[str, tuple[str, list[str]]] = {}
    for line in lines:
        if line.startswith("outfinder train embedder "):
            found[line.partition(" -o runs/")[2].partition(" ")[0]] = line, []
        elif "IMAGENET" not in line:
            found[line.partition("--embedder-weights runs/")[2].partition("/")[0]][1].append(line)
    return found


@pytest.fixture(scope="module")
def converted(data: Path) -> Path:
    """The CSV files that recipes train on, made by the commands of docs/recipes.md."""
    for line in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines():
        for script, main in (("public_sets", public_sets.main), ("recipes/omniglot", omniglot.main)):
            if line.startswith(f"    python scripts/{script}.py "):
                words = placed(line.partition("  #")[0].replace("python ", ""), data, data / "runs")
                result = CliRunner().invoke(main, words, catch_exceptions=False)
                assert result.exit_code == 0, result.output
    return data / "runs"


def placed(command: str, data: Path, runs: Path) -> list[str]:
    """The arguments of a command, with the paths of the toy sets and of the test's folder."""
    words = shlex.split(command.strip())[1:]
    for name, path in (
        ("DATA/ccp/photos", data / "sample" / "street"),
        ("runs/ccp/train.json", data / "sample" / "street.json"),
        ("runs/ccp/val.json", data / "sample" / "street.json"),
        ("docs/", f"{ROOT / 'docs'}/"),
        ("DATA/", f"{data}/"),
        ("runs/", f"{runs}/"),
    ):
        words = [word.replace(name, str(path)) for word in words]
    return words


TOY = settings(steps=2, validate_steps=1, batch_size=9, mine_steps=1, mine_photos=20, sampler__photos=2, val_photos=40,
               dim=8, warmup_steps=1, precision="float32")  # fmt: skip


QUICK = ("omniglot-half", "omniglot", "pairs", "street-offline")
"""Runs that cover pair heads, validation catalogues, domains and offline mining."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in commands()]
)
def test_every_recipe_runs_at_toy_size(data: Path, converted: Path, tmp_path: Path, name: str) -> None:
    """With its loss, head, sampler and views, but few steps, small photos and a light backbone."""
    command, measured = commands()[name]
    words = placed(command, data, converted)
    words[words.index("-o") + 1] = str(tmp_path / name)
    recipe = next(Path(word) for word in words if word.endswith(".toml")).read_text(encoding="utf-8")
    validated = "hold_out = 0" not in recipe
    if validated and "--val" not in words:
        words += settings(hold_out=40)
    if "koch" not in recipe:  # a random deep network tells nothing apart after two steps
        words += settings(backbone="small", input_px=64, train_px=0)
    if "--start" in words:
        words[words.index("--start") + 1] = "scratch"
    run(*words, *TOY)
    checkpoint = weights.read(tmp_path / name / "weights.safetensors")
    embedder = PairVerifier(checkpoint).features if checkpoint.metadata["pair_head"] else SiameseEmbedder(checkpoint)
    assert embedder([np.full((50, 40, 3), 90, np.uint8)]).shape == (1, 8)
    steps = [line["step"] for line in read_lines(tmp_path / name / "validation.jsonl")]
    assert steps == ([1, 2] if validated else [])
    if not measured:
        assert f" runs/{name}/weights.safetensors " in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
        return
    words = [  # photos are in the converted sets, weights in the folder of the test
        word.replace(str(tmp_path), str(converted)) if word.endswith(".csv") else word
        for word in placed(measured[0].partition(" -o ")[0], data, tmp_path)
    ]
    figures = json.loads(run(*words, "--trials", 20, "--json", "-").stdout)
    assert figures["distractors"] > 0 or "--distractors" not in words
    assert figures["retrieval"]


def test_an_embedder_is_trained_resumed_and_used(items: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    output = run("train", "embedder", items, "-o", folder, *SMALL).stderr
    for expected in ("to train on: train: 0 problems", "step 4/4: validation", "best: recall@1"):
        assert expected in output
    assert "resuming after step 4 of 4" in run("train", "embedder", items, "-o", folder, *SMALL).stderr
    check_embedder(SiameseEmbedder(weights.read(folder / "weights.safetensors")))
    run("embed", items, "-o", tmp_path / "v.npz", "--embedder-weights", folder / "weights.safetensors")
    assert np.load(tmp_path / "v.npz")["vectors"].shape == (24, 8)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert folder / "curves.png" not in walk([folder.parent]), "curves are no photos"
    curves = json.loads((folder / "curves.json").read_text())
    assert [line["step"] for line in curves["validation"]] == [2, 4]
    other = settings(margin=0.3, loss__name="triplet")
    output = run("train", "embedder", items, "-o", folder, *SMALL, *other, status=2).stderr
    assert "loss.name was infonce, is now triplet" in output


def test_items_with_one_photo_are_trained_on_with_two_views(tmp_path: Path) -> None:
    rows = ["item_id,image"]
    for number in range(20):
        names = ["a.jpg", "b.jpg"] if number < 4 else ["a.jpg"]
        write(tmp_path / f"{number}", *names, seed=number)
        rows += [f"{number},{number}/{name}" for name in names]
    (tmp_path / "items.csv").write_text("\n".join(rows))
    (tmp_path / "single.csv").write_text("\n".join(line for line in rows if "b.jpg" not in line))
    for name, message in (
        ("items", r"[1-9]\d* items? with one photo, of which two views are a pair"),
        ("single", "no item to validate with has two photos"),
    ):
        arguments = (tmp_path / f"{name}.csv", "-o", tmp_path / name, *SMALL, *settings(hold_out=50))
        assert re.search(message, run("train", "embedder", *arguments).stderr)
        assert (tmp_path / name / "weights.safetensors").exists()


def test_validated_and_written_weights_are_whitened(
    items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written weights are the best in validation, whose last layer is whitened."""
    heads, validate = [], Validator.__call__

    def validating(self: Validator, network: SiameseNetwork) -> float | None:
        heads.append(network.head.weight.detach().half())
        return validate(self, network)

    monkeypatch.setattr(Validator, "__call__", validating)
    options = (*SMALL, *settings(colour_dim=3, colour_weight=0.5, whiten=0.4))
    output = run("train", "embedder", items, "-o", tmp_path / "validated", *options).stderr
    (best,) = re.findall(r"best: recall@1 \S+ at step (\d)", output)
    written = weights.read(tmp_path / "validated" / "weights.safetensors")
    check_embedder(SiameseEmbedder(written))
    assert torch.equal(heads[int(best) // 2 - 1].float(), written.tensors["head.weight"].float())


def test_colours_and_trimming_are_inherited_from_the_start(items: Path, tmp_path: Path) -> None:
    def train(name: str, *options: object) -> dict[str, str]:
        run("train", "embedder", items, "-o", tmp_path / name, *SMALL, *settings(hold_out=0, steps=2), *options)
        return weights.read(tmp_path / name / "weights.safetensors").metadata

    train("one", *settings(colour_dim=3, shape_weight=0.3, trim="true"))
    first = tmp_path / "one" / "weights.safetensors"
    metadata = train("two", "--start", first, "--set", "colour_share=0.2")
    assert [metadata[name] for name in ("dim", "colour_dim", "colour_share", "trim")] == ["8", "3", "0.2", "1"]
    metadata = train("three", "--start", first, *settings(dim=2, trim="false"))
    assert [metadata[name] for name in ("colour_dim", "trim")] == ["0", "0"]


def test_a_run_ends_when_it_has_not_improved(items: Path, tmp_path: Path) -> None:
    """At a tiny learning rate, the first validation stays the best."""
    options = (*SMALL, *settings(lr=1e-9, patience=3, ema=0, steps=40))
    run("train", "embedder", items, "-o", tmp_path, *options)
    lines = read_lines(tmp_path / "validation.jsonl")
    best = max(lines, key=lambda line: (line["metric"], -line["step"]))
    assert lines[-1]["step"] == best["step"] + 3 * 2 < 40
    assert weights.read(tmp_path / "weights.safetensors").metadata["step"] == str(best["step"])


@pytest.mark.parametrize(("options", "step"), [({}, "validation all vectors are nearly equal: a collapse"),
                                               ({"whiten": 0.4, "hold_out": 0}, "loss")])  # fmt: skip
def test_a_collapse_is_reported_and_gives_no_weights(tmp_path: Path, options: dict[str, object], step: str) -> None:
    """If all photos are the same picture, all vectors are equal, and recall means nothing."""
    for number in range(12):
        folder = tmp_path / "same" / f"item{number}"
        folder.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            assert cv2.imwrite(str(folder / name), np.full((40, 40, 3), 90, np.uint8))
    arguments = (tmp_path / "same", "-o", tmp_path / "run", *SMALL, *settings(**options))
    output = run("train", "embedder", *arguments, status=2).stderr
    assert f"step 4/4: {step}" in output
    assert "the network has collapsed" in output
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_killed_run_is_resumed_with_its_mined_triplets(
    items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mined = settings(sampler__name="offline", loss__name="triplet", mine_steps=3, steps=6, validate_steps=6)
    options = (*SMALL, *mined)
    run("train", "embedder", items, "-o", tmp_path / "straight", *options)
    monkeypatch.setattr("stages.training.SAVE_S", -1.0)
    batches, step = [], EmbedderTrainer.step

    def killed(trainer: EmbedderTrainer, batch: Batch) -> dict[str, float]:
        batches.append(batch)
        if len(batches) == 5:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(EmbedderTrainer, "step", killed)
        run("train", "embedder", items, "-o", tmp_path / "killed", *options, status=130)
    output = run("train", "embedder", items, "-o", tmp_path / "killed", *options).stderr
    assert "resuming after step 4 of 6" in output
    one, other = (weights.read(tmp_path / name / "weights.safetensors").tensors for name in ("straight", "killed"))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (settings(backbone="mobilnet"), "no backbone is called"),
        (settings(views__default="sepia"), "no view is called 'sepia'"),
        (["--start", "nowhere"], "cannot start from 'nowhere'"),
        (settings(anchor_domain="street"), "domain"),
        (settings(learn="label"), "have no label to learn"),
        (settings(learn="colour"), "data.learn must be item or label, got 'colour'"),
        (settings(shape_weight=0.3), "colour_dim"),
        (settings(colour_weight=0.3, colour_dim=3, loss__name="proxy-nca"), "compares whole vectors"),
        (settings(whiten=0.4, dim=24), "takes more than 24 photos, got"),
        (settings(colour_share=0.3), "colour_dim is 0"),
        (settings(colour_dim=20, dim=32), "more than 20 photos"),
        (settings(item_pattern="("), "is not a regular expression"),
        (settings(stepz=3), "there is no setting 'stepz'; did you mean"),
        (settings(name="pk"), "did you mean loss.name or sampler.name?"),
        (settings(lr="fast"), "training.lr must be a number, got 'fast'"),
        (["--set", "lr"], "wanted KEY=VALUE"),
    ],
)
def test_an_embedder_that_cannot_be_trained_gives_a_message(
    items: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    source = [items] if options[0].startswith("--") else []
    assert message in run("train", "embedder", *source, "-o", tmp_path / "run", *SMALL, *options, status=2).stderr
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_recipe_in_another_encoding_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes('about = "grün"'.encode("cp1252"))
    output = run("train", "embedder", tmp_path / "recipe.toml", "-o", tmp_path / "run", status=2).stderr
    assert "save it as UTF-8" in output


def test_bad_photos_are_reported_before_training_starts(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "bad" / f"item{number}", "a.jpg", "b.jpg", seed=number)
    (tmp_path / "bad" / "item0" / "c.jpg").write_text("words")
    arguments = (tmp_path / "bad", "-o", tmp_path / "run", *SMALL, "--set", "hold_out=0")
    assert "c.jpg" in run("train", "embedder", *arguments, status=2).stderr
    assert not (tmp_path / "run").exists()
    output = run("train", "embedder", *arguments, "--skip-bad").stderr
    assert "c.jpg" in output
    assert "12 photos of 6 items can be used" in output


def test_a_detector_is_trained_by_a_recipe_resumed_and_used(street: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'architecture = "fasterrcnn_mobilenet_v2"\ninput_px = 96\ntrain = [["{street[0]}", "{street[1]}"]]\n'
                      '[training]\nrounds = 1\nprecision = "float32"\n', encoding="utf-8-sig")  # fmt: skip
    arguments = (recipe, "--val", *street, "-o", tmp_path / "run", "--workers", 0)
    output = run("train", "detector", *arguments).stderr
    for expected in ("garments in 4 photos can be used", "min left", "validation box AP50"):
        assert expected in output
    assert "resuming after step" in run("train", "detector", *arguments).stderr
    chosen = ("--detector", "fasterrcnn_mobilenet_v2", "--detector-weights", tmp_path / "run" / "weights.safetensors")
    assert '"label"' in run("detect", street[1] / "0001.jpg", *chosen, "--min-score", 0.1).stdout


def test_a_diverged_loss_gives_advice(street: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = (*street, "-o", tmp_path / "run", *DETECTOR, "--rounds", 6, *settings(lr=1e12))
    assert "lower the learning rate" in run("train", "detector", *arguments, status=2).stderr


def test_a_detector_can_be_trained_on_the_output_of_detect(
    street: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(street[1].parent)
    found = tmp_path / "found.json"
    photos = ("street/0001.jpg", "street/0002.jpg")
    run("detect", *photos, "--coco", found, "-o", tmp_path / "found.jsonl", "--min-score", 0.1)
    assert "0 problems" in run("train", "detector", found, "street", "-o", tmp_path / "run", *DETECTOR).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["street.json"], "wanted pairs of a COCO file and the folder of its photos"),
        (["street", "street.json"], "wanted pairs"),
        (["street.json", "street", "--architecture", "yolo", "--start", "imagenet"], "'yolo' is unknown"),
        (["street.json", "street", "--start", "nowhere"], "cannot start from 'nowhere'"),
        (["shop.csv", "street"], "is not a COCO instances file"),
        (["street.json", "street", "--set", "labels=kilt"], "none of its categories"),
        (["street.json", "street", "--rounds", "0"], "above 0"),
    ],
)
def test_a_detector_that_cannot_be_trained_gives_a_message(
    data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    paths = [data / "sample" / name if name.startswith(("street", "shop")) else name for name in arguments]
    assert message in run("train", "detector", *paths, "-o", tmp_path / "run", status=2).stderr
