"""Benchmarks: how fast, how good and how large, side by side with what others use, in one run."""

from pipeline.benchmark.index import IndexFigures, Plan, benchmark_index

__all__ = ["IndexFigures", "Plan", "benchmark_index"]
