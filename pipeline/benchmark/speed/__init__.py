"""``outfinder benchmark speed``: the pipeline beside what a tutorial would write, in one run."""
