"""``outfinder serve``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from pipeline.cli.common import (
    FOLDER,
    calibration_option,
    chosen,
    device_option,
    friendly,
    isolate_option,
    stage_options,
)
from stages.errors import OutfinderError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.option("--examples", type=FOLDER, help="Photos for *surprise me*.")
@click.option("--compare", type=FOLDER, metavar="GALLERY", help="The same items, indexed with the other crop.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 is any free one.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that the server is called by; repeatable.")
@click.option("--max-mb", default=20.0, show_default=True, type=click.FloatRange(0.001), help="Size of an upload.")
@click.option(
    "--max-megapixels", default=50.0, show_default=True, type=click.FloatRange(0.001, 180), help="Its pixels."
)
@click.option(
    "--queue", default=64, show_default=True, type=click.IntRange(1), help="Searches at once, waiting or not."
)
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for an answer.")
@stage_options("detector", "crop", "embedder", "index")
@calibration_option
@device_option
@isolate_option
@friendly
def serve(
    folder: Path,
    examples: Path | None,
    compare: Path | None,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    max_mb: float,
    max_megapixels: float,
    queue: int,
    timeout: float,
    detector: str | None,
    detector_weights: Path | None,
    min_score: float | None,
    crop: str | None,
    embedder: str | None,
    embedder_weights: Path | None,
    index: str | None,
    calibration_file: Path | None,
    device: str,
) -> None:
    """Open a web page to search GALLERY from, and the same as an HTTP API, described at /docs.

    Only this machine reaches it unless --host says otherwise; there is no password, so put a proxy with one before
    it. Nothing that is uploaded is kept. A gallery that is indexed again meanwhile is taken up as it is saved.
    Needs the extra web: pip install "outfinder[web]".

    \b
    Examples:
      outfinder serve shop --examples photos/
      outfinder serve shop-box --compare shop-mask        # both ways of cutting, side by side
      outfinder serve shop --host 0.0.0.0 --port 80 --allow-host search.example
      curl --data-binary @street.jpg "http://127.0.0.1:8000/search?k=5"
    """  # noqa: D301
    try:
        from pipeline.serve.app import create_app
        from pipeline.serve.server import address_of, is_loopback, listen, server_of
    except ModuleNotFoundError as error:
        raise OutfinderError(f'{error.name} is missing; install the extra web: pip install "outfinder[web]"') from error
    from pipeline.serve.limits import Limits
    from pipeline.serve.opening import open_service
    from stages.images import walk

    own = frozenset({*LOOPBACK, host.lower(), *map(str.lower, allow_host)})
    limits = Limits(
        max_body=round(max_mb * 1e6),
        max_pixels=round(max_megapixels * 1e6),
        queue=queue,
        answer_s=timeout,
        body_s=timeout,
        hosts=own if is_loopback(host) or allow_host else None,
    )
    given = chosen(detector=detector, detector_weights=detector_weights, min_score=min_score, crop=crop,
                   embedder=embedder, embedder_weights=embedder_weights, index=index) | {"device": device}  # fmt: skip
    photos = list(walk([examples])) if examples else []
    if examples and not photos:
        raise OutfinderError(f"there are no photos in {examples}")
    with listen(host, port) as listening:
        service = open_service(folder, given, limits, compare, calibration_file)
        if not is_loopback(host):
            click.echo("outfinder: whoever reaches this machine can search; there is no password", err=True)
        click.echo(f"serving {folder} at {address_of(listening)}  (Ctrl-C ends it)", err=True)
        with suppress(KeyboardInterrupt):  # the way to end it
            server_of(create_app(service, photos)).run(sockets=[listening])
