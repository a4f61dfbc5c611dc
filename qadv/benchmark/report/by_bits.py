"""Accuracy against bits, as papers draw it: a line for what is the same but for its bits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from qadv.benchmark.report.content import Block, Figure, Section
from qadv.benchmark.report.embedding import embedded_figure
from qadv.benchmark.report.numbers import accuracy
from qadv.benchmark.report.published import published_number
from qadv.benchmark.report.results import AXES, Network, StudyResults
from qadv.diagnostics.drawing import new_panels

_POINTS = 3  # that make a line
_LINES, _PANELS = 8, 2  # in a figure


@dataclass
class _Line:
    """Networks by their bits, and the float one where it is trained and defended the same."""

    by_bits: dict[int, Network] = field(default_factory=dict)
    float_one: Network | None = None


def by_bits_section(results: StudyResults) -> Section | None:
    """Returns accuracy against bits, clean and under each attack; `None` where nothing differs in bits alone."""
    lines = {label: line for label, line in _lines(results).items() if len(line.by_bits) >= _POINTS}
    columns = ["clean", *results.study.attacks]
    columns = [name for name in columns if any(_points(results, line, name) for line in lines.values())]
    names, blocks = list(lines), list[Block]()
    for first in range(0, len(names), _LINES):
        part = {name: lines[name] for name in names[first : first + _LINES]}
        for start in range(0, len(columns), _PANELS):
            panels = columns[start : start + _PANELS]
            said = "Accuracy against bits; dashed: in float; hollow: as published"
            blocks.append(Figure(said, _drawn(results, part, panels)))
    return Section("By bits", tuple(blocks)) if blocks else None


def _lines(results: StudyResults) -> dict[str, _Line]:
    study, found = results.study, dict[str, _Line]()
    several = [len({network.axes[place] for network in results.networks}) > 1 for place in range(len(AXES))]
    kinds = {each[0] for network in results.networks if (each := _bits(results, network))}
    floats = {}
    for network in results.networks:
        schemes = study.quantizers[network.axes[2]]
        if schemes.weights == schemes.activations == "float":
            floats[(*network.axes[:2], network.axes[3])] = network
    for network in results.networks:
        if (said := _bits(results, network)) is None:
            continue
        parts = [
            each for axis, each, named in zip(AXES, network.axes, several, strict=True) if named and axis != "quantizer"
        ]
        label = " · ".join([*parts, said[0]] if len(kinds) > 1 or not parts else parts)
        line = found.setdefault(label, _Line(float_one=floats.get((*network.axes[:2], network.axes[3]))))
        line.by_bits[said[1]] = network
    return found


def _bits(results: StudyResults, network: Network) -> tuple[str, int] | None:
    """Returns what is quantized, with the names of the schemes, and to how many bits; `None` without one number."""
    schemes = results.study.quantizers[network.axes[2]]
    given = {"weights": schemes.weights, "activations": schemes.activations}
    quantized = {role: scheme for role, scheme in given.items() if scheme != "float"}
    matches = [re.fullmatch(r"([\w-]+):(\d+)", scheme) for scheme in quantized.values() if isinstance(scheme, str)]
    whole = [match for match in matches if match]
    if not whole or len(whole) < len(quantized) or len({match[2] for match in whole}) > 1:
        return None
    names = ", ".join(f"{role} by {match[1]}" for role, match in zip(quantized, whole, strict=True))
    return names, int(whole[0][2])


def _points(results: StudyResults, line: _Line, column: str) -> dict[int, tuple[float, float]]:
    """Returns mean and standard deviation over seeds by bits, in %."""
    found = {}
    for bits, network in sorted(line.by_bits.items()):
        if values := list(_values(results, network, column)):
            found[bits] = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return found


def _values(results: StudyResults, network: Network, column: str) -> Iterator[float]:
    cells = results.clean(network) if column == "clean" else results.attacked(network, column)
    return (accuracy(cell) for cell in cells if cell.there)


def _drawn(results: StudyResults, lines: dict[str, _Line], columns: list[str]) -> str:
    figure, panels = new_panels(len(columns), (4.4, 2.9))
    for ax, column in zip(panels, columns, strict=True):
        for index, (label, line) in enumerate(lines.items()):
            style = {"color": f"C{index}"}
            points = _points(results, line, column)
            means, deviations = zip(*points.values(), strict=True) if points else ((), ())
            ax.errorbar(list(points), means, deviations, marker=".", label=label, capsize=2, **style)
            if line.float_one is not None and (values := list(_values(results, line.float_one, column))):
                ax.axhline(float(np.mean(values)), linestyle="--", linewidth=1, **style)
            numbers = {bits: published_number(results, each, column) for bits, each in line.by_bits.items()}
            there = {bits: number for bits, number in numbers.items() if number is not None}
            ax.plot(list(there), list(there.values()), "o", markerfacecolor="none", **style)
        ax.set_title(column, fontsize=9)
        ax.set_xlabel("bits")
        ax.set_ylabel("accuracy, %")
        ax.set_ylim(0, 102)
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(columns), fontsize=8, frameon=False)
    return embedded_figure(figure)
