"""The results of one study: its plan, and what became of each cell."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ValidationError

from qadv.benchmark.plan import network_label
from qadv.benchmark.store import Store
from qadv.benchmark.study import Study
from qadv.errors import FileFormatError, QadvError

AXES = ("dataset", "backbone", "quantizer", "defense")


@dataclass(frozen=True)
class CellResult:
    """A cell of the plan and what became of it.

    Attributes:
        state: `"there"`, `"failed"`, `"left out"`, `"missing"`, `"damaged"` or `"unread"`; `why` for all but the first.
        record: what it found, values by image as arrays (N,); empty where it is not there.
    """

    key: str
    kind: str
    label: str
    place: Mapping[str, Any]
    state: str
    why: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def there(self) -> bool:
        """Whether it has a record."""
        return self.state == "there"

    @property
    def axes(self) -> tuple[str, ...]:
        """Dataset, backbone, quantizer and defense, as far as it has them."""
        return tuple(str(self.place[axis]) for axis in AXES if axis in self.place)

    @property
    def source(self) -> tuple[str, ...] | None:
        """The axes of the network that images were made on, where it is another one."""
        source = self.place.get("source")
        return tuple(str(source[axis]) for axis in AXES) if source else None


@dataclass(frozen=True)
class Network:
    """A network of the study, of all seeds: a row of its tables."""

    label: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class StudyResults:
    """A study and its cells.

    Attributes:
        name, plan: of the plan, from the file's name, and as the bench wrote it.
        cells: every cell of the plan, in its order; one that the study calls by several names is there for each.
        networks: those that are attacked, in order; not those that are only starts of others.
    """

    name: str
    plan: Mapping[str, Any]
    study: Study
    cells: tuple[CellResult, ...]
    networks: tuple[Network, ...]

    def label(self, axes: tuple[str, ...]) -> str:
        """Returns what tells a network from the others, without its seed."""
        place = dict(zip(AXES, axes, strict=True)) | {"seed": 0}
        return network_label(self.study.model_copy(update={"seeds": [0]}), place)

    def seed_label(self, axes: tuple[str, ...], seed: int) -> str:
        """Returns what tells a network from the others, with its seed where there are several."""
        return f"{self.label(axes)} · seed {seed}" if len(self.study.seeds) > 1 else self.label(axes)

    def made(self, network: Network) -> list[CellResult]:
        """Returns the cells that made a network, by seed."""
        return self._index["network", network.axes, "", None]

    def clean(self, network: Network) -> list[CellResult]:
        """Returns the cells without an attack, by seed."""
        return self._index["clean", network.axes, "", None]

    def attacked(self, network: Network, attack: str, source: tuple[str, ...] | None = None) -> list[CellResult]:
        """Returns the cells of an attack, by seed; none where it is not in the grid."""
        return self._index.get(("attack", network.axes, attack, source), [])

    def sources(self, network: Network, attack: str) -> list[tuple[str, ...] | None]:
        """Returns the networks that images of an attack were made on; `None` for the network itself."""
        found = [key[3] for key in self._index if key[:3] == ("attack", network.axes, attack)]
        planned = self.study.attacks[attack].source
        if planned is None or planned == "each":
            return found
        # a network may also be attacked because it is another one's source: that is not its own figure
        return [source for source in found if source is not None] or found

    def from_all_sources(self, network: Network, attack: str) -> list[CellResult]:
        """Returns the cells of an attack, by source and seed."""
        return [cell for source in self.sources(network, attack) for cell in self.attacked(network, attack, source)]

    def measured(self, measure: str) -> list[CellResult]:
        """Returns the cells of a diagnostic, in order."""
        return [cell for cell in self.cells if cell.kind == "measure" and cell.place["measure"] == measure]

    def of_seed(self, seed: int) -> "StudyResults":
        """Returns the results of one seed."""
        cells = tuple(cell for cell in self.cells if cell.place["seed"] == seed)
        study = self.study.model_copy(update={"seeds": [seed]})
        return StudyResults(self.name, self.plan, study, cells, self.networks)

    @property
    def not_there(self) -> list[CellResult]:
        """The cells without a result."""
        return [cell for cell in self.cells if not cell.there]

    @cached_property
    def _index(self) -> dict[tuple[str, tuple[str, ...], str, tuple[str, ...] | None], list[CellResult]]:
        found = defaultdict(list)
        for cell in self.cells:
            if cell.kind != "measure":
                kind = "attack" if cell.kind == "transfer" else cell.kind
                found[kind, cell.axes, str(cell.place.get("attack", "")), cell.source].append(cell)
        return dict(found)


def gather(store: Store, name: str, plan: Mapping[str, Any], read: bool = True) -> StudyResults:
    """Reads the results of a study; a plan that is not one of this version is a `FileFormatError`.

    Without `read` the cells' records are left for `record_of`, and their state is `"unread"`.
    """
    try:
        study = Study.model_validate(plan["study"])
        cells = tuple(_cells(store, plan, read))
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{store.studies / f'{name}.json'} is not a plan of this version of qadv ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); run its bench again: finished cells are kept"
        ) from error
    results = StudyResults(name, plan, study, cells, ())
    chosen = dict.fromkeys(cell.axes for cell in cells if cell.kind == "clean")
    return StudyResults(name, plan, study, cells, tuple(Network(results.label(axes), axes) for axes in chosen))


def record_of(store: Store, cell: CellResult) -> Mapping[str, Any]:
    """Returns what a finished cell found, as in `CellResult`; where it is missing or damaged, a `FileFormatError`."""
    return _compact(cell.kind, store.read(cell.key, files=False).record)


def _cells(store: Store, plan: Mapping[str, Any], read: bool) -> Iterator[CellResult]:
    known: dict[str, tuple[str, str, Mapping[str, Any]]] = {}
    labels: dict[str, str] = {}
    for cell in plan["cells"]:
        key = cell["key"]
        labels.setdefault(key, cell["label"])
        if not read:
            known[key] = "unread", "", {}
        elif key not in known:
            off = [need for need in cell["needs"] if known.get(need, ("there",))[0] != "there"]
            known[key] = _outcome(store, key, cell["kind"], [(labels[need], known[need][0]) for need in off])
        state, why, record = known[key]
        yield CellResult(key, cell["kind"], cell["label"], cell["place"], state, why, record)


_BY_IMAGE: dict[str, Any] = {
    "right": bool, "clean_right": bool, "l2": float, "linf": float, "classes": int, "clean_classes": int, "labels": int,
}  # fmt: skip
_NEEDED: dict[str, set[str]] = {
    "network": {"spec", "seconds"},
    "clean": {"accuracy", "right"},
    "attack": {"accuracy", "clean_accuracy", "right", "clean_right", "l2", "linf"},
    "measure": {"result", "text"},
}
_NEEDED["transfer"] = _NEEDED["attack"]


def _compact(kind: str, record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record with values by image as arrays, a tenth of the memory; `None` becomes NaN."""
    if absent := _NEEDED.get(kind, set()) - record.keys():
        raise FileFormatError(f"its record has no {', '.join(sorted(absent))}")
    try:
        compact = {k: np.array(value, dtype=_BY_IMAGE[k]) if k in _BY_IMAGE else value for k, value in record.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"its record holds something else than numbers by image: {error}") from error
    for name in ("accuracy", "clean_accuracy"):
        if name in record and not (isinstance(record[name], int | float) and 0 <= record[name] <= 1):
            raise FileFormatError(f"its record has {name} = {record[name]!r}")
    if len({compact[key].shape for key in _BY_IMAGE if key in compact}) > 1:
        raise FileFormatError("its record does not say the same number of images throughout")
    return compact


def _outcome(store: Store, key: str, kind: str, off: list[tuple[str, str]]) -> tuple[str, str, Mapping[str, Any]]:
    damage = store.damage(key)
    if damage == "":
        try:
            return "there", "", _compact(kind, store.read(key, files=False).record)
        except QadvError as error:
            damage = str(error)
    if damage is not None:
        return "damaged", damage, {}
    if (failure := store.failure(key)) is not None:
        return "failed", failure["message"], {}
    dead = [label for label, state in off if state in ("failed", "left out")]
    if dead:
        return "left out", f"it needs one that failed: {dead[0]}", {}
    return "missing", "not computed yet: the bench was stopped before, or still runs", {}
