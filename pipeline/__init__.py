"""The composition of the stages: pipeline, gallery, catalogue, report and the command line.

``from pipeline import Pipeline, Gallery, …`` imports only the module that defines the name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipeline.catalogue import read_catalogue
    from pipeline.config import Config, build_cropper, build_detector, build_embedder, build_index
    from pipeline.gallery import Gallery
    from pipeline.pipeline import Analysis, Pipeline
    from pipeline.search import open_gallery, search_batch

__all__ = [
    "Analysis", "Config", "Gallery", "Pipeline", "build_cropper", "build_detector", "build_embedder", "build_index",
    "open_gallery", "read_catalogue", "search_batch",
]  # fmt: skip

_MODULES: Final = {
    "catalogue": ("read_catalogue",),
    "config": ("Config", "build_cropper", "build_detector", "build_embedder", "build_index"),
    "gallery": ("Gallery",),
    "pipeline": ("Analysis", "Pipeline"),
    "search": ("open_gallery", "search_batch"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
