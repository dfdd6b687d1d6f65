"""Train three embedders alike but for the crop: on box crops, on mask crops, on both. `benchmark crops` compares with them.

All three see the same garments in the same order, in views with the same random numbers. Run it again with the same
options after a kill: it goes on. Usage:

    python scripts/train_crop_embedders.py DATA/ccp/photos --coco runs/ccp/train.json --start IMAGENET.safetensors \
        --out runs/crops --ship
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import cv2
import torch

import weights
from crop_sets import garments
from pipeline.crop_benchmark import BOX, CROPS, MASK, TRUTH, Condition, crop_examples, embed_set, search_set
from pipeline.crop_benchmark_data import Example, ExamplePhoto, rendered_scenes
from pipeline.training import keep_plan
from render_sample.write import render_sample
from stages.detect.coco import read_annotations
from stages.embed.augmentation import view
from stages.embed.data import Dataset, Sample, small
from stages.embed.losses import InfoNCE
from stages.embed.network import Design, SiameseNetwork
from stages.embed.sampling import PK, Batches, Pools
from stages.embed.siamese import SiameseEmbedder
from stages.embed.training import EmbedderRecipe, EmbedderTrainer, start_from
from stages.images import read_image
from stages.training import fastest_precision
from stages.types import Image

CROPS_OF: Final = {"box": (BOX,), "mask": (MASK,), "both": (BOX, MASK)}
TRAIN_PX: Final = 160
INPUT_PX: Final = 192
"""Views are zoomed in while training; looking at more pixels afterwards makes up for it (Touvron et al. 2019)."""

SCENE_SEED: Final = 1002
"""Of the rendered scenes; the benchmark's have others."""

DATA: Final = "Clothing Co-Parsing (Apache-2.0), rendered scenes; started from MobileNetV2 of ImageNet (Apache-2.0)"

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("photos", type=FOLDER)
@click.option("--coco", type=FILE, required=True, help="COCO instances of the training photos of CCP.")
@click.option("--start", required=True, help="torchvision's mobilenet_v2, trained on ImageNet, as a file.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the runs.")
@click.option("--only", type=click.Choice(list(CROPS_OF)), help="One of the three.")
@click.option("--steps", default=300, show_default=True)
@click.option("--items", default=24, show_default=True, help="In a batch, with two views each.")
@click.option("--most", default=1 << 30, help="Photos of CCP, at most.")
@click.option("--scenes", default=120, show_default=True, help="Rendered, to train on too.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--ship", is_flag=True, help="Put the weights into weights/, with card and manifest entry.")
def main(
    photos: Path, coco: Path, start: str, out: Path, only: str | None, steps: int, items: int, most: int, scenes: int,
    seed: int, threads: int, ship: bool,
) -> None:  # fmt: skip
    """Train on the garments of PHOTOS; write OUT/CROP/siamese_CROP.safetensors for each crop."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    recipe = EmbedderRecipe(
        steps=steps,
        warmup_steps=round(0.05 * steps),
        frozen_blocks=3,
        batch_norm=False,
        precision=fastest_precision("cpu"),
        seed=seed,
    )
    cut = list(_cut(chain(_street(photos, coco, most), _rendered(scenes))))
    names = [only] if only else list(CROPS_OF)
    trained = {}
    for name in names:
        data = dataset_of(cut, CROPS_OF[name])
        click.echo(f"{name}: {len(data)} crops of {len(data.items)} items")
        keep = {"recipe": asdict(recipe), "items": items, "start": start, "coco": str(coco), "scenes": scenes}
        trained[name] = _train(name, data, recipe, items, out / name, keep)
    figures = _figures(trained)
    click.echo(figures)
    if ship:
        for name, path in trained.items():
            told = {"steps": steps, "views": 2 * items, "scenes": scenes, "seed": seed, "figures": figures}
            _ship(name, path, told)


def _street(photos: Path, coco: Path, most: int) -> Iterator[ExamplePhoto]:
    """Yield the photos of CCP; the shoes of a photo are one item."""
    for photo in read_annotations(coco, photos).photos[:most]:
        examples = tuple(
            Example(f"{photo.id}/{truth.label if truth.label == 'shoes' else number}", truth.label, truth)
            for number, truth in enumerate(garments(photo))
        )
        yield ExamplePhoto(photo.file_name, partial(read_image, photos / photo.file_name), examples)


def _rendered(scenes: int) -> Iterator[ExamplePhoto]:
    """Yield scenes in which several people wear each item in front of several backgrounds."""
    with TemporaryDirectory() as folder:
        render_sample(Path(folder) / "scenes", seed=SCENE_SEED, items=150, scenes=scenes)
        for data in rendered_scenes(Path(folder) / "scenes"):
            yield from data.photos


def _cut(photos: Iterator[ExamplePhoto]) -> Iterator[tuple[str, dict[str, Image]]]:
    """Yield the item of each garment, and its crops, small."""
    keep_px = round(TRAIN_PX * 8 / 7)
    for photo in photos:
        image = photo.read()
        truths = [example.truth for example in photo.examples]
        crops = {name: dict(crop_examples(image, truths, name)) for name in (BOX, MASK)}
        for number, example in enumerate(photo.examples):
            yield example.item, {name: small(own[number], keep_px) for name, own in crops.items()}


def dataset_of(cut: Sequence[tuple[str, dict[str, Image]]], crops: Sequence[str]) -> Dataset:
    """The photos to train on: each garment in each of the crops."""
    samples = [Sample(Path(f"{number}-{crop}"), item) for number, (item, _) in enumerate(cut) for crop in crops]
    return Dataset("garments", tuple(samples), images=[own[crop] for _, own in cut for crop in crops])


def _train(name: str, data: Dataset, recipe: EmbedderRecipe, items: int, folder: Path, plan: dict[str, object]) -> Path:
    """One run, begun or gone on with; the path of its weights."""
    torch.manual_seed(recipe.seed)
    network = SiameseNetwork(Design(input_px=INPUT_PX))
    start_from(network, str(plan["start"]))
    keep_plan(folder, plan)
    sampler = PK(Pools(data), items, 2, recipe.seed)
    # Nothing stands in for the white ground of a mask crop: the views of all three are made alike.
    batches = Batches(data, sampler, {"": partial(view, other_ground=0.0)}, TRAIN_PX, recipe.seed)
    trainer = EmbedderTrainer(network.to(memory_format=torch.channels_last), InfoNCE(), batches, recipe, folder)
    for line in trainer.run():
        click.echo(f"{name}: " + " ".join(f"{key} {value:g}" for key, value in line.items()))
    path = folder / f"siamese_{name}.safetensors"
    about = {"crop": name, "data": DATA, "licence": "Apache-2.0", "step": str(recipe.steps), "seed": str(recipe.seed)}
    with trainer.averaged():
        weights.save(path, network.state_dict(), network.design.metadata() | about)
    return path


def _figures(trained: dict[str, Path]) -> str:
    """Recall@1 on rendered scenes of another seed, bare wall and crowded street, as a table of Markdown."""
    embedders = {name: SiameseEmbedder(weights.read(path)) for name, path in trained.items()}
    lines = ["| trained on | crop | clutter 0 | clutter 1 |", "|---|---|---|---|"]
    with TemporaryDirectory() as folder:
        render_sample(Path(folder) / "scenes", seed=7, items=65, scenes=24, clutters=(0.0, 1.0))
        results = [search_set(embed_set(data, {}, embedders)) for data in rendered_scenes(Path(folder) / "scenes")]
    for name in embedders:
        for crop in (BOX, MASK):
            condition = Condition(name, TRUTH, crop)
            recalls = [f"{one.scores(condition)[0].mean():.3f}" for one in results if one]
            lines.append(f"| {name} | {crop} | {' | '.join(recalls)} |")
    return "\n".join(lines)


def _ship(name: str, path: Path, told: Mapping[str, object]) -> None:
    """Put trained weights among the shipped ones, with a card that tells these figures."""
    shipped, of = f"siamese_{name}", "box and mask" if name == "both" else name
    checkpoint = weights.read(path)
    digest = weights.save(weights.FOLDER / f"{shipped}.safetensors", checkpoint.tensors, checkpoint.metadata)
    weights.record(shipped, digest, f"Siamese embedder trained on {of} crops, to compare crops with")
    crops = " and ".join(CROPS[crop].fingerprint for crop in CROPS_OF[name])
    card = CARD.format(name=shipped, crops=crops, px=TRAIN_PX, scene_seed=SCENE_SEED, **told)
    (weights.FOLDER / f"{shipped}.md").write_text(card, encoding="utf-8")
    click.echo(f"shipped {shipped}: {digest[:12]}")


CARD: Final = """# {name}

One of three small embedders that `outfinder benchmark crops` compares crops with, alike in all but the crop that they
were trained on. This one's crop: {crops}.

MobileNetV2 with GeM pooling and a linear head: an image, letterboxed on white to 192 px, becomes 128 numbers of unit
length. Not meant for searching: `siamese` is.

## Data

| set | licence | what of it |
|---|---|---|
| Clothing Co-Parsing | Apache-2.0 | garments of the 800 training photos, by their annotated outlines |
| rendered scenes | ours | garments of {scenes} scenes of `scripts/render_sample`, seed {scene_seed} |

Photos of one item are positives: two views of a garment, both shoes of a pair, a rendered item on several people.
{steps} steps of {views} views at {px} px, InfoNCE, seed {seed}: `scripts/train_crop_embedders.py` is the recipe. Nothing was
chosen by the figures below.

## Figures

Recall@1 on rendered scenes of another seed (7), by annotated outlines, of all three:

{figures}

## Licence

Apache-2.0. It started from MobileNetV2 of ImageNet (Apache-2.0, see NOTICE).

## Limits

- A few minutes of training on little data: made to tell crops apart, not garments well.
- What it has seen on several people is rendered; street photos show each garment once, but for shoes.
"""


if __name__ == "__main__":
    main()
