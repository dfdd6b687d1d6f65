"""How the page of an evaluation looks, on top of the report's style sheet."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
.part { padding: 1.3rem 1.5rem 1.5rem; margin-bottom: 1.75rem }
.part > header { margin-bottom: 1rem }
.part > header p { font-size: .86rem; max-width: 62rem }
.scroll { overflow-x: auto }

.figures { width: 100%; border-collapse: collapse; font-size: .86rem; white-space: nowrap }
.figures th, .figures td { padding: .42rem .7rem; text-align: right; font-variant-numeric: tabular-nums }
.figures th { color: var(--soft); font-weight: 600; font-size: .8rem; vertical-align: bottom }
.figures th:first-child, .figures td:first-child { text-align: left; padding-left: 0 }
.figures tbody tr { border-top: 1px solid var(--line) }
.figures tbody th { color: var(--ink); font-size: .86rem }
.figures tbody th::before {
  content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 3px; background: var(--color);
  margin-right: .55rem;
}
.figures tfoot tr { border-top: 2px solid var(--line) }
.figures tfoot th, .figures tfoot td { font-weight: 650; color: var(--ink); font-size: .86rem }
.figures .share { position: relative; min-width: 5.6rem }
.figures .share i {
  position: absolute; left: .7rem; right: 3.4rem; top: 50%; height: 6px; margin-top: -3px; border-radius: 3px;
  background: var(--track); overflow: hidden;
}
.figures .share i::before {
  content: ""; display: block; height: 100%; width: var(--share); background: var(--color); border-radius: 3px;
}
.curves img { width: 100%; min-width: 46rem; height: auto }

.view {
  position: relative; aspect-ratio: 4 / 5; border-radius: 10px; overflow: hidden; background: var(--track);
  display: grid; place-items: center; color: var(--soft); margin-bottom: .5rem;
}
.view img { width: 100%; height: 100%; object-fit: contain }

@media (max-width: 720px) {
  .part { padding: 1rem; border-radius: 14px }
}
@media print { .part { break-inside: avoid; box-shadow: none } .scroll { overflow: visible } }
"""
