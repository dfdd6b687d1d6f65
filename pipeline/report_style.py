"""The former home of what :mod:`pipeline.pages` holds; goes when nothing imports it."""

from pipeline.pages import COLORS, STYLE, color_of

__all__ = ["COLORS", "STYLE", "color_of"]
