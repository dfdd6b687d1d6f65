"""A figure: proportions, a pose, and where on the canvas each part of the body lies.

Lengths are in body heights: y is 0 at the crown and 1 at the soles, x is 0 in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from render_sample.cloth import Colour
from render_sample.shapes import Points

SKINS: tuple[Colour, ...] = (
    (0.93, 0.78, 0.69),
    (0.88, 0.70, 0.58),
    (0.80, 0.60, 0.46),
    (0.66, 0.46, 0.33),
    (0.48, 0.32, 0.23),
    (0.33, 0.22, 0.17),
)
HAIRS: tuple[Colour, ...] = (
    (0.08, 0.07, 0.07),
    (0.17, 0.11, 0.08),
    (0.30, 0.19, 0.12),
    (0.48, 0.31, 0.18),
    (0.72, 0.55, 0.33),
    (0.45, 0.20, 0.10),
    (0.60, 0.59, 0.58),
)
_TRUNK = ((0.15, 0.03), (0.185, 0.088), (0.21, 0.086), (0.27, 0.080), (0.385, 0.064), (0.47, 0.086), (0.53, 0.088))


@dataclass(frozen=True, slots=True)
class Body:
    """Proportions and looks: ``girth`` and ``shoulders`` about 1, ``waist`` below 1 for a narrow one."""

    girth: float = 1.0
    shoulders: float = 1.0
    waist: float = 1.0
    skin: Colour = SKINS[1]
    hair: Colour = HAIRS[1]
    hair_length: float = 0.3


@dataclass(frozen=True, slots=True)
class Limb:
    """An arm (shoulder, elbow, wrist, hand) or leg (hip, knee, ankle, toe): ``(4, 2)`` body coordinates."""

    joints: tuple[tuple[float, float], ...]
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A body in a pose, placed on a canvas: ``x_px``, ``y_px`` is the crown's place and ``scale_px`` its height."""

    body: Body
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]
    lean: float = 0.0
    sway: float = 0.0
    turn: float = 0.0
    x_px: float = 0.0
    y_px: float = 0.0
    scale_px: float = 1000.0
    back: bool = False

    def at(self, points: object) -> Points:
        """Trunk points on the canvas, leaning and swaying with the trunk."""
        p = np.asarray(points, np.float32).reshape(-1, 2)
        x, y = p[:, 0], p[:, 1]
        bend = self.lean * (0.53 - np.minimum(y, 0.7)) + self.sway * np.exp(-(((y - 0.5) / 0.13) ** 2))
        tilt = x * self.sway * (1.2 * np.exp(-(((y - 0.2) / 0.1) ** 2)) - 1.6 * np.exp(-(((y - 0.5) / 0.12) ** 2)))
        return self.place(np.stack([x + bend, y + tilt], axis=1))

    def place(self, points: object) -> Points:
        """Body points on the canvas as they are (limb joints lean already)."""
        p = np.asarray(points, np.float32).reshape(-1, 2)
        return np.asarray(p * self.scale_px + np.array([self.x_px, self.y_px]), np.float32)

    def half(self, y: float) -> float:
        """Half of the trunk's width at a height."""
        ys, xs = zip(*_TRUNK, strict=True)
        width = float(np.interp(y, ys, xs))
        shoulder = self.body.shoulders if y < 0.25 else 1.0
        waist = 1 + (self.body.waist - 1) * float(np.exp(-(((y - 0.385) / 0.06) ** 2)))
        return width * self.body.girth * shoulder * waist

    def placed(self, x_px: float, y_px: float, scale_px: float) -> Figure:
        """The same figure elsewhere."""
        return replace(self, x_px=x_px, y_px=y_px, scale_px=scale_px)


def _arm(side: int, body: Body, swing: float, bend: float, *, short: float = 1.0) -> tuple[tuple[float, float], ...]:
    """An arm hanging at ``swing`` degrees outwards, its elbow bent inwards by ``bend`` degrees."""
    x, y = side * 0.081 * body.shoulders * body.girth, 0.192
    joints = [(x, y)]
    angle = swing
    for length, turn in ((0.155, 0.0), (0.135 * short, bend), (0.058 * short, bend * 0.12)):
        angle -= turn
        x, y = x + side * length * float(np.sin(np.deg2rad(angle))), y + length * float(np.cos(np.deg2rad(angle)))
        joints.append((x, y))
    return tuple(joints)


def _leg(
    side: int, foot: tuple[float, float], knee_out: float, toe: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    hip = (side * 0.043, 0.50)
    knee = ((hip[0] + foot[0]) / 2 + side * knee_out, hip[1] + (foot[1] - hip[1]) * 0.53)
    return (hip, knee, foot, (foot[0] + toe[0], foot[1] + toe[1]))


def still_figure(*, arms_deg: float = 16.0, back: bool = False) -> Figure:
    """The mannequin: upright, arms a little off the body."""
    body = Body()
    sides = (-1, 1)
    arms = tuple(Limb(_arm(s, body, arms_deg, 6.0)) for s in sides)
    legs = tuple(Limb(_leg(s, (s * 0.085, 0.945), 0.0, (s * 0.012, 0.042))) for s in sides)
    return Figure(body, (arms[0], arms[1]), (legs[0], legs[1]), back=back)


def random_body(rng: np.random.Generator) -> Body:
    """Somebody."""
    slim = rng.random() < 0.7
    return Body(
        girth=float(rng.uniform(0.86, 1.06) if slim else rng.uniform(1.0, 1.2)),
        shoulders=float(rng.uniform(0.93, 1.1)),
        waist=float(rng.uniform(0.92, 1.1)),
        skin=_jitter(SKINS[int(rng.choice(len(SKINS), p=[0.3, 0.25, 0.15, 0.12, 0.1, 0.08]))], rng),
        hair=_jitter(HAIRS[int(rng.integers(len(HAIRS)))], rng),
        hair_length=float(rng.choice([0.06, 0.14, 0.2, 0.28, 0.34])),
    )


def _jitter(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = np.clip(np.array(colour) * rng.uniform(0.92, 1.08) + rng.uniform(-0.02, 0.02, 3), 0.03, 1)
    return float(red), float(green), float(blue)


def random_figure(rng: np.random.Generator, *, holds: int = 0) -> Figure:
    """Somebody in a pose.

    Args:
        rng: The chance.
        holds: The side (-1 or 1) whose hand carries a bag and hangs, 0 for none.
    """
    body = random_body(rng)
    sway = float(rng.normal(0, 0.012))
    lean = float(rng.normal(0, 0.025))
    arms = tuple(_pose_arm(rng, side, body, lean, sway, carries=holds == side) for side in (-1, 1))
    legs = _pose_legs(rng, sway, body)
    turn = abs(float(rng.uniform(-1, 1))) * (holds or int(rng.choice([-1, 1])))
    return Figure(body, (arms[0], arms[1]), legs, lean, sway, turn)


def _pose_arm(rng: np.random.Generator, side: int, body: Body, lean: float, sway: float, *, carries: bool) -> Limb:
    kind = (
        "carry"
        if carries
        else str(rng.choice(["hang", "bent", "hip", "pocket", "raised"], p=[0.5, 0.17, 0.11, 0.2, 0.02]))
    )
    swing, bend, short = {
        "carry": (rng.uniform(8, 18), rng.uniform(2, 16), 1.0),
        "hang": (rng.uniform(5, 15), rng.uniform(0, 18), 1.0),
        "bent": (rng.uniform(12, 22), rng.uniform(55, 110), rng.uniform(0.75, 1.0)),
        "hip": (rng.uniform(38, 48), rng.uniform(80, 96), 0.95),
        "pocket": (rng.uniform(18, 26), rng.uniform(34, 46), 1.0),
        "raised": (rng.uniform(24, 40), rng.uniform(-150, -135), 0.9),
    }[kind]
    joints = np.array(_arm(side, body, float(swing), float(bend), short=float(short)))
    joints[:, 0] += lean * (0.53 - 0.2)
    joints[:, 1] += side * sway * 0.09
    return Limb(tuple((float(x), float(y)) for x, y in joints), behind=kind == "pocket")


def _pose_legs(rng: np.random.Generator, sway: float, body: Body) -> tuple[Limb, Limb]:
    kind = str(rng.choice(["stand", "apart", "walk", "cross"], p=[0.45, 0.2, 0.27, 0.08]))
    front = int(rng.choice([-1, 1]))
    spread = {"stand": rng.uniform(0.03, 0.055), "apart": rng.uniform(0.06, 0.1), "walk": 0.025, "cross": -0.02}[kind]
    legs = []
    for side in (-1, 1):
        depth = 0.0 if kind in ("stand", "apart") else (0.012 if side == front else float(-rng.uniform(0.02, 0.05)))
        foot = (side * float(spread * body.girth) + sway * 0.4, 0.945 + depth)
        aim = np.deg2rad(rng.uniform(5, 50) if kind != "walk" else rng.uniform(0, 25))
        toe = (side * 0.085 * float(np.sin(aim)), 0.048 * float(np.cos(aim)) + 0.008)
        joints = np.array(_leg(side, foot, float(rng.uniform(-0.006, 0.008)), toe))
        joints[:2, 0] += sway * np.array([1.0, 0.7])
        joints[0, 0] *= body.girth
        legs.append(Limb(tuple((float(x), float(y)) for x, y in joints), behind=depth < 0))
    return legs[0], legs[1]
