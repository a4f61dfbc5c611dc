"""Where cells are computed: in this process, in several, or on a Ray cluster."""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from qadv.benchmark.cells import Cell, Finished
from qadv.benchmark.given import Given
from qadv.benchmark.specs import Spec
from qadv.errors import describe


@dataclass(frozen=True)
class Failed:
    """Why a cell could not be computed."""

    message: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> "Failed":
        """Returns an error's message and traceback as text that can be written to any file or terminal."""
        texts = describe(error), "".join(traceback.format_exception(error))
        return cls(*(text.encode("utf-8", "backslashreplace").decode() for text in texts))


Outcome = Finished | Failed


class Engine(Protocol):
    """Computes cells, `slots` at a time."""

    slots: int

    def submit(self, cell: Cell, needed: Mapping[str, Any]) -> None:
        """Takes a cell; at most `slots` at a time."""

    def finished(self) -> Iterator[tuple[Cell, Outcome]]:
        """Waits until one or more are done and yields them."""

    def close(self) -> None:
        """Ends what still runs."""


def attempt(spec: Spec, needed: Mapping[str, Finished], given: Given, threads: int) -> Outcome:
    """Computes a cell; what goes wrong is an outcome too."""
    from qadv.benchmark.compute import compute  # takes seconds, and the process that hands out work does without

    try:
        return compute(spec, needed, given, threads)
    except (Exception, SystemExit) as error:
        return Failed.of(error)


class InProcess:
    """One cell at a time in this process."""

    slots = 1

    def __init__(self, given: Any, threads: int | None = 1, work: Callable[..., Outcome] = attempt) -> None:
        self.given, self.threads, self.work = given, threads, work
        self.waiting: list[tuple[Cell, Mapping[str, Any]]] = []

    def submit(self, cell: Cell, needed: Mapping[str, Any]) -> None:
        self.waiting.append((cell, needed))

    def finished(self) -> Iterator[tuple[Cell, Outcome]]:
        cell, needed = self.waiting.pop(0)
        yield cell, self.work(cell.spec, needed, self.given, self.threads)

    def close(self) -> None:
        self.waiting.clear()


class Processes:
    """Several processes on this machine, each with so many torch threads.

    A process that dies (killed by the system for its memory, say) takes its cell along, and Python's pool with it:
    the pool is made again, the cells that were running are tried once more, one by one, and the one that dies again
    has failed. `work` computes a cell, and can be imported."""

    def __init__(self, jobs: int, given: Any, threads: int | None = 1, work: Callable[..., Outcome] = attempt) -> None:
        self.slots, self.given, self.threads, self.work = jobs, given, threads, work
        self.running: dict[Future[Outcome], tuple[Cell, Mapping[str, Any]]] = {}
        self.pool = self._new_pool()

    def submit(self, cell: Cell, needed: Mapping[str, Any]) -> None:
        try:
            future = self._start(cell, needed)
        except BrokenProcessPool as error:  # a process died since the last look: `finished` sees to it
            future = Future()
            future.set_exception(error)
        self.running[future] = cell, needed

    def finished(self) -> Iterator[tuple[Cell, Outcome]]:
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        broken = any(isinstance(future.exception(), BrokenProcessPool) for future in done)
        for future in done:
            if not isinstance(error := future.exception(), BrokenProcessPool):
                cell, _ = self.running.pop(future)
                yield cell, future.result() if error is None else Failed.of(error)
        if broken:
            yield from self._again()

    def _again(self) -> Iterator[tuple[Cell, Outcome]]:
        lost, self.running = list(self.running.values()), {}
        self._renew_pool()
        for cell, needed in lost:
            try:
                yield cell, self._start(cell, needed).result()
            except BrokenProcessPool:
                self._renew_pool()
                yield cell, Failed("the process that computed it was killed, twice (too little memory?)", "")

    def close(self) -> None:
        """Lets processes with nothing to do end by themselves: what they hold (tqdm's lock) is given back."""
        processes = list((self.pool._processes or {}).values()) if self.running else []
        self.pool.shutdown(wait=not self.running, cancel_futures=True)
        for process in processes:
            process.terminate()

    def _start(self, cell: Cell, needed: Mapping[str, Any]) -> Future[Outcome]:
        return self.pool.submit(self.work, cell.spec, dict(needed), self.given, self.threads)

    def _new_pool(self) -> ProcessPoolExecutor:
        # no fork: torch's threads do not survive one
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.slots, mp_context=context, initializer=_end_with_parent)

    def _renew_pool(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.pool = self._new_pool()


def _end_with_parent() -> None:
    """Ends a worker whose bench was killed: it would wait for work for ever."""

    def watch(parent: Any) -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
