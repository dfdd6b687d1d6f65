"""``outfinder train``: training of detectors and embedders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.common import ANYWHERE, EXISTING, FOLDER, combined, device_option, friendly, isolate_option

if TYPE_CHECKING:
    from pipeline.training import Run, TrainingProgress


@click.group()
def train() -> None:
    """Train a detector or an embedder on your own data.

    \b
    Examples:
      outfinder train detector train.json photos/ -o run
      outfinder train embedder items.csv -o run
    """  # noqa: D301


_note = partial(click.echo, err=True)

_run_options = combined(
    click.option("-o", "--output", type=FOLDER, required=True,
                 help="The run's folder; an interrupted run is resumed."),
    click.option("--start", metavar="NAME|FILE",
                 help="Weights to start from: imagenet, the name of shipped weights, or a .safetensors file."),
    click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
                 help="Change a setting of the recipe, such as lr=0.001; repeatable."),
    click.option("--workers", default=1, show_default=True, type=click.IntRange(0),
                 help="Threads that prepare batches."),
    device_option,
    click.option("--skip-bad", is_flag=True, help="Skip faulty data and train on the rest."),
    isolate_option,
)  # fmt: skip


@train.command()
@click.argument("data", nargs=-1, required=True, metavar="[RECIPE.toml] [ANNOTATIONS PHOTOS]...", type=EXISTING)
@click.option("--val", nargs=2, type=EXISTING, metavar="ANNOTATIONS PHOTOS",
              help="Validate with these, and set each label's threshold by them.")  # fmt: skip
@click.option(
    "--architecture", metavar="NAME", help="Any detector that detect --help lists.  [default: maskrcnn_mobilenet_v2]"
)
@click.option(
    "--rounds", type=float, help="How often each photo is drawn; those of rare labels more often.  [default: 12]"
)
@click.option("--input-px", type=int, help="Long side of the network's input.  [default: 512]")
@click.option("--batch-size", type=int, help="Photos in a batch.  [default: 4]")
@click.option("--labels", multiple=True, metavar="NAME,…",
              help="Categories to learn, in this order; repeatable. A name with a comma needs quotes:"
              " '\"shirt, blouse\",bag'.  [default: the thirteen kinds]")  # fmt: skip
@_run_options
@friendly
def detector(
    data: tuple[Path, ...],
    output: Path,
    val: tuple[Path, Path] | None,
    start: str | None,
    changes: Sequence[str],
    workers: int,
    device: str,
    skip_bad: bool,
    labels: tuple[str, ...],
    **given: Any,
) -> None:
    """Train a detector on COCO instances files (ANNOTATIONS with boxes, polygons or run lengths) and folders of PHOTOS.

    Annotations are checked before training starts. A recipe is a TOML file with the settings of a run; docs/recipes.md
    lists them. The folder gets weights.safetensors for --detector-weights, curves.png and curves.json.

    \b
    Examples:
      outfinder train detector train.json photos/ --val val.json photos/ -o run
      outfinder train detector train.json photos/ street.json street/ -o run --rounds 4 --set decay=0.5
      outfinder train detector train.json photos/ -o run --labels coat,boot --set lr=0.0002
      outfinder detect photos/ --detector-weights run/weights.safetensors
    """  # noqa: D301
    from pipeline.detector_training import DetectorPlan, DetectorRun
    from pipeline.recipes import build, comma_separated

    settings, paths = _settings(DetectorPlan, data, start, given, changes)
    if paths:
        settings["train"] = _pairs(paths)
    chosen = {"val": list(map(str, val or ())), "labels": [name for value in labels for name in comma_separated(value)]}
    settings |= {key: value for key, value in chosen.items() if value}
    training = settings["training"]
    if isinstance(training.get("lr"), float) and "lr_backbone" not in training:
        training["lr_backbone"] = training["lr"] / 4
    device = _device(device, training)
    _train(DetectorRun(build(DetectorPlan, settings), output, device, skip_bad=skip_bad, note=_note), workers)


@train.command()
@click.argument("data", nargs=-1, required=True, metavar="[RECIPE.toml] [SOURCE]...", type=ANYWHERE)
@click.option("--val", multiple=True, metavar="SOURCE", type=ANYWHERE,
              help="Validate with this instead of a held-out share; repeatable.")  # fmt: skip
@click.option("--steps", type=int, help="Number of training steps.  [default: 1000]")
@click.option("--batch-size", type=int, help="Photos in a batch.  [default: 64]")
@click.option("--photos", type=int, help="Photos of an item in a batch.  [default: 4]")
@click.option("--hold-out", type=int, help="Percentage of items to validate with if there is no --val.  [default: 10]")
@_run_options
@friendly
def embedder(
    data: tuple[Path, ...],
    output: Path,
    val: tuple[Path, ...],
    start: str | None,
    changes: Sequence[str],
    workers: int,
    device: str,
    skip_bad: bool,
    **given: Any,
) -> None:
    """Train a Siamese embedder on catalogues: photos of one item get similar vectors.

    A SOURCE is a CSV file with the columns item_id and image, and optionally style, label, domain and source; or a
    folder with a folder of photos per item. For items with one photo, two views of it are a pair. A recipe is a TOML file
    with the settings of a run: network, loss, sampler, schedule and more; docs/recipes.md lists them and has examples.

    Photos are checked before training starts. The folder gets weights.safetensors of the best validation for
    --embedder-weights, curves.png and curves.json.

    \b
    Examples:
      outfinder train embedder items.csv -o run --start siamese
      outfinder train embedder photos/ -o run --set loss.name=triplet --set miner=semi-hard --set patience=5
      outfinder train embedder docs/recipes/omniglot.toml omniglot.csv -o run
      outfinder embed photos/ -o vectors.npz --embedder-weights run/weights.safetensors
    """  # noqa: D301
    from pipeline.embedder_training import EmbedderPlan, EmbedderRun
    from pipeline.recipes import build, given_keys

    settings, paths = _settings(EmbedderPlan, data, start, given, changes)
    settings |= {key: value for key, value in {"train": paths, "val": list(map(str, val))}.items() if value}
    device = _device(device, settings["training"])
    plan = build(EmbedderPlan, settings).with_start(given_keys(settings))
    run = EmbedderRun(plan, output, device, skip_bad=skip_bad, note=_note)
    _train(run, workers)
    if run.best:
        _note(f"best: {plan.metric} {run.best['metric']:.3f} at step {run.best['step']}")


def _settings(
    plan: type, data: Sequence[Path], start: str | None, given: dict[str, Any], changes: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the recipe, if any, with all changes, and the arguments that are not recipes."""
    from pipeline.plots import require_matplotlib
    from pipeline.recipes import assign, read_recipe

    require_matplotlib()
    recipes = [one for one in data if one.suffix == ".toml"]
    if len(recipes) > 1:
        raise ValueError(f"wanted one recipe at most, got {' and '.join(map(str, recipes))}")
    settings = read_recipe(recipes[0]) if recipes else {}
    if start:
        settings["start"] = start
    for change in (*(f"{key}={value}" for key, value in given.items() if value is not None), *changes):
        assign(settings, plan, change)
    settings.setdefault("training", {})
    return settings, [str(one) for one in data if one not in recipes]


def _pairs(paths: Sequence[str]) -> list[list[str]]:
    pairs = [list(paths[place : place + 2]) for place in range(0, len(paths), 2)]
    if any(len(pair) < 2 or not Path(pair[0]).is_file() or not Path(pair[1]).is_dir() for pair in pairs):
        raise ValueError(f"wanted pairs of a COCO file and the folder of its photos; got {' '.join(paths)}")
    return pairs


def _device(name: str, training: dict[str, Any]) -> str:
    """Return the device, and set the precision to the device's fastest unless it is given."""
    from pipeline.config import resolve_device
    from stages.training import fastest_precision

    device = resolve_device(name)
    if training.get("precision", "auto") == "auto":
        training["precision"] = fastest_precision(device)
    return device


def _train(run: Run, workers: int) -> None:
    if run.done:
        _note(f"resuming after step {run.done} of {run.steps}")
    run.run(_report, workers)
    _note(f"weights: {run.folder / 'weights.safetensors'}")


def _report(progress: TrainingProgress) -> None:
    if line := progress.validation:
        if "metric" in line:
            metric = line["metric"]
            result = "all vectors are nearly equal: a collapse" if metric is None else f"{metric:.3f}"
        else:
            kinds = [kind for kind in ("box", "mask") if kind in line]
            result = ", ".join(f"{kind} AP50 {line[kind]['ap50']:.3f}, AP {line[kind]['ap']:.3f}" for kind in kinds)
        _note(f"step {line['step']}/{progress.steps}: validation {result}")
    if text := str(progress):
        _note(text)
