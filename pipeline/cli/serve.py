"""``outfinder serve``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import FILE_IN, FOLDER, Terminated, calibration_option, config_options, friendly
from pipeline.gallery import is_gallery
from stages.errors import OutfinderError
from stages.images import walk


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.option("--examples", type=FOLDER, help="Photos that visitors may start from.")
@click.option("--compare", type=FOLDER, metavar="GALLERY", help="The same items, indexed with another crop.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all addresses.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 means any free port.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that the server answers to; repeatable.")
@click.option("--max-mb", default=20.0, show_default=True, type=click.FloatRange(0.001), help="Largest upload.")
@click.option("--max-megapixels", default=50.0, show_default=True, type=click.FloatRange(0.001, 180),
              help="Most megapixels of an upload.")  # fmt: skip
@click.option(
    "--queue", default=64, show_default=True, type=click.IntRange(1), help="Most searches waiting or running."
)
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.1), help="Seconds for an answer.")
@click.option(
    "--token-file", type=FILE_IN, help="A client's name and token in each line; a third word, writer, lets it write."
)
@click.option("--writable", is_flag=True, help="Let clients whose token is a writer's add and remove items.")
@click.option("--allow-origin", multiple=True, metavar="ORIGIN", help="Pages that may search and embed it; repeatable.")
@click.option(
    "--root-path", default="", metavar="PREFIX", help="Prefix of its addresses behind a proxy, such as /search."
)
@click.option("--trust-proxy", multiple=True, metavar="ADDRESS", help="A proxy whose X-Forwarded-* count; repeatable.")
@config_options("detector", "crop", "embedder", "index")
@calibration_option
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
    token_file: Path | None,
    writable: bool,
    allow_origin: tuple[str, ...],
    root_path: str,
    trust_proxy: tuple[str, ...],
    settings: dict[str, Any],
    calibration_file: Path | None,
) -> None:
    """Serve a web page that searches GALLERY, and the same as an HTTP API, described at /docs.

    GALLERY is only read, unless --writable lets clients with a writer's token add and remove items.

    Only this machine can reach it unless --host says otherwise. Everyone who reaches it can search, unless there is a
    --token-file; nothing is encrypted, which is a proxy's work. The server answers to its addresses, to localhost and
    to the names of --allow-host. No photo to search by is kept. When the gallery is indexed again, the server uses the new state as
    soon as it is saved.
    Needs the extra web: pip install "outfinder[web]".

    \b
    Examples:
      outfinder serve shop --examples photos/
      outfinder serve shop-box --compare shop-mask        # both crops, side by side
      outfinder serve shop --host 0.0.0.0 --port 80 --allow-host search.example --token-file tokens
      outfinder serve shop --token-file tokens --writable
      outfinder serve shop --allow-host shop.example --root-path /search --allow-origin https://www.shop.example
      curl --data-binary @street.jpg "http://127.0.0.1:8000/search?k=5"
    """  # noqa: D301
    try:
        from pipeline.serve.app import address_of, create_app, create_server, is_loopback, listen
    except ModuleNotFoundError as error:
        raise OutfinderError(f'{error.name} is missing; install the extra web: pip install "outfinder[web]"') from error
    from pipeline.serve.access import Access, read_tokens
    from pipeline.serve.limits import Limits
    from pipeline.serve.service import open_service

    limits = Limits(
        max_body=round(max_mb * 1e6),
        max_pixels=round(max_megapixels * 1e6),
        queue=queue,
        answer_s=timeout,
        body_s=timeout,
        hosts=frozenset({host.lower(), *map(str.lower, allow_host)}),
    )
    clients = read_tokens(token_file) if token_file else ()
    if writable and not any(client.is_writer for client in clients):
        raise OutfinderError(
            "--writable needs a --token-file in which a line ends with the word writer: NAME TOKEN writer"
        )
    if writable and compare:
        raise OutfinderError("--writable changes one gallery; leave --compare out")
    access = Access(clients, frozenset(allow_origin), root_path, trust_proxy)
    photos = list(walk([examples])) if examples else []
    if examples and not photos:
        raise OutfinderError(f"there are no photos in {examples}")
    with listen(host, port) as listening:
        if writable and not is_gallery(folder):
            click.echo(f"outfinder: there is no gallery at {folder} yet; an empty one is made", err=True)
        service = open_service(folder, settings, limits, compare, calibration_file, photos, writable=writable)
        if writable:
            _log_changes()
        if not is_loopback(host) and not clients:
            click.echo("outfinder: everyone who can reach this machine can search; there is no --token-file", err=True)
        click.echo(f"serving {folder} at {address_of(listening)}  (Ctrl-C stops it)", err=True)
        try:
            create_server(create_app(service, access=access), access.proxies).run(sockets=[listening])
        except Terminated:
            raise
        except KeyboardInterrupt:
            return  # the usual way to stop a server


def _log_changes() -> None:
    """Print a line for each item that a client adds or removes."""
    log, handler = logging.getLogger("pipeline.serve.changes"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)
