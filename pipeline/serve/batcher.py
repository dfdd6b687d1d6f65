"""Batches of requests: inputs that are awaited one by one, computed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Turns a function of a batch into one that is awaited for a single input.

    A batch holds the inputs that arrive within ``wait_s`` of its first, or while the previous batch is computed, in
    their order. Inputs that nobody awaits any more are dropped. If a batch fails, each of its inputs is tried alone, so
    that one bad input fails by itself.

    Args:
        work: returns as many results as inputs, in the same order.
        pool: where it runs.
        max_size: inputs per batch.
        wait_s: how long the first input waits for others.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Sequence[R]],
        pool: Executor,
        max_size: int,
        wait_s: float,
        observe: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._work, self._pool, self._max_size, self._wait_s, self._observe = work, pool, max_size, wait_s, observe
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, value: T) -> R:
        """Return the result of one input, or raise what its work raises."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((value, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._max_size:
                await asyncio.sleep(self._wait_s)
            batch = [self._waiting.popleft() for _ in range(min(self._max_size, len(self._waiting)))]
            if wanted := [(value, future) for value, future in batch if not future.done()]:
                await self._compute(wanted)

    async def _compute(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        self._observe(len(batch))
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._pool, self._work, [value for value, _ in batch])
        except Exception as error:  # noqa: BLE001  a stage may raise anything; it goes to the one who waits
            if len(batch) > 1:
                for one in batch:
                    await self._compute([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
