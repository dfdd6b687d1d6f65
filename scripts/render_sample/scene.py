"""Street scenes: somebody dressed from the shop, somewhere, seen by a camera."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from render_sample.background import draw_background
from render_sample.canvas import Canvas, Light
from render_sample.dress import HELD, draw_person
from render_sample.figure import Figure, random_figure
from render_sample.items import Item
from render_sample.props import Pixels
from stages.types import Box, Image, Mask

SIZE = (720, 480)
"""Height and width of a scene."""

MIN_AREA_PX = 64
"""Pieces that show less are not annotated."""

_SPLIT = ("shoes", "hosiery")
_OVER = 2  # figures are drawn at twice the size


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A garment as far as it is visible; ``mask`` lies within ``box``."""

    item: Item
    box: Box
    mask: Mask


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A street photo and what is worn in it."""

    image: Image
    pieces: tuple[Piece, ...]
    clutter: float


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Somebody drawn for a place in a scene: colours times ``alpha``, both at the scene's size, and owners."""

    rgb: Pixels
    alpha: NDArray[np.float32]
    masks: tuple[tuple[Item, NDArray[np.bool_]], ...]
    figure: Figure


def choose_outfit(rng: np.random.Generator, items: Sequence[Item], wanted: Item | None = None) -> tuple[Item, ...]:
    """What somebody wears: at most one item of a group, ``wanted`` among them.

    Args:
        rng: The chance.
        items: To be chosen from.
        wanted: Must be worn, unless None.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    need = wanted.label if wanted else ""
    labels: list[str] = ["shoes"]
    if need == "dress" or (need not in ("top", "skirt", "pants", "shorts", "belt") and rng.random() < 0.3):
        labels += ["dress"]
    else:
        lower = (
            need
            if need in ("skirt", "pants", "shorts")
            else str(rng.choice(["skirt", "pants", "shorts"], p=[0.3, 0.5, 0.2]))
        )
        labels += ["top", lower if need != "hosiery" else "skirt"]
    bare = "pants" not in labels
    chances = {"outerwear": 0.45, "bag": 0.55, "hat": 0.2, "eyewear": 0.3, "scarf": 0.15, "belt": 0.3}
    labels += [label for label, chance in chances.items() if label == need or rng.random() < chance]
    if need == "hosiery" or rng.random() < (0.5 if bare else 0.12):
        labels.append("hosiery")
    worn = [wanted if wanted and label == need else _pick(rng, groups[label]) for label in labels if label in groups]
    return tuple(worn)


def _pick(rng: np.random.Generator, items: list[Item]) -> Item:
    return items[int(rng.integers(len(items)))]


def draw_standing(
    rng: np.random.Generator,
    outfit: Sequence[Item],
    size: tuple[int, int],
    foot: tuple[float, float],
    tall_px: float,
    light: Light,
) -> Standing:
    """Somebody in an outfit, standing with the feet at a place (x, y) of a scene of that size (height, width)."""
    held = any(item.style in HELD for item in outfit)
    side = int(rng.choice([-1, 1])) if held else 0
    figure = random_figure(rng, holds=side)
    canvas = Canvas(size[0] * _OVER, size[1] * _OVER, tall_px * _OVER, light, rng)
    figure = figure.placed(foot[0] * _OVER, (foot[1] - tall_px) * _OVER, tall_px * _OVER)
    owners = {item.item_id: k for k, item in enumerate(outfit, start=2)}
    draw_person(canvas, figure, outfit, owners, rng)
    _light_up(canvas, figure, rng)
    shape = (size[1], size[0])
    alpha = np.asarray(
        cv2.resize((canvas.owner > 0).astype(np.float32), shape, interpolation=cv2.INTER_AREA), np.float32
    )
    rgb = np.asarray(cv2.resize(canvas.rgb, shape, interpolation=cv2.INTER_AREA), np.float32)
    masks, free = [], np.ones(size, np.bool_)
    for item in outfit:
        mine = (canvas.owner == owners[item.item_id]).view(np.uint8) * np.uint8(255)
        share = cv2.resize(mine, shape, interpolation=cv2.INTER_AREA)
        masks.append((item, (share > 127) & free))  # a pixel shared by halves goes to the first
        free &= ~masks[-1][1]
    return Standing(rgb, alpha, tuple(masks), figure)


def _light_up(canvas: Canvas, figure: Figure, rng: np.random.Generator) -> None:
    """Light over the whole figure: brighter towards the sky and the sun's side, uneven as in the open."""
    height, width = canvas.size
    cells = rng.normal(1.0, 0.05 + 0.05 * canvas.light.hardness, (7, 5)).astype(np.float32)
    cells *= np.linspace(1.07, 0.86, 7, dtype=np.float32)[:, None]
    side = np.linspace(-1, 1, width, dtype=np.float32) - (2 * figure.x_px / width - 1)
    field = cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) * (1 + 0.35 * canvas.light.x * side)
    canvas.rgb *= cv2.cvtColor(field, cv2.COLOR_GRAY2RGB)


def render_scene(
    rng: np.random.Generator, outfits: Sequence[Sequence[Item]], clutter: float, size: tuple[int, int] = SIZE
) -> Scene:
    """A photo of people in outfits before a background.

    Args:
        rng: The chance; the same state gives the same scene.
        outfits: One per person, the nearest last.
        clutter: Of the background, from 0 (a bare wall) to 1 (a crowded street).
        size: Height and width.

    Raises:
        ValueError: the clutter is outside [0, 1].
    """
    (scene,) = render_grounds(rng, outfits, [clutter], size)
    return scene


def render_grounds(
    rng: np.random.Generator, outfits: Sequence[Sequence[Item]], clutters: Sequence[float], size: tuple[int, int] = SIZE
) -> list[Scene]:
    """The same people, light and camera before a background of each clutter; else as :func:`render_scene`."""
    if not all(0 <= clutter <= 1 for clutter in clutters):
        raise ValueError(f"clutter lies in [0, 1], got {', '.join(map(str, clutters))}")
    place, crowd, camera = rng.spawn(3)
    light = Light(float(crowd.uniform(-0.7, 0.7)), -0.45, float(crowd.uniform(0.1, 1.0)))
    spots = _spots(crowd, len(outfits), size)
    people = [
        draw_standing(crowd, outfit, size, spot[:2], spot[2], light)
        for outfit, spot in zip(outfits, spots, strict=True)
    ]
    return [_compose(deepcopy(place), deepcopy(camera), people, light, clutter, size) for clutter in clutters]


def _compose(
    place: np.random.Generator,
    camera: np.random.Generator,
    people: Sequence[Standing],
    light: Light,
    clutter: float,
    size: tuple[int, int],
) -> Scene:
    # Things have their size in pixels of a full-size scene.
    full = draw_background(place, SIZE[0], round(SIZE[0] * size[1] / size[0]), clutter)
    image: Pixels = np.asarray(cv2.resize(full, size[::-1], interpolation=cv2.INTER_AREA), np.float32)
    for person in people:
        _cast_shadow(image, person, light)
    worn: list[tuple[Item, NDArray[np.bool_]]] = []
    for person in people:
        image = image * (1 - person.alpha[..., None]) + person.rgb
        free = person.alpha < 0.5
        worn = [(item, mask & free) for item, mask in worn] + list(person.masks)
    return Scene(_photograph(camera, image), tuple(p for item, mask in worn for p in pieces_of(item, mask)), clutter)


def _spots(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[tuple[float, float, float]]:
    """Feet (x, y) and height of each person."""
    height, width = size
    spots = []
    for k in range(count):
        middle = (k + 0.5) / count if count > 1 else 0.5
        tall = height * rng.uniform(0.78, 0.9) * (1.0 if count == 1 else 0.92)
        foot = height * rng.uniform(0.945, 0.985)
        spots.append((width * (middle + float(rng.uniform(-0.07, 0.07))), foot, tall))
    return spots


def _cast_shadow(image: Pixels, person: Standing, light: Light) -> None:
    """The figure's shadow on the ground, and the dark under its soles."""
    height, width = image.shape[:2]
    figure = person.figure
    x, y = figure.x_px / _OVER, (figure.y_px + 0.985 * figure.scale_px) / _OVER
    slant, squeeze = -light.x * 0.9, 0.16
    shear = np.array([[1, slant, x - x - slant * y], [0, squeeze, y - squeeze * y]], np.float32)
    shadow = cv2.warpAffine(person.alpha, shear, (width, height))
    blur = cv2.GaussianBlur(shadow, (0, 0), 2.0 + 5 * (1 - light.hardness))
    image *= 1 - (0.2 + 0.35 * light.hardness) * blur[..., None]
    contact = np.zeros((height, width), np.float32)
    for limb in figure.legs:
        at = figure.place(limb.joints[2:]).mean(axis=0) / _OVER
        cv2.ellipse(
            contact,
            (int(at[0]), int(at[1] + 0.02 * figure.scale_px / _OVER)),
            (int(0.04 * figure.scale_px / _OVER), 6),
            0,
            0,
            360,
            1.0,
            -1,
        )
    image *= 1 - 0.55 * cv2.GaussianBlur(contact, (0, 0), 4.0)[..., None]


def _photograph(rng: np.random.Generator, image: Pixels) -> Image:
    """Light, lens and sensor: exposure, white balance, vignette, softness, noise."""
    height, width = image.shape[:2]
    warm = float(rng.normal(0, 0.035))
    image = image * (np.array([1 + warm, 1.0, 1 - warm]) * rng.uniform(0.92, 1.12)).astype(np.float32)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    image = image * (1 - np.float32(rng.uniform(0, 0.12)) * (x**2 + y**2))[..., None]
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(0.68, 1.0))
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.35, 0.75))), np.float32)
    image = image + rng.standard_normal((height, width, 1), dtype=np.float32) * float(rng.uniform(0.004, 0.018))
    curve = np.clip(image, 0, 1)
    curve = curve + float(rng.uniform(0.0, 0.35)) * (curve * curve * (3 - 2 * curve) - curve)
    return np.asarray(np.round(curve * 255), np.uint8)


def pieces_of(item: Item, mask: NDArray[np.bool_]) -> list[Piece]:
    """The annotations of a garment: one, or one per connected piece of shoes and hosiery."""
    parts = [mask]
    if item.label in _SPLIT:
        count, names = cv2.connectedComponents(mask.astype(np.uint8))
        parts = [names == k for k in range(1, count)]
    pieces = []
    for part in parts:
        if int(part.sum()) < MIN_AREA_PX:
            continue
        ys, xs = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        box = Box(int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
        pieces.append(Piece(item, box, part[box.slices].copy()))
    return pieces
