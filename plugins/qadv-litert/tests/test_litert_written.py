"""`qadv.export(…, to="litert")` writes the network's own scales and codes, for LiteRT's integer kernels."""

import json

import numpy as np
import pytest
import torch
from litert_files import SHAPE, images
from qadv_litert.writer import tflite_of
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import qadv
from qadv.cli import app
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.frontends import Graph, Node, QuantizedWeights, quantizers
from qadv.testing import digits_classifier

pytest.importorskip("onnxscript")
X = images()


class Net(nn.Module):
    """What a file can have: padding that is not the file's own, groups, sums, pools, a map that is flattened."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.grouped = (
            nn.Conv2d(8, 16, 3, padding=1, groups=8),
            nn.Conv2d(16, 8, 5, padding=2, groups=2),
        )
        self.first, self.second, self.third = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.fully, self.last = nn.Linear(8 * 16, 6), nn.Linear(6, 5)
        self.fourth = nn.ReLU()

    def forward(self, x):
        x = self.first(self.norm(self.stem(x)))
        x = self.third(self.grouped(self.second(self.depthwise(x))) + x)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.last(self.fourth(self.fully(x.flatten(1))))


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    network = Net()
    with torch.no_grad():
        network.norm(network.stem(torch.from_numpy(X)))  # statistics
    network = qadv.quantize(network.eval(), "int:8", "relu:8", calibration=X)
    return qadv.QuantizedClassifier(
        network, nn.CrossEntropyLoss(), SHAPE, 5, clip_values=(0, 1), preprocessing=(0.4, 0.3)
    )


@pytest.fixture(scope="module")
def file(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "net.tflite"
    result = qadv.export(classifier, path, to="litert", images=X)
    assert result.file_bytes == path.stat().st_size
    return qadv.QuantizedClassifier.from_file(path, images=X)


def test_the_file_computes_what_the_simulation_does(classifier, file):
    expected, found = classifier.predict(X), file.predict(X)
    step = np.ptp(expected) / 255
    assert np.abs(found - expected).mean() < 2 * step
    assert np.abs(found - expected).max() < 8 * step
    assert file.model.twin_form.agreement == 1


def test_all_layers_are_in_integer_kernels(file):
    weights = [each for each in quantizers(file.model) if isinstance(each, QuantizedWeights)]
    assert [each.bits for each in weights] == [8] * 5
    assert not {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} - file.network.kernels.keys()
    assert "int8 kernels" in file.network.describe()
    assert file.network.kernels["DEQUANTIZE"] == 1  # of the logits
    assert file.network.kernels["QUANTIZE"] == 1


def test_weights_are_the_networks_own(classifier, file):
    """Those of the layers without BatchNorm, which are not folded; first and last layer are quantized for the file."""
    own = {each.layer: each.value for each in quantizers(classifier.model) if isinstance(each, QuantizedWeights)}
    written = [each for each in quantizers(file.model) if isinstance(each, QuantizedWeights)]
    for name, each in zip(("depthwise", "grouped", "fully"), written[1:4], strict=True):
        value = own[name]
        if name == "depthwise":
            value = value.permute(1, 2, 3, 0)
        elif value.ndim == 4:
            value = value.permute(0, 2, 3, 1)
        torch.testing.assert_close(each.value, value, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:gradients are a twin")  # its 4-bit kernels round in their own way
def test_few_levels_and_options(tmp_path):
    """4-bit weights as such, float ends, images of bytes."""
    classifier, data = digits_classifier("int:4", "relu6:4"), qadv.create("dataset", "digits")
    x, y = data.x_test[:200], data.y_test[:200]
    path, sizes = tmp_path / "net.tflite", []
    for options in ({"packed_weights": True, "pixels": "uint8"}, {}, {"float_ends": True}):
        result = qadv.export(classifier, path, to="litert", images=data.x_train[:100], **options)
        sizes.append(result.file_bytes)
        file = qadv.QuantizedClassifier.from_file(path)
        right = [(net.predict(x).argmax(1) == y).mean() for net in (classifier, file)]
        assert right[1] > right[0] - 0.02
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("activations", ["tanh:4", "tanh:8", "relu:1"])
def test_levels_without_one_at_0(activations, tmp_path):
    """They are counted from the lowest; a Hardswish before one bit gives zeros, which are ties."""
    data = qadv.create("dataset", "digits")
    torch.manual_seed(0)
    between = nn.Hardswish() if activations == "relu:1" else nn.ReLU()
    layers = nn.Conv2d(1, 8, 3), between, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    network = qadv.quantize(nn.Sequential(*layers), "int:4", activations, calibration=data.x_train[:64])
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    x, y, files = data.x_test[:200], data.y_test[:200], []
    for name, kind in (("net.tflite", "litert"), ("net.onnx", "onnx")):
        qadv.export(classifier, tmp_path / name, to=kind, images=data.x_train[:64])
        files.append(qadv.QuantizedClassifier.from_file(tmp_path / name))
    found, expected = (file.predict(x) for file in files)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()
    gradients = [file.loss_gradient(x, y).reshape(200, -1) for file in files]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in gradients]
    assert np.median((unit[0] * unit[1]).sum(1)) > 0.5  # one bit's mask is another where its input is 0


class Dead(nn.Module):
    """A sum of what one bit of [0, 6] makes of small values: always 0."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1) for i in range(2))
        self.relus, self.last = nn.ModuleList(nn.ReLU() for _ in range(2)), nn.Linear(256, 5)

    def forward(self, x):
        x = self.relus[0](self.layers[0](x) / 10)
        return self.last((x + self.relus[1](self.layers[1](x))).flatten(1))


def test_a_sum_that_is_always_0(tmp_path):
    torch.manual_seed(0)
    network = qadv.quantize(Dead(), "int:4", "relu6:1")
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 5, clip_values=(0, 1))
    x = qadv.create("dataset", "digits").x_test[:20]
    qadv.export(classifier, tmp_path / "net.tflite", to="litert", images=x)
    found = qadv.QuantizedClassifier.from_file(tmp_path / "net.tflite").predict(x)
    np.testing.assert_allclose(found, classifier.predict(x), atol=0.01)


def test_the_command_writes_and_compares(tmp_path, monkeypatch):
    torch.manual_seed(0)
    saved = tmp_path / "net.safetensors"
    small = qadv.QuantizedClassifier.from_backbone("mnist-cnn", input_shape=(1, 8, 8), image_size=8, width=4)
    small.network.pretrained_cfg = {"crop_pct": 0.5, "interpolation": "bilinear", "classes": list("0123456789")}
    small.save(saved)
    arguments = ["export", str(saved), "--to", "litert", "--dataset", "digits", "--nb-samples", "50", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout[result.stdout.index("{") :])
    assert report["export"]["path"] == str(tmp_path / "net.tflite")
    assert report["agreement"][0]["same_class"] > 0.9
    file = qadv.QuantizedClassifier.from_file(tmp_path / "net.tflite")
    assert file.model.pretrained_cfg == small.network.pretrained_cfg, "how photographs become its images"
    pixels = {"clip_values": (0, 255), "preprocessing": (0, 255)}
    of_bytes = qadv.QuantizedClassifier(small.network, nn.CrossEntropyLoss(), (1, 8, 8), 10, **pixels)
    for how in ("float", "uint8"):
        qadv.export(of_bytes, tmp_path / "bytes.tflite", to="litert", pixels=how)
        assert qadv.QuantizedClassifier.from_file(tmp_path / "bytes.tflite").clip_values == (0, 255)


class Rows(nn.Module):
    """What is broadcast over the width of as many columns as channels, and a linear layer of tokens."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.tokens, self.last = (
            nn.Conv2d(3, 4, 4, 4),
            nn.ReLU(),
            nn.Linear(4, 6),
            nn.Linear(6, 5),
        )
        self.columns, self.places = nn.Parameter(torch.tensor([0.0, 1, 2, 3])), nn.Parameter(torch.randn(1, 16, 4))

    def forward(self, x):
        x = (self.relu(self.first(x)) * self.columns).flatten(2).transpose(1, 2)
        return self.last(self.tokens(x + self.places).mean(1))


def test_what_is_broadcast_stays_with_its_dimensions(tmp_path):
    torch.manual_seed(0)
    network = qadv.quantize(Rows().eval(), "int:8", "relu:8", calibration=X)
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), SHAPE, 5)
    qadv.export(classifier, tmp_path / "net.tflite", to="litert", images=X)
    expected, found = (
        each.predict(X) for each in (classifier, qadv.QuantizedClassifier.from_file(tmp_path / "net.tflite"))
    )
    assert np.abs(found - expected).max() < 8 * np.ptp(expected) / 255


def test_what_cannot_be_written_is_named(tmp_path):
    class Erf(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 5)

        def forward(self, x):
            return self.layer(torch.erf(x.flatten(1)))

    classifier = qadv.QuantizedClassifier(Erf(), nn.CrossEntropyLoss(), (1, 8, 8), 5, clip_values=(0, 1))
    with pytest.raises(UnsupportedModelError, match=r"not written to \.tflite files: Erf"):
        qadv.export(classifier, tmp_path / "net.tflite", to="litert")
    assert not list(tmp_path.iterdir())
    square = Node("MatMul", "square", ("images", "images"), ("logits",), {})
    products = Graph("net", b"", "", [square], {}, {}, "images", "FLOAT", (1, 1, 8, 8), "logits", 18)
    with pytest.raises(UnsupportedModelError, match=r"weights that are computed, .* \(square\)"):
        tflite_of(products)
    made, read = Node("QuantizeLinear", "made", ("images", "a", "zero"), ("codes",), {}), ("codes", "b", "zero")
    nodes = [made, Node("DequantizeLinear", "read", read, ("logits",), {})]
    numbers = {"a": np.array(0.5, np.float32), "b": np.array(0.25, np.float32), "zero": np.array(0, np.uint8)}
    other = Graph("net", b"", "", nodes, numbers, {}, "images", "FLOAT", (1, 1, 8, 8), "logits", 18)
    with pytest.raises(UnsupportedModelError, match=r"other steps than they were made in \(read\)"):
        tflite_of(other)
    with pytest.raises(InvalidInputError, match="'litert'"):
        qadv.export(classifier, tmp_path / "net.tflite", to="litret")
