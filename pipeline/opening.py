"""Moved to :mod:`pipeline.search`."""

from pipeline.search import config_for, open_or_create  # noqa: F401
from pipeline.search import open_gallery as open_for_search  # noqa: F401
