"""Matrices of transfers: images made on each network, given to each."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qadv.benchmark.report.accuracy import distance
from qadv.benchmark.report.content import Block, Figure, Row, Section, Table, Value
from qadv.benchmark.report.embedding import embedded_figure
from qadv.benchmark.report.numbers import ABSENT, accuracy, mean_value, over_seeds
from qadv.benchmark.report.published import PublishedFigures
from qadv.benchmark.report.results import CellResult, Network, StudyResults
from qadv.diagnostics.drawing import draw_matrix, figure_and_axes

Axes = tuple[str, ...]


def transfer_section(results: StudyResults) -> Section | None:
    """Returns a heat map and a table for each attack with sources, and data set; `None` without one."""
    blocks: list[Block] = []
    for name, attack in results.study.attacks.items():
        if attack.source is None:
            continue
        for dataset in results.study.datasets:
            targets = [n for n in results.networks if n.axes[0] == dataset and results.sources(n, name)]
            sources = list(dict.fromkeys(s or target.axes for target in targets for s in results.sources(target, name)))
            if targets:
                caption = f"{name}: {dataset}" if len(results.study.datasets) > 1 else name
                blocks += _matrix(results, caption, name, sources, targets)
    return Section("Transfers", tuple(blocks)) if blocks else None


def _matrix(
    results: StudyResults, caption: str, name: str, sources: Sequence[Axes], targets: Sequence[Network]
) -> Iterator[Block]:
    cells = [[results.attacked(t, name, None if s == t.axes else s) for t in targets] for s in sources]
    if any(cell.there for row in cells for each in row for cell in each):
        drawn = _heat_map(results, sources, targets, cells)
        yield Figure(f"{caption}: accuracy in % of each network on images made on each", drawn)
    clean = [over_seeds(results.clean(target), accuracy) for target in targets]
    rows: list[Row] = [["(clean)", *clean]]
    published = PublishedFigures(results)
    for source, row in zip(sources, cells, strict=True):
        beside = (published.transfer(target, name, source) for target in targets)
        rows.append([results.label(source), *map(_value, row, beside)])
    caption = f"{caption}: accuracy in % / mean L2 / mean L∞ of the images that it breaks"
    columns = ["made on \\ given to", *(target.label for target in targets)]
    yield Table.of(caption, columns, rows, *published.notes)


def _value(cells: list[CellResult], published: str) -> Value:
    found = over_seeds(cells, accuracy, published)
    if not (there := [cell for cell in cells if cell.there]):
        return found
    l2, linf = (mean_value([distance(cell, norm) for cell in there], 2) for norm in ("l2", "linf"))
    return Value(f"{found.text} / {l2} / {linf}", published)


def _heat_map(results: StudyResults, sources: Sequence[Axes], targets: Sequence[Network], cells: Any) -> str:
    clean = [_mean(results.clean(target)) for target in targets]
    values = np.array([clean, *([_mean(each) for each in row] for row in cells)])
    rows = ["(clean)", *(results.label(source) for source in sources)]
    columns = [target.label for target in targets]
    texts = [[ABSENT.text if np.isnan(value) else f"{value:.0f}" for value in row] for row in values]
    figure, ax = figure_and_axes(None, (3.2 + 0.75 * len(columns), 1.8 + 0.42 * len(rows)))
    draw_matrix(ax, values, rows, columns, texts, (0, 100), "viridis")
    ax.axhline(0.5, color="white", linewidth=3)
    ax.set_xlabel("given to")
    ax.set_ylabel("made on")
    return embedded_figure(figure)


def _mean(cells: list[CellResult]) -> float:
    there = [accuracy(cell) for cell in cells if cell.there]
    return float(np.mean(there)) if there else float("nan")
