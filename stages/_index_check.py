"""The check of an index against the protocol; public in :mod:`stages.testing`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stages.protocols import Index
from stages.types import Neighbors, Vectors

_UNUSED_ROW = 10_000_019


def check_index(
    make_index: Callable[[int], Index], dim: int = 16, size: int = 200, k: int = 10, min_recall: float = 0.95
) -> None:
    """Check an index against the protocol: empty, filled, thinned out, filled again, and with wrong input.

    Args:
        make_index: makes an empty index of a given dim.
        dim: the width of the vectors to try, at least 2.
        size: how many vectors to try, at least 6 * k.
        k: how many neighbours to ask for.
        min_recall: the share of the true k nearest that must be found; 1.0 for an exact index.

    Raises:
        AssertionError: the index breaks the protocol.
        ValueError: there are too few dimensions or vectors to tell.
    """
    if dim < 2 or k < 1 or size < 6 * k:
        raise ValueError(f"wanted dim >= 2, k >= 1 and size >= 6 * k, got dim={dim}, k={k}, size={size}")
    rng = np.random.default_rng(0)
    vectors = _unit(rng.normal(size=(size, dim)))
    queries = _unit(vectors[: 4 * k] + 0.2 * _unit(rng.normal(size=(4 * k, dim))))
    rows = rng.permutation(np.arange(size, dtype=np.int64) * 7)
    index = make_index(dim)
    _require(index.dim == dim, f"dim is what it was made with, {dim}, got {index.dim}")
    _check_empty(index, vectors)
    _check_wrong_vectors(index, vectors[:2])
    for half in (slice(size // 2), slice(size // 2, size)):
        _with_copies(index.add, rows[half], vectors[half])
    _require(len(index) == size, f"len counts live rows, {size} were added, got {len(index)}")
    _check_wrong_rows(index, rows, vectors)
    _check_search(index, rows, vectors, queries, min_recall)
    padded = _search(index, queries[:3], size + 3).rows[:, size:]
    _require((padded == -1).all(), f"beyond the {size} rows there are, rows are -1")
    _check_removal(index, rows, vectors, queries, min_recall)


def _check_empty(index: Index, vectors: Vectors) -> None:
    _require(len(index) == 0, f"a new index is empty, got len {len(index)}")
    _require((_search(index, vectors[:3], 4).rows == -1).all(), "an empty index has no neighbours, rows are -1")
    none = vectors[:0]
    _search(index, none, 4)
    index.add(np.empty(0, np.int64), none)
    index.remove(np.empty(0, np.int64))
    _require(len(index) == 0, "adding no vectors adds none")


def _check_wrong_vectors(index: Index, good: Vectors) -> None:
    """Wrong vectors are refused as a whole, by add and by search."""
    rows = np.array([1, 2], np.int64)
    wrong = {
        "a NaN in a vector": good * np.array([[1], [np.nan]]),
        "an infinity in a vector": good * np.array([[1], [np.inf]]),
        "a zero vector": good * np.array([[1], [0]]),
        "a vector not of norm 1": good * np.array([[1], [2]]),
        "a vector too wide": np.pad(good, ((0, 0), (0, 1))),
        "a vector too narrow": _unit(good[:, :-1]),
        "a single vector without its row": good[0],
    }
    for name, vectors in wrong.items():
        _require_refusal(f"{name}, added,", index.add, rows, vectors.astype(np.float32))
        _require_refusal(f"{name}, as a query,", index.search, vectors.astype(np.float32), 3)
    _require_refusal("fewer rows than vectors", index.add, rows[:1], good)
    _require_refusal("the same row twice at once", index.add, rows[[0, 0]], good)
    _require_refusal("k of 0", index.search, good, 0)
    _require(len(index) == 0, f"what is refused is not stored, got len {len(index)}")


def _check_wrong_rows(index: Index, rows: NDArray[np.int64], vectors: Vectors) -> None:
    size = len(index)
    _require_refusal("a row that is there, added again,", index.add, np.array([_UNUSED_ROW, rows[0]]), vectors[:2])
    _require(len(index) == size, f"a refused add changes nothing, len was {size}, got {len(index)}")
    _require_refusal("a row that is not there, removed,", index.remove, np.array([rows[0], _UNUSED_ROW]))
    _require(len(index) == size, f"a refused removal changes nothing, len was {size}, got {len(index)}")
    nearest = _search(index, vectors[:1], 1).rows[0, 0]
    _require(nearest == rows[0], f"what is refused changes nothing, row {rows[0]} is no longer found by its vector")


def _check_search(index: Index, rows: NDArray[np.int64], vectors: Vectors, queries: Vectors, min_recall: float) -> None:
    """Searches agree with brute force, four queries for each neighbour wanted, and each vector finds itself."""
    k = len(queries) // 4
    found = _search(index, queries, k)
    every = queries @ vectors.T
    nearest = rows[np.argsort(-every, axis=1)[:, :k]]
    known = np.isin(found.rows, [*rows, -1])
    _require(known.all(), f"rows are those that were added, got {found.rows[~known][:5].tolist()}")
    places = {row: place for place, row in enumerate(rows.tolist())} | {-1: 0}
    true = np.take_along_axis(every, np.vectorize(places.__getitem__)(found.rows), axis=1)
    error = np.where(found.rows == -1, 0, abs(found.similarities - true)).max()
    _require(error < 1e-3, f"a similarity is the inner product, off by {error:.4f}")
    twice = any(len(set(row)) < len(row) and -1 not in row for row in found.rows.tolist())
    _require(not twice, "no row is found twice by a query")
    recall = np.mean([len(set(ours) & set(best)) / k for ours, best in zip(found.rows, nearest, strict=True)])
    _require(recall >= min_recall, f"at least {min_recall} of the nearest are found, got {recall:.3f}")
    itself = _search(index, vectors, 1)
    same = itself.rows[:, 0] == rows
    _require(same.mean() >= min_recall, f"a vector is its own nearest neighbour, {same.mean():.3f} of them are")
    _require((itself.similarities[same] > 0.999).all(), "a vector is as similar to itself as 1")


def _check_removal(
    index: Index, rows: NDArray[np.int64], vectors: Vectors, queries: Vectors, min_recall: float
) -> None:
    """The rows nearest to the queries are removed, and added again in another order."""
    count = len(queries)
    _with_copies(index.remove, rows[:count])
    left = len(rows) - count
    _require(len(index) == left, f"len counts live rows, wanted {left}, got {len(index)}")
    for width in (count // 4, len(rows)):
        back = np.isin(_search(index, queries, width).rows, rows[:count])
        _require(not back.any(), "a removed row never comes back, search found one")
    _check_search(index, rows[count:], vectors[count:], queries, min_recall)
    _require_refusal("a removed row, removed again,", index.remove, rows[:1])
    reversed_rows = rows[:count][::-1].copy()
    _with_copies(index.add, reversed_rows, vectors[:count])
    _require(len(index) == len(rows), f"a removed row can be added again, len should be {len(rows)}, got {len(index)}")
    _check_search(index, np.concatenate([reversed_rows, rows[count:]]), vectors, queries, min_recall)


def _require(holds: bool | np.bool_, clause: str) -> None:
    if not holds:
        raise AssertionError(f"stage protocol: {clause}")


def _require_refusal(what: str, call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"stage protocol: {what} is a ValueError, got {error!r}") from error
    raise AssertionError(f"stage protocol: {what} is a ValueError, it was taken")


def _with_copies(call: Callable[..., object], *arrays: NDArray[np.generic]) -> object:
    """Call with writable copies, which must stay as they are, and be copied where they are kept."""
    given = [array.copy() for array in arrays]
    result = call(*given)
    _require(all(map(np.array_equal, given, arrays)), "inputs are left untouched, an array was changed")
    for array in given:
        array[...] = 0
    return result


def _search(index: Index, queries: Vectors, k: int) -> Neighbors:
    """Search, and check the shape, the types and the order of the answer."""
    found = _with_copies(lambda given: index.search(given, k), queries)
    if not isinstance(found, Neighbors):
        raise AssertionError(f"stage protocol: search gives Neighbors, got {type(found).__name__}")  # noqa: TRY004
    wanted = (len(queries), k)
    for name, array, dtype in ("rows", found.rows, np.int64), ("similarities", found.similarities, np.float32):
        fits = array.shape == wanted and array.dtype == dtype
        _require(fits, f"{name} are {np.dtype(dtype)} {wanted}, got {array.dtype} {array.shape}")
    falling = found.similarities[:, 1:] <= found.similarities[:, :-1]
    _require(falling.all(), "neighbours come by falling similarity")
    padded = (found.rows == -1) == np.isneginf(found.similarities)
    _require(padded.all(), "where there is no row, row is -1 and similarity -inf, and nowhere else")
    return found


def _unit(vectors: NDArray[np.floating]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
