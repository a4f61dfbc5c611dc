"""Pairing: clean and adversarial images should give close activations, docs/methods.md §3 (EQ eq. 6, 7)."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from qadv.checks import check_choice, check_number
from qadv.errors import InvalidInputError, closest
from qadv.recording import recording
from qadv.trainers.adversary import Adversary
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective

LOGITS = "logits"
_FLOOR = 1e-6


def relative_distance(clean: Tensor, adversarial: Tensor, norm: float = 2) -> Tensor:
    """Returns `D(x, x′) = ‖F(x) - F(x′)‖ / ‖F(x)‖` of each sample, (N,), in norm 2 or inf; gradients flow through both.

    **Reading:** the denominator is at least 1e-6, since dead activations have none.
    """
    clean, adversarial = clean.flatten(1), adversarial.flatten(1)
    size = torch.linalg.vector_norm(clean, norm, dim=1).clamp(min=_FLOOR)
    distance: Tensor = torch.linalg.vector_norm(clean - adversarial, norm, dim=1) / size
    return distance


class Pairing(Objective):
    """Adds `Σ_l λ_l · D_l(x, x + δ)`, the mean over the batch, δ found by an adversary in the same step.

    Both passes are in training mode, so that BatchNorm works with the statistics of its batch in both. History: each
    epoch's mean `distance/NAME` of every paired module, and the term as `pairing`. The λ > 0 are by module name;
    `"logits"` is the network's output.
    """

    def __init__(self, lambdas: Mapping[str, float], norm: float, adversary: Adversary) -> None:
        if not isinstance(lambdas, Mapping) or not lambdas:
            raise InvalidInputError(f"lambdas: expected a number, or a mapping from module names to λ, got {lambdas!r}")
        check_choice("norm", norm, (2, math.inf))
        self.lambdas = {
            str(name): float(check_number(f"lambdas: λ of {name!r}", value)) for name, value in lambdas.items()
        }
        self.norm, self.adversary = norm, adversary
        self._hooks = ExitStack()
        self._modules: dict[str, nn.Module] = {}
        self._outputs: dict[str, Tensor] = {}
        self._adversarial: Tensor | None = None
        self._distances: dict[str, list[Tensor]] = {}

    def __repr__(self) -> str:
        return f"Pairing({self.lambdas}, norm={self.norm}, {self.adversary})"

    def start(self, network: TrainedNetwork, image: Tensor) -> None:
        modules = {name: module for name, module in network.model.named_modules() if name}
        for name in self.lambdas.keys() - {LOGITS, *modules}:
            raise InvalidInputError(
                f"lambdas: the network has no module {name!r}{closest(name, [LOGITS, *modules])} "
                "See [name for name, _ in classifier.model.named_modules()]"
            )
        self._modules = {name: modules[name] for name in self.lambdas if name != LOGITS}
        self._hooks.enter_context(recording(self._modules, leaving=self._keep))

    def inputs(self, network: TrainedNetwork, x: Tensor, y: Tensor) -> Tensor:
        self._adversarial = self.adversary.perturb(network, x, y)
        return x

    def terms(self, network: TrainedNetwork, x: Tensor, y: Tensor, logits: Tensor) -> dict[str, Tensor]:
        assert self._adversarial is not None
        clean, self._outputs = {LOGITS: logits, **self._outputs}, {}
        adversarial = {LOGITS: network.logits(self._adversarial)} | self._outputs
        self._outputs, self._adversarial = {}, None
        pairing = torch.zeros((), device=logits.device)
        for name, weight in self.lambdas.items():
            if name not in clean or name not in adversarial:
                raise InvalidInputError(f"lambdas: module {name!r} did not run, or gives no tensor")
            distance = relative_distance(clean[name], adversarial[name], self.norm).mean()
            self._distances.setdefault(name, []).append(distance.detach())
            pairing = pairing + weight * distance
        return {"pairing": pairing}

    def measure(self, network: TrainedNetwork) -> dict[str, object]:
        distances, self._distances = self._distances, {}
        return {f"distance/{name}": torch.stack(values).mean().item() for name, values in distances.items()}

    def finish(self, network: TrainedNetwork) -> None:
        self._hooks.close()
        self._modules, self._outputs, self._adversarial, self._distances = {}, {}, None, {}

    def _keep(self, name: str, _: Any, output: Any) -> None:
        if self._modules[name].training and isinstance(output, Tensor):
            self._outputs[name] = output
