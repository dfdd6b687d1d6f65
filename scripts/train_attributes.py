"""Train the shipped classifier of attributes: article type (and so kind), colour, pattern, gender and usage.

    python scripts/train_attributes.py DATA --start WEIGHTS --out RUN

Products have all five by their table and their names in words; street garments and single-garment photos have types. A term of
the loss counts only photos whose attribute is known. A run that was killed continues when the command is given again.
RUN/attributes.safetensors is the result.

DATA holds luma/, shoe-pairs/, clothing/, ccp/ and products/ in their upstream layouts.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.io import loadmat
from torch import Tensor, nn

import public_sets
import weights
from mixed import in_memory
from pipeline.config import Config, build_detector
from pipeline.kinds import FAMILIES
from pipeline.training import keep_plan
from stages.background import trimmed, white_background
from stages.checkpoints import copy_fitting
from stages.embed.augmentation import view
from stages.embed.classifier import COLOUR, PREFIX, AttributeNetwork, metadata
from stages.embed.data import percentile_of, small
from stages.embed.inputs import Normalise, letterboxed
from stages.embed.layers import IMAGENET_STATS
from stages.labels import COLOURS, GENDERS, OTHER, PATTERNS, TYPES, USAGES, kind_of, named, type_of
from stages.training import Recipe, Trainer, ahead
from stages.types import Image

TYPE_NAMES: Final = (*(article_type.name for article_type in TYPES), OTHER)
KIND_OF_TYPE: Final = np.array([kind_of(name) for name in TYPE_NAMES])
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "type": TYPE_NAMES,
    "colour": tuple(COLOURS),
    "pattern": tuple(PATTERNS),
    "gender": tuple(GENDERS),
    "usage": tuple(USAGES),
}
WEIGHTS_OF_LOSS: Final = {"type": 1.0, "colour": 0.7, "pattern": 0.4, "gender": 0.3, "usage": 0.3}
BATCH: Final = {"products": 64, "garments": 32, "clothing": 18, "luma": 4, "shoes": 2}
SMOOTHING: Final = 0.05
SHARES: Final = {"products": 1.6, "garments": 1.4, "clothing": 0.5, "luma": 0.2, "shoes": 0.1}
"""How much each set weighs where the last layer is corrected."""
RIDGE: Final = {"type": 0.01, "colour": 0.1, "pattern": 0.03, "gender": 0.03, "usage": 0.03}
LEAST: Final = {"type": 0.63, "colour": 0.6, "pattern": 0.52, "gender": 0.7, "usage": 0.7}
"""The confidence from which values are stated: nine in ten of the validation photos' are right then, of colours 85 %."""
INPUT_PX = 224
ABOUT: Final = {
    "crop": "whole, box and mask",
    "data": "Fashion Product Images Small (stated as MIT by its publisher), Clothing Co-Parsing (Apache-2.0),"
    " clothing-dataset (CC0), Luma (AFL-3.0), Shoes-Pair-Classification (MIT); started from MobileNetV2 of ImageNet (Apache-2.0)",
    "licence": "Apache-2.0",
}
KEPT_PX, TRAIN_PX = 256, 176
FROZEN_BLOCKS = 5
VALIDATION_PERCENT = 10
CLOTH: Final = ("top", "dress", "skirt", "outerwear", "pants", "shorts", "scarf")
"""Kinds whose plain garments may get a drawn pattern."""


@dataclass(frozen=True, slots=True)
class Item:
    """One article with its photos, and what is known of it: each attribute's possible values."""

    set: str
    group: str
    photos: tuple[Image, ...]
    known: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Views ``(n, side, side, 3)``, and of each attribute which values they may have, ``(n, values)``."""

    views: NDArray[np.uint8]
    allowed: Mapping[str, NDArray[np.bool_]]


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--start", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=800, show_default=True)
@click.option("--limit", default=0, help="Use so many items of each set only, to try the script.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(data: Path, start: Path, out: Path, steps: int, limit: int, seed: int, threads: int) -> None:
    """Train on the photo sets in DATA; write OUT/attributes.safetensors."""
    torch.set_num_threads(threads)
    train(list(read_items(data, limit)), start, out, steps, seed)


def train(items: Sequence[Item], start: Path, out: Path, steps: int, seed: int) -> None:
    """Train the network and write it."""
    cv2.setNumThreads(1)
    torch.manual_seed(seed)
    network = AttributeNetwork("mobilenet_v2", VALUES)
    tensors = weights.read(start).tensors
    if not any(name.startswith("features.") for name in tensors):
        raise click.UsageError(f"{start} holds no features of a MobileNetV2")
    copy_fitting(
        network, {k: v for k, v in tensors.items() if k.startswith(("features.", "pool."))}, f"{start} does not fit"
    )
    recipe = Recipe(warmup_steps=30, ema=0.99, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    keep_plan(out, asdict(recipe) | {"steps": steps, "px": TRAIN_PX})
    network.to(memory_format=torch.channels_last)
    trainer = AttributeTrainer(network, Sampler(items, seed), recipe, steps, out)
    for line in trainer.run():
        click.echo(" ".join(f"{name} {value:g}" for name, value in line.items()))
    with trainer.averaged():
        refit(network.eval(), items)
        about = {"architecture": f"{PREFIX}mobilenet_v2", **metadata(VALUES, LEAST, INPUT_PX), **ABOUT}
        weights.save(out / "attributes.safetensors", network.state_dict(), about)


@torch.no_grad()
def features_of(network: AttributeNetwork, images: Sequence[Image]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pooled features, the histograms' roots and all logits of images as an embedder sees them."""
    normalise, rows = Normalise(*IMAGENET_STATS), []
    for start in range(0, len(images), 32):
        pixels = letterboxed(images[start : start + 32], INPUT_PX, normalise, trim=True)
        maps = network.features(pixels)
        roots = network.colours.roots(pixels, network.colours.where(maps).sigmoid())
        rows.append((network.pool(maps), roots, torch.cat(list(network(pixels).values()), dim=1)))
    pooled, roots, logits = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return pooled, roots, logits


def refit(network: AttributeNetwork, items: Sequence[Item]) -> None:
    """Correct the last layer on photos as they are: sets weigh by :data:`SHARES`, types by the root of their counts.

    The correction is a linear layer whose weights are kept small (:data:`RIDGE`), added to the trained one.
    """
    shots = [(item, photo) for item in items for photo in item.photos[:2]]
    pooled, roots, logits = features_of(network, [photo for _, photo in shots])
    counts = Counter((item.set, item.group) for item in items)
    sets = np.array([item.set for item, _ in shots])
    start = 0
    for name, values in VALUES.items():
        rows = slice(start, start + len(values))
        start += len(values)
        inputs = pooled if name != COLOUR else torch.cat([pooled, roots], dim=1)
        allowed = torch.from_numpy(np.stack([item.known[name] for item, _ in shots]))
        known = ~allowed.all(dim=1)
        weight = torch.tensor([counts[item.set, item.group] ** -0.5 if name == "type" else 1.0 for item, _ in shots])
        for of_set, share in SHARES.items():
            here = torch.from_numpy(sets == of_set) & known
            weight[here] *= share / weight[here].sum().clamp(min=1e-9)
        mean, deviation = inputs[known].mean(dim=0), inputs[known].std(dim=0) + 1e-3
        scaled = (inputs[known] - mean) / deviation
        layer = correction(
            scaled, logits[known][:, rows], allowed[known], weight[known] / weight[known].sum(), RIDGE[name]
        )
        with torch.no_grad():
            change, bias = layer.weight / deviation, layer.bias - (mean / deviation) @ layer.weight.T
            network.head.weight[rows] += change[:, : pooled.shape[1]]
            network.head.bias[rows] += bias
            if name == COLOUR:
                network.colours.project.weight += change[:, pooled.shape[1] :]


def correction(inputs: Tensor, logits: Tensor, allowed: Tensor, weight: Tensor, ridge: float) -> nn.Linear:
    """Return the linear layer that added to logits makes the allowed values likeliest."""
    layer = nn.Linear(inputs.shape[1], logits.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=80, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        log_p = (logits + layer(inputs)).log_softmax(dim=1)
        rows = -log_p.masked_fill(~allowed, -1e4).logsumexp(dim=1) - SMOOTHING * log_p.mean(dim=1)
        loss = (rows * weight).sum() + ridge * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer.requires_grad_(requires_grad=False)


class AttributeTrainer(Trainer[Batch]):
    """Trains all attributes at once; batch norms keep ImageNet's statistics, and the first blocks stay as they are."""

    def __init__(self, network: AttributeNetwork, sampler: Sampler, recipe: Recipe, steps: int, folder: Path) -> None:
        self._network, self._sampler = network, sampler
        self._normalise = Normalise(*IMAGENET_STATS)
        self._set_train_mode()
        rates: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                peak = recipe.lr_backbone if name.startswith("features.") else recipe.lr
                rates[peak, recipe.weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": peak, "weight_decay": decay} for (peak, decay), parameters in rates.items()
        ]
        super().__init__(network, groups, recipe, steps, folder)

    def _set_train_mode(self) -> None:
        self._network.eval()
        for block in list(self._network.features.children())[:FROZEN_BLOCKS]:
            block.requires_grad_(requires_grad=False)

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """Yield the batches of some steps."""
        return ahead(self._sampler, range(start, stop), workers)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the attributes' losses, each of them, and how often the likeliest value fits."""
        logits = self._network(self._normalise(list(batch.views)))
        terms, report = [], {}
        for name, scores in logits.items():
            allowed = torch.from_numpy(batch.allowed[name])
            known = ~allowed.all(dim=1)
            if not known.any():
                continue
            log_p, fits = scores[known].log_softmax(dim=1), allowed[known]
            loss = -log_p.masked_fill(~fits, -1e4).logsumexp(dim=1) - SMOOTHING * log_p.mean(dim=1)
            terms.append(WEIGHTS_OF_LOSS[name] * loss.mean())
            report[f"loss_{name}"] = loss.mean().item()
            report[f"right_{name}"] = fits.gather(1, log_p.argmax(dim=1, keepdim=True)).float().mean().item()
        return torch.stack(terms).sum(), report


class Sampler:
    """Makes the batch of each step: of each set a few groups (types), frequent ones more often, and items of them."""

    def __init__(self, items: Sequence[Item], seed: int) -> None:
        groups: defaultdict[str, defaultdict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
        for item in items:
            groups[item.set][item.group].append(item)
        self._groups = {name: list(of_set.values()) for name, of_set in groups.items()}
        self._scenery = [item.photos[0] for item in items if item.set in ("clothing", "garments")]
        self._seed = seed

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        rng = np.random.default_rng((self._seed, step))
        views, allowed = [], defaultdict[str, list[NDArray[np.bool_]]](list)
        for name, groups in self._groups.items():
            sizes = np.array([len(group) for group in groups], float) ** 0.6
            for place in rng.choice(len(groups), BATCH[name], p=sizes / sizes.sum()):
                item = groups[place][int(rng.integers(len(groups[place])))]
                pixels, known = self._render(item, rng)
                views.append(pixels)
                for attribute, values in known.items():
                    allowed[attribute].append(values)
        return Batch(np.stack(views), {attribute: np.stack(rows) for attribute, rows in allowed.items()})

    def _render(self, item: Item, rng: Generator) -> tuple[Image, dict[str, NDArray[np.bool_]]]:
        image, known = item.photos[int(rng.integers(len(item.photos)))], dict(item.known)
        plain = known["pattern"][0] and not known["pattern"].all()
        if plain and rng.random() < 0.35 and (drawn := with_pattern(image, rng)) is not None:
            image, pattern = drawn
            known["pattern"] = one_of("pattern", pattern)
            known["colour"] = np.ones(len(COLOURS), np.bool_)
        scenery = self._scenery[int(rng.integers(len(self._scenery)))]
        return view(varied(image, rng), TRAIN_PX, rng, scenery), known


def varied(image: Image, rng: Generator) -> Image:
    """Squeeze a photo at times, make it small, or compress it."""
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
    return image


def with_pattern(image: Image, rng: Generator) -> tuple[Image, str] | None:
    """Draw stripes, checks, dots, flowers or spots on a plain garment before white; None where no ground is white."""
    garment = ~white_background(image)
    if not 0.1 < garment.mean() < 0.9:
        return None
    name = str(rng.choice(["striped", "checked", "dotted", "floral", "animal"], p=[0.15, 0.15, 0.25, 0.25, 0.2]))
    height, width = garment.shape
    size = float(np.exp(rng.uniform(np.log(0.03), np.log(0.12)))) * max(height, width)
    turn = rng.normal(0, 0.2) + (np.pi / 2 if rng.random() < 0.3 else 0)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across = (columns * np.cos(turn) + rows * np.sin(turn)) / size
    down = (rows * np.cos(turn) - columns * np.sin(turn)) / size
    colour = rng.integers(0, 256, 3).astype(np.float32)
    cover = np.zeros((height, width), np.float32)
    fill = rng.uniform(0.2, 0.5)
    if name == "striped":
        cover = (down % 1 < fill).astype(np.float32)
    elif name == "checked":
        cover = 0.5 * (down % 1 < fill) + 0.5 * (across % 1 < fill)
    elif name == "dotted":
        shifted = across + 0.5 * (np.floor(down) % 2)
        cover = (np.hypot(shifted % 1 - 0.5, down % 1 - 0.5) < rng.uniform(0.15, 0.35)).astype(np.float32)
    else:
        for _ in range(round(garment.size / (size * size) * rng.uniform(0.7, 1.5))):
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            radius, angle = size * rng.uniform(0.25, 0.6), rng.uniform(0, 2 * np.pi)
            if name == "floral":
                for petal in range(5):
                    direction = angle + petal * 2 * np.pi / 5
                    at = (round(x + radius * 0.6 * np.cos(direction)), round(y + radius * 0.6 * np.sin(direction)))
                    cv2.circle(cover, at, max(1, round(radius * 0.45)), 1.0, -1, cv2.LINE_AA)
                cv2.circle(cover, (round(x), round(y)), max(1, round(radius * 0.3)), 0.3, -1, cv2.LINE_AA)
            else:
                axes = (max(1, round(radius * 0.6)), max(1, round(radius * rng.uniform(0.3, 0.6))))
                opening, at = int(rng.integers(20, 120)), (round(x), round(y))
                thick = max(1, round(radius * 0.35))
                cv2.ellipse(cover, at, axes, np.degrees(angle), opening, 360, 1.0, thick, cv2.LINE_AA)
        if name == "animal":
            colour = np.array([rng.uniform(0, 60)] * 3, np.float32)
    shade = image.astype(np.float32).mean(axis=2, keepdims=True) / max(40.0, float(image[garment].mean()))
    share = (cover * garment * rng.uniform(0.7, 1.0))[..., None]
    return np.clip(image * (1 - share) + colour * shade * share, 0, 255).astype(np.uint8), name


def one_of(attribute: str, value: str | None) -> NDArray[np.bool_]:
    """Return which values of an attribute a known value allows; all where it is not known."""
    values = VALUES[attribute]
    return np.array([value is None or value == name for name in values])


def known_of(
    word: str, colour: str = "", name: str = "", gender: str = "", usage: str = ""
) -> dict[str, NDArray[np.bool_]]:
    """Return what words say of an article; ``word`` is its type or its kind."""
    article, kind = type_of(word), kind_of(word)
    types = one_of("type", article) if article or kind is None else np.asarray(kind == KIND_OF_TYPE)
    patterns = {named(PATTERNS, each) for each in re.findall(r"[a-z]+", name.casefold())} - {None}
    return {
        "type": types,
        "colour": one_of("colour", named(COLOURS, colour)),
        "pattern": one_of("pattern", patterns.pop() if len(patterns) == 1 else None),
        "gender": one_of("gender", named(GENDERS, gender)),
        "usage": one_of("usage", named(USAGES, usage)),
    }


def read_items(data: Path, limit: int) -> Iterator[Item]:
    """Yield everything that is trained on, in memory."""
    last = limit or None
    for dataset in (
        public_sets.luma(data / "luma" / "product", ("train", "val")),
        public_sets.shoes(data / "shoe-pairs" / "train"),
        public_sets.clothing(data / "clothing", ("train",)),
    ):
        for item in in_memory(replace(dataset, samples=dataset.samples[:last]), KEPT_PX, trim=True):
            word = "shoes" if item.kind == "shoes" else item.label
            if kind_of(word):
                yield Item(item.kind, word, item.photos, known_of(word))
    yield from street_garments(data / "ccp", last)
    yield from products(data / "products", last)


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
                yield Item("garments", names[number], tuple(shots), known_of(names[number]))


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
        yield Item("products", row["articleType"], tuple(shots), known_of_row(row))


def known_of_row(row: Mapping[str, str]) -> dict[str, NDArray[np.bool_]]:
    """Return what a row of the products' table says of its article."""
    return known_of(row["articleType"], row["baseColour"], row["productDisplayName"], row["gender"], row["usage"])


if __name__ == "__main__":
    main()
