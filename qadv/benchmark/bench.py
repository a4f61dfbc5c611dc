"""Runs the missing cells of a study, each after those it needs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qadv.benchmark.cells import Cell, Finished
from qadv.benchmark.engines import Engine, Failed
from qadv.benchmark.store import Store
from qadv.errors import FileFormatError

_KEPT = 8


@dataclass
class BenchResult:
    """What a bench did: labels of the cells computed now, number of those that were there already, what was wrong with
    damaged ones and why cells failed, by label, and labels of those that need one which failed."""

    computed: list[str] = field(default_factory=list)
    kept: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every cell of the study is there."""
        return not self.failed and not self.left_out


@dataclass(frozen=True)
class Event:
    """Progress of `run_cells`: a cell has `"started"`, or is `"done"`, `"failed"`, `"left out"` or
    `"damaged"`, and then it is computed again."""

    what: str
    cell: Cell
    seconds: float = 0.0
    message: str = ""


def run_cells(
    cells: Sequence[Cell], store: Store, engine: Engine, tell: Callable[[Event], None] = lambda event: None
) -> BenchResult:
    """Computes what is missing of a study's cells, each after those it needs, and writes each as soon as it is done.

    A cell that fails does not stop the others; those that need it are left out. The engine is left open.
    """
    run = _Run(cells, store, engine, tell)
    began = time.perf_counter()
    while run.waiting or run.running:
        run.hand_out()
        if run.running:
            run.take_in()
        elif not run.healed:
            break
    run.result.kept = len(run.cells.keys() - run.done - run.dead - run.waiting.keys())
    run.result.seconds = time.perf_counter() - began
    return run.result


class _Run:
    """The state of a run: which cells wait for others, which run, and which have failed."""

    def __init__(self, cells: Sequence[Cell], store: Store, engine: Engine, tell: Callable[[Event], None]) -> None:
        self.cells = {cell.key: cell for cell in cells}
        self.store, self.engine, self.tell = store, engine, tell
        self.result = BenchResult()
        self.waiting: dict[str, Cell] = {}
        self.running: dict[str, float] = {}
        self.done: set[str] = set()
        self.dead: set[str] = set()
        self.cache: dict[str, Finished] = {}  # a few that others may need too
        self.healed = False  # whether the last look found an input that has to be computed again
        for key, cell in self.cells.items():
            damage = store.damage(key)
            if damage:
                self._compute_again(cell, damage)
            elif damage is None:
                self.waiting[key] = cell

    def hand_out(self) -> None:
        """Submits the cells whose needs are finished, as many as the engine has slots for."""
        self.healed = False
        for key, cell in list(self.waiting.items()):
            if any(need in self.dead for need in cell.needs):
                self.dead.add(key)
                del self.waiting[key]
                self.result.left_out.append(cell.label)
                self.tell(Event("left out", cell, message="needs a cell that failed"))
            elif len(self.running) < self.engine.slots and not (self.waiting | self.running).keys() & {*cell.needs}:
                if (needed := self._needed(cell)) is None:
                    continue
                self.engine.submit(cell, needed)
                self.running[key] = time.perf_counter()
                del self.waiting[key]
                self.tell(Event("started", cell))

    def take_in(self) -> None:
        """Writes what the engine has finished."""
        for cell, outcome in self.engine.finished():
            seconds = time.perf_counter() - self.running.pop(cell.key)
            if isinstance(outcome, Failed):
                self._fail(cell, outcome, seconds)
                continue
            self.store.write(cell.key, Finished({**outcome.record, "cell_seconds": seconds}, outcome.files))
            self.done.add(cell.key)
            self.result.computed.append(cell.label)
            self.tell(Event("done", cell, seconds))

    def _fail(self, cell: Cell, failed: Failed, seconds: float = 0.0) -> None:
        self.dead.add(cell.key)
        self.result.failed[cell.label] = failed.message
        self.store.write_failure(cell.key, cell.label, failed.message, failed.trace)
        self.tell(Event("failed", cell, seconds, failed.message))

    def _needed(self, cell: Cell) -> dict[str, Finished] | None:
        """Returns the results that a cell needs; `None` where one is damaged and has to be computed again first."""
        for need in cell.needs:
            try:
                if need not in self.cache:
                    while len(self.cache) >= max(_KEPT, len(cell.needs)):
                        self.cache.pop(next(key for key in self.cache if key not in cell.needs))
                    self.cache[need] = self.store.read(need)
            except FileFormatError as error:
                self.healed = True
                if self.cells[need].label in self.result.damaged:  # it was computed again: that does not help
                    self._fail(self.cells[need], Failed(str(error), ""))
                else:
                    self._compute_again(self.cells[need], str(error))
                return None
        return {need: self.cache[need] for need in cell.needs}

    def _compute_again(self, cell: Cell, damage: str) -> None:
        self.waiting[cell.key] = cell
        self.result.damaged[cell.label] = damage
        self.tell(Event("damaged", cell, message=damage))
