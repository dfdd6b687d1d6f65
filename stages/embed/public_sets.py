"""Public datasets in their upstream layouts, as samples that are not read yet.

Each reader takes the folder that the set unpacks to.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from stages.embed.data import Dataset, DatasetIssue, Sample, Split, percentile_of
from stages.errors import CatalogueError
from stages.problems import Problem

_LUMA_NAME = re.compile(r"(?P<sku>(?P<group>[^-\d]+)[^-]*)-(?P<colour>[a-z]+)(?P<mark>[_-])(?:\d|[a-z])[^-]*\.jpg")
_SHOE_NAME = re.compile(r"(?P<photographer>u\d+)_(?P<pair>\d+)_(?:left|right)_(?P<wearer>[mw])\.jpg")
_LUMA_LABELS: Final = {"h": "outerwear", "j": "outerwear", "p": "pants", "sh": "shorts", "s": "top", "t": "top"}
"""Labels by the letters after the first one of a SKU, which is m, w or u."""

_ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz")


def luma(folder: Path, splits: Iterable[Split] = ("train", "val", "test")) -> Dataset:
    """Read Luma's shop photos, ``SKU-colour_view.jpg`` or ``SKU-colour-N.jpg``; an item is a SKU in one colour.

    Photos with other names (gift cards, videos) are left out.

    Raises:
        CatalogueError: the folder holds no photo.
    """
    wanted, paths = set(splits), photos_in(folder)
    named = [(path, match) for path in paths if (match := _LUMA_NAME.fullmatch(path.name))]
    samples = [
        Sample(path, f"{sku}-{match['colour']}", style=sku, label=_luma_label(match))
        for path, match in named
        if luma_split(sku := match["sku"].lower()) in wanted
    ]
    return _ordered("luma", samples, _left_out(len(paths) - len(named), "SKU-colour_view.jpg"))


def luma_split(sku: str) -> Split:
    """Return the part of a SKU: test by the split that everyone uses; of the rest, 15 % are for validation.

    >>> luma_split("mh01") == luma_split("MH01")
    True
    """
    percentile = percentile_of(sku.lower())
    return "test" if percentile < 40 else "val" if percentile < 49 else "train"


def _luma_label(match: re.Match[str]) -> str:
    group = match["group"].lower()[1:]
    if group == "b":  # a bag where the view is a number, a bra where it is named
        return "bag" if match["mark"] == "-" else "top"
    return _LUMA_LABELS.get(group, "")


def shoes(folder: Path, splits: Iterable[Split] = ("train", "val")) -> Dataset:
    """Read shoe pairs, ``uNNN_k_{left,right}_{m,w}.jpg``; left and right are one item, a photographer is a source.

    A tenth of the photographers is for validation; the set's test photos are in other folders.

    Raises:
        CatalogueError: the folder holds no photo.
    """
    wanted, paths = set(splits), photos_in(folder)
    named = [(path, match) for path in paths if (match := _SHOE_NAME.fullmatch(path.name))]
    samples = [
        Sample(
            path, "_".join(match.group("photographer", "pair", "wearer")), label="shoes", source=match["photographer"]
        )
        for path, match in named
        if ("val" if percentile_of(match["photographer"]) < 10 else "train") in wanted
    ]
    return _ordered("shoes", samples, _left_out(len(paths) - len(named), "uNNN_k_left_m.jpg"))


def clothing(folder: Path, splits: Iterable[Split] = ("train", "val", "test")) -> Dataset:
    """Read single-garment photos listed by ``images.csv``; a photo is an item, its class the label, a sender a source.

    Photos that are listed but missing are left out.

    Raises:
        CatalogueError: the list cannot be read.
    """
    wanted, listing, samples, absent = set(splits), folder / "images.csv", [], 0
    try:
        with listing.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                percentile = percentile_of(row["image"])
                part: Split = "test" if percentile < 10 else "val" if percentile < 20 else "train"
                path = folder / "images" / f"{row['image']}.jpg"
                absent += not path.exists()
                if part in wanted and path.exists():
                    samples.append(Sample(path, row["image"], label=row.get("label", ""), source=row["sender_id"]))
    except (OSError, KeyError) as error:
        raise CatalogueError(f"{listing} is no list of clothing photos: {error!r}") from error
    notes = (f"{absent} photos that the list names are not there",) if absent else ()
    return _ordered("clothing", samples, notes)


def omniglot(folder: Path, splits: Iterable[Split] = ("train", "test")) -> Dataset:
    """Read handwritten characters, ``images_{background,evaluation}/ALPHABET/CHARACTER/*_DRAWER.png``.

    A character is an item, its alphabet the label, its drawer the source. Background is for training, evaluation for
    testing.

    Raises:
        CatalogueError: the folder holds no such photo.
    """
    roots = {"train": "images_background", "test": "images_evaluation"}
    samples = [
        Sample(
            path,
            f"{path.parent.parent.name}/{path.parent.name}",
            label=path.parent.parent.name,
            source=path.stem.rpartition("_")[2],
        )
        for split in dict.fromkeys(splits)
        if split in roots
        for path in sorted((folder / roots[split]).glob("*/*/*.png"))
    ]
    if not samples:
        raise CatalogueError(_nothing(folder, "images_background/ALPHABET/CHARACTER/*.png"))
    return _ordered("omniglot", samples)


def cifar10(folder: Path, splits: Iterable[Split] = ("train", "test")) -> Dataset:
    """Read small pictures of ten classes, ``{train,test}/CLASS/*``; a class is an item.

    Raises:
        CatalogueError: the folder holds no such photo.
    """
    samples = [
        Sample(path, path.parent.name)
        for split in dict.fromkeys(splits)
        for suffix in ("jpg", "png")
        for path in sorted((folder / split).glob(f"*/*.{suffix}"))
    ]
    if not samples:
        raise CatalogueError(_nothing(folder, "train/CLASS/*.jpg"))
    return _ordered("cifar10", samples)


def photos_in(folder: Path) -> list[Path]:
    """Return the ``.jpg`` files of a folder, sorted.

    Raises:
        CatalogueError: there is none.
    """
    found = sorted(folder.glob("*.jpg"))
    if not found:
        raise CatalogueError(_nothing(folder, ".jpg"))
    return found


def _ordered(name: str, samples: Iterable[Sample], notes: tuple[str, ...] = ()) -> Dataset:
    """Return a dataset sorted by item and file name."""
    ordered = sorted(samples, key=lambda sample: (sample.style_or_item, sample.item, sample.path.name))
    problems = () if ordered else (Problem(DatasetIssue.EMPTY, name, "no photo is in the wanted split"),)
    return Dataset(name, tuple(ordered), problems, notes)


def _left_out(count: int, pattern: str) -> tuple[str, ...]:
    return (f"{count} photos are not named like {pattern}, and left out",) if count else ()


def _nothing(folder: Path, wanted: str) -> str:
    packed = ", ".join(_archives(folder))
    return f"{folder} holds no photo {wanted}" + (f"; unpack {packed} there first" if packed else "")


def _archives(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (path.name for path in sorted(folder.iterdir()) if path.name.endswith(_ARCHIVES))
