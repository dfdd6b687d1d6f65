"""The benchmark as a library call: data and stages in, rows out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.benchmark.crops.asking import ALL, BOTH, Answers, answers, together
from pipeline.benchmark.crops.costs import Cost, costs
from pipeline.benchmark.crops.data import CropSet
from pipeline.benchmark.crops.figures import CropFigures, Difference, differences, figures
from pipeline.benchmark.crops.looking import Seen, look
from pipeline.benchmark.crops.subject import Subject
from stages.types import Image


@dataclass(frozen=True, slots=True)
class Plan:
    """How crops are compared.

    ``seed`` is that of the bootstrap; ``cost_photos`` are timed, in ``cost_rounds`` turns; ``memory`` starts processes
    of their own to see how they grow, for which a script needs its ``if __name__ == "__main__"``.

    Raises:
        ValueError: nothing would be timed.
    """

    seed: int = 0
    cost_photos: int = 8
    cost_rounds: int = 2
    memory: bool = False

    def __post_init__(self) -> None:
        if min(self.cost_photos, self.cost_rounds) < 1:
            raise ValueError(f"times need a photo and a round, got {self.cost_photos} and {self.cost_rounds}")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What was found: rows of figures, rows of paired differences, rows of costs.

    Figures and differences follow from data, stages and seed alone; costs are of this machine. ``seen`` and ``answers``
    are what they were made from: a set at a clutter each, and those with their clutters taken together.
    """

    figures: tuple[CropFigures, ...]
    differences: tuple[Difference, ...]
    costs: tuple[Cost, ...]
    answers: tuple[Answers, ...]
    seen: tuple[Seen, ...]
    trained_on: dict[str, str]
    seed: int

    @property
    def reference(self) -> str:
        """The embedder that is told of first."""
        return next(iter(self.trained_on))


def benchmark_crops(
    data: Sequence[CropSet], subject: Subject | None = None, plan: Plan = Plan(),
    tell: Callable[[str], None] = lambda _: None,
) -> Comparison:  # fmt: skip
    """Compare ways of cutting garments out, on the same photos, detections and queries.

    Args:
        data: sets of photos; those of one name differ in their clutter, and are taken together as well.
        subject: detectors and embedders; all that are shipped by default.
        plan: seed, and how costs are measured.
        tell: is told what is being done.

    Raises:
        ValueError: there is no data.
        CatalogueError: in a set no item has two photos, or labels match nothing.
        ImageError: a photo cannot be read.
    """
    if not data:
        raise ValueError("comparing crops needs photos; pass what pipeline.benchmark.crops.scenes.rendered() gives")
    subject = subject or Subject.of()
    for one in data:
        one.check(subject.detectors)
    seen = [_seen(one, subject, tell) for one in data]
    tell("asking")
    told = _answers(seen, list(subject.embedders))
    tell("figures")
    rows = [row for one in told for row in figures(one, plan.seed)]
    apart = [row for one in told for row in differences(one, subject.trained_on, plan.seed)]
    first = [one for one in data if one.name == data[0].name]
    photos = _cost_photos(first[len(first) // 2], plan.cost_photos)
    spent = costs(photos, subject, plan.cost_rounds, memory=plan.memory, tell=tell)
    return Comparison(tuple(rows), tuple(apart), tuple(spent), tuple(told), tuple(seen), subject.trained_on, plan.seed)


def _seen(data: CropSet, subject: Subject, tell: Callable[[str], None]) -> Seen:
    at = "" if data.clutter is None else f", clutter {data.clutter:g}"

    def count(done: int, of: int) -> None:
        if done == of or done % 20 == 0:
            tell(f"{data.name}{at}: {done} of {of} photos")

    return look(data, subject.detectors, subject.embedders, count)


def _answers(seen: Sequence[Seen], embedders: list[str]) -> list[Answers]:
    """Of each set, and of those of one name together; of all garments, and of those that every detector found."""
    found = []
    by_name: dict[tuple[str, str], list[Answers]] = defaultdict(list)
    for one in seen:
        for among in (ALL, BOTH):
            if told := answers(one, embedders, among):
                by_name[told.data, among].append(told)
    for levels in by_name.values():
        found += levels
        if len(levels) > 1:
            found.append(together(levels))
    return found


def _cost_photos(data: CropSet, most: int) -> list[Image]:
    """Some photos, spread over a set."""
    places = np.linspace(0, len(data.shots) - 1, min(most, len(data.shots))).round().astype(int)
    return [data.shots[place].read() for place in places]
