"""How far a run has come, on standard error."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

import click

from pipeline.cli.common import NOTHING_RAN, SOME_FAILED, printable

TELL_EVERY_S = 10.0
RECENT_S = 60.0


class Progress:
    """Photos done, failed, per second and time left, on standard error: a live line on a terminal, else now and then.

    Args:
        doing: what is done, for "doing 3 of 9 photos".
        total: how many photos there are, where that is known; it may be set later.
        done: how many of them a run before this one has done.
        failed: how many of those failed.
    """

    def __init__(self, doing: str, total: int | None = None, *, done: int = 0, failed: int = 0) -> None:
        self._doing, self.total, self._told = doing, total, monotonic()
        self._recent = deque([(self._told, done)])
        self._first = self._recent[0]
        self._live = sys.stderr is not None and sys.stderr.isatty()  # None where it is closed
        self.done, self.failed = done, failed

    def count(self, error: str | None = None, photo: str = "") -> None:
        """One more photo; an error is told in a line of its own."""
        self.done += 1
        if error is not None:
            self.failed += 1
            click.echo(f"{self._clear()}{printable(photo)}: {error}", err=True)
        if monotonic() - self._told > (0.2 if self._live else TELL_EVERY_S):
            self._told = monotonic()
            click.echo(f"{self._clear()}{self._under_way()}", err=True, nl=not self._live)

    def finish(self) -> None:
        """The last word."""
        click.echo(f"{self._clear()}{self._line()}", err=True)

    @contextmanager
    def interruptible(self, then: str) -> Iterator[None]:
        """Where the run is interrupted, tell how far it came, and what then."""
        try:
            yield
        except KeyboardInterrupt:
            click.echo(f"{self._clear()}{self._line()}; {then}", err=True)
            raise

    def status(self) -> int:
        """The exit status: 2 where there was nothing to read."""
        if not self.done:
            click.echo("outfinder: no photos there (looked for .jpg, .png, .webp and the like)", err=True)
            return NOTHING_RAN
        return SOME_FAILED if self.failed else 0

    def _line(self) -> str:
        return f"{self._doing} {self.done} photo{'s' * (self.done != 1)}{self._pace(self._first)}"

    def _under_way(self) -> str:
        """The line while there is more to come: pace and time left are those of the last minute."""
        self._recent.append((self._told, self.done))
        while len(self._recent) > 2 and self._told - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
        if self.total is None:
            return self._line()
        (then, before), left = self._recent[0], max(0, self.total - self.done)
        left_s = left * (self._told - then) / max(1, self.done - before)
        pace = self._pace(self._recent[0])
        return f"{self._doing} {self.done} of {self.total} photos{pace}, {timedelta(seconds=round(left_s))} left"

    def _pace(self, since: tuple[float, int]) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{failed}, {(self.done - since[1]) / max(monotonic() - since[0], 1e-9):.1f}/s"

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""
