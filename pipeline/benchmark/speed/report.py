"""What the benchmark of speed found: a table, JSON, and a picture of where the time goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.benchmark.speed.contenders import BOX, MASK
from pipeline.benchmark.speed.run import AS_THEY_ARE, LARGE, PARTS, Growth, Speed, SpeedFigures
from pipeline.plots import Bars, draw_bars
from stages.files import replacing

_HEADINGS = (
    "photos",
    "contender              ",
    "photos/s",
    "× naive",
    *(f"{part:>7}" for part in PARTS),
    "cores",
    "peak MB",
)


def table(speed: Speed) -> str:
    """The figures, milliseconds per photo and part, and what else is known, in lines."""
    return "\n".join([_line(_HEADINGS), *(_line(_cells(one)) for one in speed.figures), "", *sentences(speed)])


def sentences(speed: Speed) -> list[str]:
    """What follows from the figures, in words."""
    same = speed.sameness
    told = [
        f"The same garments: {same.same:.1%} of the {same.garments} that the baseline is sure of, with IoU above 0.9.",
        f"Their vectors' cosine: {same.cosine:.4f} in the middle, and at least {same.cosine_of_crops:.4f} for equal crops.",
        _lighter(speed.figures),
        _search(speed),
        f"`outfinder search` gives its first line {speed.first_result_s:.1f} s after what importing torch takes.",
    ]
    return told + (growth_told(speed.growth) if speed.growth else [])


def growth_told(growth: Growth) -> list[str]:
    """How memory follows the number of photos, in words."""
    return [
        f"{name}: at most {growth.many_mb[name]:,.0f} MB for {growth.many:,} photos, {growth.few_mb[name]:,.0f} MB for"
        f" {growth.few:,}: {ratio:.3f} times as much."
        for name, ratio in growth.ratios.items()
    ]


def _lighter(figures: Sequence[SpeedFigures]) -> str:
    by_name = {one.contender: one for one in figures if one.size == AS_THEY_ARE}
    mask, box = by_name[MASK], by_name[BOX]
    detection = (mask.ms["detect"] + mask.ms["mask"]) / box.ms["detect"]
    return (
        f"Faster R-CNN is {box.photos_per_s / mask.photos_per_s:.2f} times as fast as Mask R-CNN,"
        f" its detection alone {detection:.2f} times."
    )


def _search(speed: Speed) -> str:
    mask = next(one for one in speed.figures if (one.contender, one.size) == (MASK, AS_THEY_ARE))
    return (
        f"Searching the gallery takes {speed.search_share:.1%} of a photo's time by the clock,"
        f" and {mask.search_cpu_share:.1%} of its processor time."
    )


def write(speed: Speed, folder: Path) -> None:
    """Write ``speed.json``, every figure, and ``speed.png``, where the time goes, whole or not at all.

    Raises:
        OutfinderError: matplotlib is not installed.
        OSError: they cannot be written.
    """
    with replacing(folder / "speed.json") as part:
        part.write_text(json.dumps(asdict(speed), indent=2) + "\n", encoding="ascii")
    draw_bars([_bars(speed.figures, size) for size in (AS_THEY_ARE, LARGE)], folder / "speed.png")


def _bars(figures: Sequence[SpeedFigures], size: str) -> Bars:
    own = [one for one in figures if one.size == size]
    names = [f"{one.contender}\n{one.photos_per_s:.1f} photos/s" for one in own]
    parts = {part: [one.ms[part] for one in own] for part in PARTS}
    return Bars(f"photos {size}", "milliseconds at each part, per photo", names, parts)


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, _HEADINGS, strict=True))


def _cells(one: SpeedFigures) -> list[str]:
    return [
        str(one.photos),
        f"{one.contender}, {'12 MP' if one.size == LARGE else 'as is'}",
        f"{one.photos_per_s:.2f}",
        f"{one.over_naive:.2f}",
        *(f"{one.ms[part]:.1f}" for part in PARTS),
        f"{one.cores_busy:.2f}",
        "–" if one.peak_mb is None else f"{one.peak_mb:.0f}",
    ]
