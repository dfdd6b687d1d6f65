"""Photo sets: catalogues as datasets to train on, to evaluate by, to calibrate with, and to search for duplicates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.catalogue import read_catalogue
from stages.embed.data import Dataset, DatasetIssue, Sample
from stages.errors import CatalogueError
from stages.problems import Problem

COLUMNS: Final = ("style", "label", "domain", "source")
"""The columns of a catalogue, besides its item, that training and evaluation use."""


def open_set(paths: Sequence[Path], item_pattern: str = "", name: str = "items") -> Dataset:
    """Return the photos of catalogues as a dataset, not read yet.

    Args:
        paths: tables with the columns item_id and image and perhaps :data:`COLUMNS`, folders with a sub-folder for each
            item or class, and photos.
        item_pattern: a regular expression that finds the item id in a file name.
        name: of the dataset.

    Raises:
        CatalogueError: a source cannot be read as a whole, or there is no photo.
        ValueError: the pattern is not a regular expression.
    """
    try:
        pattern = re.compile(item_pattern) if item_pattern else None
    except re.error as error:
        raise ValueError(f"the item pattern {item_pattern!r} is not a regular expression: {error}") from error
    samples, problems = [], []
    for photo in read_catalogue(paths, pattern):
        if photo.error is not None:
            problems.append(Problem(DatasetIssue.ROW, str(photo.path), photo.error))
        else:
            cells = {name.casefold(): value for name, value in photo.metadata}
            samples.append(Sample(photo.path, photo.item, *(cells.get(column, "") for column in COLUMNS)))
    dataset = Dataset(name, tuple(samples), tuple(problems))
    if not samples:
        raise CatalogueError(f"{dataset.describe()}\nThere is no photo in {' '.join(map(str, paths))}.")
    return dataset
