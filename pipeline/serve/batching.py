"""Requests that come within a few milliseconds of each other go through a network together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Turns a function of a batch into one to be awaited for each input.

    A batch begins with the first input that waits and holds what comes within ``wait_s``, or while the batch before
    is worked on, in the order of arrival. Inputs that nobody waits for any more are passed over. Where a batch fails,
    each of its inputs is tried alone, so that one fails for itself.

    Args:
        work: as many results as inputs, in the same order.
        pool: where it runs.
        most: inputs of a batch.
        wait_s: how long the first input waits for others.
        observe: is told the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Sequence[R]],
        pool: Executor,
        most: int,
        wait_s: float,
        observe: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._work, self._pool, self._most, self._wait_s, self._observe = work, pool, most, wait_s, observe
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, value: T) -> R:
        """The result of one input; whatever its work raises."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((value, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            if len(self._waiting) < self._most:
                await asyncio.sleep(self._wait_s)
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            if wanted := [(value, future) for value, future in batch if not future.done()]:
                await self._look(wanted)

    async def _look(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        self._observe(len(batch))
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._pool, self._work, [value for value, _ in batch])
        except Exception as error:  # noqa: BLE001  of a stage of any maker; it goes to whoever waits
            if len(batch) > 1:
                for one in batch:
                    await self._look([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
