"""The stages: detect, crop, embed, index. Each works by itself, and none imports the pipeline.

``from stages import BoxCrop, read_image, …`` imports only the module that defines the name.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stages.crop import BoxCrop, MaskCrop, WholeCrop
    from stages.embed.features import FeaturesEmbedder
    from stages.embed.siamese import SiameseEmbedder
    from stages.errors import OutfinderError
    from stages.images import Photo, read_image, read_photo, walk, write_jpeg
    from stages.index import ExactIndex, HnswIndex
    from stages.protocols import Cropper, Detector, Embedder, Index
    from stages.types import LABELS, Box, Crop, Detection, Match, Neighbors

__all__ = [
    "LABELS", "Box", "BoxCrop", "Crop", "Cropper", "Detection", "Detector", "Embedder", "ExactIndex", "FeaturesEmbedder",
    "HnswIndex", "Index", "MaskCrop", "Match", "Neighbors", "OutfinderError", "Photo", "SiameseEmbedder", "WholeCrop",
    "read_image", "read_photo", "walk", "write_jpeg",
]  # fmt: skip

_MODULES: Final = {
    "crop": ("BoxCrop", "MaskCrop", "WholeCrop"),
    "embed.features": ("FeaturesEmbedder",),
    "embed.siamese": ("SiameseEmbedder",),
    "errors": ("OutfinderError",),
    "images": ("Photo", "read_image", "read_photo", "walk", "write_jpeg"),
    "index": ("ExactIndex", "HnswIndex"),
    "protocols": ("Cropper", "Detector", "Embedder", "Index"),
    "types": ("LABELS", "Box", "Crop", "Detection", "Match", "Neighbors"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import_weights() -> None:
    """Import the package ``weights`` beside this one, even if another folder of that name is earlier on the path.

    Raises:
        ImportError: another module of that name has been imported already.
    """
    folder = Path(__file__).parent.parent
    imported = sys.modules.get("weights")
    if imported is not None and str(imported.__file__) != str(folder / "weights" / "__init__.py"):
        other = imported.__file__ or next(iter(imported.__path__))  # a folder without __init__.py has no file
        raise ImportError(f"outfinder's package 'weights' cannot be imported: {other} is in the way; rename it")
    spec = PathFinder.find_spec("weights", [str(folder)])
    if imported is None and spec and spec.loader:
        module = module_from_spec(spec)
        sys.modules["weights"] = module
        spec.loader.exec_module(module)


_import_weights()
