"""The pipeline on a Ray cluster (extra ``ray``): workers analyse photos, and the caller gets the analyses in order.

A Ray Data job with a pool of actors (Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI
2018). Workers build their stages once per job and batch photos as a local pipeline does, so that results are the same.
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pipeline.config import Config, build_cropper, build_detector, build_embedder
from pipeline.pipeline import Analysis, Pipeline
from stages import decode_pool
from stages.errors import StageError

TASK: Final = 16
"""Photos per task, a multiple of the batch size; a task is repeated when its worker dies."""

JOB: Final = 3200 * TASK
"""Photos per job, which limits how many paths and analyses are in memory."""


class ClusterPipeline:
    """Analyses catalogue photos as ``Pipeline(…, main_garment=True)`` does, on the workers of a Ray cluster.

    The workers read photos and weights, which must have the same path on every machine. Analyses come without photos,
    crops and masks. A worker that dies is replaced, and its task is repeated.

    Args:
        config: names the stages. Each worker takes a GPU if the cluster has any, otherwise a processor core.
        address: of a cluster, as Ray writes it; None starts one on this machine for the time of a run.
        workers: how many at most; None for as many as the cluster has GPUs, or cores.

    Raises:
        StageError: Ray is not installed; or later, the cluster does not answer or a worker cannot build its stages.
    """

    def __init__(self, config: Config, address: str | None = None, workers: int | None = None) -> None:
        self._config, self._address, self._workers = config, address, workers
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise StageError("a run on a cluster needs Ray; install it with: pip install 'outfinder[ray]'") from error

    def __call__(self, paths: Iterable[str | Path]) -> Iterator[Analysis]:
        """Yield one analysis per photo, in order; a photo that cannot be read has an error."""
        remaining = iter(paths)
        job = list(islice(remaining, JOB))
        if not job:
            return
        connect = not self._ray.is_initialized()
        try:
            if connect:
                self._connect()
            while job:
                yield from self._run(job)
                job = list(islice(remaining, JOB))
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise StageError(f"the Ray cluster could not finish: {reason}") from error
        finally:
            if connect:
                self._ray.shutdown()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
        local = {} if self._address else {"include_dashboard": False}
        try:
            self._ray.init(self._address or "local", log_to_driver=False, logging_level="ERROR", **local)
        except Exception as error:  # Ray raises just that where a cluster does not start in time
            raise StageError(f"no Ray cluster answers at {self._address or 'this machine'}: {error}") from error

    def _run(self, paths: Sequence[str | Path]) -> Iterator[Analysis]:
        data = importlib.import_module("ray.data")
        context = data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        resources = self._ray.cluster_resources()
        gpus = 0 if self._config.device == "cpu" else int(resources.get("GPU", 0))
        tasks = [{"paths": [str(path) for path in paths[at : at + TASK]]} for at in range(0, len(paths), TASK)]
        most = min(self._workers or gpus or int(resources.get("CPU", 1)), len(tasks))
        results = data.from_items(tasks, override_num_blocks=len(tasks)).map(
            Worker,
            fn_constructor_args=(self._config, decode_pool.is_isolated()),
            compute=data.ActorPoolStrategy(min_size=1, max_size=most),
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else 1,
        )  # Ray Data replaces workers that die and gives their tasks to others
        for row in results.iter_rows():
            yield from pickle.loads(row["analyses"])  # noqa: S301  from our own workers


class Worker:
    """A pipeline in a process of its own, which Ray creates."""

    def __init__(self, config: Config, isolate: bool = False) -> None:
        self._context = ExitStack()
        if isolate:
            self._context.enter_context(decode_pool.isolated())
        stages = build_detector(config), build_cropper(config), build_embedder(config)
        workers = config.workers or 2  # it shares its machine with others
        self._pipeline = Pipeline(*stages, batch_size=config.batch_size, workers=workers, main_garment=True)

    def __call__(self, task: dict[str, Any]) -> dict[str, bytes]:
        """Analyse the photos of a task."""
        return {"analyses": pickle.dumps([_without_pixels(one) for one in self._pipeline(task["paths"])])}


def _without_pixels(analysis: Analysis) -> Analysis:
    detections = tuple(replace(detection, mask=None) for detection in analysis.detections)
    return replace(analysis, photo=None, crops=(), detections=detections)
