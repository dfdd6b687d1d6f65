"""Benchmarks: how fast, how good and how large, side by side with what others use, in one run."""

from pipeline.benchmark.index import IndexFigures, benchmark_index

__all__ = ["IndexFigures", "benchmark_index"]
