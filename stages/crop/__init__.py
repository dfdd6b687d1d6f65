"""Croppers cut detections out of their photos: as a box, along the mask, or not at all."""

from stages.crop.box import BoxCrop
from stages.crop.mask import MaskCrop
from stages.crop.whole import WholeCrop

__all__ = ["BoxCrop", "MaskCrop", "WholeCrop"]
