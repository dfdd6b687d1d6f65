"""What the machine gives this process to compute with."""

from __future__ import annotations

import os
from threading import local

_thread = local()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_here() -> int:
    """Those that what this thread does may take: all, or one where others compute beside it."""
    return 1 if getattr(_thread, "beside_others", False) else cores()


def compute_beside_others() -> None:
    """From now on this thread is one of several that keep the cores busy together."""
    _thread.beside_others = True
