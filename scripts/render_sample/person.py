"""Skin, face and hair of a figure."""

from __future__ import annotations

import numpy as np

from render_sample.canvas import BODY, Canvas, Patch
from render_sample.cloth import Cloth, Colour, plain_cloth
from render_sample.figure import Figure, Limb
from render_sample.shapes import Points, smooth

ARM_HALF = (0.017, 0.0255, 0.0245, 0.022, 0.0205, 0.019, 0.017, 0.0145, 0.012)
_ROUND = (False, False)
LEG_HALF = (0.050, 0.044, 0.032, 0.029, 0.030, 0.024, 0.0155)


def dim(colour: Colour, by: float) -> Colour:
    """A darker (below 1) or lighter (above 1) colour."""
    red, green, blue = (min(1.0, max(0.0, c * by)) for c in colour)
    return red, green, blue


def bone(figure: Figure, limb: Limb, upto: float, start: float = 0.0) -> Points:
    """The spine of a limb on the canvas, from ``start`` to ``upto`` of its two long bones (0 to 1)."""
    joints = np.array(limb.joints[:3])
    ts = np.linspace(start, upto, 7) * 2
    x, y = (np.interp(ts, [0, 1, 2], joints[:, k]) for k in (0, 1))
    # Round off the middle joint.
    bow = np.exp(-(((ts - 1) / 0.25) ** 2))[:, None] * 0.06 * (joints[0] + joints[2] - 2 * joints[1])
    return figure.place(np.stack([x, y], axis=1) + bow)


def limb_half(
    halves: tuple[float, ...], figure: Figure, upto: float, ease: float = 0.0, start: float = 0.0
) -> list[float]:
    """Half widths in pixels along :func:`bone`."""
    ts = np.linspace(start, upto, 7)
    widths = np.interp(ts, np.linspace(0, 1, len(halves)), halves)
    return [float(w * figure.body.girth + ease) * figure.scale_px for w in widths]


def skin(figure: Figure) -> Cloth:
    """The figure's skin."""
    return plain_cloth(figure.body.skin, gloss=0.06, folds=0.25)


def draw_legs(canvas: Canvas, figure: Figure) -> None:
    """Bare legs and feet, the farther leg first."""
    for limb in sorted(figure.legs, key=lambda leg: not leg.behind):
        canvas.tube(bone(figure, limb, 1.0), limb_half(LEG_HALF, figure, 1.0), skin(figure), BODY, amount=0.05)
        ankle, toe = figure.place(limb.joints[2:])
        half = [w * figure.scale_px for w in (0.015, 0.019, 0.021, 0.012)]
        canvas.tube(np.stack([ankle, (ankle + toe) / 2, toe]), half, skin(figure), BODY, amount=0.05, blunt=_ROUND)


def draw_trunk(canvas: Canvas, figure: Figure) -> None:
    """Neck and trunk."""
    right = [(0.027, 0.10), (0.027, 0.145), (0.045, 0.165)] + [
        (figure.half(y), y) for y in (0.19, 0.25, 0.32, 0.385, 0.47, 0.54)
    ]
    outline = smooth(figure.at(right + [(-x, y) for x, y in reversed(right)]))
    tone = dim(figure.body.skin, 0.8)

    def details(patch: Patch) -> None:
        for side in (-1, 1):
            patch.line(
                smooth(figure.at([(side * 0.012, 0.182), (side * 0.04, 0.178), (side * 0.07, 0.184)]), closed=False),
                tone,
                figure.scale_px * 0.002,
            )
        patch.fill(smooth(figure.at([(-0.03, 0.1), (0.03, 0.1), (0.024, 0.138), (0, 0.15), (-0.024, 0.138)])), tone)

    canvas.panel(outline, skin(figure), BODY, amount=0.05, details=details)


def draw_arm(canvas: Canvas, figure: Figure, limb: Limb) -> None:
    """One bare arm without its hand."""
    canvas.tube(bone(figure, limb, 1.0), limb_half(ARM_HALF, figure, 1.0), skin(figure), BODY, amount=0.05)


def draw_hand(canvas: Canvas, figure: Figure, limb: Limb) -> None:
    """A loosely closed hand."""
    wrist, hand = figure.place(limb.joints[2:])
    along = hand - wrist
    across = np.array([-along[1], along[0]]) * (0.32 if limb.joints[2][0] < 0 else -0.32)
    s = figure.scale_px
    spine = np.stack([wrist - along * 0.1, wrist + along * 0.45, hand])
    lines = [(wrist + along * 0.6 + across * k, hand + along * 0.02 + across * k * 0.8) for k in (-0.35, 0.0, 0.35)]

    def details(patch: Patch) -> None:
        for a, b in lines:
            patch.line(np.stack([a, b]), dim(figure.body.skin, 0.72), s * 0.0014)

    canvas.tube(
        np.stack([wrist + along * 0.2, wrist + along * 0.4 + across * 0.6, wrist + along * 0.75 + across * 0.85]),
        [s * 0.007, s * 0.007, s * 0.005],
        skin(figure),
        BODY,
        blunt=_ROUND,
    )
    canvas.tube(
        spine, [s * 0.0125, s * 0.017, s * 0.009], skin(figure), BODY, amount=0.04, blunt=_ROUND, details=details
    )


def _hair_cloth(figure: Figure) -> Cloth:
    rng = np.random.default_rng(int(figure.body.hair[0] * 1000))
    strands = np.repeat(rng.normal(1, 0.14, (1, 256, 1)), 256, axis=0)
    swatch = np.array(figure.body.hair, np.float32) * strands
    return Cloth(np.clip(swatch, 0, 1).astype(np.float32), 0.22, 1.0)


def draw_back_hair(canvas: Canvas, figure: Figure) -> None:
    """What of the hair hangs behind the shoulders."""
    length = figure.body.hair_length
    if length < 0.1:
        return
    w = 0.056
    right = [
        (w * 0.9, 0.03),
        (w, 0.08),
        (w * 1.15, (0.1 + length) / 2 + 0.02),
        (w * 1.05, length - 0.02),
        (w * 0.5, length),
    ]
    outline = figure.at([(0, 0.0), *right, *[(-x, y + 0.006) for x, y in reversed(right)]])
    canvas.panel(smooth(outline), _hair_cloth(figure), BODY, fold="drape", amount=0.22)


def draw_head(canvas: Canvas, figure: Figure) -> None:
    """Head, face and the hair around it."""
    right = [(0.022, 0.006), (0.041, 0.03), (0.0435, 0.065), (0.040, 0.092), (0.028, 0.118), (0.011, 0.133)]
    outline = smooth(figure.at(right + [(-x, y) for x, y in reversed(right)]))
    for side in (-1, 1):
        ear = [(side * 0.040, 0.062), (side * 0.049, 0.064), (side * 0.047, 0.082), (side * 0.04, 0.088)]
        canvas.panel(smooth(figure.at(ear)), skin(figure), BODY, amount=0.0)
    canvas.panel(outline, skin(figure), BODY, amount=0.03, details=None if figure.back else lambda p: _face(p, figure))
    _front_hair(canvas, figure)


def _face(patch: Patch, figure: Figure) -> None:
    """Brows, eyes, nose and mouth, a little to the side that the head is turned to."""
    s, tone = figure.scale_px, figure.body.skin
    c = figure.turn * 0.007

    def curve(points: list[tuple[float, float]]) -> Points:
        return smooth(figure.at([(x + c, y) for x, y in points]), closed=False)

    for side in (-1, 1):
        patch.fill(
            smooth(
                figure.at(
                    [
                        (side * 0.009 + c, 0.063),
                        (side * 0.019 + c, 0.056),
                        (side * 0.030 + c, 0.064),
                        (side * 0.019 + c, 0.071),
                    ]
                )
            ),
            dim(tone, 0.88),
        )
        patch.fill(
            smooth(
                figure.at(
                    [
                        (side * 0.0105 + c, 0.0655),
                        (side * 0.019 + c, 0.0615),
                        (side * 0.0275 + c, 0.0655),
                        (side * 0.019 + c, 0.069),
                    ]
                )
            ),
            (0.88, 0.86, 0.84),
        )
        patch.dot(figure.at((side * 0.019 + c, 0.0652))[0], s * 0.0037, (0.13, 0.09, 0.07))
        patch.line(
            curve([(side * 0.0095, 0.0655), (side * 0.019, 0.061), (side * 0.0285, 0.065)]), dim(tone, 0.3), s * 0.0018
        )
        patch.line(
            curve([(side * 0.009, 0.055), (side * 0.02, 0.0505), (side * 0.031, 0.055)]),
            dim(figure.body.hair, 0.8),
            s * 0.0032,
        )
        patch.fill(
            smooth(
                figure.at(
                    [(side * 0.018 + c, 0.082), (side * 0.031, 0.08), (side * 0.030, 0.1), (side * 0.02 + c, 0.098)]
                )
            ),
            tuple(np.clip(np.array(tone) * (1.01, 0.95, 0.94), 0, 1)),
        )
    patch.line(
        curve([(0.004, 0.066), (0.006, 0.083), (0.0085, 0.0885), (0.0, 0.0915), (-0.0075, 0.0885)]),
        dim(tone, 0.78),
        s * 0.0022,
    )
    lip = (min(1.0, tone[0] * 0.86), tone[1] * 0.55, tone[2] * 0.58)
    patch.fill(
        smooth(
            figure.at(
                [
                    (-0.0155 + c, 0.1065),
                    (-0.004 + c, 0.1035),
                    (0.004 + c, 0.1035),
                    (0.0155 + c, 0.1065),
                    (0 + c, 0.1135),
                ]
            )
        ),
        lip,
    )
    patch.line(curve([(-0.0155, 0.1065), (0, 0.108), (0.0155, 0.1065)]), dim(lip, 0.5), s * 0.0014)


def _front_hair(canvas: Canvas, figure: Figure) -> None:
    cloth = _hair_cloth(figure)
    if figure.back:
        outline = [
            (0, -0.008),
            (0.047, 0.02),
            (0.05, 0.08),
            (0.036, 0.128),
            (0, 0.135),
            (-0.036, 0.128),
            (-0.05, 0.08),
            (-0.047, 0.02),
        ]
        canvas.panel(smooth(figure.at(outline)), cloth, BODY, fold="drape", amount=0.2)
        return
    length, part = figure.body.hair_length, 0.018 * np.sign(figure.turn)
    side_y = 0.07 if length < 0.1 else min(length, 0.2)
    for side in (-1, 1):
        outer = [
            (part, -0.007),
            (side * 0.034, 0.004),
            (side * 0.052, 0.04),
            (side * 0.055, side_y * 0.6 + 0.03),
            (side * 0.056, side_y),
        ]
        inner = [
            (side * 0.046, side_y),
            (side * 0.041, 0.075),
            (side * 0.036, 0.045),
            (side * 0.02, 0.026),
            (part, 0.02),
        ]
        canvas.panel(smooth(figure.at(outer + inner)), cloth, BODY, fold="drape", amount=0.25)
        if length > 0.22:
            lock = [(side * 0.05, 0.06), (side * 0.056, 0.15), (side * 0.066, length * 0.75), (side * 0.06, length)]
            canvas.tube(
                figure.at(lock),
                [figure.scale_px * w for w in (0.008, 0.014, 0.018, 0.006)],
                cloth,
                BODY,
                fold="drape",
                amount=0.25,
            )
