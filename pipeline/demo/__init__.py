"""A small rendered shop and street with ground truth, shipped as files; ``scripts/render_sample`` made them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
"""``shop.csv`` and ``shop/``: 40 items in two views each. ``street/`` and ``street.json``: twelve scenes, each at one
of three grades of clutter, as COCO instances with item ids. ``clutter/`` and ``clutter.json``: the same scenes at the
other two grades. ``shop.json``: the masks of the shop's photos."""

_NAMES: Final = ("shop", "shop.csv", "shop.json", "clutter", "clutter.json", "street", "street.json")


def copy_demo(folder: Path) -> Path:
    """Copy the shop and the street into a folder, and return it.

    Raises:
        ValueError: the folder is not empty.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the sample needs an absent or empty folder, and {folder} is not; name another")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _NAMES:
        if (FOLDER / name).is_dir():
            shutil.copytree(FOLDER / name, folder / name)
        else:
            shutil.copy(FOLDER / name, folder / name)
    return folder
