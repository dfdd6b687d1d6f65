"""Detectors find the garments of a photo: R-CNN networks, their training and evaluation, and the whole photo."""
