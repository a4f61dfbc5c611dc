"""What the drawing functions share. Figures are matplotlib's own objects: no pyplot, so nothing is left open."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_choice
from qadv.errors import InvalidInputError
from qadv.files import write_atomically

_NAMED_LAYERS = 12  # with more, their names run into each other


def figure_and_axes(ax: Any = None, figsize: tuple[float, float] = (6.0, 4.0)) -> tuple[Any, Any]:
    """Returns the given axes with their figure before them, or a new figure and its axes."""
    if ax is not None:
        return ax.figure, ax
    figure, (ax,) = new_panels(1, figsize)
    return figure, ax


def new_panels(count: int, panel: tuple[float, float]) -> tuple[Any, list[Any]]:
    """Returns a new figure and `count` axes side by side, each of the size `panel` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * count, panel[1]), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def check_picture(path: Path) -> Path:
    """Returns the path of a picture that matplotlib can write, as its suffix says."""
    from matplotlib.figure import Figure

    check_choice("suffix of a picture", path.suffix[1:], Figure().canvas.get_supported_filetypes())
    return path


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as the kind of picture that the suffix says, 150 dpi."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150)
    write_atomically(path, buffer.getvalue())


def draw_accuracies(columns: Mapping[str, Any], networks: Sequence[str], ax: Any = None) -> Any:
    """Draws accuracies as groups of bars, a bar for each network.

    Args:
        columns: by name accuracies of 0 to 1, (networks,), or (n, networks), whose mean is drawn, and the range from
            the lowest to the highest as a line.
        networks: their names.
        ax: axes to draw on; `None` makes a figure.
    """
    check_curves(columns)
    figure, ax = figure_and_axes(ax, (2 + 1.3 * len(columns), 4.0))
    width = 0.8 / len(networks)
    values = [100 * np.atleast_2d(column) for column in columns.values()]
    for index, network in enumerate(networks):
        own = [column[:, index] for column in values]
        heights = np.array([each.mean() for each in own])
        ranges = np.array([heights - [each.min() for each in own], [each.max() for each in own] - heights])
        places = np.arange(len(columns)) + (index - (len(networks) - 1) / 2) * width
        bars = ax.bar(places, heights, width, label=network)
        ax.bar_label(bars, ["0" if height < 0.5 else "" for height in heights], fontsize=7)  # else nothing is seen
        several = [place for place, each in enumerate(own) if len(each) > 1]
        if several:
            marks = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8}
            ax.errorbar(places[several], heights[several], ranges[:, several], **marks)
    ax.set_xticks(range(len(columns)), list(columns))
    ax.set_ylim(0, 100)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    ax.set_ylabel("accuracy, %: mean, lowest to highest")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def check_curves(curves: Any) -> None:
    """Refuses anything but a mapping from names to what was measured, one or more."""
    if not hasattr(curves, "items") or not curves:
        raise InvalidInputError(
            f"expected a mapping from names to what was measured, e.g. {{'4 bit': measured}}, got "
            f"{'an empty one' if hasattr(curves, 'items') else type(curves).__name__}"
        )


def draw_lines(
    curves: Mapping[str, Any],
    ax: Any,
    x: Callable[[Any], Any],
    y: Callable[[Any], Any],
    second: Callable[[Any], Any] = lambda curve: None,
    style: str = "--",
    suffix: str = "",
) -> tuple[Any, Any]:
    """Draws `y` against `x` of each curve, and a `second` line of its colour, named with a suffix, if there is one."""
    check_curves(curves)
    figure, ax = figure_and_axes(ax)
    for index, (label, curve) in enumerate(curves.items()):
        size = max(8 - 1.2 * index, 3)  # later markers are smaller, so that none hides another
        (line,) = ax.plot(x(curve), y(curve), marker="osD^vP"[index % 6], markersize=size, label=label)
        if (other := second(curve)) is not None:
            ax.plot(x(curve), other, style, color=line.get_color(), label=f"{label}{suffix}" if suffix else None)
    return figure, ax


def positions(curve: Any) -> range:
    """Returns where the layers of a measurement stand on the x axis: 1, 2, …"""
    return range(1, len(curve.layers) + 1)


def layer_axis(ax: Any, curves: Mapping[str, Any], label: str, order: str = "execution") -> None:
    """Labels the x axis with layers: their names, if all curves have the same few, or their numbers from 1 on."""
    names, *others = {tuple(curve.layers): None for curve in curves.values()}
    if not others and len(names) <= _NAMED_LAYERS:
        turned = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 4 else {}
        ax.set_xticks(range(1, len(names) + 1), names, fontsize=8, **turned)
        ax.set_xlabel(label)
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel(f"{label}, in order of {order}")


def finish_lines(ax: Any, ylabel: str, dashed: str | None = None) -> None:
    """Gives a plot of lines its grid, its y axis from 0 on, and a legend, with one entry for all `dashed` lines."""
    if dashed is not None:
        ax.plot([], [], "--", color="grey", label=dashed)
    ax.set_ylabel(ylabel)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend()


def draw_matrix(
    ax: Any,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    limits: tuple[float, float],
    colors: str,
) -> Any:
    """Draws a matrix as coloured cells with texts, bold where row and column are the same; returns the image."""
    image = ax.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colors, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    ax.set_yticks(range(len(rows)), rows)
    red, green, blue, _ = np.moveaxis(image.cmap(image.norm(values)), -1, 0)
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
    for row, column in np.ndindex(values.shape):
        color = "white" if dark[row, column] else "black"
        weight = "bold" if rows[row] == columns[column] else "normal"
        ax.text(column, row, texts[row][column], ha="center", va="center", color=color, fontsize=9, fontweight=weight)
    return image
