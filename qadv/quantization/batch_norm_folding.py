"""BatchNorm folded into the layer before it: `γ (Wx + b - μ) / √(v + ε) + β = (gW)x + g(b - μ) + β`, g = γ/√(v + ε)."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from qadv.quantization.stand_ins import StandIn, has_own_forward, stand_in, with_stand_ins

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Returns weight, (c_out, …), and bias of a layer that does what it and the BatchNorm behind it did.

    In float64, so that what is lost is one rounding of each.
    """
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    offset = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean.double()
    moved = gain * offset if norm.bias is None else gain * offset + norm.bias.double()
    scaled = weight.double() * gain.reshape(-1, *[1] * (weight.ndim - 1))  # of grouped convolutions too
    return scaled.to(weight.dtype), moved.to(weight.dtype)


def can_be_folded(norm: Any) -> bool:
    """Whether a module is a BatchNorm of torch or timm that normalises by its running statistics."""
    known = isinstance(norm, BATCH_NORMS) and type(norm).forward in (
        nn.modules.batchnorm._BatchNorm.forward,
        BatchNormAct2d.forward,
    )
    if not known or norm.training or norm.running_mean is None or has_own_forward(norm):
        return False
    return norm.weight is None or isinstance(norm.weight, nn.Parameter)  # else put there by functional_call


class FoldedNorm(StandIn):
    """In the place of a BatchNorm that is part of the layer before it: timm's have an activation of their own."""

    __slots__ = ("_qadv_layer",)
    _qadv_layer: Any

    def forward(self, x: Tensor) -> Tensor:
        x = self._qadv_layer.hand_over(x)
        own: Any = self
        return own.act(own.drop(x)) if isinstance(self, BatchNormAct2d) else x


class _Probe:
    """What one pass shows: layers by the node of the graph that they make, and BatchNorms by the node that they take.

    An in-place change of a tensor replaces its node.
    """

    def __init__(self) -> None:
        self.made_by: dict[Any, nn.Module] = {}
        self.taken_by: dict[Any, nn.Module] = {}
        self.runs: Counter[nn.Module] = Counter()


class _Probed(StandIn):
    __slots__ = ("_qadv_module", "_qadv_probe")
    _qadv_module: nn.Module
    _qadv_probe: _Probe


class _ProbedLayer(_Probed):
    __slots__ = ()

    def forward(self, x: Tensor) -> Any:
        output = super().forward(x)  # type: ignore[misc]
        self._qadv_probe.runs[self._qadv_module] += 1
        if isinstance(output, Tensor) and output.grad_fn is not None:
            self._qadv_probe.made_by[output.grad_fn] = self._qadv_module
        return output


class _ProbedNorm(_Probed):
    __slots__ = ()

    def forward(self, x: Tensor) -> Any:
        self._qadv_probe.runs[self._qadv_module] += 1
        layer = self._qadv_probe.made_by.get(x.grad_fn)
        # a linear layer's features are its last dimension, the channels of a BatchNorm the second
        if layer is not None and (x.ndim == 2 or not isinstance(layer, nn.Linear)):
            self._qadv_probe.taken_by[x.grad_fn] = self._qadv_module
        return super().forward(x)  # type: ignore[misc]


@torch.inference_mode(False)
@torch.enable_grad()
def foldable(
    network: nn.Module, layers: list[nn.Module], norms: list[nn.Module], image: Tensor
) -> dict[nn.Module, nn.Module]:
    """Returns those layers that a BatchNorm can be folded into, each with that BatchNorm.

    What it normalises is the very output of the layer, that output goes nowhere else, no module keeps it, and both run
    once in a pass. This is found by running an image (N, *input_shape) and reading the graph of its gradient, not by
    name. The network is in evaluation mode and stays as it is; `norms` are such as `can_be_folded`.
    """
    probe = _Probe()
    probed: dict[nn.Module, StandIn] = {}
    for kind, modules in ((_ProbedLayer, layers), (_ProbedNorm, norms)):
        for module in modules:
            probed[module] = stand_in(kind, module, _qadv_module=module, _qadv_probe=probe)
    output = with_stand_ins(network, probed)[0](image.detach().clone().requires_grad_())
    uses = _uses(output.grad_fn)
    uses.update(each.grad_fn for module in network.modules() for each in _kept_by(module))
    pairs = ((probe.made_by[node], norm, uses[node]) for node, norm in probe.taken_by.items())
    return {layer: norm for layer, norm, used in pairs if used == probe.runs[layer] == probe.runs[norm] == 1}


def _kept_by(module: nn.Module) -> Iterator[Tensor]:
    """Yields the tensors that a module has as attributes, or in lists and dicts that are some."""
    for value in vars(module).values():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        yield from (each for each in parts if isinstance(each, Tensor))


def _uses(root: Any) -> Counter[Any]:
    """Returns how often the output of each node of a graph is used."""
    uses: Counter[Any] = Counter([root])
    waiting = [root]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                uses[node] += 1
                if uses[node] == 1:
                    waiting.append(node)
    return uses
