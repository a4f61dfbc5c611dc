"""Every operator of the table gives what onnxruntime gives, and has a gradient."""

import warnings

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from qadv.errors import UnsupportedModelError  # noqa: E402
from qadv.frontends.onnx.graph import graph_of, read_graph  # noqa: E402
from qadv.frontends.onnx.layers import FileLayers  # noqa: E402
from qadv.frontends.onnx.operators import OPERATORS  # noqa: E402
from qadv.frontends.onnx.quantized import QUANTIZED  # noqa: E402
from qadv.frontends.onnx.twin import Twin  # noqa: E402

RNG = np.random.default_rng(0)


def real(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


def whole(*values):
    return np.array(values, dtype=np.int64)


def codes(*shape, dtype=np.uint8):
    low = 0 if dtype is np.uint8 else -100
    return RNG.integers(low, low + 200, shape).astype(dtype)


S, Z, ZI = np.float32(0.02), np.uint8(120), np.int8(3)
ONE = """
Abs Ceil Elu Erf Exp Flatten Floor GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu
LogSoftmax Neg ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Reciprocal Relu Round Selu Sigmoid Sign Softmax
Softplus Sqrt Tanh Dropout Transpose Mish Log
""".split()  # noqa: SIM905
TWO = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "PRelu"]
CASES = [  # operator, attributes, further inputs
    *((kind, {}, ()) for kind in ONE),
    *((kind, {}, (real(4, 1, 1),)) for kind in TWO),
    ("Pow", {}, (np.float32(2),)),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "strides": [2, 1]}, ()),
    ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "count_include_pad": 1}, ()),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1}, ()),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 0, 2, 2], "strides": [3, 3], "ceil_mode": 1}, ()),
    ("BatchNormalization", {}, (real(4), real(4), real(4), real(4) ** 2)),
    ("Cast", {"to": TensorProto.FLOAT16}, ()),
    *(("Cast", {"to": kind}, ()) for kind in (TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)),
    *(("CastLike", {}, (kind(0),)) for kind in (np.float32, np.int32)),
    ("Clip", {}, (np.float32(-0.5), np.float32(0.5))),
    ("Concat", {"axis": 1}, (real(2, 3, 6, 6),)),
    ("Conv", {"pads": [1, 0, 1, 1], "strides": [2, 1]}, (real(3, 4, 3, 3), real(3))),
    ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (real(3, 4, 2, 2),)),
    ("Conv", {"group": 4, "dilations": [2, 2], "pads": [2, 2, 2, 2]}, (real(4, 1, 3, 3),)),
    ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, (real(4, 3, 3, 3), real(3))),
    ("Einsum", {"equation": "nchw,cd->ndhw"}, (real(4, 5),)),
    ("Expand", {}, (whole(3, 1, 4, 6, 6),)),
    ("Gather", {"axis": 1}, (whole(0, -1, 2),)),
    ("Gather", {"axis": 1}, (np.int64(3),)),
    ("LRN", {"size": 3, "alpha": 0.1}, ()),
    ("LayerNormalization", {"axis": -1, "epsilon": 1e-3}, (real(6), real(6))),
    ("MatMul", {}, (real(6, 5),)),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "strides": [2, 2], "ceil_mode": 1}, ()),
    ("MaxPool", {"kernel_shape": [3, 3], "pads": [0, 0, 2, 2], "strides": [3, 3], "ceil_mode": 1}, ()),
    ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, ()),
    ("Pad", {}, (whole(0, 1, 0, 2, 0, 0, 1, 0), np.float32(0.3))),
    ("Pad", {"mode": "reflect"}, (whole(0, 0, 1, 2, 0, 0, 1, 0),)),
    ("Pad", {"mode": "reflect"}, (whole(0, 2, 1, 0, 0, 1, 2, 0),)),  # channels, as images that end with them have it
    ("Pad", {"mode": "edge"}, (whole(1, 2, 0, 3, 0, 1, 2, 0),)),
    ("Reshape", {}, (whole(0, 2, -1),)),
    ("Resize", {"mode": "nearest"}, (np.float32([]), np.float32([1, 1, 2, 2]))),
    ("Resize", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
     (np.float32([]), np.float32([]), whole(2, 4, 12, 18))),
    ("Resize", {"mode": "linear"}, (np.float32([]), np.float32([1, 1, 2, 1.5]))),
    ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
     (np.float32([]), np.float32([]), whole(2, 4, 4, 8))),
    ("Slice", {}, (whole(1, -1), whole(-1, -9), whole(2, 3), whole(1, -2))),
    ("Softmax", {"axis": 1}, ()),
    ("Split", {"axis": 2}, (whole(1, 5),)),
    ("Squeeze", {}, ()),
    ("Tile", {}, (whole(1, 2, 1, 3),)),
    ("Transpose", {"perm": [0, 2, 3, 1]}, ()),
    ("Unsqueeze", {}, (whole(0, -1),)),
    ("DequantizeLinear", {"axis": 1}, (np.float32([0.1, 0.2, 0.3, 0.4]), np.uint8([1, 2, 3, 4]))),
    ("QLinearConv", {"pads": [1, 1, 1, 1]},
     (S, Z, codes(3, 4, 3, 3, dtype=np.int8), np.float32([0.01, 0.02, 0.03]), np.int8([0, 1, -1]), np.float32(0.3), Z,
      np.int32([100, -100, 0]))),
    ("QLinearMatMul", {}, (S, Z, codes(6, 5, dtype=np.int8), np.float32([0.01]), np.int8([2]), np.float32(0.2), Z)),
    ("ConvInteger", {"strides": [2, 2]}, (codes(3, 4, 3, 3), Z, np.uint8(100))),
    ("MatMulInteger", {}, (codes(6, 5, dtype=np.int8), Z, ZI)),
    ("QLinearAdd", {}, (S, Z, codes(4, 1, 1), np.float32(0.03), np.uint8(9), np.float32(0.05), Z)),
    ("QLinearMul", {}, (S, Z, codes(4, 1, 1), np.float32(0.03), np.uint8(9), np.float32(0.1), Z)),
    ("QLinearGlobalAveragePool", {"channels_last": 0}, (S, Z, np.float32(0.003), Z)),
    ("QLinearGlobalAveragePool", {"channels_last": 1}, (S, Z, np.float32(0.003), Z)),
    ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (S, Z, np.float32(0.01), Z)),
    ("QLinearSigmoid", {}, (S, Z, np.float32(1 / 256), np.uint8(0))),
    ("QLinearLeakyRelu", {"alpha": 0.1}, (S, Z, S, Z)),
    ("QLinearSoftmax", {"axis": -1, "opset": 17}, (S, Z, np.float32(1 / 256), np.uint8(0))),
]  # fmt: skip
# by the graphs below
OTHERWISE = """
And ConstantOfShape Equal Gelu Gemm Greater GreaterOrEqual Less LessOrEqual Not Or Range Shape Where
QuantizeLinear DynamicQuantizeLinear QGemm QLinearConcat Upsample
""".split()  # noqa: SIM905
CONTRIB = """
QLinearAdd QLinearMul QLinearGlobalAveragePool QLinearAveragePool QLinearSigmoid QLinearLeakyRelu
QLinearSoftmax
""".split()  # noqa: SIM905


def same_as_the_runtime(nodes, constants, x, path, opset=17, atol=1e-4):
    """Compares the graph of these nodes, `x` to `y`, with its twin; returns the gradient of the twin's sum at `x`."""
    if nodes[-1].op_type == "Softmax":  # whose logarithm a twin gives at the end
        nodes[-1].output[0] = "p"
        nodes = [*nodes, helper.make_node("Relu", ["p"], ["y"])]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info("x", kind, ["n", *x.shape[1:]])],
        [helper.make_empty_tensor_value_info("y")], held,
    )  # fmt: skip
    versions = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=versions, ir_version=8).SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0].astype(np.float32)
    expected = expected.reshape(len(expected), -1) if expected.ndim else expected
    given = torch.from_numpy(x.astype(np.float32)).requires_grad_()
    found = Twin(read_graph(path), batched=True)(given)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=atol, err_msg=nodes[0].op_type)
    return torch.autograd.grad(found.sum() + 0 * given.sum(), given)[0]


@pytest.mark.parametrize("kinds", [OPERATORS, QUANTIZED], ids=["float", "quantized"])
def test_each_operator_is_the_runtimes(kinds, tmp_path):
    assert {kind for kind, *_ in CASES} | set(OTHERWISE) == {*OPERATORS, *QUANTIZED}
    for number, (kind, attributes, more) in enumerate(case for case in CASES if case[0] in kinds):
        quantized = kinds is QUANTIZED
        x = codes(2, 4, 6, 6) if quantized else real(2, 4, 6, 6)
        x = np.abs(x) + 0.1 if kind in ("Sqrt", "Log", "Reciprocal") else x
        constants = {f"c{i}": np.asarray(array) for i, array in enumerate(more)}
        outputs = ["y", "rest"] if kind == "Split" else ["y"]
        domain = "com.microsoft" if kind in CONTRIB else ""
        opset = 18 if kind == "Mish" else 17
        node = helper.make_node(kind, ["x", *constants], outputs, domain=domain, **attributes)
        largest = 1.01 if quantized else 2e-3 if kind == "Cast" else 1e-4  # integers fall to the other side of a tie
        gradient = same_as_the_runtime([node], constants, x, tmp_path / f"{number}.onnx", opset, largest)
        assert gradient.abs().max() > 0 or kind in ("Softmax", "LogSoftmax", "QLinearSoftmax"), kind


def test_attributes_of_older_operator_sets(tmp_path):
    x = real(2, 4, 6, 6)
    for kind, opset, attributes in (
        ("Clip", 10, {"min": -0.5, "max": 0.5}),
        ("Pad", 10, {"pads": [0, 0, 1, 1, 0, 0, 0, 2], "value": 0.5}),
        ("Slice", 9, {"starts": [1, 0], "ends": [3, -1], "axes": [2, 3]}),
        ("Softmax", 11, {"axis": 1}),
        ("Split", 11, {"axis": 1, "split": [1, 3]}),
        ("ReduceMean", 11, {"axes": [2, 3]}),
        ("ReduceSum", 11, {"axes": [1], "keepdims": 0}),
        ("Unsqueeze", 11, {"axes": [1]}),
        ("BatchNormalization", 9, {"epsilon": 0.1}),
        ("Upsample", 9, {"mode": "nearest"}),
    ):
        constants = {"BatchNormalization": dict.fromkeys("abcd", np.float32([1, 2, 3, 4])),
                     "Upsample": {"scales": np.float32([1, 1, 2, 2])}}.get(kind, {})  # fmt: skip
        outputs = ["y", "rest"] if kind == "Split" else ["y"]
        node = helper.make_node(kind, ["x", *constants], outputs, **attributes)
        same_as_the_runtime([node], constants, x, tmp_path / f"{kind}.onnx", opset)


def test_whole_numbers_of_images_are_divided_as_such_and_have_gradients(tmp_path):
    n, constants = helper.make_node, {"ten": np.float32(10), "seven": np.int32(7)}
    nodes = [
        n("Mul", ["x", "ten"], ["m"]),
        n("Cast", ["m"], ["whole"], to=TensorProto.INT32),
        n("Div", ["whole", "seven"], ["divided"]),
        n("Cast", ["divided"], ["y"], to=TensorProto.FLOAT),
    ]
    gradient = same_as_the_runtime(nodes, constants, real(2, 4, 6), tmp_path / "divided.onnx")
    np.testing.assert_allclose(gradient, 10 / 7, rtol=1e-6)


def test_a_resize_that_says_its_defaults_is_read(tmp_path):
    said = {"mode": "nearest", "antialias": 0, "keep_aspect_ratio_policy": "stretch", "nearest_mode": "floor"}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", **said)
    same_as_the_runtime([node], {"s": np.float32([1, 1, 2, 2])}, real(2, 3, 4, 4), tmp_path / "net.onnx", opset=18)


def test_what_would_not_fit_into_memory_is_not_made():
    for kind, more in (("Pad", whole(0, 0, 0, 2**30, 0, 0, 0, 0)), ("Tile", whole(1, 1, 2**20, 2**12)),
                       ("Expand", whole(2**20, 3, 64, 64)), ("Resize", np.float32([1, 1, 2**14, 2**14]))):  # fmt: skip
        given = [torch.zeros(1, 3, 64, 64), *((None,) if kind == "Resize" else ()), torch.from_numpy(more)]
        with pytest.raises(NotImplementedError, match="too large to run"):
            OPERATORS[kind]({"opset": 18}, *given)


def test_conditions_shapes_and_sums_of_products(tmp_path):
    x, n = real(2, 5), helper.make_node
    kinds = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
    joined = [
        *(n(kind, ["x", "zero"], [kind]) for kind in kinds),
        n("And", ["GreaterOrEqual", "LessOrEqual"], ["both"]),
        n("Or", ["Greater", "both"], ["either"]),
        n("Not", ["either"], ["not"]),
        n("Or", ["not", "Equal"], ["any"]),
        n("Where", ["any", "x", "zero"], ["y"]),
    ]
    same_as_the_runtime(joined, {"zero": np.float32(0)}, x, tmp_path / "where.onnx")
    shapes = [
        n("Shape", ["x"], ["s"]),
        n("Gather", ["s", "first"], ["count"]),
        n("Range", ["none", "count", "step"], ["r"]),
        n("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        n("ConstantOfShape", ["s"], ["twos"], value=numpy_helper.from_array(np.float32([2]))),
        n("Unsqueeze", ["f", "last"], ["column"]),
        n("Add", ["x", "twos"], ["a"]),
        n("Mul", ["a", "column"], ["y"]),
    ]
    constants = {"first": np.int64(0), "none": np.int64(0), "step": np.int64(1), "last": whole(1)}
    same_as_the_runtime(shapes, constants, x, tmp_path / "shapes.onnx")
    gemm = n("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)
    same_as_the_runtime([gemm], {"w": real(3, 5), "b": real(3)}, x, tmp_path / "gemm.onnx")
    same_as_the_runtime([n("Gelu", ["x"], ["y"], approximate="tanh")], {}, x, tmp_path / "gelu.onnx", opset=20)


def test_roundings_and_dynamic_ranges(tmp_path):
    x, n = 10 * real(1, 4, 6), helper.make_node
    constants = {"s": np.float32([0.1, 0.2, 0.3, 0.02]), "z": np.int8([0, 5, -5, 0])}
    rounding = n("QuantizeLinear", ["x", "s", "z"], ["y"], axis=1)
    gradient = same_as_the_runtime([rounding], constants, x, tmp_path / "q.onnx")
    steps = x / constants["s"][:, None]
    inside = np.abs(steps + constants["z"][:, None] + 0.5) <= 127.5
    assert 0 < inside.mean() < 1
    np.testing.assert_allclose(gradient.numpy(), inside / constants["s"][:, None], rtol=1e-6)
    dynamic = [n("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), n("DequantizeLinear", ["q", "s", "z"], ["y"])]
    same_as_the_runtime(dynamic, {}, x, tmp_path / "dynamic.onnx")
    gemm = n("QGemm", ["x", "s", "z", "w", "ws", "wz", "b", "ys", "yz"], ["y"], domain="com.microsoft", transB=1)
    constants = {"s": S, "z": Z, "w": codes(3, 5, dtype=np.int8), "ws": np.float32([0.01]), "wz": np.int8([0]),
                 "b": np.int32([5, -5, 0]), "ys": np.float32(0.2), "yz": Z}  # fmt: skip
    same_as_the_runtime([gemm], constants, codes(2, 5), tmp_path / "gemm.onnx", atol=1.01)
    joined = n("QLinearConcat", ["ys", "yz", "x", "s", "z", "x", "s2", "z"], ["y"], domain="com.microsoft", axis=1)
    constants = {"ys": np.float32(0.03), "yz": Z, "s": S, "z": Z, "s2": np.float32(0.01)}
    same_as_the_runtime([joined], constants, codes(2, 5), tmp_path / "concat.onnx", atol=1.01)


def test_a_clip_of_codes_ends_the_gradient_where_its_levels_end(tmp_path):
    """As the zero point does by which a few levels run in 8-bit kernels."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("Clip", ["q", "z"], ["c"]),
             helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"])]  # fmt: skip
    x = np.float32([[-0.3, 0.0, 0.4, 1.0, 2.9, 3.0, 3.4]])
    gradient = same_as_the_runtime(nodes, {"s": np.float32(1), "z": np.uint8(252)}, x, tmp_path / "clip.onnx")
    np.testing.assert_array_equal(gradient, [[0, 1, 1, 1, 1, 1, 0]])


def test_what_is_not_computed_right_is_named(tmp_path):
    x = real(2, 4, 6, 6)
    for kind, attributes, more, named in (
        ("Resize", {"mode": "cubic"}, (np.float32([]), np.float32([1, 1, 2, 2])), "Resize, cubic"),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, (), "AveragePool with dilations"),
        ("GlobalLpPool", {}, (), "GlobalLpPool"),
    ):
        constants = {f"c{i}": array for i, array in enumerate(more)}
        node = helper.make_node(kind, ["x", *constants], ["y"], **attributes)
        with pytest.raises(UnsupportedModelError, match=named), warnings.catch_warnings():
            same_as_the_runtime([node], constants, x, tmp_path / "net.onnx", opset=19)


def test_a_convolution_between_roundings_meets_ties_as_the_runtime_does(tmp_path):
    """Half of all sums are halfway between two codes; in float32 values they fall to either side."""
    node = helper.make_node
    constants = {
        "s": np.float32(0.1), "z": np.uint8(3), "w": RNG.integers(-1, 2, (8, 4, 3, 3)).astype(np.int8),
        "ws": np.full(8, 0.3, np.float32),
        "b": np.arange(-4, 4).astype(np.int32), "bs": np.full(8, np.float32(0.1) * np.float32(0.3)),
        "ys": np.float32(0.06), "yz": np.uint8(128),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws"], ["dw"], axis=0),
        node("DequantizeLinear", ["b", "bs"], ["db"], axis=0),
        node("Conv", ["d", "dw", "db"], ["c"]),
        node("QuantizeLinear", ["c", "ys", "yz"], ["cq"]),
        node("DequantizeLinear", ["cq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "ties",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    path = tmp_path / "ties.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    x = RNG.integers(-3, 9, (2, 4, 12, 12)).astype(np.float32) * np.float32(0.1)
    found = Twin(read_graph(path), batched=True).every_value(torch.from_numpy(x))["y"].numpy()
    np.testing.assert_array_equal(found, onnxruntime.InferenceSession(path).run(None, {"x": x})[0])


def test_the_type_of_codes_may_be_said_by_the_operator_that_rounds():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["codes"], output_dtype=TensorProto.INT16),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["values"]),
        helper.make_node("MatMul", ["values", "w"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(real(4, 3), "w")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 3)))
    model = helper.make_model(helper.make_graph(nodes, "one", [x], [y], held))
    graph = graph_of(model, b"", None, "net")
    twin = Twin(graph, batched=True)
    assert [(each.role, each.scheme, each.bits) for each in FileLayers(graph, twin).quantizers(twin)] == [
        ("input", "int16", 16)
    ]
