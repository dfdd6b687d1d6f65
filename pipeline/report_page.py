"""The former home of what :mod:`pipeline.pages` holds; goes when nothing imports it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.pages import STYLE, render

__all__ = ["frame"]


def frame(title: str, body: str, style: str = STYLE, sheets: Sequence[str] = ()) -> str:
    """Render a whole document around HTML."""
    return render("frame.html", title=Markup(title), content=Markup(body), style=Markup(style), sheets=sheets)  # noqa: S704
