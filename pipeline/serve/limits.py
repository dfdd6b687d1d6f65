"""What a server takes: so many bytes, pixels, seconds and requests at once; and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import HTTPException


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted.

    ``max_body`` in bytes and ``max_pixels`` of one photo; ``queue`` requests that are waiting or being answered;
    a request's body arrives within ``body_s`` and its answer is made within ``answer_s``. ``batch`` photos go through
    a network together, those that come within ``wait_s``. ``hosts`` are the names that the server may be called by,
    so that no other site can reach it through a name of its own; None for any.
    """

    max_body: int = 20_000_000
    max_pixels: int = 50_000_000
    queue: int = 64
    body_s: float = 20.0
    answer_s: float = 30.0
    batch: int = 8
    wait_s: float = 0.004
    hosts: frozenset[str] | None = field(default=frozenset({"localhost", "127.0.0.1", "[::1]"}))

    def __post_init__(self) -> None:
        counts = (self.max_body, self.max_pixels, self.queue, self.batch)
        if min(counts) < 1 or min(self.body_s, self.answer_s) <= 0 or self.wait_s < 0:
            raise ValueError(f"a server's limits are above 0, got {self}")


def refusal(status: int, error: str, retry_after_s: int | None = None) -> HTTPException:
    """A request that is not answered, with the reason in words and when to try again."""
    return HTTPException(status, error, {"Retry-After": str(retry_after_s)} if retry_after_s else None)
