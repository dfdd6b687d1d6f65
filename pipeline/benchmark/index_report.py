"""What the benchmark of indexes found, as lines of a table, as JSON lines and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.benchmark.index import IndexFigures
from pipeline.plots import Line, Panel, draw

HEADINGS = ("  vectors", "   engine", " ef", "recall", "q/s by 100", "q/s singly", "over hnswlib",
            "build s", "open s", "memory B", "file B")  # fmt: skip
"""As wide as their columns."""


def line(cells: Sequence[str]) -> str:
    """Headings or cells as a line of the table."""
    return "  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, HEADINGS, strict=True))


def write(figures: Sequence[IndexFigures], folder: Path) -> None:
    """Write ``index.jsonl``, every figure, and ``index.png``, recall against queries per second, whole or not at all.

    Raises:
        OutfinderError: matplotlib is not installed.
        OSError: they cannot be written.
    """
    part = folder / ".index.jsonl.part"
    part.write_text("".join(json.dumps(asdict(one)) + "\n" for one in figures), encoding="ascii")
    part.replace(folder / "index.jsonl")
    draw([_panel([one for one in figures if one.vectors == size]) for size in sizes(figures)], folder / "index.png")


def sizes(figures: Sequence[IndexFigures]) -> list[int]:
    """The counts of vectors that were measured."""
    return sorted({one.vectors for one in figures})


def _panel(figures: Sequence[IndexFigures]) -> Panel:
    first = figures[0]
    curves = []
    for engine in dict.fromkeys(one.engine for one in figures):
        own = sorted((one for one in figures if one.engine == engine), key=lambda one: one.ef or 0)
        curves.append(Line(engine, [one.recall for one in own], [one.batch_qps for one in own]))
    return Panel(f"{first.vectors:,} × {first.dim}", f"recall@{first.k}", "queries per second, by 100", curves)


def cells(one: IndexFigures) -> tuple[str, ...]:
    """What the table says of an engine; memory and files in bytes per vector."""
    over, build, memory = one.over_bare_pct, one.build_s, one.memory
    return (
        f"{one.vectors:,}",
        one.engine,
        "–" if one.ef is None else str(one.ef),
        f"{one.recall:.4f}",
        f"{one.batch_qps:,.0f}",
        f"{one.single_qps:,.0f}",
        "–" if over is None else f"{over:+.1f} %",
        "–" if build is None else f"{build:.1f}",
        f"{one.open_s:.2f}",
        "–" if memory is None else f"{memory:.0f}",
        f"{one.file:.0f}",
    )
