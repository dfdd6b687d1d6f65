"""How a server bears many at once: requests per second, p50, p99 and failures, as many clients asking without a pause.

    outfinder serve shop &
    python scripts/load_test.py http://127.0.0.1:8000 photos/ --clients 32 --seconds 60

Each client posts one photo after the other to /search. A 503 counts as a failure: ask with more clients than the
server's --queue to see those. Exit status 1 where there were failures.
"""

from __future__ import annotations

import http.client
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import click
import numpy as np

from stages.images import walk

WARM_UP = 2
"""Photos that are searched before the clock starts."""


@dataclass
class Tally:
    """What one client saw."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def ask(connection: http.client.HTTPConnection, path: str, photo: bytes, tally: Tally) -> None:
    """One search, counted."""
    start = perf_counter()
    try:
        connection.request("POST", path, photo, {"Content-Type": "application/octet-stream"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        tally.failures[type(error).__name__] += 1
        return
    if answer.status == 200:
        tally.seconds.append(perf_counter() - start)
    else:
        tally.failures[f"status {answer.status}"] += 1


def client(address: str, query: str, photos: list[bytes], seed: int, until: float) -> Tally:
    """One client, until the clock says so; it keeps its connection."""
    at, tally, order = urlsplit(address), Tally(), random.Random(seed)  # noqa: S311  an order of photos
    connection = http.client.HTTPConnection(at.hostname or "127.0.0.1", at.port or 80, timeout=120)
    while perf_counter() < until:
        ask(connection, f"{at.path.rstrip('/')}/search?{query}", order.choice(photos), tally)
    connection.close()
    return tally


@click.command()
@click.argument("address")
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--clients", default=32, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--query", default="k=12", show_default=True, help="Parameters of /search.")
def main(address: str, photos: tuple[Path, ...], clients: int, seconds: float, query: str) -> None:
    """Search ADDRESS for PHOTOS (files or folders) from many clients at once."""
    bodies = [path.read_bytes() for path in walk(photos)]
    if not bodies:
        raise click.UsageError("there are no photos there")
    for body in bodies[:WARM_UP]:
        client(address, query, [body], 0, perf_counter() + 0.001)
    start = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(client, address, query, bodies, seed, start + seconds) for seed in range(clients)]
        tallies = [future.result() for future in asked]
    took = perf_counter() - start
    seen = [second for tally in tallies for second in tally.seconds]
    failures = sum((tally.failures for tally in tallies), Counter[str]())
    if seen:
        p50, p99 = np.percentile(seen, [50, 99])
        click.echo(
            f"{clients} clients, {took:.0f} s: {len(seen)} searches, {len(seen) / took:.1f} per second,"
            f" p50 {p50:.2f} s, p99 {p99:.2f} s, {failures.total()} failures"
        )
    for reason, count in failures.most_common():
        click.echo(f"  {count} × {reason}")
    sys.exit(1 if failures or not seen else 0)


if __name__ == "__main__":
    main()
