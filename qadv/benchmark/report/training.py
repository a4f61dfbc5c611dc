"""How networks were trained: loss and accuracy by epoch."""

from typing import Any

from qadv.benchmark.report.content import Block, Figure, Section
from qadv.benchmark.report.embedding import embedded_figure
from qadv.benchmark.report.results import StudyResults
from qadv.diagnostics.drawing import new_panels
from qadv.trainers.early_stop import ROBUST

_LINES = 8


def training_section(results: StudyResults) -> Section | None:
    """Returns the histories of the first seed's trainings; `None` where there is none."""
    histories: dict[str, list[dict[str, Any]]] = {}
    for network in results.networks:
        for cell in results.made(network)[:1]:
            if cell.there and cell.record.get("history"):
                histories[network.label] = cell.record["history"]
    names = list(histories)
    seed = f", seed {results.study.seeds[0]}" if len(results.study.seeds) > 1 else ""
    blocks: list[Block] = []
    for start in range(0, len(names), _LINES):
        part = {name: histories[name] for name in names[start : start + _LINES]}
        watched = any(ROBUST in entry for history in part.values() for entry in history)
        held_out = "; dotted, accuracy under PGD on held-out ones" if watched else ""
        blocks.append(Figure(f"Loss and accuracy on the training images by epoch{seed}{held_out}", _drawn(part)))
    return Section("Training", tuple(blocks)) if blocks else None


def _drawn(histories: dict[str, list[dict[str, Any]]]) -> str:
    figure, (loss, accuracy) = new_panels(2, (4.4, 2.9))
    for index, (label, history) in enumerate(histories.items()):
        epochs = [entry.get("epoch", place) + 1 for place, entry in enumerate(history)]
        marker = {"marker": "."} if len(epochs) < 30 else {}
        lines = (loss, "loss", 1, "-"), (accuracy, "accuracy", 100, "-"), (accuracy, ROBUST, 100, ":")
        for ax, key, scale, style in lines:
            values = [float("nan") if entry.get(key) is None else scale * entry[key] for entry in history]
            ax.plot(epochs, values, style, label=label, color=f"C{index}", **marker)
    for ax, name in ((loss, "loss"), (accuracy, "accuracy, %")):
        ax.set_xlabel("epoch")
        ax.set_ylabel(name)
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    loss.set_ylim(bottom=0)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return embedded_figure(figure)
