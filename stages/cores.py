"""The processor cores that this process and each of its threads may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from threading import local
from typing import TypeVar

R = TypeVar("R")

_thread = local()


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_cores() -> int:
    """Return the number of cores that this thread may use: one after :func:`limit_thread_to_one_core`, otherwise all."""
    return 1 if getattr(_thread, "is_single", False) else cores()


def limit_thread_to_one_core() -> None:
    """Limit this thread to one core, since it is one of several that use all cores together."""
    _thread.is_single = True


def run_in_turn(function: Callable[[], R]) -> R:
    """Run a short function on one of the threads that compute batches, once one is free, so as not to compete with them."""
    if "torch" not in sys.modules:  # which takes seconds to import; without it, nothing computes batches
        return function()
    from stages.cpu import parallel_parts, thread_pool  # noqa: PLC0415

    return thread_pool().submit(function).result() if parallel_parts("cpu") > 1 else function()
