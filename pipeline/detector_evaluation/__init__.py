"""An evaluation told: as figures, as a table on the terminal, as a page with curves and the worst mistakes."""
