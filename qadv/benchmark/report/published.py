"""The paper's figures, for the networks they belong to."""

from qadv.benchmark.report.results import AXES, Network, StudyResults
from qadv.benchmark.study import Published

Axes = tuple[str, ...]


class PublishedFigures:
    """The published figures of a study, and the notes to them as they are used."""

    def __init__(self, results: StudyResults) -> None:
        self.entries = results.study.published
        self.used: list[str] = []

    def of(self, network: Network, column: str, source: Axes | None = None) -> str:
        """Returns what is published for a network under an attack, or `"clean"`; several are told apart by commas.

        With the axes of a source, it is what is published for images made there, else what names no source.
        """
        entries = [e for e in self.entries if _fits(e, network, source) and column in e.accuracy]
        values = [(entry.accuracy[column], self._mark(entry.note)) for entry in entries]
        texts = [(value if isinstance(value, str) else f"{value:g}") + mark for value, mark in values]
        return ", ".join(dict.fromkeys(texts))

    @property
    def notes(self) -> list[str]:
        """The notes that figures refer to."""
        return [f"[{_letter(index)}] {note}" for index, note in enumerate(self.used)]

    def _mark(self, note: str) -> str:
        self.used += [note] if note and note not in self.used else []
        return f" [{_letter(self.used.index(note))}]" if note else ""


def published_number(results: StudyResults, network: Network, column: str) -> float | None:
    """Returns the first published figure that is a number."""
    values = (e.accuracy.get(column) for e in results.study.published if _fits(e, network, None))
    return next((float(value) for value in values if isinstance(value, float | int)), None)


def _fits(entry: Published, network: Network, source: Axes | None) -> bool:
    if (entry.source is None) != (source is None):
        return False
    pairs = [(getattr(entry, axis), own) for axis, own in zip(AXES, network.axes, strict=True)]
    if entry.source is not None and source is not None:
        there = dict(zip(AXES, source, strict=True))
        pairs += [(getattr(entry.source, axis), there[axis]) for axis in ("backbone", "quantizer", "defense")]
    return all(name is None or name == own for name, own in pairs)


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else str(index)
