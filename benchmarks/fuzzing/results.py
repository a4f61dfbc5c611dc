"""Results folders of `qadv bench`: damaged ones, and benches that are killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qadv.benchmark.bench import run_cells
from qadv.benchmark.cells import Cell, Finished
from qadv.benchmark.command import run_bench
from qadv.benchmark.report.build import build_report
from qadv.benchmark.report.results import gather
from qadv.benchmark.store import Store
from qadv.command_options import BenchOptions
from qadv.console import Console
from qadv.errors import FileFormatError

from .damage import damaged_bytes, damaged_data, json_bytes
from .studies import SMALLEST
from .trials import Trial

_OLD = 0.25  # of the trials are with cells of the first format
_REPORTS = 0.005  # of the trials build the whole report, the others read what it is built from


def results(folder: Path) -> Trial:
    """Folders with damaged, missing and swapped cells, plans and notes, some of them of the first format."""
    _bench(folder)
    store = Store(folder / "out")
    plan = store.plan("study")
    planned = plan["cells"]
    spec: Any = {}
    cells = [Cell(c["kind"], spec, c["label"], c["place"], tuple(c["needs"])) for c in planned]
    keys = [cell["key"] for cell in planned]
    known = {key: store.read(key) for key in keys}
    engine = _Known(known)
    old = folder / "old"
    shutil.copytree(folder / "out", old)
    for key in keys:
        (old / "cells" / key / "record.json").write_bytes(json_bytes(known[key].record))
    unique = list({key: _Keyed(cell, key) for key, cell in zip(keys, cells, strict=True)}.values())

    healed = folder / "healed"  # goes from trial to trial: each leaves it as it was

    def trial(draws: random.Random) -> str:
        is_old = draws.random() < _OLD
        target = folder / "damaged" if is_old else healed
        if is_old or not target.exists():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(old if is_old else folder / "out", target)
        by_value = is_old and draws.random() < 0.4  # nothing can tell that: a report must only come to an end
        for _ in range(draws.choice([1, 1, 2, 5])):
            if by_value:
                _change_record(target / "cells" / draws.choice(keys) / "record.json", draws)
            else:
                _damage(target, keys, draws, any_byte=not is_old)
        damaged = Store(target)
        _report(damaged, draws)
        if by_value:
            return "as written"
        with damaged.locked():
            result = run_cells(unique, damaged, engine)
            damaged.write_plan("study", plan)
        if not result.complete or not all(_same(Store(target).read(key), known[key]) for key in keys):
            return "taken wrong"
        return "refused" if result.computed else "same"

    def _report(damaged: Store, draws: random.Random) -> None:
        try:
            if draws.random() < _REPORTS:
                build_report(damaged.folder)
            for cell in gather(damaged, "study", damaged.plan("study")).cells:
                if cell.there and cell.record["spec"] != known[cell.key].record["spec"]:
                    raise AssertionError(f"{cell.label} is reported with another cell's record")
        except FileFormatError:
            pass

    return trial


def kills(folder: Path) -> Trial:
    """A bench with two processes is killed at a random moment; what is there has to be whole and right.

    The same folder goes from trial to trial, as with a bench that is started again and again; a finished one is
    emptied.
    """
    _bench(folder)
    store = Store(folder / "out")
    keys = {cell["key"] for cell in store.plan("study")["cells"]}
    known = {key: store.read(key) for key in keys}
    command = [sys.executable, "-m", "qadv.cli", "bench", str(folder / "study.toml"), "--jobs", "2"]
    command += ["--out", str(folder / "killed")]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    began = time.monotonic()
    subprocess.run(command, check=True, **quiet)
    whole = time.monotonic() - began
    shutil.rmtree(folder / "killed")

    def trial(draws: random.Random) -> str:
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        try:
            process.wait(timeout=draws.uniform(0.2, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # its workers end with it
        process.wait()
        left = Store(folder / "killed")
        there = [key for key in keys if os.path.lexists(left.cells / key)]
        if not all(left.is_finished(key) and _same(left.read(key), known[key]) for key in there):
            return "taken wrong"
        if len(there) == len(keys):
            shutil.rmtree(left.folder)
        return "same"

    return trial


def _bench(folder: Path) -> None:
    study = folder / "study.toml"
    study.write_text(SMALLEST)
    with open(os.devnull, "w") as nothing:
        assert run_bench(
            BenchOptions(study, folder / "out", None, False, False, 1, 1, "local", None), Console(file=nothing)
        )


class _Keyed(Cell):
    """A cell whose key is known, and its spec is not."""

    def __init__(self, cell: Cell, key: str) -> None:
        super().__init__(cell.kind, cell.spec, cell.label, cell.place, cell.needs)
        object.__setattr__(self, "known", key)

    @property
    def key(self) -> str:
        return str(vars(self)["known"])


class _Known:
    """An engine that knows all results."""

    slots = 2

    def __init__(self, known: Mapping[str, Finished]) -> None:
        self.known, self.waiting = known, list[Cell]()

    def submit(self, cell: Cell, needed: Mapping[str, Finished]) -> None:
        assert all(_same(found, self.known[key]) for key, found in needed.items()), "a damaged input is handed out"
        self.waiting.append(cell)

    def finished(self) -> Iterator[tuple[Cell, Finished]]:
        cell = self.waiting.pop()
        yield cell, self.known[cell.key]

    def close(self) -> None:
        self.waiting.clear()


def _same(found: Finished, expected: Finished) -> bool:
    return found.files == expected.files and _lasting(found.record) == _lasting(expected.record)


def _lasting(record: Any) -> Any:
    """Returns a record without what differs from run to run."""
    if isinstance(record, dict):
        return {key: _lasting(entry) for key, entry in record.items() if "seconds" not in key}
    return [_lasting(entry) for entry in record] if isinstance(record, list) else record


def _change_record(path: Path, draws: random.Random) -> None:
    """Changes a value, which no digest tells in the first format."""
    path.write_bytes(json_bytes(damaged_data(json.loads(path.read_bytes()), draws)))


def _damage(folder: Path, keys: list[str], draws: random.Random, any_byte: bool) -> None:
    cell = folder / "cells" / draws.choice(keys)
    files = sorted(path for path in cell.iterdir() if path.is_file()) if cell.is_dir() else []
    ways: list[Callable[[], Any]] = [
        lambda: shutil.rmtree(cell, ignore_errors=True),
        lambda: _swap(cell, folder / "cells" / draws.choice(keys)),
        lambda: _swap(*(folder / "cells" / draws.choice(keys) / "record.json" for _ in range(2))),
        lambda: (folder / "studies" / "study.json").write_bytes(b"" if draws.random() < 0.5 else b"{}"),
        lambda: (folder / "failed" / f"{cell.name}.json").write_bytes(draws.choice([b"", b"{", b"[]", b"\xff"])),
        lambda: (folder / "cells" / ".left").mkdir(exist_ok=True),
    ]
    if files:
        file = draws.choice(files)
        ways += [
            file.unlink,
            lambda: file.write_bytes(b""),
            lambda: file.write_bytes(file.read_bytes()[: draws.randrange(file.stat().st_size or 1)]),
            lambda: (shutil.rmtree(cell), cell.write_bytes(b"no folder")),
            lambda: (file.unlink(), file.mkdir()),
            lambda: (cell / f"more-{draws.random()}").write_bytes(b"1"),
        ]
        if any_byte:
            ways += [lambda: file.write_bytes(damaged_bytes(file.read_bytes(), draws))] * 6
    draws.choice(ways)()


def _swap(one: Path, other: Path) -> None:
    if one != other and one.exists() and other.exists():
        aside = one.parent / ".aside"
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
