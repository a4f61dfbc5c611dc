"""BatchNorm folded into the layer before it: `γ (Wx + b - μ) / √(v + ε) + β = (gW)x + g(b - μ) + β`, g = γ/√(v + ε)."""

from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from qadv.modes import evaluation_mode
from qadv.quantization.layers import _HOOKS

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def fold_batch_norms(model: nn.Module, image: Tensor) -> list[str]:
    """Folds each BatchNorm that can be into the weights and bias of the layer before it, in place.

    A BatchNorm can be folded if what it normalises is the very output of a convolution or linear layer, that output
    goes nowhere else, both run once in a pass, and neither has hooks. This is found by running one image and reading
    the graph of its gradient, not by name.

    Args:
        model: a network whose weights are nobody else's, as `freeze` makes it; weights and biases are replaced.
        image: one image or a batch as the network takes it, (N, *input_shape).

    Returns:
        The names of the BatchNorms that are gone.
    """
    pairs = _foldable(model, image)
    for layer, norm in pairs:
        _fold(layer, norm)
    gone = {id(norm): _what_is_left(norm) for _, norm in pairs}
    names = [name for name, module in model.named_modules() if id(module) in gone]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in gone:
                parent._modules[name] = gone[id(child)]
    return names


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    """In float64, so that what is lost is one rounding of each weight and bias."""
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    offset = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
    bias = gain * offset if norm.bias is None else gain * offset + norm.bias.double()
    weight = layer.weight.double() * gain.reshape(-1, *[1] * (layer.weight.ndim - 1))  # of grouped convolutions too
    if hasattr(layer, "_weights"):
        layer._weights = None  # a frozen layer's integer codes: these weights are others
    kept = {"requires_grad": False}
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), **kept)
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), **kept)


def _what_is_left(norm: nn.Module) -> nn.Module:
    """timm's BatchNorms have an activation of their own."""
    left = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    return left.train(norm.training)


def _foldable(model: nn.Module, image: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Returns layers, each with the BatchNorm that its output goes into."""
    made_by: dict[Any, nn.Module] = {}  # by the node of the graph, which an in-place change of the tensor replaces
    taken_by: dict[Any, nn.Module] = {}
    runs: Counter[nn.Module] = Counter()

    def note_output(layer: nn.Module, inputs: Any, output: Any) -> None:
        runs[layer] += 1
        if isinstance(output, Tensor) and output.grad_fn is not None:
            made_by[output.grad_fn] = layer

    def note_input(norm: nn.Module, inputs: Any) -> None:
        runs[norm] += 1
        layer = made_by.get(inputs[0].grad_fn) if inputs and isinstance(inputs[0], Tensor) else None
        # a linear layer's features are its last dimension, the channels of a BatchNorm the second
        if layer is not None and (inputs[0].ndim == 2 or not isinstance(layer, nn.Linear)):
            taken_by[inputs[0].grad_fn] = norm

    handles = []
    for module in model.modules():
        if any(getattr(module, hooks) for hooks in _HOOKS):
            continue
        if isinstance(module, _LAYERS):
            handles.append(module.register_forward_hook(note_output))
        elif _normalises_by_running_statistics(module):
            handles.append(module.register_forward_pre_hook(note_input))
    try:
        with torch.enable_grad(), evaluation_mode(model):
            logits = model(image.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    uses = _uses(logits.grad_fn)
    return [
        (made_by[node], norm)
        for node, norm in taken_by.items()
        if uses[node] == 1 and runs[made_by[node]] == 1 and runs[norm] == 1
    ]


def _normalises_by_running_statistics(module: Any) -> bool:
    known = isinstance(module, _BATCH_NORMS) and type(module).forward in (
        nn.modules.batchnorm._BatchNorm.forward,
        BatchNormAct2d.forward,
    )
    return known and module.running_mean is not None


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
