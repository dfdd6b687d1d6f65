"""Train the shipped vectors of words against the default embedder of images, which stays as it is.

    python scripts/train_words.py DATA/products --out RUN

Names of products, and phrases made of what their table says ("navy striped shirt"), are to be nearest to the vectors of the
photos that they describe, among those of all products. The words are those of names that come three times, without brands
that no garment shows, and the values of all attributes. RUN/words.safetensors is the result, and the command prints recall of
names among the validation products' photos, and precision of colour and type.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

import weights
from pipeline.attribute_evaluation import value_of
from pipeline.config import Config, build_embedder
from pipeline.kinds import Words
from stages.embed.attributes import AttributePart, attribute_part
from stages.embed.data import percentile_of
from stages.embed.text import ARCHITECTURE, WordEmbedder
from stages.labels import COLOURS, GENDERS, PATTERNS, TYPES, USAGES, kind_of
from stages.protocols import Embedder
from stages.types import LABELS, Vectors
from weights import Checkpoint

VALIDATION_PERCENT: Final = 10
LEAST_COUNT: Final = 3
STEPS, BATCH, RATE, SCALE, DROPPED = 400, 512, 0.01, 20.0, 0.3
LIKELIHOOD: Final = {"type": 0.7, "colour": 0.7, "kind": 0.1}
COLUMNS: Final = {"type": "articleType", "colour": "baseColour", "gender": "gender", "usage": "usage"}


@dataclass(frozen=True, slots=True)
class Product:
    """A product: its name, and the values of its attributes as far as they are known."""

    number: str
    name: str
    values: Mapping[str, str]


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True)
def main(data: Path, out: Path, seed: int) -> None:
    """Train on the products in DATA; write OUT/words.safetensors."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    embedder = build_embedder(Config())
    products = list(read_products(data))
    vectors = embed(embedder, data, products, out / f"{embedder.fingerprint[-16:]}.npy")
    training = np.array([percentile_of(one.number) >= VALIDATION_PERCENT for one in products])
    learnt = [product for product, use in zip(products, training, strict=True) if use]
    words = vocabulary(learnt)
    rows = train(learnt, torch.from_numpy(vectors[training]), words, seed)
    about = {
        "architecture": ARCHITECTURE,
        "words": "\n".join(words),
        "embedder": embedder.fingerprint,
        "data": "names of Fashion Product Images Small (stated as MIT by its publisher)",
        "licence": "Apache-2.0",
    }
    weights.save(out / "words.safetensors", {"vectors": rows}, about)
    reader = WordEmbedder(weights.read(out / "words.safetensors"))
    report(reader, products, vectors, ~training)
    part = attribute_part(embedder)
    assert part is not None
    report_refined(
        reader, part, [one for one, use in zip(products, training, strict=True) if not use], vectors[~training]
    )


def read_products(data: Path) -> Iterator[Product]:
    """Yield the products whose type is known."""
    with (data / "styles.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if kind_of(row["articleType"]) and (data / "images" / f"{row['id']}.jpg").exists():
                values = {name: value_of(name, row[column]) for name, column in COLUMNS.items()}
                known = {name: value for name, value in values.items() if value}
                yield Product(row["id"], row["productDisplayName"], known | patterns_of(row["productDisplayName"]))


def patterns_of(name: str) -> dict[str, str]:
    """Return the pattern that a name states, if it states one."""
    found = {value for word in name.split() if (value := value_of("pattern", word))}
    return {"pattern": found.pop()} if len(found) == 1 else {}


def embed(embedder: Embedder, data: Path, products: Sequence[Product], cache: Path) -> Vectors:
    """Return the vectors of the products' photos, undoing their stretching; kept in a file, as it takes minutes."""
    if cache.exists():
        return np.asarray(np.load(cache))
    rows = []
    for start in range(0, len(products), 64):
        stretched = [cv2.imread(str(data / "images" / f"{one.number}.jpg")) for one in products[start : start + 64]]
        natural = [cv2.resize(image, (168, 224), interpolation=cv2.INTER_AREA) for image in stretched]
        rows.append(embedder([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in natural]))
        click.echo(f"\r{start + len(stretched)} of {len(products)} photos", nl=False, err=True)
    np.save(cache, np.concatenate(rows))
    return np.concatenate(rows)


def vocabulary(products: Sequence[Product]) -> list[str]:
    """Return the words of names that come often enough, after the values of attributes and the kinds."""
    tables = (COLOURS, PATTERNS, GENDERS, USAGES)
    values = [*(one.name for one in TYPES), *(name for table in tables for name in table), *LABELS]
    reader = WordEmbedder(checkpoint_of(values))
    counts: Counter[str] = Counter()
    for product in products:
        counts.update(set(reader.read(product.name).unknown))
    brands = Counter(product.name.split()[0].casefold() for product in products)
    shown = {word: count for word, count in counts.items() if count >= LEAST_COUNT and word.isalpha() and len(word) > 1}
    known = {word for word, count in shown.items() if brands[word] < 0.7 * count}
    return [*dict.fromkeys(values), *sorted(known - set(values))]


def checkpoint_of(words: Sequence[str]) -> Checkpoint:
    """Return vectors of words before they are trained."""
    about = {"architecture": ARCHITECTURE, "words": "\n".join(words), "embedder": ""}
    return Checkpoint("words", {"vectors": torch.zeros(len(words), 1)}, about, "")


def train(products: Sequence[Product], images: Tensor, words: Sequence[str], seed: int) -> Tensor:
    """Return a vector for each word, ``(words, dim)``: the sum over a text's words points to the photos that it fits."""
    reader, places = WordEmbedder(checkpoint_of(words)), {word: place for place, word in enumerate(words)}
    names = [[places[word] for word in reader.read(one.name).words] for one in products]
    columns = {name: np.array([one.values.get(name, "") for one in products]) for name in (*COLUMNS, "pattern")}
    columns["kind"] = np.array([kind_of(one.values["type"]) for one in products])
    rng = np.random.default_rng(seed)
    rows = torch.nn.Parameter(0.01 * torch.randn(len(words), images.shape[1]))
    optimizer = torch.optim.AdamW([rows], lr=RATE, weight_decay=0.05)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 20) * (1 - step / STEPS)
        texts, fits = zip(*(draw(columns, names, places, rng) for _ in range(BATCH)), strict=True)
        queries = F.normalize(bag(texts, len(words)) @ rows)
        wanted = torch.from_numpy(np.stack(fits))
        log_p = (SCALE * queries @ images.T).log_softmax(dim=1)
        loss = -(wanted / wanted.sum(dim=1, keepdim=True) * log_p).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            click.echo(f"step {step + 1} loss {loss.item():.3f}")
    return rows.detach()


def draw(
    columns: Mapping[str, NDArray[np.str_]], names: Sequence[Sequence[int]], places: Mapping[str, int], rng: Generator
) -> tuple[list[int], NDArray[np.float32]]:
    """Return a text as the places of its words, and which products it fits.

    Half of the texts are names, of which words are dropped; half are phrases of some attributes of a product, or its kind.
    """
    place = int(rng.integers(len(names)))
    if rng.random() < 0.5 and names[place]:
        kept = [word for word in names[place] if rng.random() > DROPPED] or list(names[place])
        fits = np.zeros(len(names), np.float32)
        fits[place] = 1
        return kept, fits
    values = {name: str(column[place]) for name, column in columns.items() if column[place] in places}
    chosen = [name for name in values if rng.random() < LIKELIHOOD.get(name, 0.3)] or ["type"]
    if "kind" in chosen and len(chosen) > 1:  # a type says it already
        chosen.remove("kind")
    fits = np.logical_and.reduce([columns[name] == values[name] for name in chosen])
    return [places[values[name]] for name in chosen], fits.astype(np.float32)


def bag(texts: Sequence[Sequence[int]], words: int) -> Tensor:
    """Return ``(texts, words)``: how often each text has each word."""
    counts = torch.zeros(len(texts), words)
    for row, text in zip(counts, texts, strict=True):
        row.index_add_(0, torch.tensor(text), torch.ones(len(text)))
    return counts


def report(reader: WordEmbedder, products: Sequence[Product], vectors: Vectors, held_out: NDArray[np.bool_]) -> None:
    """Print how well names and phrases find the photos of validation products."""
    asked = [product for product, use in zip(products, held_out, strict=True) if use]
    images = vectors[held_out]
    names = [(row, one.name) for row, one in enumerate(asked) if reader.read(one.name).words]
    order = np.argsort(-(reader.embed_text([name for _, name in names]) @ images.T), axis=1)[:, :10]
    recall = np.mean([row in found for (row, _), found in zip(names, order, strict=True)]) * len(names) / len(asked)
    pairs = Counter((one.values.get("colour"), one.values["type"]) for one in asked)
    both, types = [], []
    for (colour, article), count in pairs.items():
        if colour is None or count < 5:
            continue
        found = np.argsort(-(reader.embed_text([f"{colour} {article}"]) @ images.T)[0])[:10]
        types.append(np.mean([asked[row].values["type"] == article for row in found]))
        both.append(
            np.mean([asked[row].values == asked[row].values | {"colour": colour, "type": article} for row in found])
        )
    click.echo(f"{len(asked)} validation photos: recall@10 of names {recall:.3f}")
    click.echo(f"{len(both)} pairs of colour and type: P@10 both {np.mean(both):.3f}, type {np.mean(types):.3f}")


def report_refined(reader: WordEmbedder, part: AttributePart, asked: Sequence[Product], images: Vectors) -> None:
    """Print how well a photo and "in COLOUR" find other items of its type in that colour, of which there are five."""
    types = np.array([one.values["type"] for one in asked])
    colours = np.array([one.values.get("colour", "") for one in asked])
    queries, _ = part.queries(images)
    right: list[float] = []
    for (article, colour), count in Counter(zip(types.tolist(), colours.tolist(), strict=True)).items():
        rows = np.flatnonzero((types == article) & (colours != colour))[:20]
        if not colour or count < 5 or not len(rows):
            continue
        refined = Words(reader.embed_text([f"in {colour}"])).added_to(queries[rows])
        found = [
            order[order != row][:5]
            for row, order in zip(rows, np.argsort(-(refined @ images.T), axis=1)[:, :6], strict=True)
        ]
        right += [float(np.mean((types[few] == article) & (colours[few] == colour))) for few in found]
    click.echo(f"{len(right)} photos in another colour: P@5 of their type in that colour {np.mean(right):.3f}")


if __name__ == "__main__":
    main()
