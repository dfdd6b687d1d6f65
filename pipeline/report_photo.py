"""The former home of what :mod:`pipeline.pages` holds; goes when nothing imports it."""

from __future__ import annotations

from markupsafe import Markup

from pipeline.pages import described, is_link, render, svg_path
from pipeline.pages import outlines as rings
from pipeline.search import Garment

__all__ = ["described", "is_link", "outline", "rings", "text_html"]


def text_html(text: str) -> str:
    """Escape a text."""
    return render("text.html", text=text)


def outline(garment: Garment) -> str:
    """Return the mask as an SVG path element."""
    path = svg_path(garment.mask, garment.box)
    return Markup('<path d="{}"/>').format(path) if path else ""
