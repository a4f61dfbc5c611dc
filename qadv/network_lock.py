"""Lets one thread at a time use a network, whose mode and weights all threads share."""

import os
import threading
import weakref

from torch import nn


class NetworkLock:
    """A re-entrant lock for networks that have modules in common, and who is at work on them.

    Threads get it in the order in which they ask: Python's own locks would let one that asks in a loop keep out a
    training for good. `trained_by` last had the networks in training mode with gradients; those of `evaluated_by` have
    them in evaluation mode for a while, and `left_behind` is what they found in training mode, to be put back.
    """

    def __init__(self) -> None:
        self.trained_by: weakref.ref[threading.Thread] | None = None
        self.evaluated_by: list[threading.Thread] = []
        self.left_behind: set[nn.Module] = set()
        self._depth = 0
        self._queue: list[int] = []  # the first of these threads has the lock
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        current = threading.get_ident()
        with self._changed:
            if current not in self._queue[:1]:
                self._queue.append(current)
                try:
                    self._changed.wait_for(lambda: self._queue[0] == current)
                except BaseException:  # Ctrl-C
                    self._leave(current)
                    raise
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._leave(self._queue[0])

    def _leave(self, thread: int) -> None:
        self._queue.remove(thread)
        self._changed.notify_all()

    def is_trained_by_another(self) -> bool:
        """Whether another thread is training, or may go on with it."""
        trainer = self.trained_by() if self.trained_by is not None else None
        return trainer is not None and trainer is not threading.current_thread() and trainer.is_alive()

    def is_evaluated_by_another(self) -> bool:
        """Whether another thread relies on evaluation mode."""
        current = threading.current_thread()
        return bool(self.evaluated_by) and any(thread is not current for thread in self.evaluated_by)


_LOCKS: weakref.WeakKeyDictionary[nn.Module, NetworkLock] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LOCKS.clear)  # the threads that had them are not there


def lock_of(network: nn.Module) -> NetworkLock:
    """Returns the lock of a network; networks that share a module share it, as an ensemble and its members do."""
    if (known := _LOCKS.get(network)) is not None:
        return known
    with _MAKING:
        modules = list(network.modules())
        found = list(dict.fromkeys(lock for module in modules if (lock := _LOCKS.get(module)) is not None))
        chosen = found[0] if found else NetworkLock()
        if len(found) > 1:
            modules += [module for module, lock in _LOCKS.items() if lock in found]
        _LOCKS.update(dict.fromkeys(modules, chosen))
        return chosen
