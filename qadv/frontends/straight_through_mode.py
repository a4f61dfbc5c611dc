"""Gradients for a network that computes with integers: beside each of its operators runs torch's own on floats.

The network runs its own code on its own kernels, which give every value, to the bit. What it calls is caught on the
way, so that eager modules, fx and exported graphs, functions and weights that are tensors of their own class are all
one: a tensor of codes is stood for by a float tensor of the same values that has a gradient.
"""

import inspect
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from qadv.frontends.fake_quantize import Grid, integers
from qadv.frontends.frontend import QuantizedActivation
from qadv.frontends.twins import NoTwinError, TwinForm, value_of_one
from qadv.modes import held_network
from qadv.quantization.form import FormOptions

Rule = Callable[..., Tensor]


class OfEachBatch:
    """What a network's kernels round with scales that they find for each batch: all of the gradient passes."""

    def quantize(self, x: Tensor) -> Tensor:
        return x


_CUTS = (  # without a rule, which gives the gradient
    *("quantized.", "quantized_lstm", "quantized_gru", "quantized_decomposed.quantize", "torchao.quantize"),
    *("_int_mm", "torchao.int_"),  # of codes whose scale comes later
)
_WAYS = "quantize", "dequantize"
_OF_EACH_BATCH = "quantize_per_token", "quantize_affine"
_GRIDS: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def computing(network: nn.Module, layer: str) -> nn.Module:
    """Returns the network that computes a layer, by its name: the one given, or a part that computes itself."""
    found, module = network, network
    for name in filter(None, layer.split(".")):
        module = cast(nn.Module, module._modules[name])
        found = held_network(module) if getattr(module, "computes_itself", False) else found
    return found


def grid(network: nn.Module, scale: Any, zero_point: Any, low: int, high: int) -> Grid:
    """Returns a network's grid of that scale, the same object each time."""
    key = float(scale), int(zero_point), low, high
    found: Grid = _GRIDS.setdefault(network, {}).setdefault(key, Grid(*key))
    return found


def dynamic(network: nn.Module, layer: str, bits: int, origin: str) -> QuantizedActivation:
    """Describes the input of a layer that is rounded with a scale of each batch."""
    known = _GRIDS.setdefault(computing(network, layer), {}).setdefault(OfEachBatch, OfEachBatch())
    about = integers(layer, "input", bits, origin, "straight-through") | {"scheme": f"int:{bits} dynamic"}
    return QuantizedActivation(**about, scale=None, at=None, place=(known, "quantize"))


def ends_of(dtype: torch.dtype) -> tuple[Any, Any]:
    """Returns the lowest and the highest code of a type."""
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return info.min, info.max


class StraightThrough(TorchFunctionMode):
    """While it lasts, what is computed with codes has gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        rule = _RULES.get(name) or _RULES.get(name.replace("_relu", ""))
        coded = any(map(_has_codes, tree_leaves((args, kwargs))))
        if rule is None and name.startswith(_CUTS):
            raise NoTwinError(name)
        if name == "linear" and rounds_inputs((*args, None, None)[1]):
            rule = _linear_of_its_own
        if not coded and (rule is None or name.rpartition(".")[2].startswith("dequantize")):
            return func(*args, **kwargs)
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if in_place and (not _has_codes(args[0]) or args[0]._qadv_codes._is_view()):
            raise NoTwinError(f"{name}, in place on what another tensor shares,")
        with torch.no_grad():
            value = func(*tree_map(_codes, args), **tree_map(_codes, kwargs))
        floats, options = tree_map(_floats, args), tree_map(_floats, kwargs)
        if in_place:  # of a copy: other operators have kept what was there for their gradient
            value, floats = _codes(args[0]), (floats[0].clone(), *floats[1:])
        if isinstance(value, tuple | list):  # of `chunk`; of `max` the places are no codes
            kinds = {each._qadv_codes.dtype for each in tree_leaves((args, kwargs)) if _has_codes(each)}
            codes = [isinstance(each, Tensor) and each.dtype in kinds for each in value]
            if any(codes):
                parts = zip(codes, value, func(*floats, **options), strict=True)
                return type(value)([self._stood_for(name, args, x, y) if own else x for own, x, y in parts])
        if not isinstance(value, Tensor) or value.dtype == torch.bool:
            return value
        if rule is _linear_of_its_own or name == "quantized.linear_dynamic":
            floats = self._of_each_batch(floats[0]), *floats[1:]
        y = func(*floats, **options) if rule is None else _followed(name, rule, floats, options)
        if in_place:
            args[0]._qadv_floats = self._stood_for(name, args, value, floats[0])
            return args[0]
        with torch.set_grad_enabled(torch.is_grad_enabled() or name.startswith("torchao.")):  # which is without, itself
            return self._stood_for(name, args, value, F.relu(y) if _relu(name) else y)

    def _stood_for(self, name: str, args: Any, value: Tensor, y: Tensor) -> Tensor:
        """Returns a value with the gradient of `y`, which stands for its codes if it is some."""
        if value.is_quantized:
            known = self._grid(value.q_scale(), value.q_zero_point(), *ends_of(value.dtype))
            return _standing_for(value, value_of_one(value.dequantize(), known.quantize(y)))
        if not value.is_floating_point():  # codes of PT2E, which are plain integers
            per_tensor = name.endswith("quantize_per_tensor")
            if name.endswith(_OF_EACH_BATCH) or (per_tensor and isinstance(args[1], Tensor)):
                y = self._of_each_batch(y)
            elif per_tensor:
                y = self._grid(*args[1:5]).quantize(y)
            return _standing_for(value, y)
        return value_of_one(value, y)

    def _of_each_batch(self, x: Tensor) -> Tensor:
        found: OfEachBatch | None = _GRIDS.get(self._network, {}).get(OfEachBatch)
        return x if found is None else found.quantize(x)

    def _grid(self, *about: Any) -> Grid:
        """Returns one that was described, or a new one: scales of each batch would be too many to keep."""
        key = float(about[0]), int(about[1]), *about[2:]
        return _GRIDS.get(self._network, {}).get(key) or Grid(*key)


def _name(func: Any) -> str:
    """Returns the name of what is called, with the library's where it is not torch's own."""
    schema = getattr(func, "_schema", None)
    qualified = func._qualified_op_name if schema is None and hasattr(func, "_qualified_op_name") else ""
    name = qualified if schema is None else schema.name
    return str(name or getattr(func, "__name__", "")).replace("::", ".").removeprefix("aten.")


def _followed(name: str, rule: Rule, args: Any, kwargs: Any) -> Tensor:
    try:
        return rule(*args, **kwargs)
    except TypeError:
        try:
            inspect.signature(rule).bind(*args, **kwargs)
        except TypeError as error:
            raise NoTwinError(f"{name}, called in a way that is not known here,") from error
        raise


def _relu(name: str) -> bool:
    """Whether a kernel has a ReLU in it, which its rule leaves out."""
    return name.startswith("quantized.") and "_relu" in name and name not in _RULES


def _has_codes(argument: Any) -> bool:
    return isinstance(argument, Tensor) and hasattr(argument, "_qadv_codes")


def _codes(argument: Any) -> Any:
    return argument._qadv_codes if _has_codes(argument) else argument


def _floats(argument: Any) -> Any:
    """Returns what a tensor of codes was changed to in place, and anything else as it is."""
    return getattr(argument, "_qadv_floats", argument) if isinstance(argument, Tensor) else argument


def _standing_for(codes: Tensor, x: Tensor) -> Tensor:
    """Returns what has the values of `x` and stands for codes; `x` may be read as it is elsewhere."""
    standing = x.view_as(x)
    standing._qadv_codes = codes  # type: ignore[attr-defined]
    return standing


def rounds_inputs(weight: Any) -> bool:
    """Whether a linear layer with a weight of torchao's quantizes its input as well; such a one has no gradient."""
    about = [getattr(weight, name, None) for name in ("act_quant_kwargs", "activation_quantization")]
    return any(each is not None for each in about) or "ActivationQuantized" in type(weight).__name__


def _linear_of_its_own(x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
    names = "act_pre_scale", "act_quant_scale", "act_quant_zero_point"
    before, scale, zero_point = (getattr(weight, name, None) for name in names)
    x = x if before is None else x * before
    if scale is not None:  # the same for all images
        ends = ends_of(weight.qdata.dtype if weight.qdata.is_floating_point() else torch.int8)
        x = x.clamp(*(scale * (end - (0 if zero_point is None else zero_point)) for end in ends))
    return F.linear(x, weight.dequantize().detach().to(x.dtype), bias)


def _convolution(dims: int) -> Rule:
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]

    def rule(x: Tensor, packed: Any, *_: Any) -> Tensor:
        weight, bias = getattr(torch.ops.quantized, f"conv{dims}d_unpack")(packed)
        stride, padding, dilation = (each[-dims:] for each in (packed.stride(), packed.padding(), packed.dilation()))
        return convolve(x, weight.dequantize(), bias, stride, padding, dilation, packed.groups())

    return rule


def _linear(x: Tensor, packed: Any, *_: Any, **__: Any) -> Tensor:
    weight, bias = packed.unpack()
    return F.linear(x, weight.dequantize() if weight.is_quantized else weight.float(), bias)


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float, *_: Any, **__: Any) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _elu(x: Tensor, output_scale: Any, output_zero_point: Any, alpha: Any = 1, *_: Any, **__: Any) -> Tensor:
    return F.elu(x, float(alpha))


def _layer_norm(x: Tensor, normalized_shape: Any, weight: Any, bias: Any, eps: float, *_: Any, **__: Any) -> Tensor:
    return F.layer_norm(x, normalized_shape, weight, bias, eps)


def _group_norm(x: Tensor, num_groups: int, weight: Any, bias: Any, eps: float, *_: Any, **__: Any) -> Tensor:
    return F.group_norm(x, num_groups, weight, bias, eps)


def _per_channel(x: Tensor, scales: Tensor, zero_points: Tensor, axis: int, low: int, high: int, *_: Any) -> Tensor:
    zero_points = zero_points.to(torch.int32)
    return torch.fake_quantize_per_channel_affine(x, scales.to(x.dtype), zero_points, axis, low, high)


def _by_packed(multiply: Any) -> Rule:
    """Multiplies by weights that only a kernel can read: it gives them for a batch of unit vectors."""
    return lambda x, *packed: x @ multiply(torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), *packed)


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


# without scale and zero point of the output, which the kernel has put into its value
_RULES: dict[str, Rule] = {
    "quantize_per_tensor": _itself,
    "dequantize": _itself,
    "quantized_decomposed.quantize_per_tensor": _itself,
    "quantized_decomposed.dequantize_per_tensor": _itself,
    "quantized_decomposed.quantize_per_channel": _per_channel,
    "quantized_decomposed.dequantize_per_channel": _itself,
    **{f"quantized_decomposed.{way}_{per}": _itself for way in _WAYS for per in ("per_token", "per_channel_group")},
    **{f"torchao.{way}_affine": _itself for way in _WAYS},
    "_weight_int4pack_mm": _by_packed(torch.ops.aten._weight_int4pack_mm),
    "_weight_int4pack_mm_for_cpu": _by_packed(torch.ops.aten._weight_int4pack_mm_for_cpu),
    "quantized.conv1d": _convolution(1),
    "quantized.conv2d": _convolution(2),
    "quantized.conv3d": _convolution(3),
    "quantized.conv2d_add": lambda x, other, packed, *_: _convolution(2)(x, packed) + other,
    "quantized.linear": _linear,
    "quantized.linear_dynamic": _linear,
    "quantized.linear_dynamic_fp16": _linear,
    "quantized.add": lambda x, y, *_, **__: x + y,
    "quantized.add_scalar": lambda x, y: x + y,
    "quantized.mul": lambda x, y, *_, **__: x * y,
    "quantized.mul_scalar": lambda x, y: x * y,
    "quantized.matmul": lambda x, y, *_, **__: x @ y,
    "quantized.cat": lambda x, *args, dim=None, **__: torch.cat(x, (args or (0,))[-1] if dim is None else dim),
    "quantized.dropout": _itself,
    "quantized.relu6": lambda x, *_, **__: F.relu6(x),
    "quantized.hardswish": lambda x, *_, **__: F.hardswish(x),
    "quantized.sigmoid": lambda x, *_, **__: torch.sigmoid(x),
    "quantized.elu": _elu,
    "quantized.leaky_relu": lambda x, negative_slope, *_, **__: F.leaky_relu(x, negative_slope),
    "quantized.softmax": lambda x, dim, *_, **__: torch.softmax(x, dim),
    "quantized.batch_norm": _batch_norm,
    "quantized.batch_norm2d": _batch_norm,
    "quantized.layer_norm": _layer_norm,
    "quantized.group_norm": _group_norm,
}


class _Twin(nn.Module):
    """Runs a network on floats beside its codes; it follows every change, since it is the network's code and state."""

    def __init__(self, network: nn.Module, run: nn.Module) -> None:
        super().__init__()
        self._networks = network, run  # not parts: their mode is not the twin's to change

    def forward(self, x: Tensor) -> Any:
        network, run = self._networks
        with StraightThrough(network):
            return run(x)


def straight_through_form(network: nn.Module, run: nn.Module, options: FormOptions) -> TwinForm:
    """Returns a form with the values of a network that computes with integers, run by itself or a stand-in, `run`."""
    return TwinForm(run, _Twin(network, run), options, exact=True, name="a straight-through twin's")
