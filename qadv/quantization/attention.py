"""Attention and gates in integers: products of two activations, and what weighs them, where a network's code has them.

The code stays as it is. While a module that has such runs, what it calls is caught on the way: both operands of a
product are quantized, and so is what a softmax or a sigmoid gives.
"""

import ast
import inspect
import math
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from qadv.errors import UnsupportedModelError, some
from qadv.quantization.flow import _DROPOUTS, _MOVES, _plain
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.rules import Rules

_ADD_TO = {"baddbmm", "addbmm", "addmm", "addmv"}  # their first argument, which is no operand
_SUMS = {"matmul", "rmatmul", "bmm", "mm", "mv", "inner", "multidot", "tensordot", "einsum", *_ADD_TO}
_FUSED = "scaled_dot_product_attention"
_TRANSFORMERS = "attentioninterface"  # as transformers call whichever function does it
_WHOLE = {"multiheadattentionforward", "flexattention"}  # in which nothing can be caught
_GATES = {"softmax", "sigmoid", "hardsigmoid", "expit"}
_TIMES = {"mul", "rmul", "imul", "multiply"}
_KEEPS = _MOVES | _DROPOUTS | {"sum"}  # of what is on the way from a gate to its product
# these read the weights of their parts without calling them: nothing inside can be swapped
CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_ACTIVATIONS = {"quickgelu", "quickgelume", "swish", "silu", "swishme"}  # whose sigmoid is no gate


class QuantizedProducts:
    """Mixed in front of the class of a module whose code multiplies activations."""

    qadv_operands: ActivationQuantizer
    qadv_gates: ActivationQuantizer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _catching(self) as mode:
            output = super().__call__(*args, **kwargs)  # type: ignore[misc]
            return mode.gate(output) if _is_gate(self) else output

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self).__bases__[1],), vars(self)


@cache
def _class_of(own: type[nn.Module]) -> type[nn.Module]:
    return type(
        own.__name__, (QuantizedProducts, own), {"__module__": own.__module__, "__qualname__": own.__qualname__}
    )


def _remade(own: Any) -> Any:
    made = _class_of(own)
    return made.__new__(made)


def _is_gate(module: Any) -> bool:
    return _plain(type(module).__name__) in _GATES


def has_products(module: nn.Module) -> bool:
    """Whether a module is a softmax or a sigmoid, or its own code has one, or multiplies matrices of activations."""
    kind: type = type(module)
    return _plain(kind.__name__) not in _ACTIVATIONS and (_is_gate(module) or _multiplies(kind))


@cache
def _multiplies(kind: type) -> bool:
    """Whether the `forward` of a class, or a method that it calls, its parents' too, has a gate or multiplies."""
    if kind.__module__.startswith(("torch.", "brevitas.", "torchao.", "qadv.", "builtins")):
        return False
    names, seen = ["forward"], set[str]()
    while names:
        if (name := names.pop()) in seen:
            continue
        seen.add(name)
        nodes: list[ast.AST] = []
        for owner in (each for each in kind.__mro__ if name in vars(each)):
            try:
                source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
                nodes += ast.walk(ast.parse(source))
            except (OSError, TypeError, SyntaxError):
                break
            if "super()" not in source:
                break
        called = [node.func for node in nodes if isinstance(node, ast.Call)]
        names += [f.attr for f in called if isinstance(f, ast.Attribute) and ast.unparse(f.value) == "self"]
        plain = {_plain(getattr(each, "attr", getattr(each, "id", ""))) for each in called}
        operators = {type(node.op) for node in nodes if isinstance(node, ast.BinOp)}
        if ast.MatMult in operators or plain & {*_SUMS, *_GATES, _plain(_FUSED), _TRANSFORMERS}:
            return True
    return False


def quantize_products(model: nn.Module, rules: Rules) -> None:
    """Lets the modules with products compute them by the schemes of `rules`, in place.

    Where there are none, or only torch's own attention, in whose code nothing can be caught, it is refused.
    """
    if not rules.any:
        return
    found = {name: m for name, m in model.named_modules() if has_products(m) or isinstance(m, CLOSED)}
    rules.check_used(found)
    schemes = {name: scheme for name in found if (scheme := rules.find(name)[1]) is not None}
    if not schemes:
        raise UnsupportedModelError(
            f"attention: {type(model).__name__} has no matmul, softmax or sigmoid in its modules' code; leave it out"
        )
    if closed := [name for name in schemes if isinstance(found[name], CLOSED)]:
        example = f"attention={{'*': 'int:8', {closed[0]!r}: 'float'}}"
        raise UnsupportedModelError(
            f"attention: {some(closed)} would silently stay float, since nothing in torch's own attention can be "
            f"quantized; to leave it float on purpose, say so: {example}"
        )
    left = {module: name for name, module in found.items() if name not in schemes and not isinstance(module, CLOSED)}
    for name in schemes:
        if inside := [left[part] for part in found[name].modules() if part in left]:
            raise UnsupportedModelError(
                f"attention: {some(inside)} would be quantized as a part of {name or type(model).__name__!r}, which "
                "runs it; give both a scheme, or neither"
            )
    device = next((p.device for p in model.parameters()), None)
    for name, scheme in schemes.items():
        module = found[name]
        kind: Any = type(module)
        module.__class__ = _class_of(kind)
        quantizers = [each.to(device).train(module.training) for each in scheme.for_attention()]
        module.qadv_operands, module.qadv_gates = quantizers


class _Catching(TorchFunctionMode):
    """Quantizes for the innermost module that has products and runs."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _called(func)
        if not all(issubclass(kind, Tensor) for kind in types):
            return func(*args, **kwargs)  # a tracer's, not tensors
        if name == _plain(_FUSED):
            return self._attention(*args, **kwargs)
        if name in _SUMS:
            added, operands = (args[:1], args[1:]) if name in _ADD_TO else ((), args)
            return func(*added, *tree_map(self.operand, operands), **tree_map(self.operand, kwargs))
        if name in _TIMES and self._weighs(factors := (*args, *kwargs.values())):
            x, y = map(self.operand, factors)
            product = x * y
            return _marked(args[0].copy_(product) if func.__name__ in ("mul_", "__imul__") else product, rounded=False)
        if name in _GATES and func.__name__.endswith("_"):
            return _marked(args[0].copy_(self.gate(torch.sigmoid(args[0]))))
        output = func(*args, **kwargs)
        if name in _GATES:
            return self.gate(output)
        if name in _KEEPS and any(map(_is_marked, args)):
            return _marked(output, rounded=name != "sum" and not any(map(_is_unrounded, args)))
        if isinstance(output, Tensor) and _is_marked(output):  # and was changed in place
            _marked(output, rounded=False)
        return output

    def operand(self, x: Any) -> Any:
        """Returns a quantized operand; what a gate gave, and no tensor of numbers, as it is."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or (_is_marked(x) and not _is_unrounded(x)):
            return x
        return self.owners[-1].qadv_operands.quantize(x)

    def gate(self, x: Any) -> Any:
        """Returns quantized values from 0 to 1."""
        if _is_marked(x) and not _is_unrounded(x):
            return x
        return _marked(self.owners[-1].qadv_gates.quantize(x).clone())  # may be changed in place

    def _weighs(self, factors: Any) -> bool:
        """Whether a product is one of what a gate gave and another activation."""
        activations = all(isinstance(each, Tensor) and not isinstance(each, nn.Parameter) for each in factors)
        return activations and any(map(_is_marked, factors))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """torch's fused attention, step by step."""
        query, key, value = map(self.operand, (query, key, value))
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill(~attn_mask, -math.inf)
        weights = self.gate((scores if attn_mask is None else scores + attn_mask).softmax(-1))
        return nn.functional.dropout(weights, dropout_p) @ value


def is_uncaught_product(func: Any) -> bool:
    """Whether a function multiplies matrices, or is attention, where nothing quantizes them."""
    name = _called(func)
    return name in _WHOLE or (name in {*_SUMS, _plain(_FUSED)} and getattr(_RUNNING, "mode", None) is None)


def _called(func: Any) -> str:
    return _plain(getattr(func, "__name__", "")).removeprefix("special").removeprefix("linalg")


def _is_marked(x: Any) -> bool:
    """Whether a tensor comes from a gate, and weighs what it is multiplied with."""
    return isinstance(x, Tensor) and hasattr(x, "_qadv_rounded")


def _is_unrounded(x: Any) -> bool:
    """Whether a tensor that is marked is no gate's own output any more, as a sum or a product."""
    return getattr(x, "_qadv_rounded", True) is False


def _marked(x: Any, rounded: bool = True) -> Any:
    for each in x if isinstance(x, tuple | list) else (x,):
        each._qadv_rounded = rounded
    return x


_RUNNING = threading.local()


@contextmanager
def _catching(owner: Any) -> Iterator[_Catching]:
    outer: _Catching | None = getattr(_RUNNING, "mode", None)
    mode = _RUNNING.mode = outer or _Catching()
    mode.owners.append(owner)
    try:
        with nullcontext() if outer else mode:
            yield mode
    finally:
        mode.owners.pop()
        _RUNNING.mode = outer
