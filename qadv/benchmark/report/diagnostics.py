"""What diagnostics found: their own drawings where they have some, else what they print."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from sys import modules
from typing import Any, get_args, get_origin, get_type_hints

from qadv.benchmark.report.audits import is_audit
from qadv.benchmark.report.content import Block, Figure, Note, Row, Section, Table, Text
from qadv.benchmark.report.embedding import embedded_figure
from qadv.benchmark.report.numbers import ABSENT, over_seeds
from qadv.benchmark.report.published import PublishedFigures
from qadv.benchmark.report.results import CellResult, StudyResults
from qadv.registry import default_registry, load

_LINES = 8


def diagnostic_sections(results: StudyResults) -> Iterator[Section]:
    """Yields a section for each diagnostic of a study but the audits."""
    for measure in results.study.measures:
        cells = results.measured(measure)
        if cells and not is_audit(results, measure):
            diagnostic = results.study.measures[measure].diagnostic
            yield Section(f"Diagnostic {measure}", tuple(_blocks(results, measure, diagnostic, cells)))


def measured_section(results: StudyResults) -> Section | None:
    """Returns what diagnostics found beside what is published; `None` of a study without such figures."""
    given = {name: dict.fromkeys(key for e in results.study.published for key in e.measured.get(name, ()))
             for name in results.study.measures}  # fmt: skip
    columns = list(dict.fromkeys(key for figures in given.values() for key in figures))
    published, rows = PublishedFigures(results), list[Row]()
    for measure, figures in given.items():
        alike: dict[tuple[str, ...], list[CellResult]] = {}
        for cell in results.measured(measure) if figures else ():
            alike.setdefault(cell.axes, []).append(cell)
        for axes, cells in alike.items():
            where = results.label(axes) if len(axes) > 1 else axes[0]
            row: Row = [f"{measure} · {where}" if len(alike) > 1 else measure]
            for figure in columns:
                beside = published.measured(cells[0].place, measure, figure)
                row.append(over_seeds(cells, partial(_figure, figure), beside, 3) if figure in figures else ABSENT)
            rows.append(row)
    if not rows:
        return None
    return Section("Measured", (Table.of("Ours and as published", ["measure", *columns], rows, *published.notes),))


def _figure(name: str, cell: CellResult) -> float:
    result = cell.record["result"]
    value = result.get(name) if isinstance(result, Mapping) else None
    return float(value) if isinstance(value, int | float) else float("nan")


def _blocks(results: StudyResults, measure: str, diagnostic: str, cells: Sequence[CellResult]) -> Iterator[Block]:
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.place["dataset"], cell.place["seed"]), []).append(cell)
    absent = [f"{cell.label} ({cell.state})" for cell in cells if not cell.there]
    if absent:
        yield Note(f"Not there: {', '.join(absent)}.", "bad")
    found = default_registry().match("diagnostic", diagnostic)
    summary = f": {found[0].component.summary}" if found else ""
    for (dataset, seed), members in groups.items():
        where = [dataset] if len(results.study.datasets) > 1 else []
        where += [f"seed {seed}"] if len(results.study.seeds) > 1 else []
        labels = (results.label(cell.axes) if len(cell.axes) > 1 else cell.label for cell in members)
        there = {label: cell for label, cell in zip(labels, members, strict=True) if cell.there}
        for start in range(0, len(there), _LINES):
            part = dict(list(there.items())[start : start + _LINES])
            for address in drawn(diagnostic, {label: cell.record for label, cell in part.items()}):
                folded = seed != results.study.seeds[0]
                yield Figure(" · ".join([f"{measure}{summary}", *where]), address, folded)
        texts = [cell.record["text"] for cell in there.values()]
        if len(there) > 1:
            texts = [f"{label}\n{text}" for label, text in zip(there, texts, strict=True)]
        if texts:
            yield Text(" · ".join([f"{measure} as tables", *where]), "\n\n".join(texts))


def drawn(diagnostic: str, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the drawings of what a diagnostic found, by label; none where it has no way to draw it.

    Results are rebuilt by `from_dict` of the class that the diagnostic returns. The module of that class draws them
    with a function `draw_…` that takes one result, or a mapping from labels to results.
    """
    try:
        made = get_type_hints(load("diagnostic", diagnostic))["return"]
        results = {label: made.from_dict(record["result"]) for label, record in records.items()}
        draw, together = _drawing(made)
        figures = [draw(results)] if together else [draw(result) for result in results.values()]
        return [embedded_figure(figure) for figure in figures]
    except Exception:  # nothing that draws, or a plugin's that fails: its text is there in any case
        return []


def _drawing(made: type) -> tuple[Callable[[Any], Any], bool]:
    for name, function in vars(modules[made.__module__]).items():
        if name.startswith("draw_") and callable(function):
            first = next(iter(get_type_hints(function).values()), None)
            if first is made:
                return function, False
            if get_origin(first) is Mapping and get_args(first)[1] is made:
                return function, True
    raise LookupError(f"{made.__module__} has no function that draws {made.__name__}")
