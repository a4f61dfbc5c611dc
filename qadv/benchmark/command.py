"""What `qadv bench` does and prints."""

import os
import platform
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from qadv.benchmark.bench import BenchResult, Event, run_cells
from qadv.benchmark.cells import Cell, versions
from qadv.benchmark.cost import Estimate
from qadv.benchmark.given import Given, read_dataset
from qadv.benchmark.names import check_names
from qadv.benchmark.plan import plan
from qadv.benchmark.ray_engine import engine_of
from qadv.benchmark.store import Store
from qadv.benchmark.study_file import StudyFile, read_study
from qadv.checks import check_choice, check_whole
from qadv.command_options import BenchOptions
from qadv.console import Console
from qadv.datasets import data_folder
from qadv.errors import InvalidInputError, QadvError
from qadv.tables import duration, table

_SHOWN = 500  # characters of a message; all of it is in the folder


def run_bench(options: BenchOptions, console: Console | None = None) -> bool:
    """Plans a study and computes what is missing of it; returns whether every cell is there now."""
    console = console or Console()
    for name, value in (("--jobs", options.jobs), ("--threads", options.threads)):
        check_whole(name, value)
    check_choice("--engine", options.engine, ("local", "ray"))
    if options.address is not None and options.engine != "ray":
        raise InvalidInputError("--address is that of a Ray cluster: add --engine ray")
    file, data_dir = read_study(options.study, options.small), data_folder(options.data_dir)
    cells = planned(file, data_dir)
    store, seconds = Store(options.out), estimated(file, cells, data_dir)
    unique = list({cell.key: cell for cell in cells}.values())
    missing = [cell for cell in unique if not store.is_finished(cell.key)]
    if options.dry_run:
        console.print(_cells_table(file, unique, seconds, {cell.key for cell in missing}))
        _print_total(console, unique, missing, seconds, options.jobs)
        return True
    with store.locked():
        store.write_plan(file.name, _plan_content(file, cells))
        _print_total(console, unique, missing, seconds, options.jobs)
        given = Given(data_dir.resolve() if data_dir else None, store.scratch.resolve())
        engine = engine_of(options.engine, given, options.jobs, options.threads, options.address)
        try:
            with _Shown(console, missing, seconds, engine.slots) as shown:
                result = run_cells(unique, store, engine, shown.tell)
        except KeyboardInterrupt:
            left = f": what is finished is in {options.out}; the same command goes on"
            console.print(Text.assemble(("interrupted", "yellow"), left))
            raise
        finally:
            engine.close()
    _print_result(console, result, options)
    return result.complete


def planned(file: StudyFile, data_dir: Path | None) -> list[Cell]:
    """Returns the cells of a study; arguments and errors as of `qadv.benchmark.plan.plan`."""
    check_names(file)  # before a data set is read
    return plan(file, {name: read_dataset(name, data_dir)[0] for name in file.study.datasets}, data_dir)


def estimated(file: StudyFile, cells: list[Cell], data_dir: Path | None = None) -> dict[str, float]:
    """Returns the seconds that each cell may take, by key; a network that can't be made is a `StudyError`."""
    estimate, seconds = Estimate(cells, data_dir), {}
    for cell in cells:
        try:
            seconds[cell.key] = estimate.seconds(cell)
        except QadvError as error:
            raise file.complain([(("backbones", str(cell.place.get("backbone")), "options"), str(error))]) from error
    return seconds


def _plan_content(file: StudyFile, cells: list[Cell]) -> dict[str, object]:
    return {
        "file": file.path.name,
        "text": file.text,
        "small": file.small,
        "study": file.study.model_dump(mode="json"),
        "environment": {
            "versions": versions(),
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "cells": [{key: getattr(cell, key) for key in ("key", "kind", "label", "place", "needs")} for cell in cells],
    }


class _Shown(Progress):
    """Progress with the time left: by the estimates, scaled by how far off they were so far."""

    def __init__(self, console: Console, missing: list[Cell], seconds: dict[str, float], slots: int) -> None:
        self.seconds, self.slots = seconds, slots
        self.missing = {cell.key for cell in missing}
        self.left = sum(seconds[cell.key] for cell in missing)
        self.done = self.took = 0.0
        self.running: dict[str, str] = {}
        super().__init__(
            TextColumn("{task.completed}/{task.total} cells"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}", style="dim", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.add_task("", total=len(missing), left="")

    def tell(self, event: Event) -> None:
        """Shows an event of `run_cells`."""
        key, label = event.cell.key, event.cell.label
        if event.what == "started":
            self.running[key] = label
        elif event.what == "damaged":
            self.console.print(_complaint("computed again", label, event.message), soft_wrap=True)
            if key not in self.missing:  # it showed when another cell needed it
                self.missing.add(key)
                self.left += self.seconds[key]
                self.update(self.task, total=len(self.missing))
        else:
            self.running.pop(key, None)
            self.left -= self.seconds[key]
            text = _complaint(event.what, label, event.message)
            if event.what == "done":
                self.done, self.took = self.done + self.seconds[key], self.took + event.seconds
                text = Text.assemble(label, (f"  {event.seconds:.1f} s", "dim"))
            self.console.print(text, soft_wrap=True)
            self.advance(self.task)
        scale = self.took / self.done if self.done else 1.0
        left = f"about {duration(max(self.left, 0) * scale / self.slots)} left" if self.took else ""
        self.update(self.task, description="; ".join(self.running.values()), left=left)


def _cells_table(file: StudyFile, cells: list[Cell], seconds: dict[str, float], missing: set[str]) -> Table:
    rows = (
        (str(number), Text(cell.label), cell.key[:12], "to do" if cell.key in missing else "[green]there[/green]",
         duration(seconds[cell.key]))
        for number, cell in enumerate(cells, 1)
    )  # fmt: skip
    title = Text(f"{file.study.title}{' (small)' if file.small else ''}")
    return table(["", "cell", "key", "state", "estimate"], rows, title=title)


def _print_total(
    console: Console, cells: list[Cell], missing: list[Cell], seconds: dict[str, float], jobs: int
) -> None:
    total = sum(seconds[cell.key] for cell in missing)
    where = f"on {jobs} processes" if jobs > 1 else "on one processor"
    text = f"{len(cells)} cells, {len(cells) - len(missing)} there already"
    console.print(f"{text}; the rest takes very roughly {duration(total / jobs)} {where}" if missing else text)


def _print_result(console: Console, result: BenchResult, options: BenchOptions) -> None:
    console.print(f"{len(result.computed)} cells computed in {duration(result.seconds)}, {result.kept} were there")
    for label, message in result.failed.items():
        console.print(_complaint("failed", label, message), soft_wrap=True)
    if result.left_out:
        left = f"because they need one that failed: {'; '.join(result.left_out)}"
        console.print(Text.assemble(("left out", "red"), f", {left}"), soft_wrap=True)
    if not result.complete:
        console.print(Text(f"Tracebacks are in {options.out / 'failed'}; the same command tries these again."))
    console.print(Text(f"Report: qadv report {os.fspath(options.out)}"), soft_wrap=True)


def _complaint(what: str, label: str, message: str) -> Text:
    """Returns one line; labels and messages are text, whatever they look like in rich's markup."""
    first = (message.splitlines() or [""])[0]
    return Text.assemble((what, "red"), f": {label}: {first[:_SHOWN]}{'…' if len(first) > _SHOWN else ''}")
