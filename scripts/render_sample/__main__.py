"""Render a shop and street scenes with ground truth into a folder: ``python scripts/render_sample DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path[0] = str(Path(__file__).parents[1])  # run by path, the folder of this file comes first

from render_sample.write import render_sample  # noqa: E402


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed renders another shop.")
@click.option("--items", type=click.IntRange(13), default=60, show_default=True, help="Items in the shop.")
@click.option("--scenes", type=click.IntRange(1), default=24, show_default=True, help="Scenes on the street.")
@click.option("--clutter", "clutters", multiple=True, type=click.FloatRange(0, 1),
              help="Render each scene at this clutter, for `benchmark crops`; repeatable.")  # fmt: skip
@click.option("--quality", type=click.IntRange(1, 95), default=90, show_default=True, help="Of the JPEG files.")
@click.option("--shop-px", type=click.IntRange(32), default=400, show_default=True, help="Side of the shop's photos.")
def main(
    folder: Path, seed: int, items: int, scenes: int, clutters: tuple[float, ...], quality: int, shop_px: int
) -> None:
    r"""Render a shop and street scenes into DIR, which must be absent or empty.

    shop.csv and shop/ hold the items in two views each, with masks in shop.json. street/ holds the scenes, and
    street.json who wears what (COCO instances with item ids). The clutter of the backgrounds runs from 0, a bare
    wall, to 1, a crowded street. With --clutter, every garment is worn twice, by different people, and every scene is
    rendered before a background of each clutter: street/ holds it at one of them, clutter/ at the others.

    \b
    Examples:
      python scripts/render_sample demo --scenes 12
      python scripts/render_sample graded --items 65 --scenes 40 --clutter 0 --clutter 0.25 --clutter 0.5 --clutter 1
      outfinder benchmark crops --scenes graded
      python scripts/render_sample pipeline/demo/files --items 40 --scenes 12 --clutter 0 --clutter 0.5 --clutter 1 \
        --quality 80 --shop-px 320      # what the package ships
    """
    try:
        with click.progressbar(length=1000, label="rendering", file=sys.stderr) as bar:
            summary = render_sample(
                folder,
                seed=seed,
                items=items,
                scenes=scenes,
                clutters=clutters,
                quality=quality,
                shop_px=shop_px,
                progress=lambda done, total: bar.update(done * 1000 // total - bar.pos),
            )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(
        f"{summary.items} items in {summary.photos} photos ({summary.shop_csv}),"
        f" {summary.scenes} scenes with {summary.annotations} garments ({summary.street_json})",
        err=True,
    )


if __name__ == "__main__":
    main()
