"""ONNX's float operators on torch tensors: each takes its attributes and its inputs, `None` for one left out."""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qadv.quantization.quantizer import straight_through

Attributes = dict[str, Any]
Operator = Callable[..., Any]

_TYPES = {1: torch.float32, 10: torch.float32, 11: torch.float32, 16: torch.float32, 6: torch.int64, 7: torch.int64,
          9: torch.bool}  # fmt: skip
_CODES = (2, 3, 4, 5, 21, 22, 25, 26)  # whole numbers of few bits: kept as floats, which have gradients
_WHOLE = (*_CODES, 6, 7, 12, 13)  # all whole numbers; those of more bits may be shapes and indices
_LARGEST = 2**31  # numbers in a tensor of one batch: more than a file that is whole asks for


class _StraightInside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None


def straight_inside(x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
    """Returns a step's values, with the gradient of the identity where `inside`."""
    return _StraightInside.apply(x, value, inside)  # type: ignore[no-any-return]


def stepwise(step: Callable[[Tensor], Tensor]) -> Operator:
    """Returns an operator whose gradient is the identity's."""
    return lambda a, x: straight_through(x, step(x.detach())) if x.is_floating_point() else x


def _ints(a: Attributes, name: str, given: Tensor | None = None) -> list[int] | None:
    """What newer operator sets give as an input, and older ones as an attribute."""
    if given is not None:
        return [int(each) for each in given.reshape(-1).tolist()]
    value = a.get(name)
    return [value] if isinstance(value, int) else None if value is None else list(value)


def _pads(a: Attributes, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns what is added before and behind each of the last dimensions."""
    n = len(kernel)
    strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
    mode = a.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)
        ]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        return (less, more) if mode == "SAME_UPPER" else (more, less)
    pads = a.get("pads") or [0] * (2 * n)
    return list(pads[:n]), list(pads[n:])


def _padded(x: Tensor, before: list[int], behind: list[int], value: float = 0.0) -> Tensor:
    if not any(before) and not any(behind):
        return x
    both = [each for pair in zip(reversed(before), reversed(behind), strict=True) for each in pair]
    return F.pad(x, both, value=value)


def conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    before, behind = _pads(a, x.shape[2:], w.shape[2:])
    padding = before if before == behind else [0] * n
    x = x if before == behind else _padded(x, before, behind)
    strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
    return (F.conv1d, F.conv2d, F.conv3d)[n - 1](x, w, b, strides, padding, dilations, a.get("group", 1))


def _conv_transpose(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    before, behind = _pads({**a, "auto_pad": "NOTSET"}, x.shape[2:], w.shape[2:])
    if a.get("auto_pad", "NOTSET") != "NOTSET" or before != behind or a.get("output_shape"):
        raise NotImplementedError("ConvTranspose with padding that is not the same on both sides")
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
    more = a.get("output_padding") or [0] * n
    return convolve(x, w, b, strides, before, more, a.get("group", 1), dilations)


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, n = a["kernel_shape"], len(a["kernel_shape"])
    before, behind = _pads(a, x.shape[2:], kernel)
    padded = _padded(x, before, behind, value=-math.inf)
    strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    return _begun(pool(padded, kernel, strides, 0, dilations, bool(a.get("ceil_mode"))), x, strides, before)


def _begun(pooled: Tensor, x: Tensor, strides: Sequence[int], before: Sequence[int]) -> Tensor:
    """Leaves out windows that begin behind the image, which `ceil_mode` does not make."""
    for axis, (stride, added) in enumerate(zip(strides, before, strict=True), 2):
        pooled = pooled.narrow(axis, 0, min(pooled.shape[axis], (x.shape[axis] + added - 1) // stride + 1))
    return pooled


def average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, n = a["kernel_shape"], len(a["kernel_shape"])
    if max(a.get("dilations") or [1]) > 1:
        raise NotImplementedError("AveragePool with dilations")
    before, behind = _pads(a, x.shape[2:], kernel)
    strides = a.get("strides") or [1] * n
    options = {"kernel_size": kernel, "stride": strides, "ceil_mode": bool(a.get("ceil_mode"))}
    pools: list[Operator] = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d]
    result: Tensor = pools[n - 1](_padded(x, before, behind), **options)
    if not a.get("count_include_pad") and any([*before, *behind]):
        result = result / pools[n - 1](_padded(torch.ones_like(x[:1, :1]), before, behind), **options)
    return _begun(result, x, strides, before) if a.get("ceil_mode") else result


def whole_windows(a: Attributes, x: Tensor) -> tuple[Attributes, Tensor] | None:
    """Returns an `AveragePool` whose windows are all whole, and by what its results are multiplied, (1, 1, …).

    That is for one whose last windows end behind the padded image, `None` for any other: float kernels divide by what
    is there, onnxruntime's integer ones by the whole window.
    """
    kernel, n = a["kernel_shape"], len(a["kernel_shape"])
    before, behind = _pads(a, x.shape[2:], kernel)
    strides, ones = a.get("strides") or [1] * n, torch.ones_like(x[:1, :1])
    found = average_pool(a, ones)
    steps = zip(found.shape[2:], strides, kernel, x.shape[2:], before, strict=True)
    ends = [max((out - 1) * stride + side - size - added, 0) for out, stride, side, size, added in steps]
    if all(end <= there for end, there in zip(ends, behind, strict=True)):
        return None
    whole = {"kernel_shape": kernel, "strides": strides, "pads": [*before, *ends], "count_include_pad": 1}
    return whole, found / average_pool(whole, ones)


def global_average_pool(a: Attributes, x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def gemm(a: Attributes, x: Tensor, w: Tensor, c: Tensor | None = None) -> Tensor:
    x, w = (x.mT if a.get("transA") else x), (w.mT if a.get("transB") else w)
    product = a.get("alpha", 1.0) * (x @ w) if a.get("alpha", 1.0) != 1 else x @ w
    return product if c is None else product + (a.get("beta", 1.0) * c if a.get("beta", 1.0) != 1 else c)


def _batch_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if a.get("training_mode", 0):
        raise NotImplementedError("BatchNormalization by the statistics of the batch, training_mode=1")
    return F.batch_norm(x, mean, var, scale, bias, eps=a.get("epsilon", 1e-5))


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], scale, bias, a.get("epsilon", 1e-5))


def clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    ends = (a.get("min") if low is None else low.item(), a.get("max") if high is None else high.item())
    return x if ends == (None, None) else x.clamp(*ends)


def _softmax(way: Operator, a: Attributes, x: Tensor) -> Any:
    if a["opset"] >= 13:
        return way(x, a.get("axis", -1))
    rows = x.flatten(a.get("axis", 1) % x.ndim) if x.ndim > 1 else x
    return way(rows, -1).reshape(x.shape)


def _reduced(way: Operator, a: Attributes, x: Tensor, axes: Tensor | None = None) -> Any:
    dims = _ints(a, "axes", axes)
    if not dims and a.get("noop_with_empty_axes"):
        return x
    return way(x, dim=tuple(dims or range(x.ndim)), keepdim=bool(a.get("keepdims", 1)))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not a.get("allowzero"):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = _ints(a, "axes", axes)
    return x.squeeze() if dims is None else x.squeeze(tuple(dims))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = _ints(a, "axes", axes) or []
    for dim in sorted(each % (x.ndim + len(dims)) for each in dims):
        x = x.unsqueeze(dim)
    return x


def _slice(a: Attributes, x: Tensor, *given: Tensor | None) -> Tensor:
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (_ints(a, *each) for each in zip(names, [*given, *[None] * 4], strict=False))
    index: list[Any] = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts or [], ends or [], strict=True)):
        axis, step = (axes[i] if axes else i), (steps[i] if steps else 1)
        size = x.shape[axis]
        if step > 0:
            index[axis] = slice(start, end, step)
        else:  # torch has no steps backwards
            taken = range(*slice(start, None if end < -size else end, step).indices(size))
            x = x.index_select(axis, torch.tensor(taken, device=x.device))
    return x[tuple(index)]


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, lengths = a.get("axis", 0), _ints(a, "split", sizes)
    return torch.split(x, lengths or math.ceil(x.shape[axis] / a["outputs"]), axis)


def _gather(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    index = index.long().to(x.device)
    index = torch.where(index < 0, index + x.shape[axis], index)
    found = x.index_select(axis, index.reshape(-1))
    return found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _pad(a: Attributes, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Any = None) -> Tensor:
    amounts = _ints(a, "pads", pads) or []
    n = len(amounts) // 2
    before, behind = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(range(x.ndim) if axes is None else axes.tolist()):
        before[axis], behind[axis] = amounts[i], amounts[n + i]
    mode = a.get("mode", "constant")
    _sized([sum(each) for each in zip(x.shape, before, behind, strict=True)])
    if mode == "constant":
        return _padded(x, before, behind, a.get("value", 0.0) if value is None else value.item())
    if min(amounts) < 0:
        raise NotImplementedError(f"Pad, {mode}, by less than nothing")
    for axis, both in enumerate(zip(before, behind, strict=True)):
        if any(both):  # torch's own pads no dimensions of images and channels
            rows = torch.from_numpy(np.pad(np.arange(x.shape[axis]), both, mode=mode))
            x = x.index_select(axis, rows.to(x.device))
    return x


def _cast(a: Attributes, x: Tensor) -> Tensor:
    if a["to"] in (_WHOLE if a.get("of_images") else _CODES):
        return straight_through(x, x.detach().trunc()) if x.is_floating_point() else x.float()
    return x.to(_TYPES[a["to"]])


def _cast_like(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    whole = not y.is_floating_point() and y.dtype != torch.bool
    return _cast({**a, "to": _WHOLE[0]}, x) if whole and a.get("of_images") else x.to(y.dtype)


def _sized(sizes: Sequence[Any]) -> None:
    """Refuses what would not fit into memory, before it is made."""
    if math.prod(int(size) for size in sizes) > _LARGEST:
        raise NotImplementedError(f"a tensor of sizes {[int(size) for size in sizes]}, too large to run")


def _resize(a: Attributes, x: Tensor, *given: Tensor | None) -> Tensor:
    scales, sizes = (given[0], None) if len(given) == 1 else [*given[1:], None, None][:2]  # a region comes first
    mode, where = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    exact: Any = ([] if scales is None else scales * torch.tensor(x.shape)) if sizes is None else sizes
    target, rounding = [round(float(size)) for size in exact], a.get("nearest_mode", "round_prefer_floor")
    usual = not a.get("axes") and not a.get("antialias") and a.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    _sized(target)
    if usual and list(exact) == target:
        if mode == "nearest" and all(new % old == 0 for new, old in zip(target, x.shape, strict=True)):
            older = len(given) == 1 or a["opset"] < 11
            if older or (where, rounding) in (("half_pixel", "round_prefer_floor"), ("asymmetric", "floor")):
                return F.interpolate(x, target[2:], mode="nearest")
        known = where in ("half_pixel", "align_corners") or (where == "pytorch_half_pixel" and min(target[2:]) > 1)
        if mode == "linear" and x.ndim == 4 and known:
            return F.interpolate(x, target[2:], mode="bilinear", align_corners=where == "align_corners")
    raise NotImplementedError(f"Resize, {mode}, {where}, {rounding}")


def _expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes: list[int] = shape.tolist()
    sizes = [1] * (x.ndim - len(sizes)) + sizes
    old = [1] * (len(sizes) - x.ndim) + list(x.shape)
    target = [max(pair) if 0 not in pair else 0 for pair in zip(sizes, old, strict=True)]
    _sized(target)
    return x.expand(target)


def _tile(a: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    times: list[int] = repeats.tolist()
    _sized([size * many for size, many in zip(x.shape, times, strict=True)])
    return x.repeat(times)


def _constant_of_shape(a: Attributes, shape: Tensor) -> Tensor:
    value = torch.as_tensor(a.get("value", 0.0)).reshape(())
    return value.expand(tuple(shape.tolist()))


def _divided(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    if not x.is_floating_point() and not y.is_floating_point():
        return torch.div(x, y, rounding_mode="trunc")
    quotient = x / y
    return straight_through(quotient, quotient.detach().trunc()) if a.get("whole") else quotient


def _local_response_norm(a: Attributes, x: Tensor) -> Tensor:
    return F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))


def _pair(way: Operator) -> Operator:
    return lambda a, x, y: way(x, y)


def _one(way: Operator) -> Operator:
    return lambda a, x: way(x)


_AS_IN_TORCH = ("Abs", "Erf", "Exp", "Log", "Neg", "Reciprocal", "Sigmoid", "Sqrt", "Tanh")
OPERATORS: dict[str, Operator] = {
    **{name: _one(getattr(torch, name.lower())) for name in _AS_IN_TORCH},
    **{name: _pair(getattr(torch, name.lower())) for name in ("Add", "MatMul", "Mul", "Pow", "Sub")},
    "And": _pair(torch.logical_and),
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": stepwise(torch.ceil),
    "Clip": clip,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": _conv_transpose,
    "Div": _divided,
    "Dropout": lambda a, x, *_: x,
    "Einsum": lambda a, *x: torch.einsum(a["equation"], *x),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Equal": _pair(torch.eq),
    "Expand": _expand,
    "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Floor": stepwise(torch.floor),
    "Gather": _gather,
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", "none")),
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": lambda a, x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "Greater": _pair(torch.gt),
    "GreaterOrEqual": _pair(torch.ge),
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": _one(F.hardswish),
    "Identity": lambda a, x: x,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "Less": _pair(torch.lt),
    "LessOrEqual": _pair(torch.le),
    "LogSoftmax": partial(_softmax, torch.log_softmax),
    "LRN": _local_response_norm,
    "Max": lambda a, *x: reduce(torch.maximum, x),
    "MaxPool": _max_pool,
    "Mean": lambda a, *x: sum(x) / len(x),
    "Min": lambda a, *x: reduce(torch.minimum, x),
    "Mish": _one(F.mish),
    "Not": _one(torch.logical_not),
    "Or": _pair(torch.logical_or),
    "Pad": _pad,
    "PRelu": lambda a, x, slope: torch.where(x < 0, slope * x, x),
    "Range": lambda a, *ends: torch.arange(*(end.item() for end in ends)),
    "ReduceL2": partial(_reduced, torch.linalg.vector_norm),
    "ReduceMax": partial(_reduced, torch.amax),
    "ReduceMean": partial(_reduced, torch.mean),
    "ReduceMin": partial(_reduced, torch.amin),
    "ReduceSum": partial(_reduced, torch.sum),
    "Relu": _one(F.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": stepwise(torch.round),
    "Selu": lambda a, x: a.get("gamma", 1.0507009873554805) * F.elu(x, a.get("alpha", 1.6732632423543772)),
    "Shape": lambda a, x: torch.tensor(x.shape[a.get("start", 0) : a.get("end")]),
    "Sign": lambda a, x: straight_inside(x, x.detach().sign(), x.detach().abs() <= 1),
    "Slice": _slice,
    "Softmax": partial(_softmax, torch.softmax),
    "Softplus": _one(F.softplus),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": lambda a, *x: reduce(torch.add, x),
    "Tile": _tile,
    "Transpose": lambda a, x: x.permute(a.get("perm") or tuple(reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": lambda a, c, x, y: torch.where(c.bool(), x, y),
}
