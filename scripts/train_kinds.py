"""Train the shipped classifier of kinds and article types, which `+kinds` adds to an embedder.

A Siamese network learns items, styles and colours as the shipped embedder does, and beside that the article type of each
garment, from shop photos and street photos together. Then the layer that gives types is fitted again on the photos as they
are. Usage (scipy comes with the extra ``train``):

    python scripts/train_kinds.py DATA --init IMAGENET.safetensors --out RUN

DATA holds luma/, shoe-pairs/, clothing/, ccp/ and products/ in their upstream layouts. A run that was killed continues when
the command is given again. RUN/kinds.safetensors is the result.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.io import loadmat
from torch import Tensor, nn

import public_sets
import weights
from mixed import DETAIL, Item, MixedSampler, Shot, close_up, in_memory
from pipeline.config import Config, build_detector
from pipeline.kinds import FAMILIES
from pipeline.training import keep_plan
from stages.embed.augmentation import view
from stages.embed.data import numbered, percentile_of, small
from stages.embed.inputs import Normalise, letterboxed, trimmed
from stages.embed.losses import InfoNCE
from stages.embed.network import Design, SiameseNetwork
from stages.embed.sampling import Batch, Relations
from stages.embed.training import EmbedderRecipe, EmbedderTrainer, fit_colours, start_from
from stages.labels import OTHER, TYPES, kind_of, type_of
from stages.types import Image

TYPE_NAMES = (*(article_type.name for article_type in TYPES if article_type.kind), OTHER)
KIND_OF_TYPE = np.array([kind_of(name) for name in TYPE_NAMES])
DESIGN = Design(dim=122 + len(TYPE_NAMES), colour_dim=54, colour_share=0.43, trim=True, types=TYPE_NAMES)
QUOTA = {"luma": 6, "shoes": 1, "clothing": 3, "garments": 5, "products": 6}
KEPT_PX, TRAIN_PX = 256, 160
VALIDATION_PERCENT = 10
SHARES = {"products": 1.6, "garments": 1.4, "clothing": 0.5, "luma": 0.2, "shoes": 0.1}
"""How much each set weighs where the last layer is fitted."""
RIDGE, SMOOTHING = 5e-4, 0.05


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--init", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=600, show_default=True)
@click.option("--limit", default=0, help="Use so many items of each set only, to try the script.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, init: Path, out: Path, steps: int, limit: int, seed: int) -> None:
    """Train on the photo sets in DATA; write OUT/kinds.safetensors."""
    torch.manual_seed(seed)
    cv2.setNumThreads(1)
    items = list(read_items(data, limit))
    sampler = KindSampler(items, TRAIN_PX, seed, QUOTA)
    network = SiameseNetwork(DESIGN)
    start_from(network, str(init))
    fit_colours(network, (list(sampler(step).views) for step in range(8)))
    recipe = EmbedderRecipe(
        steps=steps,
        warmup_steps=40,
        style_weight=1.0,
        shape_weight=0.4,
        colour_weight=0.5,
        frozen_blocks=6,
        batch_norm=False,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    keep_plan(out, asdict(recipe) | {"design": asdict(DESIGN)})
    network.to(memory_format=torch.channels_last)
    trainer = KindTrainer(network, InfoNCE(), sampler, recipe, out)
    for line in trainer.run():
        click.echo(" ".join(f"{name} {value:g}" for name, value in line.items()))
    with trainer.averaged():
        fit_types(network.eval(), items)
        save(network, out / "kinds.safetensors")


def read_items(data: Path, limit: int) -> Iterator[Item]:
    """Yield everything that is trained on, in memory."""
    last = limit or None
    for dataset in (
        public_sets.luma(data / "luma" / "product", ("train", "val")),
        public_sets.shoes(data / "shoe-pairs" / "train"),
        public_sets.clothing(data / "clothing", ("train",)),
    ):
        items = in_memory(replace(dataset, samples=dataset.samples[:last]), KEPT_PX, trim=True)
        yield from (item if item.kind in ("luma", "shoes") else typed(item, item.style) for item in items)
    yield from street_garments(data / "ccp", last)
    yield from products(data / "products", last)


def typed(item: Item, identity: str) -> Item:
    """Return an item whose style is its article type, so that street and shop share styles."""
    name = type_of(item.label)
    return replace(item, style=f"type/{name}" if name else f"any/{item.label}", colour=item.colour or identity)


def street_garments(ccp: Path, last: int | None) -> Iterator[Item]:
    """Yield the garments of Clothing Co-Parsing's training photos, as box crops and as cut-outs on white."""
    names = [str(name[0]) for name in loadmat(str(ccp / "label_list.mat"))["label_list"][0]]
    held_out = set((ccp / "val_ids.txt").read_text().split())
    files = sorted((ccp / "annotations" / "pixel-level").iterdir())
    for file in [file for file in files if file.stem not in held_out][:last]:
        label_map = loadmat(str(file))["groundtruth"]
        image = cv2.cvtColor(cv2.imread(str(ccp / "photos" / f"{file.stem}.jpg")), cv2.COLOR_BGR2RGB)
        for number in np.unique(label_map).tolist():
            kind = kind_of(names[number])
            if kind is None:
                continue
            shots = [shot for mask in pieces(label_map == number, kind) for shot in crops(image, mask)]
            if shots:
                identity = f"{file.stem}-{names[number]}"
                yield typed(Item("garments", "", identity, file.stem, tuple(shots), names[number]), identity)


def pieces(mask: NDArray[np.bool_], kind: str) -> list[NDArray[np.bool_]]:
    """Return the two largest pieces of shoes and hosiery, and other garments as one, without crumbs."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = [number for number in range(1, count) if stats[number, cv2.CC_STAT_AREA] >= 64]
    if kind not in ("shoes", "hosiery"):
        return [np.isin(numbers, large)] if large else []
    return [numbers == number for number in large[:2]]


def crops(image: Image, mask: NDArray[np.bool_]) -> list[Image]:
    """Return a garment's box with 5 % context, and the garment on white; none where it is tiny."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y1, y2, x1, x2 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if max(y2 - y1, x2 - x1) < 24:
        return []
    down, across = round(0.05 * (y2 - y1)), round(0.05 * (x2 - x1))
    box = image[max(0, y1 - down) : y2 + down, max(0, x1 - across) : x2 + across]
    cut = np.where(mask[y1:y2, x1:x2, None], image[y1:y2, x1:x2], np.uint8(255))
    return [small(np.ascontiguousarray(crop), KEPT_PX) for crop in (box, cut)]


def products(folder: Path, last: int | None) -> Iterator[Item]:
    """Yield the training products, whole, and cut out where the detector finds the garment that the photo sells."""
    detector = build_detector(Config(detector="maskrcnn_mobilenet_v2", min_score=0.15))
    with (folder / "styles.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if percentile_of(row["id"]) >= VALIDATION_PERCENT]
    for row in [row for row in rows if kind_of(row["articleType"])][:last]:
        kind = kind_of(row["articleType"])
        stretched = cv2.imread(str(folder / "images" / f"{row['id']}.jpg"))
        image = cv2.cvtColor(cv2.resize(stretched, (168, 224), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        shots = [small(trimmed(image), KEPT_PX)]
        if row["masterCategory"] == "Apparel" and kind != OTHER:
            family = next((family for family in FAMILIES if kind in family), {kind})
            (detections,) = detector([image])
            fitting = [found for found in detections if found.label in family and found.box.area > 0.08 * 168 * 224]
            if fitting:
                best = max(fitting, key=lambda found: (found.score + 0.3 * (found.label == kind)) * found.box.area**0.5)
                shots.append(np.ascontiguousarray(image[best.box.slices]))
        identity = f"{row['id']}-{row['baseColour']}"
        yield typed(Item("products", "", identity, "", tuple(shots), row["articleType"]), identity)


@dataclass(frozen=True, slots=True, eq=False)
class KindBatch(Batch):
    """A batch that also says which types each view may be of, ``(n, types)`` bool, and which set it is from."""

    allowed: NDArray[np.bool_] | None = None
    sets: NDArray[np.int64] | None = None


def allowed_types(word: str) -> NDArray[np.bool_]:
    """Return which types a word allows: one, those of a kind, or all where it says nothing."""
    name, kind = type_of(word), kind_of(word)
    if name in TYPE_NAMES:
        return np.array([name == known for known in TYPE_NAMES])
    return np.ones(len(TYPE_NAMES), np.bool_) if kind is None else np.asarray(kind == KIND_OF_TYPE)


class KindSampler(MixedSampler):
    """Batches of all sets; typed items come by a few types, frequent types more often, and photos are squeezed or worn."""

    items_per_group = 3
    tinted = MappingProxyType({"clothing": 0.2, "garments": 0.15, "products": 0.15})

    def __call__(self, step: int) -> KindBatch:
        """Return the batch of a step."""
        shots, rng = self.shots(step), np.random.default_rng((self._seed, step, 1))
        return KindBatch(
            np.stack([self._render(shot, rng) for shot in shots]),
            numbered([shot.identity for shot in shots]),
            numbered([style_of(shot) for shot in shots]),
            allowed=np.stack([allowed_types(word_of(shot.item)) for shot in shots]),
            sets=numbered([shot.item.kind for shot in shots]),
        )

    def _turn(self, kind: str, step: int) -> list[list[Item]]:
        groups = self._groups[kind]
        if kind in ("luma", "shoes"):
            return super()._turn(kind, step)
        rng = np.random.default_rng((self._seed, step, *kind.encode()))
        sizes = np.array([len(group) ** 0.5 for group in groups])
        chosen = rng.choice(len(groups), min(self._quota[kind], len(groups)), replace=False, p=sizes / sizes.sum())
        return [groups[place] for place in chosen]

    def _render(self, shot: Shot, rng: Generator) -> Image:
        image = shot.item.photos[shot.photo]
        image = image if shot.tint is None else shot.tint.apply(image)
        height, width = image.shape[:2]
        if rng.random() < 0.3:
            width = max(8, round(width * float(np.exp(rng.uniform(-0.3, 0.3)))))
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        if rng.random() < 0.25 and max(height, width) > 64:
            scale = rng.uniform(0.25, 0.7)
            size = max(8, round(width * scale)), max(8, round(height * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        if rng.random() < 0.15:
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 70))])
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        scenery = self._scenery[int(rng.integers(len(self._scenery)))]
        if shot.item.kind == "luma" and rng.random() < DETAIL:
            image = close_up(image, rng)
        return view(image, self._side, rng, scenery)


def word_of(item: Item) -> str:
    """Return what is known of an item's type."""
    return "shoes" if item.kind == "shoes" else item.label


def style_of(shot: Shot) -> str:
    """Return what is equal for items of one style; an item whose type is unknown is a style of its own."""
    style = shot.item.style
    return (
        style if style.startswith(("type/", "luma")) or shot.item.kind == "shoes" else "/".join(map(str, shot.identity))
    )


class KindTrainer(EmbedderTrainer):
    """Adds the loss of types: minus the logarithm of what the allowed types have together."""

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of all terms, and each of them."""
        assert isinstance(batch, KindBatch)
        assert batch.allowed is not None and batch.sets is not None  # noqa: PT018
        network, recipe, info_nce = self._network, self._settings, self._loss
        pixels = self._normalise(list(batch.views)).to(self.device)
        parts = network.parts(pixels)
        assert parts.types is not None and parts.colours is not None  # noqa: PT018
        looks = network.joined(parts._replace(types=None))
        allowed = torch.from_numpy(batch.allowed)
        relations, by_style = batch.relations(), batch.relations(by_style=True)
        clashes = unclear(allowed, torch.from_numpy(batch.sets))
        above = relations.above(torch.from_numpy(batch.styles))
        terms = {
            "item": info_nce(looks, relations),
            "style": recipe.style_weight * info_nce(looks, without(above, clashes)),
            "shape": recipe.shape_weight * info_nce(parts.shapes, without(by_style, clashes)),
            "colour": recipe.colour_weight * info_nce(parts.colours, relations),
            "type": type_loss(parts.types, allowed, 0.08),
        }
        return torch.stack(list(terms.values())).sum(), {f"loss_{name}": value.item() for name, value in terms.items()}


def unclear(allowed: Tensor, sets: Tensor) -> Tensor:
    """Return which pairs may be of one type though their styles differ: of two sets, or where a type is unknown."""
    overlap = allowed.float() @ allowed.float().T > 0
    vague = allowed.sum(dim=1) != 1
    return overlap & ((sets[:, None] != sets) | ((vague[:, None] | vague) & (sets != sets[0])[:, None]))


def without(relations: Relations, pairs: Tensor) -> Relations:
    """Return relations in which some pairs are no negatives."""
    return replace(relations, negative=relations.negative & ~pairs)


def type_loss(logits: Tensor, allowed: Tensor, smoothing: float, weight: Tensor | None = None) -> Tensor:
    """Return the mean loss over rows whose type is not wholly open."""
    log_p = logits.log_softmax(dim=1)
    rows = smoothing * -log_p.mean(dim=1) - log_p.masked_fill(~allowed, -1e4).logsumexp(dim=1)
    known = allowed.sum(dim=1) < allowed.shape[1]
    return rows[known].mean() if weight is None else (rows * weight).sum()


@torch.no_grad()
def pooled(network: SiameseNetwork, images: Sequence[Image]) -> Tensor:
    """Return what the layer of types reads of images at the network's own input size, ``(n, features)``."""
    normalise = Normalise(*network.design.stats)
    batches = (images[start : start + 32] for start in range(0, len(images), 32))
    return torch.cat(
        [network.pool(network.features(letterboxed(few, DESIGN.input_px, normalise, trim=True))) for few in batches]
    )


def fit_types(network: SiameseNetwork, items: Sequence[Item]) -> None:
    """Fit the layer of types on photos as they are; sets weigh by :data:`SHARES`, words by the root of their counts."""
    shots = [(item, photo) for item in items for photo in item.photos]
    features = pooled(network, [photo for _, photo in shots])
    allowed = torch.from_numpy(np.stack([allowed_types(word_of(item)) for item, _ in shots]))
    counts = Counter((item.kind, item.label) for item, _ in shots)
    known = allowed.sum(dim=1) < len(TYPE_NAMES)
    weight = torch.tensor([counts[item.kind, item.label] ** -0.5 for item, _ in shots]) * known
    sets = np.array([item.kind for item, _ in shots])
    for name, share in SHARES.items():
        rows = torch.from_numpy(sets == name)
        weight[rows] *= share / weight[rows].sum().clamp(min=1e-9)
    weight /= weight.sum()
    mean, deviation = features[known].mean(dim=0), features[known].std(dim=0) + 1e-3
    inputs = (features - mean) / deviation
    layer = nn.Linear(inputs.shape[1], len(TYPE_NAMES))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=120, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = type_loss(layer(inputs), allowed, SMOOTHING, weight) + RIDGE * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert network.types is not None
    with torch.no_grad():
        network.types.weight.copy_(layer.weight / deviation)
        network.types.bias.copy_(layer.bias - F.linear(mean / deviation, layer.weight))


def save(network: SiameseNetwork, path: Path) -> None:
    """Write the network without its colours, which a classifier does not need."""
    design = replace(DESIGN, dim=DESIGN.dim - DESIGN.colour_dim, colour_dim=0, kind_share=0.4, type_share=0.4)
    tensors = {name: value for name, value in network.state_dict().items() if not name.startswith("colours.")}
    about = {
        "crop": "whole, box and mask",
        "data": "Luma (AFL-3.0), Shoes-Pair-Classification (MIT), clothing-dataset (CC0), Clothing Co-Parsing (Apache-2.0),"
        " Fashion Product Images Small (stated as MIT by its publisher); started from MobileNetV2 of ImageNet (Apache-2.0)",
        "licence": "Apache-2.0",
    }
    weights.save(path, tensors, design.metadata() | about)


if __name__ == "__main__":
    main()
