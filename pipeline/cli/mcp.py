"""The command ``outfinder mcp``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import FOLDER, calibration_option, config_options, friendly
from stages.errors import OutfinderError


@click.command()
@click.argument("folder", metavar="GALLERY", type=FOLDER)
@click.option("--photos", type=FOLDER, help="A folder whose photos may be named, instead of sent.")
@config_options("detector", "crop", "embedder", "index")
@calibration_option
@friendly
def mcp(folder: Path, photos: Path | None, settings: dict[str, Any], calibration_file: Path | None) -> None:
    """Let an agent search GALLERY over the Model Context Protocol, on standard input and output.

    Name this command in the agent's configuration. Its tools are about, search_by_photo, search_by_text, search_by_item,
    item, picture and, with --photos, photos. Needs the extra mcp: pip install "outfinder[mcp]".

    \b
    Example, in the configuration of an agent:
      {"mcpServers": {"shop": {"command": "outfinder", "args": ["mcp", "/data/shop", "--photos", "/data/photos"]}}}
    """  # noqa: D301
    try:
        from pipeline.mcp import create_mcp_server
    except ModuleNotFoundError as error:
        raise OutfinderError(f'{error.name} is missing; install the extra mcp: pip install "outfinder[mcp]"') from error
    from pipeline.serve.limits import Limits
    from pipeline.serve.service import open_service

    if photos is not None and not photos.is_dir():
        raise OutfinderError(f"there is no folder {photos}")
    create_mcp_server(open_service(folder, settings, Limits(), None, calibration_file), photos).run()
