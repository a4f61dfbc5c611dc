"""The demo's figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from qadv.datasets import Images
from qadv.diagnostics.accuracy_curve import draw_accuracy_curve
from qadv.diagnostics.drawing import save_figure
from qadv.diagnostics.error_amplification import draw_error_amplification
from qadv.postprocessors.softmax import Softmax

if TYPE_CHECKING:
    from qadv.demo.run import NetworkResult

IMAGES_SHOWN = 8
_RIGHT, _WRONG = "#1a7f37", "#cf222e"


def accuracy_against_eps(networks: Sequence["NetworkResult"], name: str, path: Path) -> None:
    """Draws accuracy under PGD against its strength, clean accuracy at 0."""
    figure = draw_accuracy_curve({network.label: network.curve for network in networks})
    _save(figure, path, f"{name}: accuracy under PGD against its strength")


def amplification(networks: Sequence["NetworkResult"], eps: float, name: str, path: Path) -> None:
    """Draws the normalised distance of clean and adversarial activations by layer (DQ figure 3b)."""
    figure = draw_error_amplification({network.label: network.amplification for network in networks})
    _save(figure, path, f"{name}: error amplification under PGD, ε = {eps:.3g}")


def images_page(networks: Sequence["NetworkResult"], data: Images, eps: float, path: Path) -> None:
    """Draws images with every network's prediction, clean and under its own PGD (DQ figure 7)."""
    x, y = data.x_test[:IMAGES_SHOWN], data.y_test[:IMAGES_SHOWN]
    columns = 1 + len(networks)
    figure = Figure(figsize=(2.6 * columns, 1.75 * len(x)), layout="constrained")
    figure.suptitle(f"{data.name}: clean, and attacked by PGD with ε = {eps:.3g}; predicted class (probability)")
    grid = np.atleast_2d(figure.subplots(len(x), columns))
    clean = [_probabilities(network, x) for network in networks]
    attacked = [_probabilities(network, network.shown) for network in networks]
    for row in range(len(x)):
        axes = grid[row, 0]
        _show(axes, x[row])
        axes.set_title(f"clean, is {data.classes[y[row]]}", fontsize=8)
        for line, (network, probabilities) in enumerate(zip(networks, clean, strict=True)):
            text, color = _prediction(probabilities[row], y[row], data.classes)
            where: dict[str, Any] = {"transform": axes.transAxes, "va": "top"}
            axes.text(1.05, 0.95 - 0.36 * line, f"{network.label}:\n{text}", fontsize=7, color=color, **where)
        for column, (network, probabilities) in enumerate(zip(networks, attacked, strict=True), start=1):
            _show(grid[row, column], network.shown[row])
            text, color = _prediction(probabilities[row], y[row], data.classes)
            grid[row, column].set_title(f"{network.label} sees\n{text}", fontsize=8, color=color)
    _save(figure, path)


def _probabilities(network: "NetworkResult", x: Any) -> Any:
    return Softmax()(network.classifier.predict(x))


def _prediction(probabilities: Any, label: int, classes: Sequence[str]) -> tuple[str, str]:
    best = int(probabilities.argmax())
    right = best == label
    return f"{classes[best]} ({probabilities[best]:.2f}) {'✓' if right else '✗'}", _RIGHT if right else _WRONG


def _show(axes: Any, image: Any) -> None:
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


def _save(figure: Any, path: Path, title: str = "") -> None:
    if title:
        figure.axes[0].set_title(title)
    save_figure(figure, path)
