"""ONNX files of a tiny network with a residual sum, in the forms that onnxruntime's quantization writes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 8, 8)
_CENTRE = np.array([4.5, 0, 2.5, -3.5, 6.5])  # of the logits, so that each class is some image's
FORMS = ("float", "qdq", "qdq-signed", "qoperator", "dynamic", "int4", "fixed", "nhwc-uint8", "softmax")


def float_model(batch: int | str = "n", softmax: bool = False) -> onnx.ModelProto:
    """conv, ReLU, conv, sum with the shortcut, ReLU, pool, linear layer: images (n, 3, 8, 8) to 5 logits."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.4, (8, 3, 3, 3)), "b1": rng.normal(0, 0.1, 8), "w2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "b2": rng.normal(0, 0.1, 8), "w3": rng.normal(0, 3, (8, 5)), "b3": _CENTRE,
    }  # fmt: skip
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["images", "w1", "b1"], ["c1"], "first", **same),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", **same),
        helper.make_node("Add", ["c2", "r1"], ["sum"], "sum"),
        helper.make_node("Relu", ["sum"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        helper.make_node("Reshape", ["pooled", "rows"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores" if softmax else "logits"], "last"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["logits"], "softmax", axis=1))
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    rows = [batch if isinstance(batch, int) else 0, 8]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [*constants, numpy_helper.from_array(np.array(rows, dtype=np.int64), "rows")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int = 24) -> np.ndarray:
    """Images of smooth colours, in [0, 1]."""
    coarse = np.random.default_rng(1).random((count, 3, 2, 2), dtype=np.float32)
    return np.kron(coarse, np.ones((4, 4), dtype=np.float32))


def write(form: str, folder: Path) -> Path:
    """Writes one form; returns the file."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images())

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image[None]}

    path, plain = folder / f"{form}.onnx", float_model(1 if form == "fixed" else "n", form == "softmax")
    signed = {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
    options = {
        "qdq": {"per_channel": True}, "qdq-signed": signed, "qoperator": {"quant_format": QuantFormat.QOperator},
        "int4": {"weight_type": QuantType.QInt4}, "fixed": {}, "nhwc-uint8": {}, "softmax": {"per_channel": True},
    }  # fmt: skip
    if form == "float":
        onnx.save(plain, path)
    elif form == "dynamic":
        onnx.save(plain, path)
        quantize_dynamic(path, path, weight_type=QuantType.QUInt8)
    else:
        quantize_static(plain, path, Reader(), **{"activation_type": QuantType.QUInt8, **options[form]})
    if form == "nhwc-uint8":
        onnx.save(_of_bytes(onnx.load(path)), path)
    return path


def _of_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same for images as a camera gives them, (n, 8, 8, 3) uint8."""
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 8, 8, 3]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "step"))
    before = [
        helper.make_node("Cast", ["pixels"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["whole", "step"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["images"], perm=[0, 3, 1, 2]),
    ]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
