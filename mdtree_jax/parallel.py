"""Independent pieces of NumPy work on several processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_work: Callable[[Any], Any] | None = None


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(work: Callable[[Any], Any], pieces: Sequence[Any], jobs: int) -> Iterator[Any]:
    """Yield `work(piece)` for every piece, in their order.

    With `jobs` > 1 the pieces run on forked processes, which inherit `work` and its data without copying; where the
    system cannot fork they run one after the other. Either way a piece has one core: the threads of small matrix
    products would only wait for each other. Not to be used in a process that runs JAX.
    """
    from threadpoolctl import threadpool_limits

    global _work
    if jobs <= 1 or len(pieces) <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        for piece in pieces:
            with threadpool_limits(1):
                result = work(piece)
            yield result
        return
    _work = work
    try:
        with multiprocessing.get_context("fork").Pool(min(jobs, len(pieces)), _start_worker) as pool:
            yield from pool.imap(_call, pieces)
    finally:
        _work = None


def _start_worker() -> None:
    """Keep a process to one core."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    gc.freeze()  # what was inherited is never garbage here; scanning it would copy its pages


def _call(piece: Any) -> Any:
    assert _work is not None  # set before the processes were forked
    return _work(piece)
