"""The paper's figures, for the networks they belong to."""

from qadv.benchmark.report.results import AXES, Network, StudyResults


class PublishedFigures:
    """The published figures of a study, and the notes to them as they are used."""

    def __init__(self, results: StudyResults) -> None:
        self.entries = results.study.published
        self.used: list[str] = []

    def of(self, network: Network, column: str) -> str:
        """Returns what is published for a network under an attack, or `"clean"`; several are told apart by commas."""
        texts = []
        for entry in self.entries:
            wanted = (getattr(entry, axis) for axis in AXES)
            fits = all(name is None or name == own for name, own in zip(wanted, network.axes, strict=True))
            if fits and column in entry.accuracy:
                texts.append(_text(entry.accuracy[column]) + self._mark(entry.note))
        return ", ".join(dict.fromkeys(texts))

    @property
    def notes(self) -> list[str]:
        """The notes that figures refer to."""
        return [f"[{_letter(index)}] {note}" for index, note in enumerate(self.used)]

    def _mark(self, note: str) -> str:
        if not note:
            return ""
        if note not in self.used:
            self.used.append(note)
        return f" [{_letter(self.used.index(note))}]"


def published_number(results: StudyResults, network: Network, column: str) -> float | None:
    """Returns the first published figure that is a number."""
    for entry in results.study.published:
        wanted = (getattr(entry, axis) for axis in AXES)
        if all(name is None or name == own for name, own in zip(wanted, network.axes, strict=True)):
            value = entry.accuracy.get(column)
            if isinstance(value, float | int):
                return float(value)
    return None


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else str(index)
