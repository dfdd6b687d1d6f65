"""How the report looks: one style sheet, light and dark, from a phone to a wide screen; no scripts, no fonts."""

from __future__ import annotations

import zlib
from typing import Final

from stages.types import WHOLE

COLORS: Final = {
    "outerwear": "#7c3aed",
    "top": "#2563eb",
    "dress": "#d61f69",
    "skirt": "#b31ec4",
    "pants": "#0f766e",
    "shorts": "#15803d",
    "shoes": "#c2410c",
    "bag": "#946000",
    "hat": "#b91c1c",
    "eyewear": "#0369a1",
    "scarf": "#9f1239",
    "belt": "#57534e",
    "hosiery": "#4338ca",
    WHOLE: "#475569",
}
"""A colour per label, each dark enough for white text (WCAG AA, 4.5 to 1)."""


def color_of(label: str) -> str:
    """The label's colour; labels of other detectors get one of the same, always the same.

    >>> color_of("top"), color_of("kimono") in COLORS.values()
    ('#2563eb', True)
    """
    among = list(COLORS.values())
    return COLORS.get(label) or among[zlib.crc32(label.encode(errors="replace")) % len(among)]


STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #fff; --ink: #1c1b1a; --soft: #65625e; --line: #e6e4e0; --track: #eceae6;
  --link: #1d4ed8; --bad: #b91c1c; --badpage: #fdf1f0;
  --shadow: 0 1px 2px rgb(0 0 0 / 5%), 0 6px 20px rgb(0 0 0 / 4%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #141416; --card: #1d1d20; --ink: #ecebe9; --soft: #a6a3a0; --line: #303034; --track: #2c2c30;
    --link: #93b4ff; --bad: #ff9d96; --badpage: #2b1a1a; --shadow: none;
  }
}
* { box-sizing: border-box; margin: 0 }
body {
  background: var(--page); color: var(--ink); padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem;
  font: 15px/1.5 Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  max-width: 1320px; margin-inline: auto; overflow-wrap: anywhere;
}
a { color: var(--link); text-underline-offset: .15em }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 6px }
ol, ul { list-style: none; padding: 0 }
img { display: block; max-width: 100% }
h1 { font-size: clamp(1.6rem, 4vw, 2.1rem); letter-spacing: -.025em; line-height: 1.15; font-weight: 700 }
h2 { font-size: 1.02rem; font-weight: 650; letter-spacing: -.005em }
h3 { font-size: .84rem; font-weight: 600; line-height: 1.35 }
.soft { color: var(--soft) }
.number { font-variant-numeric: tabular-nums }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 16px; box-shadow: var(--shadow) }
.state { margin: .35rem 0 1.6rem }

.overview { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); margin-bottom: 1.75rem }
.overview > *, .failures { padding: 1.3rem 1.5rem }
.overview h2, .failures h2 { font-size: .8rem; color: var(--soft); font-weight: 600; margin-bottom: .8rem }
.totals { display: grid; grid-template-columns: repeat(2, 1fr); gap: 1.1rem 1rem }
.totals dt { color: var(--soft); font-size: .82rem }
.totals dd { font-size: 1.7rem; font-weight: 650; letter-spacing: -.03em; line-height: 1.15 }
.totals .bad dd { color: var(--bad) }
.labels li {
  display: grid; grid-template-columns: 5.6rem 1fr 2.6rem; gap: .7rem; align-items: center; font-size: .86rem;
}
.bar { height: 8px; border-radius: 4px; background: var(--track); overflow: hidden }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--color) }
.labels .number { text-align: right }
.settings { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem; font-size: .86rem }
.settings dt { color: var(--soft) }
.settings dd { overflow-wrap: break-word; min-width: 0 }
.failures { font-size: .86rem; margin-bottom: 1.75rem }
.failures li { padding: .15rem 0 }

.photo { margin-bottom: 1.75rem; padding: 1.3rem 1.5rem 1.5rem; scroll-margin-top: 1rem }
.photo > header { display: flex; flex-wrap: wrap; gap: 0 .8rem; align-items: baseline; margin-bottom: 1rem }
.photo > header p { font-size: .86rem }
.failed { background: var(--badpage); padding-bottom: 1.3rem }
.failed > header { margin: 0 }
.failed p { color: var(--bad) }
.look { display: grid; grid-template-columns: minmax(0, 340px) minmax(0, 1fr); gap: 1.75rem; align-items: start }
.scene { position: sticky; top: 1rem; border-radius: 10px; overflow: hidden; background: var(--track) }
.scene img { width: 100%; height: auto }
.scene svg { position: absolute; inset: 0; width: 100%; height: 100% }
.scene rect { fill: none; stroke: var(--color); stroke-width: 2px; vector-effect: non-scaling-stroke }
.scene rect.halo { stroke: rgb(255 255 255 / 75%); stroke-width: 4px }
.scene path {
  fill: var(--color); fill-opacity: .3; fill-rule: evenodd;
  stroke: var(--color); stroke-width: 1px; vector-effect: non-scaling-stroke;
}
.tag {
  position: absolute; background: var(--color); color: #fff; font-size: 11px; line-height: 18px; font-weight: 600;
  padding: 0 6px; border-radius: 4px 4px 4px 0; white-space: nowrap; text-decoration: none; max-width: 100%;
}
.garment {
  display: grid; grid-template-columns: 104px minmax(0, 1fr); gap: 1.1rem; padding: 1.1rem 0;
  border-top: 1px solid var(--line); scroll-margin-top: 1rem;
}
.garment:first-child { border-top: 0; padding-top: 0 }
.garment:last-child { padding-bottom: 0 }
.garment:target h3 { text-decoration: underline }
.cut img {
  width: 104px; height: 128px; object-fit: contain; background: var(--track); border-radius: 10px;
}
.cut h3 { margin-top: .5rem; display: grid; grid-template-columns: auto 1fr; gap: 0 .4rem; align-items: center }
.cut h3::before { content: ""; width: 9px; height: 9px; border-radius: 3px; background: var(--color) }
.cut h3 span { font-weight: 400; grid-column: 2 }
.matches { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 1rem .9rem }
.match { font-size: .8rem; line-height: 1.4; min-width: 0 }
.product {
  aspect-ratio: 4 / 5; background: #fff; border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  display: grid; place-items: center; color: #65625e; margin-bottom: .45rem;
}
.product img { width: 100%; height: 100%; object-fit: contain }
.near { display: grid; grid-template-columns: 1fr auto; gap: .5rem; align-items: center; margin-bottom: .2rem }
.near .bar { height: 5px }
.near .number { font-weight: 600 }
.match bdi { display: block }
.match .item { font-weight: 600; font-size: .8rem }
.match .price { font-weight: 650 }
.clip { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden }

.pages { display: flex; flex-wrap: wrap; gap: .4rem; justify-content: center; align-items: center; margin: 1.75rem 0 }
.pages > * { min-width: 2.4rem; padding: .4rem .7rem; text-align: center; border-radius: 10px; text-decoration: none }
.pages a { background: var(--card); border: 1px solid var(--line) }
.pages [aria-current] { background: var(--ink); color: var(--page); font-weight: 600 }
footer { color: var(--soft); font-size: .82rem; text-align: center; margin-top: 2rem }

@media (max-width: 720px) {
  body { padding-top: 1.5rem }
  .photo { padding: 1rem; border-radius: 14px }
  .look { grid-template-columns: minmax(0, 1fr); gap: 1.3rem }
  .scene { position: relative; top: 0; max-width: 460px; width: 100%; margin-inline: auto }
  .garment { grid-template-columns: 84px minmax(0, 1fr); gap: .9rem }
  .cut img { width: 84px; height: 104px }
  .matches { display: flex; overflow-x: auto; gap: .8rem; padding-bottom: .5rem; scroll-snap-type: x proximity }
  .match { flex: 0 0 118px; scroll-snap-align: start }
}
@media print {
  body { max-width: none; padding: 0; background: none }
  .photo { break-inside: avoid; box-shadow: none }
  .pages { display: none }
}
"""
