"""``outfinder train detector``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.common import FILE_IN, FOLDER, device_option, friendly, isolate_option

if TYPE_CHECKING:
    from pipeline.detector_training import Source
    from pipeline.runs import Moment

EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("data", nargs=-1, required=True, metavar="ANNOTATIONS PHOTOS [ANNOTATIONS PHOTOS]...",
                type=click.Path(exists=True, path_type=Path))  # fmt: skip
@click.option("-o", "--output", type=FOLDER, required=True, help="The run's folder; one that was begun goes on.")
@click.option("--val", type=(FILE_IN, EXISTING_FOLDER), metavar="ANNOTATIONS PHOTOS",
              help="Judge by these now and then, and set each label's threshold by them.")  # fmt: skip
@click.option("--architecture", default="maskrcnn_mobilenet_v2", show_default=True, metavar="NAME",
              help="Any detector that detect --help names.")  # fmt: skip
@click.option("--start", metavar="NAME|FILE",
              help="imagenet or coco (torchvision's weights), shipped weights by name, or a .safetensors file."
                   "  [default: the shipped weights of the architecture, else coco]")  # fmt: skip
@click.option("--labels", metavar="A,B,...", help="Categories to learn, in order.  [default: the thirteen groups]")
@click.option("--input-px", default=512, show_default=True, type=click.IntRange(64), help="Long side of the input.")
@click.option("--rounds", default=12.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="How often each photo comes; photos of rare labels come more often.")  # fmt: skip
@click.option("--batch-size", default=4, show_default=True, type=click.IntRange(1))
@click.option("--lr", default=4e-4, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Peak learning rate of the heads; the body's is a quarter of it.")  # fmt: skip
@click.option("--decay", default=1.0, show_default=True, type=click.FloatRange(0, 1),
              help="Share of the steps in which the learning rate falls to 0; before, it is constant.")  # fmt: skip
@click.option("--rare", default=0.3, show_default=True, type=click.FloatRange(0, 1),
              help="Share of photos below which photos with a label come more often.")  # fmt: skip
@click.option("--paste", default=0.4, show_default=True, type=click.FloatRange(0, 1),
              help="Share of photos that garments of other photos are pasted into.")  # fmt: skip
@click.option("--precision", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True,
              help="auto: bfloat16 where the machine multiplies it.")  # fmt: skip
@click.option("--validate-rounds", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0), help="Processes that read photos.")
@device_option
@click.option("--seed", default=0, show_default=True)
@click.option("--about", default="", help="Words on data and licence, to be kept with the weights.")
@click.option("--skip-bad", is_flag=True, help="Train on the rest where annotations are wrong.")
@isolate_option
@friendly
def detector(
    data: tuple[Path, ...],
    output: Path,
    val: tuple[Path, Path] | None,
    architecture: str,
    start: str | None,
    labels: str | None,
    input_px: int,
    rounds: float,
    batch_size: int,
    lr: float,
    decay: float,
    rare: float,
    paste: float,
    precision: str,
    validate_rounds: float,
    workers: int,
    device: str,
    seed: int,
    about: str,
    skip_bad: bool,
) -> None:
    """Train a detector on ANNOTATIONS, COCO instances files (boxes, polygons or run lengths), of folders of PHOTOS.

    Annotations are checked before anything is trained. A run that was killed goes on when the command is given
    again. The folder gets weights.safetensors for --detector-weights, curves.png and curves.json.

    \b
    Examples:
      outfinder train detector train.json photos/ --val val.json photos/ -o run
      outfinder train detector train.json photos/ street.json street/ -o run --rounds 4 --decay 0.5
      outfinder train detector train.json photos/ -o run --labels "coat,boot" --architecture fasterrcnn_mobilenet_v2
      outfinder detect photos/ --detector-weights run/weights.safetensors
    """  # noqa: D301
    from pipeline.config import resolve_device
    from pipeline.detector_training import DetectorPlan, DetectorRun
    from pipeline.plots import require_matplotlib
    from stages.detect.train import Recipe
    from stages.training import fastest_precision
    from stages.types import LABELS

    require_matplotlib()
    device = resolve_device(device)
    recipe = Recipe(
        rounds=rounds,
        batch_size=batch_size,
        lr=lr,
        lr_body=lr / 4,
        decay=decay,
        precision=fastest_precision(device) if precision == "auto" else precision,
        seed=seed,
    )
    plan = DetectorPlan(
        architecture=architecture,
        start=start or _usual_start(architecture),
        data=_pairs(data),
        validation=val,
        labels=tuple(label.strip() for label in labels.split(",")) if labels else LABELS,
        input_px=input_px,
        often=rare,
        pasting=paste,
        validate_rounds=validate_rounds,
        recipe=recipe,
        about=about,
    )
    run = DetectorRun(plan, output, device, skip_bad=skip_bad, note=lambda text: click.echo(text, err=True))
    if run.done:
        click.echo(f"going on after step {run.done} of {run.steps}", err=True)
    run.run(_tell, workers)
    click.echo(f"weights: {output / 'weights.safetensors'}", err=True)


def _pairs(data: tuple[Path, ...]) -> tuple[Source, ...]:
    pairs = tuple(zip(data[::2], data[1::2], strict=False))
    wrong = len(data) % 2 or any(not file.is_file() or not folder.is_dir() for file, folder in pairs)
    if wrong:
        raise ValueError(f"wanted pairs of a COCO file and the folder of its photos; got {' '.join(map(str, data))}")
    return pairs


def _usual_start(architecture: str) -> str:
    import weights

    return architecture if architecture in weights.manifest() else "coco"


def _tell(moment: Moment) -> None:
    if moment.validation:
        kinds = [kind for kind in ("box", "mask") if kind in moment.validation]
        told = ", ".join(f"{kind} AP50 {moment.validation[kind]['ap50']:.3f}, AP {moment.validation[kind]['ap']:.3f}"
                         for kind in kinds)  # fmt: skip
        click.echo(f"step {moment.losses['step']}/{moment.steps}: validation {told}", err=True)
    if moment.told:
        click.echo(moment.told, err=True)
