"""The gallery: a catalogue's photos and their vectors, durable, searched by similarity and by filters."""

from pipeline.gallery.gallery import Gallery
from pipeline.gallery.store import Manifest, Row, is_gallery, read_manifest, writing

__all__ = ["Gallery", "Manifest", "Row", "is_gallery", "read_manifest", "writing"]
