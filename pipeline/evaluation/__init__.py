"""What the evaluations of all stages share: the page around their parts, tables, how they look."""
