"""The stages, each usable alone: detect, crop, embed, index; none knows the pipeline."""
