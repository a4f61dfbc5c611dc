"""The figures that a selection of cells stands for, by seed."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.benchmark.claims.claims_file import Selection
from qadv.benchmark.report.results import AXES, CellResult, StudyResults, record_of
from qadv.benchmark.store import Store
from qadv.benchmark.study import Source
from qadv.errors import FileFormatError, InvalidInputError, closest, some

Figures = dict[int, NDArray[np.float64]]  # by seed: by image, (N,), in %, or one number, ()


class Evidence:
    """The cells of some studies, read when a claim asks for them.

    Attributes:
        studies: by name, not read.
    """

    def __init__(self, store: Store, studies: Mapping[str, StudyResults]) -> None:
        self.store, self.studies = store, studies
        self._records: dict[str, Mapping[str, Any] | None] = {}
        self._files: dict[str, list[str]] = {}

    def figures(self, selection: Selection) -> Figures:
        """Returns the figures of a selection for the seeds of which every cell is there, the mean over its lists.

        What the study does not have, or has several of, is an `InvalidInputError`.
        """
        results = self.studies[str(selection.study)]
        found = [self._figures(each) for each in selection.each()]
        seeds = [seed for seed in results.study.seeds if all(seed in each for each in found)]
        return {seed: np.mean(alike([each[seed] for each in found]), axis=0) for seed in seeds}

    def record(self, cell: CellResult) -> Mapping[str, Any] | None:
        """Returns what a cell found; `None` where it is not there, or not whole."""
        if cell.key not in self._records:
            try:
                self._records[cell.key] = record_of(self.store, cell)
            except FileFormatError:
                self._records[cell.key] = None
        return self._records[cell.key]

    def data(self, selection: Selection, seed: int) -> set[tuple[str, str]]:
        """Returns names and digests of the data sets that the cells of a selection and a seed are of."""
        found = set[tuple[str, str]]()
        for cell in self._all(selection, seed):
            specs = ((self.record(need) or {}).get("spec", {}) for need in self._with_needs([cell.key]))
            images = (spec.get("images") or spec.get("dataset") for spec in specs)
            found.update((str(cell.place["dataset"]), str(each["digest"])) for each in images if each)
        return found

    def networks(self, selection: Selection, seed: int) -> frozenset[str]:
        """Returns digests of the networks that the cells of a selection and a seed come from."""
        keys = [cell.key for cell in self._all(selection, seed)]
        made = (need.key for need in self._with_needs(keys) if need.kind == "network")
        return frozenset(digest for key in made for digest in self._digests(key))

    def cost(self) -> tuple[int, float]:
        """Returns how many cells the figures come from, those that these need included, and the seconds they took."""
        read = [key for key, record in self._records.items() if record is not None]
        records = [record for cell in self._with_needs(read) if (record := self.record(cell)) is not None]
        return len(records), sum(float(record.get("cell_seconds", 0)) for record in records)

    def _with_needs(self, keys: list[str]) -> list[CellResult]:
        """Returns cells, and those that they need."""
        found, left = dict[str, CellResult](), list(keys)
        while left:
            if (key := left.pop()) not in found:
                found[key], needs = self._planned[key]
                left += needs
        return list(found.values())

    def _digests(self, key: str) -> list[str]:
        if key not in self._files:
            self._files[key] = self.store.digests(key) or [key]  # not known to be another one's
        return self._files[key]

    @cached_property
    def _planned(self) -> dict[str, tuple[CellResult, list[str]]]:
        """Cells by key, and the keys of those that they need."""
        pairs = (pair for each in self.studies.values() for pair in zip(each.cells, each.plan["cells"], strict=True))
        return {cell.key: (cell, planned["needs"]) for cell, planned in pairs}

    def _all(self, selection: Selection, seed: int) -> list[CellResult]:
        return [self._found(each)[seed] for each in selection.each()]

    def _found(self, selection: Selection) -> dict[int, CellResult]:
        """Returns the cell of a selection without lists for each seed."""
        results = self.studies[str(selection.study)]
        found: dict[int, dict[str, CellResult]] = {}
        for cell in _cells(selection, results):
            found.setdefault(int(cell.place["seed"]), {})[cell.key] = cell
        if not found:
            said = ", ".join(f"{name} {value}" for name, value in selection.model_dump(exclude_none=True).items())
            raise InvalidInputError(f"no cell of study {results.name} is that: {said}")
        if several := next((list(each.values()) for each in found.values() if len(each) > 1), None):
            labels = some(cell.label for cell in several)
            raise InvalidInputError(f"{len(several)} cells of study {results.name} are that ({labels}): say which")
        return {seed: cell for seed, each in found.items() for cell in each.values()}

    def _figures(self, selection: Selection) -> Figures:
        there = {seed: (cell, self.record(cell)) for seed, cell in self._found(selection).items()}
        read = {seed: _read(selection, cell, record) for seed, (cell, record) in there.items() if record is not None}
        return {seed: figure for seed, figure in read.items() if np.isfinite(figure).all()}


def alike(values: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Returns figures cut to the first images that all of them are of."""
    if len({value.ndim for value in values}) > 1:
        raise InvalidInputError("it compares shares of images, in %, with numbers in another unit")
    images = min((len(value) for value in values if value.ndim), default=None)
    return [value[:images] if value.ndim else value for value in values]


def _cells(selection: Selection, results: StudyResults) -> Iterator[CellResult]:
    alone = {"network"} if selection.value else {"clean"}
    kinds = {"attack", "transfer"} if selection.attack else {"measure"} if selection.measure else alone
    wanted = {axis: getattr(selection, axis) for axis in (*AXES, "attack", "measure")}
    wanted = {axis: name for axis, name in wanted.items() if name is not None}
    for axis, name in wanted.items():
        known = getattr(results.study, f"{axis}s")
        if name not in known:
            near = closest(name, known)
            raise InvalidInputError(f"study {results.name} has no {axis} {name!r}{near} There are: {', '.join(known)}")
    fit = [cell for cell in results.cells if cell.kind in kinds]
    fit = [cell for cell in fit if all(cell.place.get(axis, name) == name for axis, name in wanted.items())]
    for cell in fit:
        if unsaid := [axis for axis in wanted if axis not in cell.place]:
            raise InvalidInputError(f"{cell.label} is of several networks, and not of one {unsaid[0]}: leave it out")
    if selection.attack is None:
        yield from fit
        return
    if selection.source is not None:
        chosen = selection.source.model_dump(exclude_none=True)
        for cell in fit:
            wanted = {axis: chosen.get(axis, cell.place[axis]) for axis in AXES}  # the rest is as in the target
            source = cell.place["source"] or cell.place
            if all(source[axis] == name for axis, name in wanted.items()):
                yield cell
        return
    moved = [cell for cell in fit if cell.place["source"] is not None]
    if isinstance(results.study.attacks[str(selection.attack)].source, Source) and moved:
        yield from moved  # a network may also be attacked because it is another one's source
    else:
        yield from (cell for cell in fit if cell.place["source"] is None)


def _read(selection: Selection, cell: CellResult, record: Mapping[str, Any]) -> NDArray[np.float64]:
    if selection.value is None:
        return 100.0 * np.asarray(record["right"], dtype=np.float64)
    value: Any = record["result"] if cell.kind == "measure" else record
    for part in selection.value.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, ValueError, TypeError) as error:
            there = some(value, 12) if isinstance(value, Mapping) else f"{np.size(value)} entries"
            message = f"{cell.label} has no {selection.value!r}: at {part!r} there are {there}"
            raise InvalidInputError(message) from error
    found = np.asarray(np.nan if value is None else value)
    if found.ndim == 1 and found.dtype == bool:
        return 100.0 * found
    if found.ndim or found.dtype.kind not in "bif":
        raise InvalidInputError(f"{selection.value!r} of {cell.label} is no number, and no list of true and false")
    return found.astype(np.float64)
