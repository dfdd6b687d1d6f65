"""The pipeline on a Ray cluster (extra ``ray``): workers look at photos, whoever asked gets what they found, in order.

A Ray Data job with a pool of actors. Each worker builds its stages once in a job, from the same names, and takes
photos in the same batches as a pipeline by itself does: so it finds the same. Moritz et al., "Ray: A Distributed
Framework for Emerging AI Applications", OSDI 2018.
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
from stages import isolation
from stages.errors import StageError

TASK: Final = 16
"""Photos that a worker is given at once: whole batches of a pipeline, and what is done again when a worker dies."""

JOB: Final = 3200 * TASK
"""Photos of one job: so many results and places wait in memory at most."""


class ClusterPipeline:
    """Looks at catalogue photos as ``Pipeline(…, main_garment=True)`` does, on the workers of a Ray cluster.

    Photos and weights are read by the workers: they lie where every machine finds them under the same path. Analyses
    come without photos, crops and masks. A worker that dies is replaced, and what it had is done again.

    Args:
        config: names the stages. Where the cluster has GPUs each worker takes one, otherwise one processor core.
        address: of a cluster, as Ray writes it; None makes one of this machine, for as long as it takes.
        workers: how many at most; None for as many as the cluster has GPUs, or cores.

    Raises:
        StageError: here and later: Ray is not installed, the cluster does not answer, or a worker cannot build its
            stages.
    """

    def __init__(self, config: Config, address: str | None = None, workers: int | None = None) -> None:
        self._config, self._address, self._workers = config, address, workers
        self._ray = _ray()

    def __call__(self, paths: Iterable[Path]) -> Iterator[Analysis]:
        """One analysis per path, in order; a photo that cannot be read has its error."""
        remaining = iter(paths)
        job = list(islice(remaining, JOB))
        if not job:
            return
        ours = not self._ray.is_initialized()
        try:
            if ours:
                self._connect()
            while job:
                yield from self._run(job)
                job = list(islice(remaining, JOB))
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise StageError(f"the Ray cluster could not finish: {reason}") from error
        finally:
            if ours:
                self._ray.shutdown()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        local = {} if self._address else {"include_dashboard": False}
        try:
            self._ray.init(self._address or "local", log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StageError(f"no Ray cluster answers at {self._address or 'this machine'}: {error}") from error

    def _run(self, paths: Sequence[Path]) -> Iterator[Analysis]:
        """One job."""
        data = importlib.import_module("ray.data")
        context = data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        there = self._ray.cluster_resources()
        gpus = 0 if self._config.device == "cpu" else int(there.get("GPU", 0))
        tasks = [{"paths": [str(path) for path in paths[at : at + TASK]]} for at in range(0, len(paths), TASK)]
        most = min(self._workers or gpus or int(there.get("CPU", 1)), len(tasks))
        found = data.from_items(tasks, override_num_blocks=len(tasks)).map(
            Worker,
            fn_constructor_args=(self._config, isolation.decoder() is not None),
            compute=data.ActorPoolStrategy(min_size=1, max_size=most),
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else 1,
        )  # Ray Data replaces workers that die, and gives their tasks to others
        for row in found.iter_rows():
            yield from pickle.loads(row["found"])  # noqa: S301  from our own workers


class Worker:
    """A pipeline in a process of its own; made by Ray."""

    def __init__(self, config: Config, isolate: bool = False) -> None:
        self._context = ExitStack()
        if isolate:
            self._context.enter_context(isolation.isolated())
        stages = build_detector(config), build_cropper(config), build_embedder(config)
        workers = config.workers or 2  # beside others on its machine
        self._pipeline = Pipeline(*stages, batch_size=config.batch_size, workers=workers, main_garment=True)

    def __call__(self, task: dict[str, Any]) -> dict[str, bytes]:
        """Look at some photos."""
        found = [_light(analysis) for analysis in self._pipeline(Path(path) for path in task["paths"])]
        return {"found": pickle.dumps(found)}


def _light(analysis: Analysis) -> Analysis:
    """Without pixels."""
    detections = tuple(replace(detection, mask=None) for detection in analysis.detections)
    return replace(analysis, photo=None, crops=(), detections=detections)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise StageError("a run on a cluster needs Ray; install it with: pip install 'outfinder[ray]'") from error
