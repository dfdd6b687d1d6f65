"""What a server tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES: Final = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts and times of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("outfinder_requests", "Requests answered", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "outfinder_request_seconds", "Seconds until an answer", ["path"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("outfinder_requests_in_flight", "Searches waiting or being answered", registry=registry)
        self.refused = Counter("outfinder_requests_refused", "Searches refused as too many", registry=registry)
        self.stages = Histogram(
            "outfinder_stage_seconds", "Seconds of work", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.batches = Histogram(
            "outfinder_batch_size", "Requests together", ["stage"], buckets=_SIZES, registry=registry
        )
        self.photos = Gauge("outfinder_gallery_photos", "Photos in a gallery", ["crop"], registry=registry)
        self.generation = Gauge("outfinder_gallery_generation", "The generation in use", ["crop"], registry=registry)
        self.reloads = Counter("outfinder_gallery_reloads", "New generations", ["crop", "outcome"], registry=registry)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a stage's work."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(stage).observe(perf_counter() - start)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
