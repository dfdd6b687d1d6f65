"""The exceptions, as one tree.

::

    OutfinderError
    ├── ImageError           a photo that cannot be used: not a photo, truncated, too large, unreadable
    ├── WeightsError         a checkpoint that is missing, damaged, or not what its name says
    ├── TrainingError        a training that diverges, collapses or cannot be resumed
    ├── StageError           a stage that cannot be built, or breaks its protocol
    ├── CatalogueError       a catalogue that cannot be read
    └── GalleryError         a gallery that cannot be opened, read or written
        ├── GalleryMismatch  made with another embedder or crop than asked for
        ├── GalleryBusy      another process is writing it
        └── GalleryCorrupt   a file of the gallery is missing or fails its checksum

An invalid argument, such as an array of the wrong shape or an impossible number, is a ``ValueError`` that says what was wanted
and what was given.
"""

from __future__ import annotations


class OutfinderError(Exception):
    """The base of all errors that are not invalid arguments."""


class ImageError(OutfinderError):
    """A photo that cannot be used; the message is one line and does not name the path."""


class WeightsError(OutfinderError):
    """A checkpoint that is missing, damaged, or not what its name says."""


class TrainingError(OutfinderError):
    """A training that diverges, collapses or cannot be resumed."""


class StageError(OutfinderError):
    """A stage that cannot be built, or breaks its protocol."""


class CatalogueError(OutfinderError):
    """A catalogue that cannot be read at all; single bad rows are reported, not raised."""


class GalleryError(OutfinderError):
    """A gallery that cannot be opened, read or written."""


class GalleryMismatch(GalleryError):
    """The gallery was made with another embedder or crop than asked for."""


class GalleryBusy(GalleryError):
    """Another process is writing the gallery."""


class GalleryCorrupt(GalleryError):
    """A file of the gallery is missing or fails its checksum."""
