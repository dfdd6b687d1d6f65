"""How the mistakes on the page of a detector's evaluation look."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
.key { display: flex; gap: 1.2rem; font-size: .82rem; margin-top: .5rem }
.key span::before {
  content: ""; display: inline-block; width: 1.5rem; height: .8rem; margin-right: .5rem; vertical-align: -.1rem;
  border: 2px solid #2563eb; border-radius: 2px; background: rgb(37 99 235 / 25%);
}
.key .annotated::before { border: 2px dashed #fff; background: #85817c; box-shadow: 0 0 0 1px #55524f }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 158px), 1fr)); gap: 1.4rem 1rem }
.mistake { font-size: .8rem; line-height: 1.4; min-width: 0 }
.view svg { position: absolute; inset: 0; width: 100%; height: 100% }
.view rect, .view path { vector-effect: non-scaling-stroke; fill: none }
.view path { fill-rule: evenodd }
.view .found path { fill: var(--color); fill-opacity: .28 }
.view .found rect { stroke: var(--color); stroke-width: 2.5px }
.view .found rect.halo { stroke: rgb(255 255 255 / 75%); stroke-width: 4.5px }
.view .annotated path { fill: #fff; fill-opacity: .18 }
.view .annotated rect { stroke: #fff; stroke-width: 2px; stroke-dasharray: 6 4 }
.view .annotated rect.halo { stroke: rgb(20 20 22 / 70%); stroke-width: 4px; stroke-dasharray: none }
.mistake h3 { display: flex; align-items: center; gap: .4rem }
.mistake h3::before { content: ""; flex: none; width: 9px; height: 9px; border-radius: 3px; background: var(--color) }
.mistake h3 span { margin-left: auto; font-variant-numeric: tabular-nums; font-weight: 600 }
.mistake bdi { display: block }

@media (max-width: 720px) {
  .mistakes { grid-template-columns: repeat(2, minmax(0, 1fr)) }
}
"""
