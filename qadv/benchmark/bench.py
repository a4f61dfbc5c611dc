"""Runs the cells of a study that are not there yet, in an order that their needs allow."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qadv.benchmark.cells import Cell, Finished
from qadv.benchmark.engines import Engine, Failed
from qadv.benchmark.store import Store

_KEPT = 8


@dataclass
class BenchResult:
    """What a bench did.

    Attributes:
        computed: labels of the cells computed now.
        kept: number of cells that were there already.
        failed: why cells failed, by label.
        left_out: labels of the cells that need one which failed.
        seconds: wall time.
    """

    computed: list[str] = field(default_factory=list)
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every cell of the study is there."""
        return not self.failed and not self.left_out


@dataclass(frozen=True)
class Event:
    """What `run_cells` tells while it works: a cell has `"started"`, or is `"done"`, `"failed"` or `"left out"`."""

    what: str
    cell: Cell
    seconds: float = 0.0
    message: str = ""


def run_cells(
    cells: Sequence[Cell], store: Store, engine: Engine, tell: Callable[[Event], None] = lambda event: None
) -> BenchResult:
    """Computes what is missing and writes each cell as soon as it is done.

    Args:
        cells: of the study, each after those it needs.
        store: where finished cells are, and go.
        engine: computes them; it is left open.
        tell: is called at each event.

    Returns:
        What was done. A cell that fails does not stop the others; those that need it are left out.
    """
    result, began = BenchResult(), time.perf_counter()
    waiting = {cell.key: cell for cell in cells if not store.is_finished(cell.key)}
    result.kept = len(cells) - len(waiting)
    dead: set[str] = set()
    running: dict[str, float] = {}
    cache: dict[str, Finished] = {}
    while waiting or running:
        for key, cell in list(waiting.items()):
            if any(need in dead for need in cell.needs):
                dead.add(key)
                del waiting[key]
                result.left_out.append(cell.label)
                tell(Event("left out", cell, message="needs a cell that failed"))
            elif len(running) < engine.slots and not any(n in waiting or n in running for n in cell.needs):
                engine.submit(cell, {need: _read(store, cache, need) for need in cell.needs})
                running[key] = time.perf_counter()
                del waiting[key]
                tell(Event("started", cell))
        if not running:
            break
        for cell, outcome in engine.finished():
            seconds = time.perf_counter() - running.pop(cell.key)
            if isinstance(outcome, Failed):
                dead.add(cell.key)
                result.failed[cell.label] = outcome.message
                store.write_failure(cell.key, cell.label, outcome.message, outcome.trace)
                tell(Event("failed", cell, seconds, outcome.message))
                continue
            store.write(cell.key, Finished({**outcome.record, "cell_seconds": seconds}, outcome.files))
            result.computed.append(cell.label)
            tell(Event("done", cell, seconds))
    result.seconds = time.perf_counter() - began
    return result


def _read(store: Store, cache: dict[str, Finished], key: str) -> Finished:
    """Reads a cell that several others need once, and keeps a few in memory."""
    if key not in cache:
        if len(cache) >= _KEPT:
            cache.pop(next(iter(cache)))
        cache[key] = store.read(key)
    return cache[key]
