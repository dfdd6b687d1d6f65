"""Indexes find the stored vectors nearest to a query: exactly, or fast by HNSW."""

from stages.index.exact import ExactIndex, exact_search
from stages.index.hnsw import HnswIndex

__all__ = ["ExactIndex", "HnswIndex", "exact_search"]
