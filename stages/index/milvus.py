"""The Milvus index: rows in a collection of a Milvus server, or of milvus-lite in a file, through pymilvus (extra ``milvus``).

Wang et al., "Milvus: A Purpose-Built Vector Data Management System", SIGMOD 2021.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from stages.errors import GalleryCorrupt, GalleryError, StageError
from stages.files import read_whole, write_whole
from stages.index.checks import check_dim, check_k, check_known, check_new, check_vectors
from stages.index.exact import no_neighbors
from stages.types import Neighbors, Vectors

Ids = NDArray[np.int64]

MOST: Final = 16_384
"""The most neighbors that Milvus returns for a query."""

ADD_BYTES: Final = 16 << 20
"""Bytes of vectors per message: Milvus refuses messages of more than 64 MiB."""

HITS: Final = 1 << 19
"""Neighbors requested per message, over all queries, for the same reason."""

TIMEOUT_S: Final = 30.0
"""Seconds to connect."""

REQUEST_S: Final = 300.0
"""Seconds that a request may take; to a server that is gone, pymilvus 2.6 repeats it that long, and 3.0 fails at once."""


class MilvusIndex:
    """An HNSW index in a Milvus collection; this process holds only its row numbers, 8 bytes each.

    The collection is created with the first rows. It is dropped with the index unless the index was saved: the saved file
    names the collection. Several processes may load the same file; each sees its own rows of the collection. A search
    returns at most 16,384 neighbors and pads the rest.

    Args:
        dim: the width of its vectors.
        uri: of a server (``http://host:19530``), or a path that ends in ``.db`` for milvus-lite.
        m: as for :class:`stages.index.HnswIndex`.
        ef_construction: as for it.
        ef_search: as for it.

    Raises:
        ValueError: the URI is neither, or see :mod:`stages.index.checks`.
        StageError: also from each method: pymilvus is not installed, or the server fails or does not answer.
    """

    def __init__(self, dim: int, uri: str, m: int = 16, ef_construction: int = 200, ef_search: int = 128) -> None:
        check_dim(dim)
        if not uri.startswith(("http://", "https://")) and not uri.endswith(".db"):
            raise ValueError(f"Milvus is at http://host:port or in a file that ends in .db, got {uri!r}")
        self.dim, self._uri, self._ef_search = dim, uri, ef_search
        self._graph = {"M": m, "efConstruction": ef_construction}
        milvus = _pymilvus()
        self._client: Any = self._ask(milvus.MilvusClient, uri, timeout=TIMEOUT_S)
        self._collection: str | None = None
        self._drop_unsaved: finalize[..., Any] | None = None
        self._live = np.zeros(0, np.int64)  # rising

    def __len__(self) -> int:
        return len(self._live)

    def add(self, rows: Ids, vectors: Vectors) -> None:
        """Store vectors under new row numbers."""
        check_new(rows, vectors, self.dim, self._live_among(rows))
        if self._collection is None and len(rows):
            self._create()
        step = max(1, ADD_BYTES // (4 * self.dim))
        for start in range(0, len(rows), step):
            part = zip(rows[start : start + step].tolist(), vectors[start : start + step], strict=True)
            data = [{"id": row, "vector": vector} for row, vector in part]
            self._ask(self._client.upsert, self._collection, data)
        self._live = np.union1d(self._live, rows)

    def remove(self, rows: Ids) -> None:
        """Remove rows."""
        check_known(rows, self._live_among(rows))
        for start in range(0, len(rows), MOST):
            self._ask(self._client.delete, self._collection, ids=rows[start : start + MOST].tolist())
        self._live = np.setdiff1d(self._live, rows, assume_unique=True)

    def search(self, queries: Vectors, k: int) -> Neighbors:
        """Return the k nearest live rows of each query, best first, padded with -1 where there are fewer."""
        check_vectors(queries, self.dim)
        check_k(k)
        result = no_neighbors(len(queries), k)
        wanted = min(k, len(self), MOST)
        step = max(1, HITS // max(1, wanted))
        for start in range(0, len(queries) if wanted else 0, step):
            near = self._search(queries[start : start + step], wanted)
            result.rows[start : start + step, :wanted] = near.rows
            result.similarities[start : start + step, :wanted] = near.similarities
        return result

    def save(self, path: Path | str) -> None:
        """Write the name of the collection to a file, once the server has stored its rows, and keep the collection.

        Raises:
            GalleryError: the file cannot be written.
        """
        path = Path(path)
        collection = self._collection or self._create()
        self._ask(self._client.flush, collection)
        try:
            write_whole(path, collection)
        except OSError as error:
            raise GalleryError(f"cannot write the index {path.name}: {error}") from error
        if self._drop_unsaved is not None:
            self._drop_unsaved.detach()

    def load(self, path: Path | str, rows: Ids) -> None:
        """Restore what :meth:`save` wrote when these rows were stored.

        Raises:
            GalleryCorrupt: the file does not name a collection of outfinder that the server has.
        """
        path = Path(path)
        try:
            collection = read_whole(path, 1000).decode()
        except (OSError, ValueError) as error:
            raise GalleryCorrupt(f"cannot read the index {path.name}: {error}") from error
        if not re.fullmatch("(outfinder_[0-9a-f]{32})?", collection):
            raise GalleryCorrupt(f"cannot read the index {path.name}: it does not name a collection of outfinder")
        if collection and not self._ask(self._client.has_collection, collection):
            raise GalleryCorrupt(f"the collection {collection} of the index {path.name} is gone from {self._uri}")
        if collection:
            self._ask(self._client.load_collection, collection)
        self._collection, self._live = collection or None, np.sort(rows)

    def _create(self) -> str:
        """Create the collection, with row numbers as primary keys, whose searches see all earlier writes; return its name."""
        client = _pymilvus().MilvusClient
        types = _pymilvus().DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=self.dim)
        graph = client.prepare_index_params()
        graph.add_index("vector", index_type="HNSW", metric_type="IP", params=self._graph)
        name = f"outfinder_{uuid4().hex}"
        options = {"schema": schema, "index_params": graph, "consistency_level": "Strong"}
        self._ask(self._client.create_collection, name, **options)
        self._collection, self._drop_unsaved = name, finalize(self, _drop, self._client, name)
        self._drop_unsaved.atexit = False  # milvus-lite has stopped by then
        return name

    def _search(self, queries: Vectors, k: int) -> Neighbors:
        """Search for k live rows, skipping rows that another process has added to the collection."""
        result, limit = no_neighbors(len(queries), k), k
        while True:
            parameters = {"metric_type": "IP", "params": {"ef": max(self._ef_search, limit)}}
            options: dict[str, Any] = {"data": list(queries), "limit": limit, "search_params": parameters}
            try:
                answers = self._ask(self._client.search, self._collection, **options)
            except StageError:  # a server that has just started may not have loaded the collection
                self._ask(self._client.load_collection, self._collection)
                answers = self._ask(self._client.search, self._collection, **options)
            for place, answer in enumerate(answers):
                rows = np.array([hit["id"] for hit in answer], np.int64)
                near = np.array([hit["distance"] for hit in answer], np.float32)
                order = np.lexsort((rows, -near))
                best = order[np.isin(rows[order], self._live)][:k]
                result.rows[place, : len(best)] = rows[best]
                result.similarities[place, : len(best)] = np.clip(near[best], -1, 1)
            complete = (result.rows >= 0).all() or all(len(answer) < limit for answer in answers)
            if complete or limit == MOST:
                return result
            limit = min(2 * limit, MOST)

    def _live_among(self, rows: Ids) -> set[int]:
        """Return the live ones of some rows; none if ``rows`` is not an array of rows, which the checks report."""
        if not isinstance(rows, np.ndarray) or rows.dtype != np.int64:
            return set()
        return set(rows[np.isin(rows, self._live)].tolist())

    def _ask(self, method: Callable[..., Any], *arguments: Any, timeout: float = REQUEST_S, **options: Any) -> Any:
        """Send a request; one that failed may be sent again, since rows are stored under their numbers."""
        try:
            return method(*arguments, timeout=timeout, **options)
        except (_pymilvus().MilvusException, importlib.import_module("grpc").RpcError) as error:
            raise StageError(self._explained(error)) from error

    def _explained(self, error: Any) -> str:
        """Return what an error of pymilvus or of gRPC means, in one sentence."""
        reason = " ".join(str(error.message if hasattr(error, "message") else error.details()).split())
        if any(sign in reason for sign in ("Fail connecting", "UNAVAILABLE", "Deadline Exceeded")):
            return f"Milvus at {self._uri} does not answer; is it running? ({reason})"
        if "://" not in self._uri and "Open local milvus failed" in reason:
            reason += "; another process may be using the file: end it, or use a Milvus server for several processes"
        return f"Milvus at {self._uri} reports: {reason}"


def _pymilvus() -> Any:
    """Import pymilvus, which is optional."""
    try:
        module = importlib.import_module("pymilvus")
    except ImportError as error:
        raise StageError("a Milvus index needs pymilvus; install it with: pip install 'outfinder[milvus]'") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints the traceback of each error that it raises
    return module


def _drop(client: Any, collection: str) -> None:
    """Drop a collection that was never saved; failures are ignored, since nobody could act on them."""
    with suppress(Exception):
        client.drop_collection(collection, timeout=TIMEOUT_S)
