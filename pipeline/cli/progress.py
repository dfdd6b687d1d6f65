"""The progress of a run, on standard error."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic

import click

from pipeline.cli.common import NOTHING_RAN, SOME_FAILED, printable

INTERVAL_S = 10.0
"""Seconds between two lines; on a terminal one live line is updated five times a second."""

RECENT_S = 60.0
"""Seconds over which the rate and the time left are estimated."""


class Progress:
    """Counts photos and prints the count, the rate and the time left.

    Args:
        doing: the verb, as in "doing 3 of 9 photos".
        total: how many photos there are, if that is known.
        done: how many of them an earlier run has finished.
        failed: how many of those failed.
    """

    def __init__(self, doing: str, total: int | None = None, *, done: int = 0, failed: int = 0) -> None:
        self._doing, self.total, self._printed = doing, total, monotonic()
        self._recent = deque([(self._printed, done)])
        self._first = self._recent[0]
        self._live = sys.stderr is not None and sys.stderr.isatty()  # None if it is closed
        self.done, self.failed = done, failed

    def count(self, error: str | None = None, photo: str = "") -> None:
        """Count one photo, and print its error if there is one."""
        self.done += 1
        if error is not None:
            self.failed += 1
            click.echo(f"{self._clear()}{printable(photo)}: {error}", err=True)
        if monotonic() - self._printed > (0.2 if self._live else INTERVAL_S):
            self._printed = monotonic()
            click.echo(f"{self._clear()}{self._estimate()}", err=True, nl=not self._live)

    def finish(self) -> None:
        """Print the final count."""
        click.echo(f"{self._clear()}{self._count()}", err=True)

    @contextmanager
    def interruptible(self, hint: str) -> Iterator[None]:
        """Print the count and a hint on how to continue if the run is interrupted."""
        try:
            yield
        except KeyboardInterrupt:
            click.echo(f"{self._clear()}{self._count()}; {hint}", err=True)
            raise

    def status(self) -> int:
        """Return the exit status: 2 if there was nothing to read."""
        if not self.done:
            click.echo("outfinder: no photos found (looked for .jpg, .png, .webp and the like)", err=True)
            return NOTHING_RAN
        return SOME_FAILED if self.failed else 0

    def _count(self) -> str:
        return f"{self._doing} {self.done} photo{'s' * (self.done != 1)}{self._rate(self._first)}"

    def _estimate(self) -> str:
        self._recent.append((self._printed, self.done))
        while len(self._recent) > 2 and self._printed - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
        if self.total is None:
            return self._count()
        (then, before), left = self._recent[0], max(0, self.total - self.done)
        left_s = left * (self._printed - then) / max(1, self.done - before)
        rate = self._rate(self._recent[0])
        return f"{self._doing} {self.done} of {self.total} photos{rate}, {timedelta(seconds=round(left_s))} left"

    def _rate(self, since: tuple[float, int]) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{failed}, {(self.done - since[1]) / max(monotonic() - since[0], 1e-9):.1f}/s"

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""


def resume_hint(output: Path | None) -> str:
    """Return how an interrupted run can be continued."""
    if output is None:
        return "with -o FILE, --resume could have continued it"
    return f"they are in {printable(str(output))}; the same command with --resume continues"
