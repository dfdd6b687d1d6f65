"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as what is in them: the first to the left, numbers to the right.

    Args:
        head: of each column.
        rows: as many cells each.

    >>> print(aligned(("label", "n"), [("top", "12"), ("scarf", "3")]))
    label   n
    top    12
    scarf   3
    """
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
