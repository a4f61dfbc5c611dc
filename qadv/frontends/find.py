"""The front ends that read a network, and what they say of it together."""

import os
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from qadv.errors import describe
from qadv.frontends.frontend import (
    EvaluationForm,
    NetworkFrontend,
    QuantizedActivation,
    QuantizedTensor,
    QuantizedWeights,
)
from qadv.frontends.own import OwnFrontend
from qadv.modes import held_network
from qadv.plugins import OWN_DISTRIBUTION, is_strict
from qadv.quantization.form import Form, FormOptions, Part
from qadv.registry import default_registry


class _Together(NetworkFrontend):
    """Several front ends, for a network with layers of several origins, as an ensemble may be."""

    def __init__(self, frontends: Sequence[NetworkFrontend]) -> None:
        self._frontends = frontends
        self.folds = all(frontend.folds for frontend in frontends)
        self.exports = all(frontend.exports for frontend in frontends)

    def recognises(self, network: nn.Module) -> bool:
        return True

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        places = {name: place for place, (name, _) in enumerate(network.named_modules())}
        found = [quantizer for frontend in self._frontends for quantizer in frontend.quantizers(network)]
        return sorted(found, key=lambda quantizer: places[quantizer.layer])

    def files(self, network: nn.Module) -> dict[str, str]:
        return {name: digest for frontend in self._frontends for name, digest in frontend.files(network).items()}

    def objection(self, network: nn.Module) -> str:
        return next(filter(None, (frontend.objection(network) for frontend in self._frontends)), "")

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        return [part for frontend in self._frontends for part in frontend.parts(network, options, x)]

    def form(self, network: nn.Module, options: FormOptions) -> EvaluationForm:
        forms = [frontend.form(network, options) for frontend in self._frontends]
        own = [form for form in forms if not isinstance(form, Form)]
        return own[0] if own else Form(network, options, self.parts)


@cache
def _frontends() -> list[NetworkFrontend]:
    """Returns one of each front end, plugins' first; a plugin's that can't be made is left out, with a warning."""
    found = []
    entries = default_registry().entries("frontend")
    for entry in sorted(entries, key=lambda entry: entry.distribution == OWN_DISTRIBUTION):
        try:
            found.append(entry.load()())
        except (Exception, SystemExit) as error:
            if entry.distribution == OWN_DISTRIBUTION or is_strict():
                raise
            warnings.warn(
                f"networks and files of {entry.qualified_name} are not known: {describe(error)}", stacklevel=3
            )
    return found


def frontend_of(network: nn.Module) -> NetworkFrontend:
    """Returns what reads a network: the front end that recognises it, several together, or qadv's own for any other."""
    found = [frontend for frontend in _frontends() if frontend.recognises(network)]
    return found[0] if len(found) == 1 else _Together(found) if found else OwnFrontend()


def file_frontend(path: str | os.PathLike[str]) -> NetworkFrontend | None:
    """Returns what reads a file that is a network by itself, going by its name; `None` for any other file."""
    name = os.fspath(path).lower()
    return next((frontend for frontend in _frontends() if name.endswith(frontend.suffixes or "\0")), None)


def file_writers() -> dict[str, NetworkFrontend]:
    """Returns the front ends that write files, by name."""
    return {frontend.name: frontend for frontend in _frontends() if frontend.writes}


def form_of(network: nn.Module, options: FormOptions) -> EvaluationForm:
    """Returns a network's form; a part that computes itself, as an ensemble's member with a twin, does so in it."""
    frontend = frontend_of(network)
    if _has_own_part(network):
        return Form(network, options, frontend.parts)
    return frontend.form(network, options)


def _has_own_part(module: nn.Module) -> bool:
    """Whether a part computes itself; what holds a network does not name itself among the network's modules."""
    return any(getattr(part, "computes_itself", False) or _has_own_part(part) for part in module.children())


def quantizers(model: Any) -> list[QuantizedTensor]:
    """Returns all quantizers of a network, or of the one that a classifier's `model` holds, as front ends see them."""
    network = held_network(model)
    return frontend_of(network).quantizers(network)


def files(model: Any) -> dict[str, str]:
    """Returns the files that compute in a network, by name, as SHA-256; none for one of torch's own modules."""
    network = held_network(model)
    return frontend_of(network).files(network)


def quantized_weights(model: Any) -> list[QuantizedWeights]:
    """Returns those of weights."""
    return [found for found in quantizers(model) if isinstance(found, QuantizedWeights)]


def quantized_activations(model: Any) -> list[QuantizedActivation]:
    """Returns those of activations and of layers' inputs."""
    return [found for found in quantizers(model) if isinstance(found, QuantizedActivation)]
