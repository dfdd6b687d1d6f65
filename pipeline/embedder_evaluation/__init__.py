"""An embedder's evaluation told: as figures, as a table on the terminal, as a page with curves and pictures."""
