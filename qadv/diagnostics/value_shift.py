"""The share of quantized activations that a perturbation moves to another bucket (low-bitwidth study §5.2.2).

Source: Bernhard, Moëllic, Dutertre: "Impact of Low-bitwidth Quantization on the Adversarial Robustness for Embedded
Neural Networks", 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qadv.checks import check_choice
from qadv.diagnostics.drawing import draw_lines, finish_lines, layer_axis, positions
from qadv.diagnostics.measured import Measured
from qadv.diagnostics.passes import compare_inputs
from qadv.diagnostics.quantized_activations import buckets, clipped, quantized_activations
from qadv.estimators.protocol import Classifier
from qadv.tables import number, percent, text_table

_QUANTITIES = {
    "changed": "activations that change bucket, %",
    "absorbed": "moved activations that stay in their bucket, %",
}


@dataclass(frozen=True)
class ValueShift(Measured):
    """What a perturbation does to quantized activations, layer by layer; prints as a table.

    All shares are of single activations, over all images and units.

    Attributes:
        layers: names of the quantized activations (or layers with quantized inputs), in order of execution.
        levels: number of values that each can have, (layers,).
        changed: part of the activations that are in another bucket, (layers,).
        moved: part of the activations that would differ without the rounding, clipped only, (layers,).
        absorbed: part of those moved that the rounding puts into their old bucket, (layers,); NaN where none is moved.
        steps: mean number of buckets that those in another bucket went, (layers,); NaN where there is none.
    """

    layers: tuple[str, ...]
    levels: tuple[int, ...]
    changed: NDArray[np.float64]
    moved: NDArray[np.float64]
    absorbed: NDArray[np.float64]
    steps: NDArray[np.float64]

    def __str__(self) -> str:
        shares = zip(self.changed, self.moved, self.absorbed, strict=True)
        found = zip(self.layers, self.levels, shares, self.steps, strict=True)
        rows = [[name, str(levels), *map(percent, share), number(steps)] for name, levels, share, steps in found]
        return text_table("Value shift", ["activation", "levels", "changed", "moved", "absorbed", "steps"], rows)


def value_shift(
    classifier: Classifier, x: NDArray[Any], x_adversarial: NDArray[Any], batch_size: int = 128
) -> ValueShift:
    """Counts the activations that are rounded to another level for an adversarial image than for the clean one.

    The study uses "value shift" for what is `absorbed` here: two values, clean and adversarial, that quantization maps
    to the same bucket. **Reading:** it gives no formula. Counted are single activations, all runs of a layer together;
    a value outside the clipping range on both sides of the change, as below a ReLU's 0, has not moved, since the float
    network's ReLU absorbs that too.

    Args:
        classifier: an ART `PyTorchClassifier` with quantized activations, frozen or not.
        x, x_adversarial, batch_size: as of `error_amplification`.

    Raises:
        UnsupportedModelError: no activation is quantized.
    """
    quantizers = quantized_activations(classifier.model)
    counts: dict[str, NDArray[np.int64]] = {}  # activations, changed, moved, steps

    def compare(name: str, call: int, clean: Tensor, adversarial: Tensor) -> None:
        quantizer = quantizers[name]
        steps = (buckets(quantizer, adversarial) - buckets(quantizer, clean)).abs()
        moved = clipped(quantizer, adversarial) != clipped(quantizer, clean)
        changed = steps > 0
        moved |= changed  # rounding of float32 may put one value at the edge on both sides of it
        found = [clean.numel(), int(changed.sum()), int(moved.sum()), int(steps.sum())]
        counts[name] = counts.get(name, 0) + np.array(found, dtype=np.int64)

    compare_inputs(classifier, x, x_adversarial, quantizers, compare, batch_size)
    total, changed, moved, steps = np.array(list(counts.values()), dtype=np.float64).T
    return ValueShift(
        layers=tuple(counts),
        levels=tuple(len(quantizers[name].levels) for name in counts),
        changed=changed / total,
        moved=moved / total,
        absorbed=_ratio(moved - changed, moved),
        steps=_ratio(steps, changed),
    )


def draw_value_shift(measured: Mapping[str, ValueShift], quantity: str = "changed", ax: Any = None) -> Any:
    """Draws the quantity `"changed"` or `"absorbed"` against layers, one line per network or attack."""
    check_choice("quantity", quantity, _QUANTITIES)
    figure, ax = draw_lines(measured, ax, positions, lambda shift: 100 * getattr(shift, quantity))
    layer_axis(ax, measured, "quantized activation")
    finish_lines(ax, _QUANTITIES[quantity])
    return figure


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
