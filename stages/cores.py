"""The processor cores that this process, and each of its threads, may use."""

from __future__ import annotations

import os
from threading import local

_thread = local()


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_cores() -> int:
    """Return how many cores this thread may use: all, or one if it declared itself single."""
    return 1 if getattr(_thread, "is_single", False) else cores()


def limit_thread_to_one_core() -> None:
    """Declare this thread to be one of several that keep all cores busy together."""
    _thread.is_single = True
