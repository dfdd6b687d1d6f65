"""``outfinder train embedder``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.common import FOLDER, device_option, friendly, isolate_option

if TYPE_CHECKING:
    from pipeline.runs import Moment

POSITIVE: Final = click.FloatRange(0, min_open=True)
COUNT: Final = click.IntRange(1)

DATA_OPTIONS: Final = (
    click.argument("data", nargs=-1, required=True, metavar="SOURCE..."),
    click.option("-o", "--output", type=FOLDER, required=True, help="The run's folder; one that was begun goes on."),
    click.option("--val", multiple=True, metavar="SOURCE", help="Judge by this, instead of a share held out; repeatable."),
    click.option("--hold-out", default=10, show_default=True, type=click.IntRange(0, 90),
                 help="Percent to judge by where there is no --val; 0: judge by nothing."),
    click.option("--split-by", type=click.Choice(["style", "item", "source", "label"]), default="style",
                 show_default=True, help="What is never parted by holding out."),
    click.option("--learn", type=click.Choice(["item", "label"]), default="item", show_default=True,
                 help="What photos share that are positives of each other."),
    click.option("--item-pattern", default="", metavar="REGEX", help="Finds the item in a file name."),
    click.option("--singles", is_flag=True, help="Items with one photo will do: two views of it are a pair."),
    click.option("--skip-bad", is_flag=True, help="Train on the rest where something is wrong."),
    click.option("--val-photos", default=2000, show_default=True, type=click.IntRange(4), help="At most so many judge."),
)  # fmt: skip
NETWORK_OPTIONS: Final = (
    click.option("--backbone", default="mobilenet_v2", show_default=True, metavar="NAME",
                 help="koch, small, or any classifier of torchvision: vgg16, resnet18, resnet50, inception_v3, ..."),
    click.option("--pooling", default="gem", show_default=True, metavar="NAME", help="gem, average, flatten."),
    click.option("--head", default="linear", show_default=True, metavar="NAME",
                 help="linear, elu (512 ELU between), sigmoid (of no unit length; for a pair head)."),
    click.option("--pair-head", default="", metavar="NAME", help="linear or relu (512 ReLU between); for the loss bce."),
    click.option("--dim", default=128, show_default=True, type=COUNT, help="Width of the vectors."),
    click.option("--colour-dim", type=click.IntRange(0),
                 help="Numbers of each vector that are a histogram of the garment's colours.  [default: as --start has it, if that is as wide, else 0]"),
    click.option("--colour-share", type=click.FloatRange(0, 1, min_open=True, max_open=True),
                 help="What these make up of a similarity.  [default: as --start has it, else 0.4]"),
    click.option("--input-px", default=224, show_default=True, type=COUNT, help="Side of what the network looks at."),
    click.option("--trim/--no-trim", default=None,
                 help="Cut away the white around what a photo shows, in training and later.  [default: as --start has it, else not]"),
    click.option("--train-px", default=0, type=click.IntRange(0), help="Side of the views to train on.  [default: --input-px]"),
    click.option("--start", default="scratch", show_default=True, metavar="NAME|FILE",
                 help="scratch, imagenet (torchvision's weights), shipped weights by name, or a .safetensors file."),
    click.option("--frozen-blocks", default=0, show_default=True, type=click.IntRange(0),
                 help="First blocks of the backbone that stay as they are."),
    click.option("--batch-norm", type=click.Choice(["auto", "train", "freeze"]), default="auto", show_default=True,
                 help="auto: train from scratch, else freeze its statistics."),
)  # fmt: skip
LOSS_OPTIONS: Final = (
    click.option("--loss", default="infonce", show_default=True, metavar="NAME",
                 help="contrastive, bce, triplet, quadruplet, multi-similarity, proxy-nca, proxy-anchor, infonce, supcon."),
    click.option("--distance", metavar="NAME", help="euclidean, squared, cosine; for losses of pairs and triplets."),
    click.option("--margin", type=POSITIVE, help="For losses that have one, in units of the distance."),
    click.option("--temperature", type=POSITIVE, help="For infonce and supcon.  [default: 0.07]"),
    click.option("--miner", metavar="NAME", help="all, semi-hard, batch-hard: triplets chosen within a batch."),
    click.option("--style-weight", default=0.0, show_default=True, type=click.FloatRange(0),
                 help="Of the same loss a level up: other colours of a style against other styles."),
    click.option("--shape-weight", default=0.0, show_default=True, type=click.FloatRange(0),
                 help="Of the same loss on what is not colour, where all of a style are alike; about 0.3."),
    click.option("--colour-weight", default=0.0, show_default=True, type=click.FloatRange(0),
                 help="Of the same loss on colours by themselves, about 0.5; wants --colour-dim."),
    click.option("--distill-weight", default=0.0, show_default=True, type=click.FloatRange(0),
                 help="Of staying near what the start finds alike: for few items of one's own; about 1."),
)  # fmt: skip
SAMPLER_OPTIONS: Final = (
    click.option("--sampler", default="pk", show_default=True, metavar="NAME",
                 help="pk (items x photos), pairs (half same), triplets (random), offline (semi-hard, mined now and then)."),
    click.option("--batch-size", default=64, show_default=True, type=click.IntRange(3), help="Photos in a batch."),
    click.option("--photos", default=4, show_default=True, type=click.IntRange(2), help="Of each item in a batch of pk."),
    click.option("--together", default="", metavar="style|source", help="Items of one come in one batch of pk."),
    click.option("--anchor-domain", default="", metavar="DOMAIN",
                 help="Anchors are of this domain, positives and negatives of others: street to shop, or shop to street."),
    click.option("--mine-steps", default=200, show_default=True, type=COUNT, help="Steps between two offline minings."),
    click.option("--mine-photos", default=1000, show_default=True, type=click.IntRange(4), help="Photos of one of them."),
    click.option("--view", multiple=True, metavar="[DOMAIN=]NAME",
                 help="How photos are looked at: plain, flip, affine, garment; repeatable.  [default: garment]"),
)  # fmt: skip
SCHEDULE_OPTIONS: Final = (
    click.option("--steps", default=1000, show_default=True, type=COUNT),
    click.option("--lr", default=1e-3, show_default=True, type=POSITIVE, help="Peak learning rate of the head."),
    click.option("--lr-backbone", type=POSITIVE, help="Of the backbone.  [default: --lr from scratch, else a fifth of it]"),
    click.option("--lr-loss", default=1e-2, show_default=True, type=POSITIVE, help="Of proxies."),
    click.option("--weight-decay", default=0.01, show_default=True, type=click.FloatRange(0)),
    click.option("--warmup-steps", default=50, show_default=True, type=click.IntRange(0)),
    click.option("--decay", default=1.0, show_default=True, type=click.FloatRange(0, 1),
                 help="Share of the steps in which the learning rate falls to 0; before, it is constant."),
    click.option("--ema", default=0.99, show_default=True, type=click.FloatRange(0, 1, max_open=True),
                 help="What the moving average of the weights keeps at each step; 0: no average."),
    click.option("--whiten", default=0.0, show_default=True, type=click.FloatRange(0, 0.5), metavar="POWER",
                 help="Whiten the vectors that are judged and written: 0.5 in full, about 0.4 is best."),
    click.option("--metric", default="recall@1", show_default=True, metavar="NAME",
                 help="To judge by: recall@1, recall@5, style-recall@1, map@r, auc, one-shot."),
    click.option("--validate-steps", default=200, show_default=True, type=COUNT),
    click.option("--patience", default=0, show_default=True, type=click.IntRange(0),
                 help="End after so many validations without a better one; 0: go to the last step."),
    click.option("--precision", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True,
                 help="auto: bfloat16 where the machine multiplies it."),
    click.option("--workers", default=1, show_default=True, type=click.IntRange(0), help="Threads that make batches."),
    device_option,
    click.option("--seed", default=0, show_default=True),
    click.option("--about", default="", help="Words on data and licence, to be kept with the weights."),
)  # fmt: skip


def _all_options(command: Any) -> Any:
    for option in reversed((*DATA_OPTIONS, *NETWORK_OPTIONS, *LOSS_OPTIONS, *SAMPLER_OPTIONS, *SCHEDULE_OPTIONS)):
        command = option(command)
    return command


@click.command()
@_all_options
@isolate_option
@friendly
def embedder(data: tuple[str, ...], output: Path, workers: int, device: str, **options: Any) -> None:
    """Train a Siamese embedder on photos of each SOURCE: photos of one item come close together.

    A SOURCE is a folder with a folder of photos per item or class, or a CSV with the columns item_id,image and
    perhaps style,label,domain,source; or LAYOUT=PATH, LAYOUT/SPLIT=PATH or LAYOUT=PATH,PATH for the layouts luma,
    shoes, clothing, omniglot, cifar10, garments and cutouts (a COCO file and the folder of its photos).

    What is wrong with the photos is told before anything is trained. A run that was killed goes on when the command
    is given again. The folder gets weights.safetensors for --embedder-weights, the best of all validations, and
    curves.png and curves.json. RECIPES.md has more examples.

    \b
    Examples:
      outfinder train embedder items.csv -o run --start siamese
      outfinder train embedder photos/ -o run --loss triplet --miner semi-hard --patience 5
      outfinder train embedder garments=street.json,photos/ -o run --sampler offline --loss triplet --anchor-domain street
      outfinder train embedder omniglot/train=omniglot/ -o run --backbone koch --input-px 105 --pooling flatten \\
        --head sigmoid --dim 4096 --pair-head linear --loss bce --sampler pairs --view affine --metric one-shot
      outfinder embed photos/ -o vectors.npz --embedder-weights run/weights.safetensors
    """  # noqa: D301
    from pipeline.config import resolve_device
    from pipeline.embedder_training import EmbedderRun
    from pipeline.plots import require_matplotlib

    require_matplotlib()
    device = resolve_device(device)
    run = EmbedderRun(_plan(data, device, options), output, device, lambda text: click.echo(text, err=True))
    if run.done:
        click.echo(f"going on after step {run.done} of {run.steps}", err=True)
    run.run(_tell, workers)
    if run.best:
        click.echo(f"best: {run.plan.metric} {run.best['metric']:.3f} at step {run.best['step']}", err=True)
    click.echo(f"weights: {output / 'weights.safetensors'}", err=True)


def _plan(data: tuple[str, ...], device: str, given: dict[str, Any]) -> Any:
    from pipeline.embedder_training import EmbedderPlan
    from pipeline.training_photos import DataPlan
    from stages.embed.losses import LossPlan
    from stages.embed.network import Design
    from stages.embed.samplers import SamplerPlan
    from stages.embed.train import Recipe
    from stages.training import fastest_precision

    scratch = given["start"] == "scratch"
    side = given["train_px"] or given["input_px"]
    recipe = _some(given, "steps", "lr", "lr_loss", "weight_decay", "warmup_steps", "decay", "ema", "style_weight",
                   "shape_weight", "colour_weight", "distill_weight", "frozen_blocks", "seed") | {
        "lr_backbone": given["lr_backbone"] or (given["lr"] if scratch else given["lr"] / 5),
        "batch_norm": scratch if given["batch_norm"] == "auto" else given["batch_norm"] == "train",
        "precision": fastest_precision(device) if given["precision"] == "auto" else given["precision"],
    }  # fmt: skip
    sources = _some(given, "val", "hold_out", "learn", "item_pattern", "singles", "skip_bad", "val_photos")
    return EmbedderPlan(
        DataPlan(data, by=given["split_by"], keep_px=round(side * 8 / 7), **sources),
        Recipe(**recipe),
        Design(
            **_some(given, "backbone", "pooling", "head", "dim", "input_px", "pair_head"),
            **_colours(given),
            trim=_trim(given),
        ),
        loss=LossPlan(given["loss"], **_some(given, "distance", "miner", "margin", "temperature")),
        sampler=SamplerPlan(
            given["sampler"],
            **_some(given, "batch_size", "photos", "together", "anchor_domain", "mine_steps", "mine_photos", "seed"),
        ),
        views=_views(given["view"]),
        **_some(given, "start", "train_px", "metric", "whiten", "validate_steps", "patience", "about"),
    )


def _some(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _colours(given: dict[str, Any]) -> dict[str, Any]:
    """Those that were asked for, else those of a start with such a head and vectors as wide."""
    from stages.embed.start import design_of

    asked = {name: given[name] for name in ("colour_dim", "colour_share") if given[name] is not None}
    start = design_of(given["start"]) if len(asked) < 2 else None
    if start is not None and (start.dim, start.head) == (given["dim"], given["head"]):
        asked = {"colour_dim": start.colour_dim, "colour_share": start.colour_share} | asked
    if "colour_share" in asked and "colour_dim" not in asked:
        raise ValueError("--colour-share is of the numbers that --colour-dim sets apart, and there are none")
    return asked


def _trim(given: dict[str, Any]) -> bool:
    from stages.embed.start import design_of

    start = design_of(given["start"])
    asked: bool | None = given["trim"]
    return asked if asked is not None else start is not None and start.trim


def _views(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``NAME`` for all domains, ``DOMAIN=NAME`` for one."""
    named = {domain: name for domain, _, name in (text.rpartition("=") for text in given)}
    return tuple(({"": "garment"} | named).items())


def _tell(moment: Moment) -> None:
    if moment.validation:
        metric = moment.validation["metric"]
        judged = "all vectors are nearly equal: a collapse" if metric is None else f"{metric:.3f}"
        click.echo(f"step {moment.losses['step']}/{moment.steps}: validation {judged}", err=True)
    if moment.told:
        click.echo(moment.told, err=True)
