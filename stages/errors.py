"""What can go wrong in the world, as one tree.

::

    OutfinderError
    ├── ImageError           a photo that cannot be used: not a photo, truncated, too large, unreadable
    ├── WeightsError         a checkpoint that is missing, damaged, or not what its name says
    ├── StageError           a stage that cannot be built or broke the law of stages
    ├── CatalogueError       a catalogue that cannot be read
    └── GalleryError         a gallery that cannot be opened, read or written
        ├── GalleryMismatch  made with another embedder or crop than asked for
        └── GalleryCorrupt   a file of the gallery is missing or fails its checksum

The caller's own mistake (a wrong shape, an impossible number) is a ``ValueError`` that says what was
wanted, what came, and what to do.
"""

from __future__ import annotations


class OutfinderError(Exception):
    """The base of every error that outfinder raises for the world's faults."""


class ImageError(OutfinderError):
    """A photo that cannot be used; the message is one line and names no path."""


class WeightsError(OutfinderError):
    """A checkpoint that is missing, damaged, or not what its name says."""


class StageError(OutfinderError):
    """A stage that cannot be built, or broke the law of stages."""


class CatalogueError(OutfinderError):
    """A catalogue that cannot be read as a whole (single bad rows are reported, not raised)."""


class GalleryError(OutfinderError):
    """A gallery that cannot be opened, read or written."""


class GalleryMismatch(GalleryError):
    """The gallery was made with another embedder or crop than asked for."""


class GalleryCorrupt(GalleryError):
    """A file of the gallery is missing or fails its checksum."""
