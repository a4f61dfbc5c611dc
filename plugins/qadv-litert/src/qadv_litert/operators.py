"""The operators of `.tflite` files as ONNX's: each function takes the reader, an operator of the file, its options."""

from collections.abc import Callable
from typing import Any

import numpy as np

Translation = Callable[[Any, Any, Any], None]
_SAME = 0  # Padding
_CHANNELS_FIRST, _CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def _window(options: Any) -> dict[str, Any]:
    padding = "SAME_UPPER" if options.padding == _SAME else "VALID"
    return {"auto_pad": padding, "strides": [options.strideH, options.strideW]}


def _channels_first(r: Any, x: str) -> str:
    return str(r.node("Transpose", x, perm=_CHANNELS_FIRST))


def _channels_last(r: Any, x: str) -> str:
    return str(r.node("Transpose", x, perm=_CHANNELS_LAST))


def _bias(r: Any, op: Any) -> list[str]:
    return [r.real(op.inputs[2])] if len(op.inputs) > 2 and op.inputs[2] >= 0 else []


def _convolution(depthwise: bool) -> Translation:
    def translate(r: Any, op: Any, o: Any) -> None:
        channels, weights = r.shape(op.inputs[0])[3], r.shape(op.inputs[1])
        y = r.node(
            "Conv", _channels_first(r, r.real(op.inputs[0])),
            r.node("Transpose", r.real(op.inputs[1]), perm=[3, 0, 1, 2] if depthwise else _CHANNELS_FIRST),
            *_bias(r, op), **_window(o),
            dilations=[o.dilationHFactor, o.dilationWFactor], kernel_shape=weights[1:3],
            group=channels if depthwise else channels // weights[3],
        )  # fmt: skip
        r.done(op, _channels_last(r, y), o.fusedActivationFunction)

    return translate


def _fully_connected(r: Any, op: Any, o: Any) -> None:
    x, w, bias = r.real(op.inputs[0]), r.real(op.inputs[1]), _bias(r, op)
    if o.keepNumDims and len(r.shape(op.inputs[0])) > 2:
        y = r.node("MatMul", x, r.node("Transpose", w, perm=[1, 0]))
        y = r.node("Add", y, bias[0]) if bias else y
    else:
        rows, columns = r.shape(op.outputs[0])[0], r.shape(op.inputs[1])[1]
        y = r.node("Gemm", r.node("Reshape", x, r.constant(np.array([rows, columns]))), w, *bias, transB=1)
    r.done(op, y, o.fusedActivationFunction)


def _pool(kind: str) -> Translation:
    def translate(r: Any, op: Any, o: Any) -> None:
        kernel = [o.filterHeight, o.filterWidth]
        y = r.node(kind, _channels_first(r, r.real(op.inputs[0])), **_window(o), kernel_shape=kernel)
        r.done(op, _channels_last(r, y), o.fusedActivationFunction, moved=kind == "MaxPool")

    return translate


def _pair(kind: str) -> Translation:
    def translate(r: Any, op: Any, o: Any) -> None:
        y = r.node(kind, *(r.real(i) for i in op.inputs))
        r.done(op, y, getattr(o, "fusedActivationFunction", 0))

    return translate


def _one(kind: str, **attributes: Any) -> Translation:
    return lambda r, op, o: r.done(op, r.node(kind, r.real(op.inputs[0]), **attributes))


def _clip(low: float, high: float) -> Translation:
    def translate(r: Any, op: Any, o: Any) -> None:
        ends = (r.constant(np.float32(end)) for end in (low, high))
        r.done(op, r.node("Clip", r.real(op.inputs[0]), *ends))

    return translate


def _reduced(kind: str) -> Translation:
    def translate(r: Any, op: Any, o: Any) -> None:
        axes = r.constant(np.array(r.numbers(op.inputs[1])))
        r.done(op, r.node(kind, r.real(op.inputs[0]), axes, keepdims=int(o.keepDims)))

    return translate


def _reshape(r: Any, op: Any, o: Any) -> None:
    sizes = r.constant(np.array(r.shape(op.outputs[0]), np.int64))
    r.done(op, r.node("Reshape", r.real(op.inputs[0]), sizes), moved=True)


def _transpose(r: Any, op: Any, o: Any) -> None:
    r.done(op, r.node("Transpose", r.real(op.inputs[0]), perm=r.numbers(op.inputs[1])), moved=True)


def _pad(r: Any, op: Any, o: Any) -> None:
    amounts = r.array(op.inputs[1]).astype(np.int64)
    value = [r.real(op.inputs[2])] if len(op.inputs) > 2 else []
    y = r.node("Pad", r.real(op.inputs[0]), r.constant(np.concatenate([amounts[:, 0], amounts[:, 1]])), *value)
    r.done(op, y, moved=not value)


def _concatenation(r: Any, op: Any, o: Any) -> None:
    r.done(op, r.node("Concat", *map(r.real, op.inputs), axis=o.axis), o.fusedActivationFunction)


def _strided_slice(r: Any, op: Any, o: Any) -> None:
    x, shape = r.real(op.inputs[0]), r.shape(op.inputs[0])
    starts, ends, steps = (r.numbers(i) for i in op.inputs[1:4])
    if o.ellipsisMask or o.newAxisMask or min(steps) < 1:
        x = r.node("STRIDED_SLICE with an ellipsis, new axes or steps backwards", x)
    for axis, size in enumerate(shape[: len(starts)]):
        starts[axis] = 0 if o.beginMask >> axis & 1 else starts[axis]
        ends[axis] = size if o.endMask >> axis & 1 else ends[axis]
        if o.shrinkAxisMask >> axis & 1:
            ends[axis] = starts[axis] + 1 or size
    ends = _of_all_images(starts, ends, shape)
    parts = (r.constant(np.array(each)) for each in (starts, ends, list(range(len(starts))), steps))
    y = r.node("Slice", x, *parts)
    r.done(op, r.node("Reshape", y, r.constant(np.array(r.shape(op.outputs[0]), np.int64))), moved=True)


def _of_all_images(starts: list[int], ends: list[int], shape: list[int]) -> list[int]:
    """Returns the ends of a slice, which takes all images of any batch where it takes all of the file's."""
    return [2**31 - 1, *ends[1:]] if starts[:1] == [0] and ends[0] >= shape[0] else ends


def _slice(r: Any, op: Any, o: Any) -> None:
    starts, sizes = (np.array(r.numbers(i)) for i in op.inputs[1:3])
    shape = r.shape(op.inputs[0])
    ends = _of_all_images(list(starts), list(np.where(sizes < 0, shape, starts + sizes)), shape)
    r.done(op, r.node("Slice", r.real(op.inputs[0]), r.constant(starts), r.constant(np.array(ends))), moved=True)


def _split(r: Any, op: Any, o: Any) -> None:
    axis, x = r.numbers(op.inputs[0])[0], r.real(op.inputs[1])
    ends = np.cumsum([r.shape(i)[axis] for i in op.outputs])
    for i, end in zip(op.outputs, ends, strict=True):
        parts = (r.constant(np.array([each])) for each in (end - r.shape(i)[axis], end, axis))
        r.rounded(i, r.node("Slice", x, *parts))


def _softmax(r: Any, op: Any, o: Any) -> None:
    x = r.real(op.inputs[0])
    x = x if o.beta == 1 else r.node("Mul", x, r.constant(np.float32(o.beta)))
    r.done(op, r.node("Softmax", x, axis=-1))


def _same(r: Any, op: Any, o: Any) -> None:
    r.done(op, r.real(op.inputs[0]))


def _squared(r: Any, op: Any, o: Any) -> None:
    x = r.real(op.inputs[0])
    x = r.node("Sub", x, r.real(op.inputs[1])) if len(op.inputs) > 1 else x
    r.done(op, r.node("Mul", x, x))


def _resize(mode: str) -> Translation:
    def translate(r: Any, op: Any, o: Any) -> None:
        way = "align_corners" if o.alignCorners else "half_pixel" if o.halfPixelCenters else "asymmetric"
        batch, _, _, channels = r.shape(op.inputs[0])
        sizes = r.constant(np.array([batch, channels, *r.numbers(op.inputs[1])]))
        empty = (r.constant(np.zeros(0, np.float32)) for _ in range(2))
        y = r.node(
            "Resize", _channels_first(r, r.real(op.inputs[0])), *empty, sizes, mode=mode,
            coordinate_transformation_mode=way, nearest_mode="floor" if way == "asymmetric" else "round_prefer_floor",
        )  # fmt: skip
        r.done(op, _channels_last(r, y), moved=mode == "nearest")

    return translate


def _leaky(r: Any, op: Any, o: Any) -> None:
    r.done(op, r.node("LeakyRelu", r.real(op.inputs[0]), alpha=o.alpha))


def _gelu(r: Any, op: Any, o: Any) -> None:
    r.done(op, r.node("Gelu", r.real(op.inputs[0]), approximate="tanh" if o.approximate else "none"))


def _batch_matmul(r: Any, op: Any, o: Any) -> None:
    x, y = (
        r.node("Transpose", r.real(i), perm=[*range(n := len(r.shape(i)) - 2), n + 1, n]) if turned else r.real(i)
        for i, turned in zip(op.inputs, (o.adjX, o.adjY), strict=True)
    )
    r.done(op, r.node("MatMul", x, y))


def _rsqrt(r: Any, op: Any, o: Any) -> None:
    r.done(op, r.node("Reciprocal", r.node("Sqrt", r.real(op.inputs[0]))))


OPERATORS: dict[str, Translation] = {
    "ABS": _one("Abs"),
    "ADD": _pair("Add"),
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "BATCH_MATMUL": _batch_matmul,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution(depthwise=False),
    "DEPTHWISE_CONV_2D": _convolution(depthwise=True),
    "DEQUANTIZE": _same,
    "DIV": _pair("Div"),
    "ELU": _one("Elu"),
    "EXP": _one("Exp"),
    "EXPAND_DIMS": _reshape,
    "FULLY_CONNECTED": _fully_connected,
    "GELU": _gelu,
    "HARD_SWISH": _one("HardSwish"),
    "LEAKY_RELU": _leaky,
    "LOG": _one("Log"),
    "LOGISTIC": _one("Sigmoid"),
    "LOG_SOFTMAX": _one("LogSoftmax", axis=-1),
    "MAXIMUM": _pair("Max"),
    "MAX_POOL_2D": _pool("MaxPool"),
    "MEAN": _reduced("ReduceMean"),
    "MINIMUM": _pair("Min"),
    "MUL": _pair("Mul"),
    "NEG": _one("Neg"),
    "PAD": _pad,
    "PADV2": _pad,
    "PRELU": _pair("PRelu"),
    "QUANTIZE": _same,
    "REDUCE_MAX": _reduced("ReduceMax"),
    "REDUCE_MIN": _reduced("ReduceMin"),
    "RELU": _one("Relu"),
    "RELU6": _clip(0, 6),
    "RELU_0_TO_1": _clip(0, 1),
    "RELU_N1_TO_1": _clip(-1, 1),
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize("linear"),
    "RESIZE_NEAREST_NEIGHBOR": _resize("nearest"),
    "ROUND": _one("Round"),
    "RSQRT": _rsqrt,
    "SLICE": _slice,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "SQRT": _one("Sqrt"),
    "SQUARE": _squared,
    "SQUARED_DIFFERENCE": _squared,
    "SQUEEZE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _pair("Sub"),
    "SUM": _reduced("ReduceSum"),
    "TANH": _one("Tanh"),
    "TRANSPOSE": _transpose,
}
