"""A time limit for the code of plugins."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class TookTooLong(BaseException):
    """Raised inside the code that took too long; no `Exception`, so that code which catches those does not catch it."""


@contextmanager
def time_limit(seconds: float, warning: str) -> Iterator[None]:
    """Ends what runs inside when it takes longer than `seconds`, by a `TookTooLong`, again each second if caught.

    The code stays in this thread, because imports hold locks: in another thread, a module that asks qadv for something
    while it is imported would wait for itself. So it is ended by an alarm signal, which reaches Python code and waiting
    calls, in the main thread of a Unix process whose alarm nobody else uses. Elsewhere nothing can end it, and
    `warning` is written to stderr, so that whoever waits knows for what.
    """
    if not _alarm_is_free():
        watch = threading.Timer(seconds, print, [warning], {"file": sys.stderr})
        watch.daemon = True
        with suppress(RuntimeError):  # no thread to be had, as in a browser: nobody is warned
            watch.start()
        try:
            yield
        finally:
            watch.cancel()
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _alarm_is_free() -> bool:
    return (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )
