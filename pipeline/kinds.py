"""Kinds of garments: which detection a catalogue photo sells, and what both networks together take a garment for.

The detector gives a label to each box, and an embedder that knows kinds gives probabilities to each crop. Neither is
right alone: a detector of street photos has seen few shoes on white, and a crop shows little of what is around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

import numpy as np

from stages.embed.kinds import KINDS, KindPart, Probabilities, believed, normalised
from stages.labels import OTHER
from stages.types import Detection, Vectors

TRUST: Final = 0.8
"""How often the detector's label of a garment is taken to be right."""

CATALOGUE_TRUST: Final = 0.6
"""The same in catalogue photos, which differ more from what detectors learn from."""

NAMED_TRUST: Final = 0.98
"""How often the catalogue's own word for an item is taken to be right."""

WHOLE_WEIGHT: Final = 0.2
"""How much the whole photo counts beside a detection that fills it."""

FAMILIES: Final = (frozenset({"top", "outerwear", "dress"}), frozenset({"pants", "shorts", "skirt", "hosiery"}))
"""Labels that detectors take for each other: a box of one may be a garment of another."""

_RELATED: Final = 0.6


@runtime_checkable
class KnowsKinds(Protocol):
    """An embedder whose vectors hold probabilities of kinds."""

    @property
    def kinds(self) -> KindPart | None:
        """Where they hold them; None where they do not."""


def kind_part(embedder: object) -> KindPart | None:
    """Return where an embedder's vectors hold kinds, or None."""
    return embedder.kinds if isinstance(embedder, KnowsKinds) else None


def settle(
    part: KindPart, vectors: Vectors, labels: Sequence[str], trust: float, beside: Probabilities | None = None
) -> tuple[Vectors, list[str]]:
    """Give garments the kinds that detector and embedder together take them for.

    Args:
        part: of the vectors.
        vectors: ``(n, dim)``, one for each garment.
        labels: the detector's; ``whole`` says nothing of the kind.
        trust: how often they are right.
        beside: ``(1, 14)``, what else is known of the kind, such as from the whole photo.

    Returns:
        The vectors with these kinds, and the most probable label of each; a label stays as it is where the garment is
        most probably none of the kinds.
    """
    if not len(vectors):
        return vectors, list(labels)
    kinds = believed(part.kinds(vectors), labels, trust)
    if beside is not None:
        kinds = normalised(kinds * beside)
    best = [KINDS[place] for place in kinds.argmax(axis=1)]
    settled = [before if name == OTHER else name for name, before in zip(best, labels, strict=True)]
    return part.with_kinds(vectors, kinds), settled


def fitting_garment(found: Sequence[Detection], whole: Detection, kinds: Probabilities) -> Detection:
    """Return the detection that a catalogue photo sells, or the whole photo where none fits what it shows.

    Args:
        found: in the photo.
        whole: the photo as a detection.
        kinds: ``(14,)``, what the whole photo is taken for.
    """
    probability = dict(zip(KINDS, kinds.tolist(), strict=True))
    likeliest = max(probability, key=lambda name: probability[name])

    def weight(detection: Detection) -> float:
        fits = probability.get(detection.label, 0.0)
        for family in FAMILIES:
            if detection.label in family and likeliest in family:
                fits = max(fits, _RELATED * probability[likeliest])
        return fits * detection.score * float(np.sqrt(detection.box.area / whole.box.area))

    best = max(found, key=weight, default=whole)
    return best if best is not whole and weight(best) >= WHOLE_WEIGHT * probability[likeliest] else whole


def relabelled(detection: Detection, label: str) -> Detection:
    """Return a detection under another label."""
    return detection if detection.label == label else replace(detection, label=label)
