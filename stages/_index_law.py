"""The law of an index as a check; public in :mod:`stages.testing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.protocols import Index
from stages.types import Neighbors, Vectors

_FAR = 10_000_019
"""A row number that no check stores."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """An index, and how well it is to search."""

    index: Index
    k: int
    min_recall: float


def check_index(
    make_index: Callable[[int], Index], dim: int = 16, size: int = 200, k: int = 10, min_recall: float = 0.95
) -> None:
    """Prove the law on an index: empty, filled, thinned out, filled again, and against wrong input.

    Args:
        make_index: makes an empty index of a given dim.
        dim: the width of the vectors to try, at least 2.
        size: how many vectors to try, at least 6 * k.
        k: how many neighbours to ask for.
        min_recall: the share of the true k nearest that must be found; 1.0 for an exact index.

    Raises:
        AssertionError: a clause is broken.
        ValueError: there are too few dimensions or vectors to tell.
    """
    if dim < 2 or k < 1 or size < 6 * k:
        raise ValueError(f"wanted dim >= 2, k >= 1 and size >= 6 * k, got dim={dim}, k={k}, size={size}")
    rng = np.random.default_rng(0)
    vectors = _unit(rng.normal(size=(size, dim)))
    queries = _unit(vectors[: 4 * k] + 0.2 * _unit(rng.normal(size=(4 * k, dim))))
    rows = rng.permutation(np.arange(size, dtype=np.int64) * 7)
    index = make_index(dim)
    trial = _Trial(index, k, min_recall)
    _law(index.dim == dim, f"dim is what it was made with, {dim}, got {index.dim}")
    _check_empty(index, queries[:3])
    _check_refusals_of_an_empty_index(index, vectors)
    _untouched(index.add, rows[: size // 2], vectors[: size // 2])
    _untouched(index.add, rows[size // 2 :], vectors[size // 2 :])
    _law(len(index) == size, f"len counts live rows, {size} were added, got {len(index)}")
    _check_refusals(index, rows, vectors)
    _check_search(trial, rows, vectors, queries)
    _check_padding(index, queries[:3], size)
    _check_removal(trial, rows, vectors, queries)


def _law(holds: bool, clause: str) -> None:
    if not holds:
        raise AssertionError(f"stage protocol: {clause}")


def _unit(vectors: NDArray[np.float64]) -> Vectors:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def _untouched(call: Callable[..., object], *arrays: NDArray[np.generic]) -> object:
    """Call with writable copies, which stay as they are."""
    given = [array.copy() for array in arrays]
    result = call(*given)
    _law(all(map(np.array_equal, given, arrays)), "inputs are left untouched, an array was changed")
    for array in given:  # nor does the index look at the caller's memory later
        array[...] = 0
    return result


def _search(index: Index, queries: Vectors, k: int) -> Neighbors:
    """Search, with the shape, types and order of the answer checked."""
    found = _untouched(lambda given: index.search(given, k), queries)
    if not isinstance(found, Neighbors):
        raise AssertionError(f"stage protocol: search gives Neighbors, got {type(found).__name__}")  # noqa: TRY004
    wanted = (len(queries), k)
    for name, array, dtype in ("rows", found.rows, np.int64), ("similarities", found.similarities, np.float32):
        fits = array.shape == wanted and array.dtype == dtype
        _law(fits, f"{name} are {np.dtype(dtype)} {wanted}, got {array.dtype} {array.shape}")
    falling = (found.similarities[:, 1:] <= found.similarities[:, :-1]).all()
    _law(bool(falling), "neighbours come by falling similarity")
    padded = (found.rows == -1) == np.isneginf(found.similarities)
    _law(bool(padded.all()), "where there is no row, row is -1 and similarity -inf, and nowhere else")
    return found


def _refuses(what: str, call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"stage protocol: {what} is a ValueError, got {error!r}") from error
    raise AssertionError(f"stage protocol: {what} is a ValueError, it was taken")


def _check_empty(index: Index, queries: Vectors) -> None:
    _law(len(index) == 0, f"a new index is empty, got len {len(index)}")
    _law(bool((_search(index, queries, 4).rows == -1).all()), "an empty index has no neighbours, rows are -1")
    none = np.empty((0, queries.shape[1]), np.float32)
    _search(index, none, 4)
    index.add(np.empty(0, np.int64), none)
    index.remove(np.empty(0, np.int64))
    _law(len(index) == 0, "adding no vectors adds none")


def _check_refusals_of_an_empty_index(index: Index, vectors: Vectors) -> None:
    """Wrong vectors are refused as a whole, by add and by search."""
    good, row = vectors[:2], np.array([1, 2], np.int64)
    bad = {"a NaN": np.nan, "an infinity": np.inf}
    wrong = {f"{name} in a vector": np.where([[False] * good.shape[1], [True] * good.shape[1]], value, good)
             for name, value in bad.items()}  # fmt: skip
    wrong |= {
        "a zero vector": good * np.array([[1], [0]]),
        "a vector not of norm 1": good * np.array([[1], [2]]),
        "a vector too wide": np.pad(good, ((0, 0), (0, 1))),
        "a vector too narrow": _unit(good[:, :-1].astype(np.float64)),
        "a single vector without its row": good[0],
    }
    for name, values in wrong.items():
        _refuses(f"{name}, added,", index.add, row, values.astype(np.float32))
        _refuses(f"{name}, as a query,", index.search, values.astype(np.float32), 3)
    _refuses("fewer rows than vectors", index.add, row[:1], good)
    _refuses("the same row twice at once", index.add, row[[0, 0]], good)
    _refuses("k of 0", index.search, good, 0)
    _law(len(index) == 0, f"what is refused is not stored, got len {len(index)}")


def _check_refusals(index: Index, rows: NDArray[np.int64], vectors: Vectors) -> None:
    size = len(index)
    taken_and_new = np.array([_FAR, rows[0]], np.int64)
    _refuses("a row that is there, added again,", index.add, taken_and_new, vectors[:2])
    _law(len(index) == size, f"a refused add changes nothing, len was {size}, got {len(index)}")
    _refuses("a row that is not there, removed,", index.remove, np.array([rows[0], _FAR], np.int64))
    _law(len(index) == size, f"a refused removal changes nothing, len was {size}, got {len(index)}")
    found = _search(index, vectors[:1], 1).rows[0, 0]
    _law(found == rows[0], f"what is refused changes nothing, row {rows[0]} of the first vector is no longer found")


def _check_search(trial: _Trial, rows: NDArray[np.int64], vectors: Vectors, queries: Vectors) -> None:
    """Against brute force; and each vector finds itself."""
    index, k, min_recall = trial.index, trial.k, trial.min_recall
    found = _search(index, queries, k)
    every = queries @ vectors.T
    nearest = rows[np.argsort(-every, axis=1)[:, :k]]
    place = {row: number for number, row in enumerate(rows.tolist())} | {-1: 0}
    known = np.isin(found.rows, [*rows, -1])
    _law(bool(known.all()), f"rows are those that were added, got {found.rows[~known][:5].tolist()}")
    true = np.take_along_axis(every, np.vectorize(place.__getitem__)(found.rows), axis=1)
    error = np.where(found.rows == -1, 0, abs(found.similarities - true)).max()
    _law(bool(error < 1e-3), f"a similarity is the inner product, off by {error:.4f}")
    twice = [row for row in found.rows.tolist() if len(set(row)) < len(row) and -1 not in row]
    _law(not twice, "no row is found twice by a query")
    recall = np.mean([len(set(ours) & set(true)) / k for ours, true in zip(found.rows, nearest, strict=True)])
    _law(bool(recall >= min_recall), f"at least {min_recall} of the nearest are found, got {recall:.3f}")
    own = _search(index, vectors, 1)
    selves = float((own.rows[:, 0] == rows).mean())
    _law(selves >= min_recall, f"a vector is its own nearest neighbour, {selves:.3f} of them are")
    near = bool((own.similarities[own.rows[:, 0] == rows] > 0.999).all())
    _law(near, "a vector is as similar to itself as 1")


def _check_padding(index: Index, queries: Vectors, size: int) -> None:
    found = _search(index, queries, size + 3)
    _law(bool((found.rows[:, size:] == -1).all()), f"beyond the {size} rows there are, rows are -1")


def _check_removal(trial: _Trial, rows: NDArray[np.int64], vectors: Vectors, queries: Vectors) -> None:
    """The rows nearest to the queries go, and come back in another order."""
    index = trial.index
    gone = len(queries)
    _untouched(index.remove, rows[:gone])
    _law(len(index) == len(rows) - gone, f"len counts live rows, wanted {len(rows) - gone}, got {len(index)}")
    for width in (trial.k, len(rows)):
        back = np.isin(_search(index, queries, width).rows, rows[:gone])
        _law(not back.any(), "a removed row never comes back, search found one")
    _check_search(trial, rows[gone:], vectors[gone:], queries)
    _refuses("a removed row, removed again,", index.remove, rows[:1])
    other_way_round = rows[:gone][::-1].copy()
    _untouched(index.add, other_way_round, vectors[:gone])
    _law(len(index) == len(rows), f"a removed row can be added again, len should be {len(rows)}, got {len(index)}")
    again = np.concatenate([other_way_round, rows[gone:]])
    _check_search(trial, again, vectors, queries)
