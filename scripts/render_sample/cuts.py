"""How the garments of the trunk are cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from render_sample.figure import Figure

Pairs = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Cut:
    """How a garment of the trunk is cut, in body heights.

    ``ease`` is the room between body and cloth, ``neck`` the opening's half width and lowest point,
    ``sleeve`` a share of the arm, ``flare`` what the hem is wider, ``fit`` 1 for a tight waist.
    """

    ease: float
    neck: tuple[float, float]
    sleeve: float
    hem: float
    flare: float = 0.0
    fit: float = 0.5
    vee: bool = False
    collar: str = "none"
    closure: str = "none"


CUTS: dict[str, Cut] = {
    "tee": Cut(0.012, (0.036, 0.182), 0.36, 0.515, fit=0.25),
    "shirt": Cut(0.014, (0.03, 0.187), 0.97, 0.53, fit=0.2, vee=True, collar="shirt", closure="buttons"),
    "sweater": Cut(0.02, (0.034, 0.178), 0.98, 0.51, fit=0.1, collar="rib"),
    "blouse": Cut(0.02, (0.032, 0.2), 0.7, 0.5, 0.01, 0.2, vee=True),
    "tank": Cut(0.004, (0.05, 0.215), 0.0, 0.5, fit=0.6),
    "turtleneck": Cut(0.008, (0.03, 0.16), 0.98, 0.5, fit=0.6, collar="turtle"),
    "vneck": Cut(0.012, (0.036, 0.235), 0.5, 0.51, fit=0.4, vee=True, collar="rib"),
    "sheath": Cut(0.006, (0.042, 0.195), 0.3, 0.71, -0.004, 0.9),
    "a-line": Cut(0.006, (0.045, 0.2), 0.0, 0.69, 0.07, 0.95),
    "maxi": Cut(0.006, (0.04, 0.23), 0.0, 0.93, 0.06, 0.8, vee=True),
    "shirt-dress": Cut(0.014, (0.03, 0.19), 0.75, 0.67, 0.02, 0.4, vee=True, collar="shirt", closure="buttons"),
    "slip": Cut(0.008, (0.056, 0.235), 0.0, 0.74, 0.02, 0.5, vee=True),
    "blazer": Cut(0.02, (0.034, 0.33), 1.0, 0.56, 0.01, 0.45, collar="lapel", closure="two"),
    "coat": Cut(0.026, (0.034, 0.30), 1.0, 0.76, 0.025, 0.25, collar="lapel", closure="double"),
    "bomber": Cut(0.03, (0.034, 0.2), 1.0, 0.50, -0.012, 0.0, collar="band", closure="zip"),
    "jacket": Cut(0.022, (0.034, 0.2), 1.0, 0.49, 0.0, 0.2, collar="shirt", closure="buttons"),
    "parka": Cut(0.036, (0.036, 0.2), 1.0, 0.66, 0.01, 0.1, collar="hood", closure="zip"),
    "cardigan": Cut(0.02, (0.034, 0.3), 1.0, 0.56, 0.0, 0.1, collar="rib", closure="buttons"),
    "biker": Cut(0.014, (0.034, 0.24), 1.0, 0.475, 0.0, 0.5, collar="lapel", closure="zip"),
}


def side_edge(figure: Figure, cut: Cut, hem: float) -> Pairs:
    """The right-hand edge of a garment from the neck to the hem."""
    e, broad = cut.ease, figure.body.shoulders * figure.body.girth
    width, _ = cut.neck
    tip = 0.088 * broad + 0.35 * e if cut.sleeve > 0 else 0.074 * broad
    edge: Pairs = [(width, 0.160), (width, 0.160), (tip * 0.78, 0.173 - 0.1 * e), (tip * 0.96, 0.184), (tip, 0.205)]
    loose = max(figure.half(0.27), figure.half(0.47)) + e
    levels = [y for y in (0.255, 0.30, 0.34, 0.385, 0.43, 0.47, 0.53, 0.6, 0.7, 0.8) if y < hem - 0.02] + [hem]
    for y in levels:
        tight = figure.half(y) + 0.3 * e + 0.003
        share = cut.fit if y > 0.28 else 0.7
        below = np.clip((y - 0.42) / max(0.05, hem - 0.42), 0, 1)
        edge.append((share * tight + (1 - share) * loose + cut.flare * float(below), y))
    edge.append((edge[-1][0] - 0.001, hem))
    return edge
