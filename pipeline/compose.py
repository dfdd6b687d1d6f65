"""Moved to :mod:`pipeline.pipeline`."""

from pipeline.pipeline import *  # noqa: F403
