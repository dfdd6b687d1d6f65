"""``outfinder train embedder``: every row of RECIPES.md at toy size, runs that go on, and what cannot be trained."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cli_runs import run
from conftest import few_scenes

import weights
from pipeline.runs import read_lines
from stages.embed.batches import Batch
from stages.embed.network import SiameseNetwork
from stages.embed.siamese import SiameseEmbedder
from stages.embed.splits import percentile_of
from stages.embed.train import Trainer
from stages.embed.validation import Validator
from stages.embed.verifier import PairVerifier
from stages.testing import check_embedder

RECIPES = Path(__file__).parents[2] / "RECIPES.md"
SMALL = ("--backbone", "small", "--pooling", "average", "--dim", 8, "--input-px", 32, "--batch-size", 12,
         "--view", "flip", "--precision", "float32", "--steps", 4, "--validate-steps", 2, "--hold-out", 30)  # fmt: skip


def write(folder: Path, *names: str, px: int = 40, seed: int = 0) -> None:
    """Photos of one thing: blocks of colour with noise of their own."""
    rng = np.random.default_rng(seed)
    blocks = cv2.resize(rng.integers(0, 256, (4, 4, 3), np.uint8), (px, px), interpolation=cv2.INTER_NEAREST).astype(
        int
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = rng.integers(-15, 15, (px, px, 3))
        assert cv2.imwrite(str(folder / name), np.clip(blocks + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public sets of the recipes in their upstream layouts, tiny."""
    folder = tmp_path_factory.mktemp("data")
    write_classes(folder)
    write_shoes(folder / "shoe-pairs")
    for pair in range(3):
        write(folder / "luma" / "product", *(f"mb{pair:02}-blue-{view}.jpg" for view in (0, 1)), seed=pair)
    few_scenes(folder / "sample", 4)
    return folder


def write_classes(folder: Path) -> None:
    """Characters by alphabet, 20 of them in the one that tests; small pictures, classes, and styles listed in a CSV."""
    for part, characters, alphabets in (("background", 12, 3), ("evaluation", 20, 1)):
        for character in range(characters):
            place = (
                folder / "omniglot" / f"images_{part}" / f"alphabet{character % alphabets}" / f"character{character:02}"
            )
            write(place, *(f"{character:04}_{drawer:02}.png" for drawer in (1, 2)), px=105, seed=character)
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
    """Pairs of several photographers, of whom three validate, and of one who tests."""
    of_val = [number for number in range(200) if percentile_of(f"u{number:03}") < 10][:3]
    shot = [("train", person, "m") for person in sorted({*range(8), *of_val})]
    for part, person, wearer in [*shot, ("test_m", 0, "m"), ("test_w", 0, "w")]:
        for pair in range(2):
            names = (f"u{person:03}_{pair}_{side}_{wearer}.jpg" for side in ("left", "right"))
            write(folder / part, *names, seed=2 * person + pair)


@pytest.fixture(scope="module")
def items(data: Path) -> Path:
    return data / "classes" / "train"


def commands() -> dict[str, tuple[str, list[str]]]:
    """Of RECIPES.md, each ``train embedder`` command and the ``evaluate embedder`` commands of its weights, by its run."""
    joined = RECIPES.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    outfinder ")]
    found: dict[str, tuple[str, list[str]]] = {}
    for line in lines:
        if line.startswith("outfinder train embedder "):
            found[line.partition(" -o runs/")[2].partition(" ")[0]] = line, []
        elif "IMAGENET" not in line:
            found[line.partition("--embedder-weights runs/")[2].partition("/")[0]][1].append(line)
    return found


TOY = {"--steps": "2", "--validate-steps": "1", "--batch-size": "9", "--mine-steps": "1", "--mine-photos": "20", "--photos": "2",
       "--val-photos": "40", "--dim": "8", "--warmup-steps": "1"}  # fmt: skip


def placed(command: str, data: Path, folder: Path) -> list[str]:
    """The arguments of a recipe's command, in the toy sets and a folder of the test."""
    words = shlex.split(command)[1:]
    for name, path in (
        ("DATA/ccp/photos", data / "sample" / "street"),
        ("runs/ccp/train.json", data / "sample" / "street.json"),
        ("runs/ccp/val.json", data / "sample" / "street.json"),
        ("DATA/", f"{data}/"),
        ("runs/", f"{folder}/"),
    ):
        words = [word.replace(name, str(path)) for word in words]
    return words


@pytest.mark.parametrize("name", commands())
def test_every_recipe_runs_at_toy_size(data: Path, tmp_path: Path, name: str) -> None:
    """Its parts as they stand: the loss, head, sampler and views; but few steps, small pictures, a light backbone."""
    command, measured = commands()[name]
    words = placed(command, data, tmp_path)
    options = dict(pairwise(words))
    for option, value in TOY.items():
        if option in options:
            words[words.index(option) + 1] = value
        elif option in ("--batch-size", "--validate-steps", "--warmup-steps"):
            words += [option, value]
    judged = options.get("--hold-out") != "0"
    if judged and "--val" not in options:
        words += ["--hold-out", "40"]
    if options["--backbone"] != "koch":
        words[words.index("--backbone") + 1] = "small"  # a random deep one tells nothing apart after two steps
        words += ["--input-px", "64", "--train-px", "0"]
    if "--start" in options:
        words[words.index("--start") + 1] = "scratch"
    run(*words, "--precision", "float32")
    read = weights.read(tmp_path / name / "weights.safetensors")
    embedder = PairVerifier(read).features if read.metadata["pair_head"] else SiameseEmbedder(read)
    assert embedder([np.full((50, 40, 3), 90, np.uint8)]).shape == (1, int(read.metadata["dim"]))
    assert [line["step"] for line in read_lines(tmp_path / name / "validation.jsonl")] == ([1, 2] if judged else [])
    assert (tmp_path / name / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert measured
    for line in measured:
        words = placed(line, data, tmp_path)
        told = json.loads(run(*words, "--trials", 20, "--json", "-").stdout)
        assert told["distractors"] > 0 or "--distractors" not in words
        assert told["retrieval"]
        assert "20" in told["one_shot"] or "omniglot" not in name


def test_an_embedder_is_trained_and_used(items: Path, tmp_path: Path) -> None:
    told = run("train", "embedder", items, "-o", tmp_path / "run", *SMALL).stderr
    assert "to train on: items: 0 problems" in told
    assert "step 4/4: validation" in told
    assert "best: recall@1" in told
    again = run("train", "embedder", items, "-o", tmp_path / "run", *SMALL).stderr
    assert "going on after step 4 of 4" in again
    check_embedder(SiameseEmbedder(weights.read(tmp_path / "run" / "weights.safetensors")))
    run("embed", items, "-o", tmp_path / "v.npz", "--embedder-weights", tmp_path / "run" / "weights.safetensors")
    assert np.load(tmp_path / "v.npz")["vectors"].shape == (24, 8)
    curves = json.loads((tmp_path / "run" / "curves.json").read_text())
    assert [line["step"] for line in curves["validation"]] == [2, 4]
    other = run(
        "train", "embedder", items, "-o", tmp_path / "run", *SMALL, "--margin", 0.3, "--loss", "triplet", status=2
    )
    assert "loss.name was infonce, is now triplet" in other.stderr


def test_what_is_judged_and_written_is_whitened(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights differ from those of the same run without whitening in the last layers alone."""
    options = (*SMALL, "--colour-dim", 3, "--colour-weight", 0.5, "--steps", 4, "--validate-steps", 2)
    run("train", "embedder", items, "-o", tmp_path / "plain", *options, "--hold-out", 0)
    run("train", "embedder", items, "-o", tmp_path / "white", *options, "--hold-out", 0, "--whiten", 0.4)
    plain, white = (weights.read(tmp_path / name / "weights.safetensors") for name in ("plain", "white"))
    check_embedder(SiameseEmbedder(white))
    changed = {name for name, value in white.tensors.items() if not torch.equal(value, plain.tensors[name])}
    assert changed == {"head.weight", "head.bias", "colours.project.weight", "colours.project.bias"}
    judged, judge = [], Validator.__call__

    def judging(self: Validator, network: SiameseNetwork) -> float | None:
        judged.append(network.head.weight.detach().half())
        return judge(self, network)

    monkeypatch.setattr(Validator, "__call__", judging)
    told = run("train", "embedder", items, "-o", tmp_path / "judged", *options, "--whiten", 0.4).stderr
    (best,) = re.findall(r"best: recall@1 \S+ at step (\d)", told)
    written = weights.read(tmp_path / "judged" / "weights.safetensors")
    assert torch.equal(judged[int(best) // 2 - 1].float(), written.tensors["head.weight"].float())
    other = run("train", "embedder", items, "-o", tmp_path / "judged", *options, status=2)
    assert "whiten was 0.4, is now 0.0" in other.stderr


def test_colours_and_trimming_are_trained_and_gone_on_with(items: Path, tmp_path: Path) -> None:
    """A run that starts from weights with colours has them too, but for what is asked for; and so with trimming."""
    run("train", "embedder", items, "-o", tmp_path / "one", *SMALL, "--colour-dim", 3, "--shape-weight", 0.3, "--trim")
    first = tmp_path / "one" / "weights.safetensors"
    check_embedder(SiameseEmbedder(weights.read(first)))
    run("train", "embedder", items, "-o", tmp_path / "two", *SMALL, "--start", first, "--colour-share", 0.2)
    said = weights.read(tmp_path / "two" / "weights.safetensors").metadata
    assert (said["dim"], said["colour_dim"], said["colour_share"], said["trim"]) == ("8", "3", "0.2", "1")
    other = (*SMALL, "--start", first, "--dim", 2, "--no-trim")
    assert "random at the start: head" in run("train", "embedder", items, "-o", tmp_path / "three", *other).stderr
    said = weights.read(tmp_path / "three" / "weights.safetensors").metadata
    assert (said["colour_dim"], said["trim"]) == ("0", "0")
    pairs = ("--head", "sigmoid", "--pair-head", "linear", "--loss", "bce", "--sampler", "pairs")
    run("train", "embedder", items, "-o", tmp_path / "pairs", *SMALL, "--start", first, *pairs)
    mined = ("--sampler", "offline", "--loss", "triplet", "--mine-steps", 2, "--colour-dim", 3)
    run("train", "embedder", items, "-o", tmp_path / "mined", *SMALL, *mined)
    told = run("train", "embedder", items, "-o", tmp_path / "four", *SMALL, "--colour-dim", 8, status=2).stderr
    assert "less than dim, at most 7" in told


def test_a_run_ends_when_it_has_not_become_better(items: Path, tmp_path: Path) -> None:
    """Learning next to nothing, the first validation stays the best."""
    run("train", "embedder", items, "-o", tmp_path, *SMALL, "--steps", 40, "--lr", 1e-9, "--patience", 3, "--ema", 0)
    lines = read_lines(tmp_path / "validation.jsonl")
    best = max(lines, key=lambda line: (line["metric"], -line["step"]))
    assert lines[-1]["step"] < 40
    assert lines[-1]["step"] == best["step"] + 3 * 2
    assert weights.read(tmp_path / "weights.safetensors").metadata["step"] == str(best["step"])
    before = (tmp_path / "weights.safetensors").read_bytes()
    run("train", "embedder", items, "-o", tmp_path, *SMALL, "--steps", 40, "--lr", 1e-9, "--patience", 3, "--ema", 0)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ((), "validation all vectors are nearly equal: a collapse"),
        (("--whiten", 0.4), "validation all vectors are nearly equal: a collapse"),
        (("--whiten", 0.4, "--hold-out", 0), "loss"),
    ],
)
def test_a_collapse_is_told_and_gives_no_weights(tmp_path: Path, options: tuple[object, ...], step: str) -> None:
    """Where all photos are one picture, all vectors are equal, and a recall would be a number without a meaning."""
    for number in range(12):
        folder = tmp_path / "same" / f"item{number}"
        folder.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            assert cv2.imwrite(str(folder / name), np.full((40, 40, 3), 90, np.uint8))
    told = run("train", "embedder", tmp_path / "same", "-o", tmp_path / "run", *SMALL, *options, status=2).stderr
    assert f"step 4/4: {step}" in told
    assert "the network has collapsed" in told
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_offline_mining_goes_on_with_what_was_mined(
    items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        *SMALL,
        "--sampler",
        "offline",
        "--loss",
        "triplet",
        "--mine-steps",
        3,
        "--steps",
        6,
        "--validate-steps",
        6,
    ]
    run("train", "embedder", items, "-o", tmp_path / "straight", *options)
    monkeypatch.setattr("stages.training.SAVE_S", -1.0)
    made, step = [], Trainer._step

    def killed(trainer: Trainer, batch: Batch) -> dict[str, float]:
        made.append(batch)
        if len(made) == 5:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr("stages.embed.train.Trainer._step", killed)
        run("train", "embedder", items, "-o", tmp_path / "killed", *options, status=130)
    told = run("train", "embedder", items, "-o", tmp_path / "killed", *options).stderr
    assert "going on after step 4 of 6" in told
    one, other = (weights.read(tmp_path / name / "weights.safetensors").tensors for name in ("straight", "killed"))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=2e-3, err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["luma/dress=."], "no split is called 'dress'"),
        (["--backbone", "mobilnet"], "no backbone is called"),
        (["--loss", "hinge"], "no loss is called 'hinge'"),
        (["--miner", "batch-hard"], "infonce has no use for a miner"),
        (["--sampler", "random"], "no sampler is called"),
        (["--view", "sepia"], "no view is called 'sepia'"),
        (["--metric", "accuracy"], "no metric is called"),
        (["--start", "nowhere"], "cannot start from 'nowhere'"),
        (["--anchor-domain", "street"], "domain"),
        (["--learn", "label"], "have no label to learn"),
        (["--loss", "bce"], "need each other"),
        (["--shape-weight", "0.3"], "colour_dim"),
        (["--shape-weight", "0.3", "--colour-dim", "3", "--loss", "proxy-nca"], "compares whole vectors"),
        (["--colour-weight", "0.3"], "colour_dim"),
        (["--colour-weight", "0.3", "--colour-dim", "3", "--loss", "proxy-nca"], "compares whole vectors"),
        (["--whiten", "0.4", "--dim", "24"], "takes more than 24 photos, got"),
        (["--whiten", "0.6"], "0.5"),
        (["--whiten", "0.4", "--head", "sigmoid", "--pair-head", "linear", "--loss", "bce"], "no pair head compares"),
        (["--colour-share", "0.3"], "there are none"),
        (["--colour-dim", "20", "--dim", "32"], "more than 20 photos"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(items: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    source = [items] if arguments[0].startswith("--") else []
    assert told in run("train", "embedder", *source, "-o", tmp_path / "run", *SMALL, *arguments, status=2).stderr
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_bad_photos_are_told_before_the_start(items: Path, tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "bad" / f"item{number}", "a.jpg", "b.jpg", seed=number)
    write(tmp_path / "bad" / "alone", "a.jpg")
    (tmp_path / "bad" / "item0" / "c.jpg").write_text("words")
    options = [*SMALL, "--hold-out", 0]
    told = run("train", "embedder", tmp_path / "bad", "-o", tmp_path / "run", *options, status=2).stderr
    assert "alone: has one photo" in told
    assert not (tmp_path / "run").exists()
    told = run("train", "embedder", tmp_path / "bad", "-o", tmp_path / "run", *options, "--skip-bad").stderr
    assert "c.jpg" in told
    assert "12 photos of 6 items can be used" in told
