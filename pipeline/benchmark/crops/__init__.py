"""Mask crops against box crops: detected once, cut many ways, embedded, searched, compared like with like."""

from pipeline.benchmark.crops.annotated import cutouts, shoe_pairs
from pipeline.benchmark.crops.conditions import Condition
from pipeline.benchmark.crops.costs import Cost
from pipeline.benchmark.crops.data import CropSet, Garment, Shot
from pipeline.benchmark.crops.figures import CropFigures, Difference
from pipeline.benchmark.crops.own import own_photos
from pipeline.benchmark.crops.run import Comparison, Plan, benchmark_crops
from pipeline.benchmark.crops.scenes import rendered
from pipeline.benchmark.crops.shop import fronts_and_backs
from pipeline.benchmark.crops.subject import Subject
from pipeline.benchmark.crops.verdict import verdict

__all__ = [
    "Comparison",
    "Condition",
    "Cost",
    "CropFigures",
    "CropSet",
    "Difference",
    "Garment",
    "Plan",
    "Shot",
    "Subject",
    "benchmark_crops",
    "cutouts",
    "fronts_and_backs",
    "own_photos",
    "rendered",
    "shoe_pairs",
    "verdict",
]
