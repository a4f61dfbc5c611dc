"""The share of filters that stochastic quantization quantizes grows in stages, docs/methods.md §3 (EQ §5.1)."""

from collections.abc import Sequence

from torch import Tensor

from qadv.errors import InvalidInputError
from qadv.quantization.stochastic import StochasticWeights, set_stochastic_ratio
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective

RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)


class StochasticSchedule(Objective):
    """Sets the ratio of `sq(…)` schemes in the course of the training; without such a scheme it does nothing.

    Each ratio, of filters to quantize, holds for an equal part of the steps; the last step always has the last, 1. Each
    epoch logs the `sq_ratio` that it ended with. Ratios other than `RATIOS` are refused where nothing follows them.
    """

    def __init__(self, ratios: Sequence[float], seed: int) -> None:
        self.ratios = tuple(ratios)
        self.seed = seed
        self._ratio: float | None = None
        self._used = False

    def __repr__(self) -> str:
        return f"StochasticSchedule({self.ratios})"

    def start(self, network: TrainedNetwork, image: Tensor) -> None:
        self._ratio = None
        self._used = any(isinstance(module, StochasticWeights) for module in network.model.modules())
        if self.ratios != RATIOS and not self._used:
            raise InvalidInputError(
                f"sq_ratios: {self.ratios} would have no effect: no weights of this network are quantized by sq(…); "
                'quantize with weights="sq(bwn)", say, or leave it out'
            )

    def step(self, network: TrainedNetwork, step: int, nb_steps: int) -> None:
        ratio = stage(self.ratios, step, nb_steps)
        if self._used and (step == 0 or ratio != self._ratio):
            self._ratio = ratio
            set_stochastic_ratio(network.model, ratio, self.seed if step == 0 else None)

    def measure(self, network: TrainedNetwork) -> dict[str, object]:
        return {} if self._ratio is None else {"sq_ratio": self._ratio}


def stage(ratios: Sequence[float], step: int, nb_steps: int) -> float:
    """Returns the ratio of a step, counted from 0."""
    stages_left = (nb_steps - 1 - step) * len(ratios) // nb_steps
    return float(ratios[len(ratios) - 1 - stages_left])
