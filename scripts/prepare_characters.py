"""Draw invented alphabets in Omniglot's layout: python scripts/prepare_characters.py DATA/characters.

For whoever has no Omniglot at hand: as many alphabets, characters and drawers, at its size, drawn by a program of
strokes in the manner of Lake, Salakhutdinov and Tenenbaum 2015: an alphabet has strokes of its own, a character is a few
of them in places, and each of twenty drawers has a hand, besides what slips. How much slips is set so that the nearest
photo by pixels is right in about a fifth of 20-way trials, as on Omniglot. **It is not Omniglot**: people write less
evenly, and figures on one are not figures on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX: Final = 105
DRAWERS: Final = 20
ALPHABETS: Final = {"images_background": (30, 964), "images_evaluation": (20, 659)}
"""Omniglot's alphabets and characters."""

Points = NDArray[np.float64]
"""``(n, 2)``, in sides of the picture."""


@dataclass(frozen=True)
class Hand:
    """How one drawer draws everything: a linear map, a place, and how much slips."""

    shape: Points
    shift: Points
    slip: float


@click.command()
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(target: Path, seed: int) -> None:
    """Write TARGET/images_{background,evaluation}/ALPHABET/CHARACTER/NUMBER_DRAWER.png: 32,460 pictures, in seconds."""
    number = 0
    for part, (alphabets, characters) in ALPHABETS.items():
        sizes = np.full(alphabets, characters // alphabets)
        sizes[: characters % alphabets] += 1
        for alphabet, size in enumerate(sizes):
            rng = np.random.default_rng((seed, part == "images_evaluation", alphabet))
            strokes = [invent_stroke(rng) for _ in range(rng.integers(6, 13))]
            hands = [invent_hand(rng) for _ in range(DRAWERS)]
            for character, plan in enumerate(invent_characters(strokes, size, rng), start=1):
                number += 1
                place = target / part / f"alphabet{alphabet:02}" / f"character{character:02}"
                place.mkdir(parents=True, exist_ok=True)
                for drawer, hand in enumerate(hands, start=1):
                    cv2.imwrite(str(place / f"{number:04}_{drawer:02}.png"), draw(plan, hand, rng))
        click.echo(f"{part}: {alphabets} alphabets, {characters} characters, {DRAWERS} drawers")


def invent_stroke(rng: np.random.Generator) -> Points:
    """A line, a bow or a hook about the origin, as the few points that it bends towards."""
    points = rng.integers(2, 6)
    turns = np.cumsum(rng.normal(0.0, 1.0, points - 1)) + rng.uniform(0, 2 * np.pi)
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.5, 1.0, (points - 1, 1))
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    path -= (path.min(axis=0) + path.max(axis=0)) / 2
    size: float = np.ptp(path, axis=0).max()
    return path / size * rng.uniform(0.25, 0.6)


def invent_characters(strokes: list[Points], count: int, rng: np.random.Generator) -> list[list[Points]]:
    """Characters of one to four of an alphabet's strokes, no two of the same ones."""
    plans: dict[tuple[int, ...], list[Points]] = {}
    while len(plans) < count:
        chosen = rng.integers(len(strokes), size=rng.choice([1, 2, 3, 4], p=[0.15, 0.35, 0.3, 0.2]))
        plans.setdefault(tuple(sorted(chosen)), _placed([strokes[index] for index in chosen], rng))
    return list(plans.values())


def _placed(strokes: list[Points], rng: np.random.Generator) -> list[Points]:
    """Strokes in their places: each but the first begins on one before it, or anywhere."""
    plan: list[Points] = []
    for stroke in strokes:
        sized = stroke * rng.uniform(0.7, 1.2)
        if plan and rng.random() < 0.6:
            earlier = plan[rng.integers(len(plan))]
            plan.append(sized - sized[0] + earlier[rng.integers(len(earlier))])
        else:
            plan.append(sized + rng.uniform(-0.2, 0.2, 2))
    low, high = np.concatenate(plan).min(axis=0), np.concatenate(plan).max(axis=0)
    return [(stroke - (low + high) / 2) * 0.6 / max((high - low).max(), 0.4) for stroke in plan]


def invent_hand(rng: np.random.Generator) -> Hand:
    """A drawer: their size, slant, proportions, place in the square and steadiness."""
    slant, turn = rng.normal(0, 0.12), rng.normal(0, 0.06)
    sizes = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.06, 2))
    return Hand(
        _turned(turn) @ np.array([[1, slant], [0, 1]]) @ np.diag(sizes), rng.normal(0, 0.025, 2), rng.uniform(0.6, 1.4)
    )


def draw(plan: list[Points], hand: Hand, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A drawing of a character: black on white, ``(105, 105)``."""
    picture = np.full((SIDE_PX, SIDE_PX), 255, np.uint8)
    shape = hand.shape @ _turned(rng.normal(0, 0.06)) @ np.diag(np.exp(rng.normal(0, 0.06, 2)))
    shift = 0.5 + hand.shift + rng.normal(0, 0.015, 2)
    for stroke in plan:
        middle = stroke.mean(axis=0)
        own = (stroke - middle) @ _turned(rng.normal(0, 0.1 * hand.slip)) * np.exp(rng.normal(0, 0.1 * hand.slip, 2))
        own += middle + rng.normal(0, 0.02 * hand.slip, 2) + rng.normal(0, 0.02 * hand.slip, stroke.shape)
        line = _smooth(own @ shape.T + shift)
        cv2.polylines(picture, [np.round(line * SIDE_PX).astype(np.int32)], isClosed=False, color=0, thickness=2)
    return picture


def _turned(angle: float) -> Points:
    """The matrix of a rotation by radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _smooth(points: Points) -> Points:
    """A curve that begins at the first point, ends at the last, and bends towards the others: Chaikin's corners cut."""
    for _ in range(4):
        cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    return points


if __name__ == "__main__":
    main()
