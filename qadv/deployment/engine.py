"""Queries of a network in torch, answered by the integer graph that it is exported to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.deployment.export import check_exports, in_integers
from qadv.deployment.integer_graph import IntegerOptions
from qadv.derivatives import is_recorded
from qadv.errors import UnsupportedModelError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.frontends.frontend import EvaluationForm
from qadv.frontends.onnx.runtime import Runtime
from qadv.quantization.form import Hooks
from qadv.quantization.kept_values import KeptValues
from qadv.units import limits

ENGINES = ("onnxruntime",)
_CHANGED = "the network has changed since it was exported: accelerate it again"


@dataclass
class _Exported:
    """What a graph was made of, as `KeptValues` watches it: there is no second value, once that has changed."""

    modules: Sequence[nn.Module]
    runtime: Runtime | None

    def values(self) -> tuple[Any, ...]:
        runtime, self.runtime = self.runtime, None
        if runtime is None:
            raise UnsupportedModelError(_CHANGED)
        return (runtime,)


class EngineForm:
    """Answers by a runtime where no gradient is asked for, and by the network's own form where one is.

    The runtime is of the graph that the network, in evaluation mode, was exported to, (N, …) → logits; once its weights
    or modules are others, it is refused.
    """

    def __init__(self, network: nn.Module, form: EvaluationForm, runtime: Runtime) -> None:
        modules = list(network.modules())
        self.options = form.options
        self._form = form
        self._hooks = Hooks(modules)
        self._parts = [module._modules for module in modules if module._modules]
        self._structure = self._structure_now()
        self._kept = KeptValues([_Exported(modules, runtime)], channels_last=False)

    def __call__(self, x: Any, method: str = "__call__") -> Any:
        """Images (N, …) → logits, or what another method gives; a network that has changed since is refused."""
        asks = type(x) is Tensor and len(x) and not is_recorded(x)
        if not asks or method != "__call__" or self._hooks or torch._C._get_tracing_state():
            return self._form(x, method)
        if self._structure != self._structure_now():
            raise UnsupportedModelError(_CHANGED)
        ((runtime,),) = self._kept()
        return torch.from_numpy(runtime(x.detach().cpu().numpy())).to(x.device)

    def _structure_now(self) -> list[nn.Module | None]:
        return list(chain.from_iterable(map(dict.values, self._parts)))


def runtime_of(network: nn.Module, like: Any, images: NDArray[np.float32]) -> Runtime:
    """Returns a runtime of the integer graph of a network that takes images as the classifier `like` prepares them.

    Prepared `images`, (N, *input_shape), are for the ranges of what the network does not quantize.
    """
    check_exports(network)
    low, high = limits(like.clip_values) if like.clip_values is not None else (images.min(), images.max())
    if hasattr(like.preprocessing, "mean"):
        mean, std = (np.asarray(each) for each in (like.preprocessing.mean, like.preprocessing.std))
        low, high = ((end - mean) / std for end in (low, high))
    pixels = min(float(np.min(low)), float(images.min())), max(float(np.max(high)), float(images.max()))
    plain = QuantizedClassifier(
        network, like.loss, like.input_shape, like.nb_classes, clip_values=pixels, preprocessing=(0.0, 1.0)
    )
    return Runtime(in_integers(plain, images, IntegerOptions()), "the exported network")
