"""Moved to :mod:`pipeline.config`."""

from pipeline.config import *  # noqa: F403
