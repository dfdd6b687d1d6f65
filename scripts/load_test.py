"""Load test of a server: searches per second, p50, p99 and failures with many clients that search without a pause.

    outfinder serve shop &
    python scripts/load_test.py http://127.0.0.1:8000 photos/ --clients 32 --seconds 60

Each client posts one photo after the other to /search. A 503 counts as a failure; more clients than the server's
--queue provoke it. The exit status is 1 if there were failures.
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
"""Photos that are searched before the measurement."""


@dataclass
class Tally:
    """The seconds of one client's searches, and its failures by reason."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def search(connection: http.client.HTTPConnection, path: str, photo: bytes, tally: Tally) -> None:
    """Post one photo and count the answer."""
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
    """Search until a time of :func:`perf_counter`, over one connection."""
    url, tally, order = urlsplit(address), Tally(), random.Random(seed)  # noqa: S311  not cryptography
    connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80, timeout=120)
    while perf_counter() < until:
        search(connection, f"{url.path.rstrip('/')}/search?{query}", order.choice(photos), tally)
    connection.close()
    return tally


@click.command()
@click.argument("address")
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--clients", default=32, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--query", default="k=12", show_default=True, help="Parameters of /search.")
def main(address: str, photos: tuple[Path, ...], clients: int, seconds: float, query: str) -> None:
    """Post PHOTOS (files or folders) to the server at ADDRESS from many clients at once."""
    bodies = [path.read_bytes() for path in walk(photos)]
    if not bodies:
        raise click.UsageError("there are no photos in PHOTOS")
    for body in bodies[:WARM_UP]:
        client(address, query, [body], 0, perf_counter() + 0.001)
    start = perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        clients_running = [
            pool.submit(client, address, query, bodies, seed, start + seconds) for seed in range(clients)
        ]
        tallies = [future.result() for future in clients_running]
    took = perf_counter() - start
    seconds_each = [second for tally in tallies for second in tally.seconds]
    failures = sum((tally.failures for tally in tallies), Counter[str]())
    if seconds_each:
        p50, p99 = np.percentile(seconds_each, [50, 99])
        click.echo(
            f"{clients} clients, {took:.0f} s: {len(seconds_each)} searches, {len(seconds_each) / took:.1f} per second,"
            f" p50 {p50:.2f} s, p99 {p99:.2f} s, {failures.total()} failures"
        )
    for reason, count in failures.most_common():
        click.echo(f"  {count} × {reason}")
    sys.exit(1 if failures or not seconds_each else 0)


if __name__ == "__main__":
    main()
