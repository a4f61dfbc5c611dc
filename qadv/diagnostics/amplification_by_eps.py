"""How the distance between clean and adversarial activations grows with the strength of an attack (DQ figure 3a)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import is_whole
from qadv.diagnostics.attacking import check_classifiers, check_strengths, generate, least_classes, pgd
from qadv.diagnostics.drawing import check_curves, draw_lines, finish_lines
from qadv.diagnostics.error_amplification import DISTANCE, ErrorAmplification, error_amplification
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError, closest
from qadv.estimators.checks import check_pair
from qadv.estimators.protocol import Classifier
from qadv.random_states import repeatable
from qadv.tables import number, text_table


@dataclass(frozen=True)
class AmplificationByEps(Measured):
    """Normalised distances at each strength and layer; prints as a table.

    Attributes:
        eps: strengths, ascending.
        measured: what `error_amplification` gives at each.
    """

    eps: tuple[float, ...]
    measured: tuple[ErrorAmplification, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order of execution."""
        return self.measured[0].layers

    @property
    def distance(self) -> NDArray[np.float64]:
        """Normalised distances, (eps, layers)."""
        return np.stack([measured.distance for measured in self.measured])

    @property
    def unquantized(self) -> NDArray[np.float64] | None:
        """The same without the rounding, (eps, layers), with `at="activations"`; else `None`."""
        parts = [measured.unquantized for measured in self.measured if measured.unquantized is not None]
        return np.stack(parts) if parts else None

    def __str__(self) -> str:
        distance, unquantized = self.distance, self.unquantized
        rows = []
        for index, name in enumerate(self.layers):
            rows.append([name, *map(number, distance[:, index])])
            if unquantized is not None:
                rows.append(["  without rounding", *map(number, unquantized[:, index])])
        return text_table(f"{DISTANCE} by ε", ["layer", *(f"ε = {eps:.3g}" for eps in self.eps)], rows)


@repeatable
def amplification_by_eps(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    eps: Sequence[float],
    attack: Callable[[Any, float], Any] = pgd,
    source: Classifier | None = None,
    at: str = "inputs",
    batch_size: int = 128,
    seed: int = 0,
) -> AmplificationByEps:
    """Attacks at several strengths and measures `error_amplification` at each.

    Args:
        classifier, x, y, eps, attack, seed: as of `accuracy_curve`; `batch_size` is that of the measurement.
        source: the classifier that is attacked, e.g. the float one, so that several networks see the same images;
            `None` for `classifier`.
        at: `"inputs"` or `"activations"`, as in `error_amplification`.
    """
    strengths = check_strengths(eps, classifier, np.inf if attack is pgd else 1)  # of others the norm is not known
    attacked = classifier if source is None else source
    check_classifiers({"classifier": classifier, "source": attacked})
    x, labels = check_pair(classifier, x, y, least_classes([classifier, attacked]))
    measured = []
    for strength in strengths:
        adversarial = generate(attack(attacked, strength), x, labels, seed, "attack") if strength > 0 else x
        measured.append(error_amplification(classifier, x, adversarial, batch_size, at))
    return AmplificationByEps(strengths, tuple(measured))


def draw_amplification_by_eps(curves: Mapping[str, AmplificationByEps], layer: int | str = 0, ax: Any = None) -> Any:
    """Draws distance against ε at one layer, one line per network, and a dashed one without the rounding.

    The layer is a name or an index: 0 is the first and -1 the last.
    """
    check_curves(curves)
    names = {curve.layers[_index(curve.layers, layer)]: None for curve in curves.values()}

    def at_layer(values: NDArray[np.float64] | None, curve: AmplificationByEps) -> Any:
        return None if values is None else values[:, _index(curve.layers, layer)]

    figure, ax = draw_lines(
        curves, ax, lambda c: c.eps, lambda c: at_layer(c.distance, c), lambda c: at_layer(c.unquantized, c)
    )
    ax.set_xlabel("ε")
    rounded = any(curve.unquantized is not None for curve in curves.values())
    ax.set_title(f"{'activation' if rounded else 'input of layer'} {', '.join(names)}", fontsize=10)
    finish_lines(ax, DISTANCE, "without rounding" if rounded else None)
    return figure


def _index(layers: tuple[str, ...], layer: int | str) -> int:
    if isinstance(layer, str) and layer in layers:
        return layers.index(layer)
    if is_whole(layer) and -len(layers) <= int(layer) < len(layers):
        return int(layer)
    hint = closest(layer, layers) if isinstance(layer, str) else ""
    raise InvalidInputError(f"layer: expected one of {len(layers)} layers, by name or index, got {layer!r}{hint}")
