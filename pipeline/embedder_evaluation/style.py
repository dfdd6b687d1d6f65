"""How the figures and pictures on the page of an embedder's evaluation look."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
.part + .part { margin-top: 0 }
.figures td i { font-style: normal; color: var(--soft); font-size: .8em; margin-left: .35rem }
.plain tbody th::before { display: none }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.4rem 2.5rem }
.tables td, .tables th { padding-inline: .3rem }
.tables td:last-child, .tables th:last-child { padding-right: 0 }
.tables > div:not(.scroll) > .scroll + .scroll { margin-top: 1.4rem }
.tables + .scroll { margin-top: 1.8rem }
.collapsed { padding: 1rem 1.5rem; margin-bottom: 1.75rem; background: var(--badpage); color: var(--bad); font-weight: 600 }
.notes { font-size: .86rem; color: var(--soft); margin-top: .9rem }

.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 1.5rem 2rem }
.strips.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 1fr)) }
.strips.rows { grid-template-columns: minmax(0, 1fr) }
.strip { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .6rem }
.strip.pair { grid-template-columns: repeat(2, minmax(0, 1fr)) }
.strip.row { grid-template-columns: repeat(9, minmax(0, 1fr)) }
.thumb { font-size: .76rem; line-height: 1.35; min-width: 0 }
.thumb .view { aspect-ratio: 1; background: #fff; border: 2px solid var(--line); margin-bottom: .35rem }
.thumb.right .view { border-color: #009e73 }
.thumb.wrong .view { border-color: #d55e00 }
.thumb b { display: block; font-weight: 600; font-variant-numeric: tabular-nums }
.thumb bdi { display: block; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.part h3.sub { margin: 1.4rem 0 .8rem; font-size: .9rem }
.part h3.sub:first-of-type, .scroll h3.sub { margin-top: 0 }
.scroll h3.sub { margin-bottom: .3rem }
.frames { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .82rem; margin-top: .5rem }
.frames span::before {
  content: ""; display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; vertical-align: -.1rem;
  border: 2px solid #009e73; border-radius: 3px;
}
.frames .wrong::before { border-color: #d55e00 }
.atlas { width: 100%; height: auto; border-radius: 10px }

@media (max-width: 720px) {
  .strip.row { grid-template-columns: repeat(9, 84px); overflow-x: auto }
}
"""
