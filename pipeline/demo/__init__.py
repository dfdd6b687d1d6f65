"""A small rendered shop and street with ground truth, shipped as files; ``scripts/render_sample`` made them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from pipeline.outputs import check_absent

FOLDER: Final = Path(__file__).parent
"""``shop.csv`` and ``shop/``: 40 items in two views each. ``street/`` and ``street.json``: twelve scenes, each at one
of three grades of clutter, as COCO instances with item ids. ``clutter/`` and ``clutter.json``: the same scenes at the
other two grades. ``shop.json``: the masks of the shop's photos."""


def copy_demo(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Copy the shop and the street into a folder, which must be empty unless ``overwrite`` is set, and return it."""
    folder = Path(folder)
    check_absent(folder, overwrite=overwrite)
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"), dirs_exist_ok=True)
    return folder
