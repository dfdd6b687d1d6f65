"""What a server reports: metrics for Prometheus, and each log message once a minute however often it repeats."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic, perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOG_EVERY_S: Final = 60.0
"""A message that repeats is logged once in so many seconds."""

LOGGERS: Final = ("pipeline.serve", "uvicorn.error", "asyncio")

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """What a server reports to Prometheus, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("outfinder_requests", "Requests answered", ["path", "status"])
        self.clients = counter("outfinder_client_requests", "Requests of a client with a token", ["client"])
        self.items = counter("outfinder_items_written", "Items added or removed", ["client", "change"])
        self.seconds = histogram("outfinder_request_seconds", "Seconds until an answer", ["path"], buckets=_SECONDS)
        self.in_flight = gauge("outfinder_requests_in_flight", "Searches waiting or being answered")
        self.writes = gauge("outfinder_writes_in_flight", "Changes of the gallery waiting or being made")
        self.refused = counter("outfinder_requests_refused", "Requests refused because of too many")
        self.errors = counter("outfinder_errors", "Messages logged, repeated ones too", ["message"])
        self.stages = histogram("outfinder_stage_seconds", "Seconds of work", ["stage"], buckets=_SECONDS)
        self.batches = histogram("outfinder_batch_size", "Requests in a batch", ["stage"], buckets=(1, 2, 4, 8, 16, 32))
        self.photos = gauge("outfinder_gallery_photos", "Photos in a gallery", ["crop"])
        self.generation = gauge("outfinder_gallery_generation", "The generation in use", ["crop"])
        self.reloads = counter("outfinder_gallery_reloads", "New generations", ["crop", "outcome"])

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a stage's work."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stages.labels(stage).observe(perf_counter() - start)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RepeatFilter(logging.Filter):
    """Lets a message through once a minute, with the number of its repetitions since; all are counted.

    Messages are the same if their text before formatting and the type of their exception are.
    """

    def __init__(self, errors: Counter) -> None:
        super().__init__()
        self._errors = errors
        self._logged: dict[tuple[str, type[BaseException] | None], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if record.levelno < logging.WARNING:
            return True
        text = str(record.msg)[:200]
        self._errors.labels(text).inc()
        key = text, record.exc_info[0] if record.exc_info else None
        since, repeated = self._logged.get(key, (-LOG_EVERY_S, 0))
        now = monotonic()
        if now - since < LOG_EVERY_S:
            self._logged[key] = since, repeated + 1
            return False
        self._logged[key] = now, 0
        if repeated:
            record.msg = f"{record.getMessage()} (and {repeated} times more since the last such message)"
            record.args = ()
        return True


@contextmanager
def repeated_messages_once(metrics: Metrics) -> Iterator[None]:
    """Within the context, log repeated messages of the server once a minute."""
    repeat_filter, loggers = RepeatFilter(metrics.errors), [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(repeat_filter)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(repeat_filter)
