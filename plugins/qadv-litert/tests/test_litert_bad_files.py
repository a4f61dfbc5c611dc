"""Bad files are refused in a line that says why, and before LiteRT sees them."""

import numpy as np
import pytest
import torch
from litert_files import FILES, SHAPE, edited, images, schema
from qadv_litert import frontend
from torch import nn

import qadv
from qadv.errors import FileFormatError, InvalidInputError, QadvError, StorageError, UnsupportedModelError

X = images(4)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Asserts that a file is refused with such an error, and not run."""
    monkeypatch.setattr(frontend.LiteRTNetwork, "runtime", lambda *_: pytest.fail("the file was run"))

    def check(edit, error, message):
        path = tmp_path / "net.tflite"
        if isinstance(edit, bytes):
            path.write_bytes(edit)
        else:
            edited("int8", edit, path)
        with pytest.raises(error, match=message) as caught:
            qadv.QuantizedClassifier.from_file(path)
        assert "\n" not in str(caught.value)

    return check


def test_what_is_no_file_or_not_whole(refused, tmp_path):
    content = (FILES / "int8.tflite").read_bytes()
    refused(b"", FileFormatError, "is no .tflite file")
    refused(content[:4] + b"ONNX" + content[8:], FileFormatError, "is no .tflite file: its identifier is b'ONNX'")
    for size in (20, 1000, len(content) // 2):
        refused(content[:size], FileFormatError, rf"is damaged, or not whole \({size:,} bytes\)")
    with pytest.raises(StorageError, match=r"none\.tflite"):
        qadv.QuantizedClassifier.from_file(tmp_path / "none.tflite")


def test_files_that_are_damaged_anywhere_give_an_error_of_ours_or_a_network(tmp_path):
    content, rng, path = (FILES / "int8.tflite").read_bytes(), np.random.default_rng(0), tmp_path / "net.tflite"
    found = 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            network = frontend.LiteRTNetwork(path)
            network(torch.rand(1, *network.input_shape))
        except QadvError:
            found += 1
    assert found > 30


def custom(model):
    code = model.operatorCodes[0]
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "FlexErf"


def scale_of(value):
    def edit(model):
        found = next(each for each in model.subgraphs[0].tensors if each.buffer and each.quantization.scale is not None)
        found.quantization.scale = np.full(len(found.quantization.scale), value, np.float32)

    return edit


def two_inputs(model):
    model.subgraphs[0].inputs = [*model.subgraphs[0].inputs, 1]


def two_outputs(model):
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, 1]


def huge(model):
    model.subgraphs[0].tensors[-1].shape = [1, 2**16, 2**16, 3]


def empty(model):
    model.subgraphs[0].operators = []


def unknown(model):
    """The network ends in an operator without a twin."""
    code, operator, main = schema.OperatorCodeT(), schema.OperatorT(), model.subgraphs[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.REVERSE_V2
    operator.opcodeIndex, output = len(model.operatorCodes), main.outputs[0]
    axes, buffer = schema.TensorT(), schema.BufferT()
    axes.shape, axes.type, axes.buffer, axes.name = [1], schema.TensorType.INT32, len(model.buffers), "axes"
    buffer.data = np.frombuffer(np.int32([1]).tobytes(), np.uint8)
    model.buffers.append(buffer)
    turned = schema.TensorT()
    turned.shape, turned.type, turned.name = main.tensors[output].shape, main.tensors[output].type, "turned"
    turned.quantization = main.tensors[output].quantization
    main.tensors += [axes, turned]
    operator.inputs, operator.outputs = [output, len(main.tensors) - 2], [len(main.tensors) - 1]
    main.operators.append(operator)
    main.outputs = operator.outputs
    model.operatorCodes.append(code)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (custom, UnsupportedModelError, "has an operator of its own, FlexErf, which would run somebody's code"),
        (scale_of(np.nan), FileFormatError, "should be positive numbers, and is"),
        (scale_of(0), FileFormatError, "should be positive numbers, and is"),
        (two_inputs, UnsupportedModelError, r"takes 2 inputs \(.*\); expected one, the images"),
        (two_outputs, InvalidInputError, "has several outputs; say which are the logits, output="),
        (huge, FileFormatError, "has a tensor of sizes .* too large to run"),
        (empty, FileFormatError, "there is no operator in it"),
        (unknown, UnsupportedModelError, r"operators that can't be read: REVERSE_V2\. With surrogate=net"),
    ],
)
def test_what_would_not_be_a_network_of_images(edit, error, message, refused):
    refused(edit, error, message)


def test_a_surrogate_gives_the_gradients_of_what_cannot_be_read(tmp_path):
    path = edited("int8", unknown, tmp_path / "net.tflite")
    surrogate = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    with pytest.warns(UserWarning, match="another function"):
        classifier = qadv.QuantizedClassifier.from_file(path, surrogate=surrogate, images=X)
    plain = qadv.QuantizedClassifier.from_file(FILES / "int8.tflite")
    np.testing.assert_array_equal(classifier.predict(X), plain.predict(X)[:, ::-1])
    assert np.abs(classifier.loss_gradient(X, np.zeros(len(X), int))).max() > 0


def test_a_named_output_is_the_logits(tmp_path):
    path = edited("int8", two_outputs, tmp_path / "net.tflite")
    name = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    main = name.subgraphs[0]
    output = main.tensors[main.outputs[0]].name.decode()
    classifier = qadv.QuantizedClassifier.from_file(path, output=output)
    np.testing.assert_array_equal(
        classifier.predict(X), qadv.QuantizedClassifier.from_file(FILES / "int8.tflite").predict(X)
    )
    assert classifier.input_shape == SHAPE
