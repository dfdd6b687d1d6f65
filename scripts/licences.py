"""Write docs/licences.md: every package that an installation brings, and its licence, as pip reports them.

    python -m pip install --dry-run --ignore-installed --report report.json '.[train,bench,web,heic,clip,timm,mcp,onnx,parquet,release,ray,milvus,docs,dev]'
    python scripts/licences.py report.json

Nothing is installed; pip, version 25 or newer, reads the packages' metadata. Run it again when a dependency is added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement

PAGE = Path(__file__).parents[1] / "docs" / "licences.md"
HEAD = """# Licences

outfinder is under Apache-2.0. `scripts/licences.py` made this list of what each installation brings, from the report of
a recent pip (25 or newer) on Linux; a package is named where it first comes in.

Two packages bundle libraries under stronger licences in their wheels, which matters if you pass an environment on to others:

- `pillow-heif` (extra `heic`, also in `dev`) bundles libheif under LGPL-3.0 and the encoder x265 under **GPL-2.0**.
  outfinder only decodes. Without the extra, HEIC photos are reported as unreadable and nothing else changes.
- `opencv-python` bundles FFmpeg under LGPL-2.1, which outfinder does not call.

On Linux, PyPI's torch brings NVIDIA's CUDA libraries under NVIDIA's own licence; PyTorch's index has builds for the
processor alone.
"""
STATED_ELSEWHERE = {
    "axe-playwright-python": "MIT (its repository)",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary (the packages that it names)",
    "hnswlib": "Apache-2.0 (its repository)",
}
"""Licences that a package's metadata does not state."""
EXTRAS = (
    *("", "web", "train", "heic", "timm", "clip", "mcp", "onnx", "parquet"),
    *("release", "bench", "milvus", "ray", "docs", "dev"),
)


@click.command()
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(report: Path) -> None:
    """Write the page from pip's REPORT."""
    packages = {normalised(entry["metadata"]["name"]): entry["metadata"] for entry in read_installs(report)}
    known: set[str] = {"outfinder"}
    sections = [HEAD]
    for extra in EXTRAS:
        new = sorted(set(closure(packages, "outfinder", extra)) - known)
        known |= set(new)
        title = f"Extra `{extra}`" if extra else "Always"
        rows = [f"| {name} | {STATED_ELSEWHERE.get(name) or licence_of(packages[name])} |" for name in new]
        sections.append("\n".join([f"## {title}\n", "| package | licence |", "|---|---|", *rows, ""]))
    PAGE.write_text("\n".join(sections), encoding="utf-8")


def read_installs(report: Path) -> list[dict[str, Any]]:
    """Return what pip would install."""
    installs: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return installs


def closure(packages: dict[str, dict[str, Any]], name: str, extra: str) -> Iterator[str]:
    """Yield every package that one of them requires, directly or not."""
    todo, done = [(name, extra)], set[tuple[str, str]]()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in done or name not in packages:
            continue
        done.add((name, extra))
        yield name
        for text in packages[name].get("requires_dist", []):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(normalised(requirement.name), wanted) for wanted in ("", *requirement.extras)]


def licence_of(metadata: dict[str, Any]) -> str:
    """Return a package's licence as its metadata states it."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    classifiers = [text.rpartition("::")[2].strip() for text in metadata.get("classifier", []) if "License ::" in text]
    stated = str(metadata.get("license") or "not stated in its metadata").strip().splitlines()[0]
    return " / ".join(classifiers) or stated[:80]


def normalised(name: str) -> str:
    """Return a name as PyPI compares names.

    >>> normalised("Pillow_HEIF")
    'pillow-heif'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
