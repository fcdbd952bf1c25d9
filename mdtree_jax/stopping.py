"""Signals that ask a sweep to stop: SIGTERM (a cluster takes the machine back), SIGUSR1 and SIGUSR2 (time is up soon).

A signal only notes that it came. Work looks at it between its blocks of a few seconds, saves its state and raises
`Stopped`; the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

#: Exit code of a command that was stopped and can go on: `EX_TEMPFAIL` of sysexits.h.
EXIT_STOPPED = 75
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
_came: list[signal.Signals] = []


class Stopped(BaseException):
    """The process was asked to stop, and everything that it has done so far is on disk; the message is a sentence."""


def is_asked() -> bool:
    """Return whether a signal asked to stop."""
    return bool(_came)


def stop_if_asked(what_is_saved: str) -> None:
    """Raise `Stopped` if a signal asked for it; everything must be on disk."""
    if _came:
        raise Stopped(f"stopped by {_came[0].name}; {what_is_saved}, and the same command goes on from there")


def _note(number: int, _: object) -> None:
    _came.append(signal.Signals(number))


@contextlib.contextmanager
def on_signals() -> Iterator[None]:
    """While inside, have the signals noted; in a thread other than the main one they do what they did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _came.clear()
    before = {
        number: signal.signal(number, lambda number, _: _came.append(signal.Signals(number))) for number in _SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _came.clear()
