"""The paper's figures, for the networks they belong to."""

from collections.abc import Callable, Mapping
from typing import Any

from qadv.benchmark.report.results import AXES, Network, StudyResults
from qadv.benchmark.study import Published

Axes = tuple[str, ...]
Figure = float | str | None


class PublishedFigures:
    """The published figures of a study, and the notes to them as they are used."""

    def __init__(self, results: StudyResults) -> None:
        self.entries = results.study.published
        self.used: list[str] = []

    def of(self, network: Network, column: str, source: Axes | None = None) -> str:
        """Returns the accuracy published for a network under an attack, or `"clean"`; several are parted by commas.

        With the axes of a source, it is what is published for images made there, else what names no source.
        """
        return self._said(_place(network, source), lambda entry: (entry.accuracy.get(column),))

    def distance(self, network: Network, attack: str, norm: str, source: Axes | None = None) -> str:
        """Returns the mean distance, `norm` is `l2` or `linf`."""
        return self._said(_place(network, source), lambda entry: (_distances(entry, attack)[norm == "linf"],))

    def transfer(self, network: Network, attack: str, source: Axes | None = None) -> str:
        """Returns accuracy / L2 / L∞, as far as they are published."""
        return self._said(
            _place(network, source), lambda entry: (entry.accuracy.get(attack), *_distances(entry, attack))
        )

    def measured(self, place: Mapping[str, Any], measure: str, figure: str) -> str:
        """Returns what is published for a field of a diagnostic's result; `place` is a cell's."""
        return self._said(place, lambda entry: (entry.measured.get(measure, {}).get(figure),))

    @property
    def notes(self) -> list[str]:
        """The notes that figures refer to."""
        return [f"[{_letter(index)}] {note}" for index, note in enumerate(self.used)]

    def _said(self, place: Mapping[str, Any], figures: Callable[[Published], tuple[Figure, ...]]) -> str:
        texts = []
        for entry in self.entries:
            found = figures(entry) if _fits(entry, place) else ()
            while found and found[-1] is None:
                found = found[:-1]
            if found:
                texts.append(" / ".join(map(_plain, found)) + self._mark(entry.note))
        return ", ".join(dict.fromkeys(texts))

    def _mark(self, note: str) -> str:
        self.used += [note] if note and note not in self.used else []
        return f" [{_letter(self.used.index(note))}]" if note else ""


def published_number(results: StudyResults, network: Network, column: str) -> float | None:
    """Returns the first published accuracy that is a number."""
    values = (e.accuracy.get(column) for e in results.study.published if _fits(e, _place(network, None)))
    return next((float(value) for value in values if isinstance(value, float | int)), None)


def _place(network: Network, source: Axes | None) -> dict[str, Any]:
    named = None if source is None else dict(zip(AXES, source, strict=True))
    return {**dict(zip(AXES, network.axes, strict=True)), "source": named}


def _fits(entry: Published, place: Mapping[str, Any]) -> bool:
    """Whether an entry is of a place: all axes that it names and the place has are the same, and so is the source."""
    source = place.get("source")
    if (entry.source is None) != (source is None):
        return False
    pairs = [(getattr(entry, axis), place[axis]) for axis in AXES if axis in place]
    if entry.source is not None and source is not None:
        pairs += [(getattr(entry.source, axis), source[axis]) for axis in ("backbone", "quantizer", "defense")]
    return all(name is None or name == own for name, own in pairs)


def _distances(entry: Published, attack: str) -> tuple[float | None, float | None]:
    return entry.distances.get(attack, (None, None))


def _plain(figure: Figure) -> str:
    return "–" if figure is None else figure if isinstance(figure, str) else f"{figure:g}"


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else str(index)
