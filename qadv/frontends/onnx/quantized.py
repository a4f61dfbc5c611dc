"""ONNX's and onnxruntime's quantized operators on torch tensors; codes are whole numbers as floats, with gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qadv.frontends import fake_quantize
from qadv.frontends.onnx.operators import (
    OPERATORS,
    Attributes,
    Operator,
    average_pool,
    conv,
    gemm,
    global_average_pool,
    straight_inside,
)

RANGES = {
    "INT2": (-2, 1), "UINT2": (0, 3), "INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127), "UINT8": (0, 255),
    "INT16": (-2**15, 2**15 - 1), "UINT16": (0, 2**16 - 1), "INT32": (-2**31, 2**31 - 1),
}  # fmt: skip
TYPE_OF_ZERO_POINT = {  # the input whose type is the type of the codes that come out
    "QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QGemm": 8, "QLinearAdd": 7, "QLinearMul": 7,
    "QLinearGlobalAveragePool": 4, "QLinearAveragePool": 4, "QLinearSigmoid": 4, "QLinearLeakyRelu": 4,
    "QLinearSoftmax": 4, "QLinearConcat": 1,
}  # fmt: skip
_SLACK = 1e-3  # of a step: 1 / (1 / 255) is a little more than 255


def _along(parameter: Tensor, x: Tensor, a: Attributes) -> Tensor:
    """Returns a scale or zero point so that it goes with `x`: of all, of each channel, or of each block."""
    parameter = parameter.to(x.device)
    axis, block = a.get("axis", 1), a.get("block_size", 0)
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.ndim == 1 and len(parameter) > 1:
        return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return parameter.reshape(()) if parameter.numel() == 1 else parameter


class Grid(fake_quantize.Grid):
    """The levels of one scale, rounded to in half the passes over memory of codes and back."""

    def quantize(self, x: Tensor) -> Tensor:
        """Rounds to a level; the gradient is that of a hardtanh."""
        low, high = self.low - self.zero_point, self.high - self.zero_point
        y = F.hardtanh(x, (low - _SLACK) * self.scale, (high + _SLACK) * self.scale)
        torch.div(x.detach(), self.scale, out=y.detach()).round_().clamp_(low, high).mul_(self.scale)
        return y


def conv_of_codes(a: Attributes, x: Tensor, w: Tensor, factor: Tensor, b: Tensor | None = None) -> Tensor:
    """A convolution between two roundings as kernels compute it: a sum of whole numbers, times one factor, rounded.

    Float32 is exact for the sum, so that no value falls to the other side of a tie. `given` and `rounded` are the grids
    before and behind it, `x` levels of the first; `w` and `b` are codes, `factor` is input scale times weight scale by
    output scale.
    """
    codes = x / a["given"].scale
    if "quantize" not in vars(a["given"]):
        codes.detach().round_()
    y: Tensor = conv(a, codes, w, b) * factor * a["rounded"].scale
    return y


def _to_codes(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Rounds to a grid; the gradient is the identity's within its ends, and none beyond."""
    grid: Any = a.get("grid")
    if grid is not None and "quantize" in vars(grid):  # for another gradient, see `QuantizedActivation`
        return grid.quantize(x) / grid.scale + grid.zero_point  # type: ignore[no-any-return]
    scale = _along(scale, x, a)
    zero = torch.zeros_like(scale) if zero is None else _along(zero, x, a).float()
    low, high = (end - zero for end in a["range"])
    steps = x / scale
    with torch.no_grad():
        codes = torch.minimum(torch.maximum(steps.round(), low), high) + zero
        inside = (steps >= low - _SLACK) & (steps <= high + _SLACK)
    return straight_inside(steps, codes, inside)


def to_values(a: Attributes, codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    codes = codes.float()
    centred = codes if zero is None else codes - _along(zero, codes, a).float()
    return centred * _along(scale, codes, a)


def _dynamic(a: Attributes, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's own range, as of a batch of one."""
    with torch.no_grad():
        rows = x.flatten(1)
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        scale = torch.where(high == low, 1.0, (high - low) / 255)
        zero = (-low / scale).round().clamp(0, 255)
        scale, zero = (each.reshape([-1] + [1] * (x.ndim - 1)) for each in (scale, zero))
    return _to_codes({"range": (0, 255)}, x, scale, zero), scale, zero


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    return x.float() if zero is None else x.float() - _along(zero, x, {"axis": axis}).float()


def _conv_integer(a: Attributes, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Any = None) -> Tensor:
    return conv(a, _centred(x, x_zero, 1), _centred(w, w_zero, 0))


def _matmul_integer(a: Attributes, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Any = None) -> Tensor:
    return _centred(x, x_zero, -2) @ _centred(w, w_zero, -1)


def _qlinear_conv(a: Attributes, x: Tensor, xs: Tensor, xz: Any, w: Tensor, ws: Tensor, wz: Any, ys: Tensor, yz: Any,
                  b: Tensor | None = None) -> Tensor:  # fmt: skip
    y = conv(a, _centred(x, xz, 1), _centred(w, wz, 0), None if b is None else b.float())
    return _to_codes(a, y * _along(xs * ws.reshape(-1), y, {}), ys, yz)


def _qlinear_matmul(a: Attributes, x: Tensor, xs: Tensor, xz: Any, w: Tensor, ws: Tensor, wz: Any, ys: Tensor,
                    yz: Any) -> Tensor:  # fmt: skip
    y = _centred(x, xz, -2) @ _centred(w, wz, -1)
    return _to_codes(a, y * _along(xs * ws, y, {"axis": -1}), ys, yz)


def _qgemm(a: Attributes, x: Tensor, xs: Tensor, xz: Any, w: Tensor, ws: Tensor, wz: Any, c: Tensor | None = None,
           ys: Tensor | None = None, yz: Any = None) -> Tensor:  # fmt: skip
    y = gemm({**a, "alpha": 1.0}, _centred(x, xz, -1), _centred(w, wz, 0 if a.get("transB") else 1))
    y = (y if c is None else y + c.float()) * _along(xs * ws * a.get("alpha", 1.0), y, {"axis": -1})
    return y if ys is None else _to_codes(a, y, ys, yz)


def _two(way: Operator) -> Operator:
    def operator(a: Attributes, x: Tensor, xs: Tensor, xz: Any, y: Tensor, ys: Tensor, yz: Any, zs: Tensor,
                 zz: Any = None) -> Tensor:  # fmt: skip
        return _to_codes(a, way(to_values({}, x, xs, xz), to_values({}, y, ys, yz)), zs, zz)

    return operator


def _one(way: Operator) -> Operator:
    def operator(a: Attributes, x: Tensor, xs: Tensor, xz: Any, ys: Tensor, yz: Any = None) -> Tensor:
        x = to_values({}, x, xs, xz)
        if a.get("channels_last"):
            return _to_codes(a, way(a, x.movedim(-1, 1)).movedim(1, -1), ys, yz)
        return _to_codes(a, way(a, x), ys, yz)

    return operator


def log_softmax(a: Attributes, x: Tensor, xs: Tensor, xz: Any, *ys: Any) -> Any:
    """What stands for a `QLinearSoftmax` that a graph ends in: its logarithm, not rounded."""
    return OPERATORS["LogSoftmax"](a, to_values({}, x, xs, xz))


def _concatenated(a: Attributes, ys: Tensor, yz: Tensor, *parts: Tensor) -> Tensor:
    values = [to_values({}, *parts[start : start + 3]) for start in range(0, len(parts), 3)]
    return _to_codes(a, torch.cat(values, a["axis"]), ys, yz)


QUANTIZED: dict[str, Operator] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": to_values,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _matmul_integer,
    "QGemm": _qgemm,
    "QLinearAdd": _two(torch.add),
    "QLinearAveragePool": _one(average_pool),
    "QLinearConcat": _concatenated,
    "QLinearConv": _qlinear_conv,
    "QLinearGlobalAveragePool": _one(global_average_pool),
    "QLinearLeakyRelu": _one(OPERATORS["LeakyRelu"]),
    "QLinearMatMul": _qlinear_matmul,
    "QLinearMul": _two(torch.mul),
    "QLinearSigmoid": _one(OPERATORS["Sigmoid"]),
    "QLinearSoftmax": _one(OPERATORS["Softmax"]),
    "QuantizeLinear": _to_codes,
}
