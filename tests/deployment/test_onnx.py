"""ONNX graphs in QCDQ form, run as they are written, decide as the classifier does, clean and under PGD."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import qadv
from qadv.cli import app
from qadv.commands import export as command
from qadv.deployment.agreement import OnnxNetwork, agreement
from qadv.deployment.export import Exported
from qadv.deployment.integer_graph import integer_graph
from qadv.deployment.onnx_graph import _Activation, _Layer
from qadv.errors import (
    FileFormatError,
    InvalidInputError,
    MissingRequirementError,
    StorageError,
    UnsupportedModelError,
)
from qadv.frontends.onnx.graph import graph_of
from qadv.frontends.onnx.runtime import Runtime
from qadv.quantization.frozen import freeze
from qadv.quantization.layers import QuantConv2d
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
if not hasattr(torch.onnx, "ops"):
    pytest.skip("exporting needs torch 2.8", allow_module_level=True)

LAYERS, RELUS = ("0", "4", "9", "12"), ("2", "6", "11")
PAIRS = [  # schemes of the layers and of what follows them; an export takes two seconds, so that several share one
    (("int:4", "bwn", "twn", "int:4"), ("relu6:4", "pact:2", "tanh:3")),
    (("dorefa:3", "pwlq:3", "dorefa:8", "float"), ("dorefa:2", "relu6:1", "relu1:3")),
    (("float", "sq(int-per-tensor:3)", "binary-connect", "float"), ("relu6:3", "float", "binary-net")),
]


@pytest.mark.parametrize(("weights", "activations"), PAIRS)
def test_the_graph_agrees_with_the_classifier(weights, activations, make_classifier, digits, tmp_path):
    schemes = dict(zip(LAYERS, weights, strict=True)), dict(zip(RELUS, activations, strict=True))
    classifier = make_classifier(*schemes, preprocessing=(0.4, 0.3))
    for norm in classifier.model:
        if hasattr(norm, "running_mean"):  # as after training: untrained, sums of ternary weights meet ties at 0
            torch.nn.init.uniform_(norm.bias, 0.1, 0.5)
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    x = digits.x_test[:200]
    clean, attacked = agreement(
        classifier, tmp_path / "net.onnx", x, digits.y_test[:200], eps=0.1, max_iter=3, as_written=True
    )
    # a value next to a rounding boundary may fall to the other level, as sums are taken in another order
    assert clean.same_class >= 0.985
    assert attacked.same_class >= 0.97
    logits = classifier.predict(x), OnnxNetwork(tmp_path / "net.onnx", as_written=True).predict(x, batch_size=64)
    close = np.isclose(*logits, rtol=1e-4, atol=1e-4).all(axis=1).mean()
    assert close >= 0.8 if "binary-net" in activations else close >= 0.95
    graph = graph_of(onnx.load(tmp_path / "net.onnx"), b"", None, "net")
    found = Runtime(integer_graph(graph, (0.0, 1.0), digits.x_train[:64]), "net")(x)
    assert (found.argmax(1) == logits[0].argmax(1)).mean() >= 0.9


def test_weights_are_integers_with_a_scale_per_filter(make_classifier, tmp_path):
    classifier = make_classifier("int:4", "relu6:4")
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    graph = onnx.load(tmp_path / "net.onnx").graph
    kinds = Counter(node.op_type for node in graph.node)
    layers = {n: m for n, m in classifier.model.named_modules() if getattr(m, "weight_quantizer", None) is not None}
    assert kinds["QuantizeLinear"] == kinds["Clip"] == 3
    assert kinds["DequantizeLinear"] == 3 + len(layers)
    integers = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    for layer in layers.values():
        codes = layer.quantized()[0].numpy()
        assert any(i.shape == codes.shape and (i == codes).all() for i in integers)
    weights = {tuple(layer.weight.shape) for layer in layers.values()}
    floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert not any(tuple(t.dims) in weights for t in floats), "no float copy of the weights is left"


@pytest.mark.slow
def test_a_timm_network_whose_layer_inputs_are_quantized(tmp_path):
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "vit_tiny_patch16_224", "int:8", "relu6:8", input_shape=(3, 32, 32), img_size=32, depth=2
    )
    qadv.export(classifier, tmp_path / "vit.onnx", to="qcdq")
    x = np.random.default_rng(0).random((8, 3, 32, 32), dtype=np.float32)
    difference = OnnxNetwork(tmp_path / "vit.onnx", as_written=True).predict(x) - classifier.predict(x)
    assert np.abs(difference).mean() < 0.05 * np.abs(classifier.predict(x)).mean()


def test_the_command(trained, tmp_path):
    trained.save(tmp_path / "net.safetensors")
    arguments = ["export", str(tmp_path / "net.safetensors"), "--to", "onnx", "--dataset", "digits", "--eps", "0.1"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    clean, attacked = report["agreement"]
    assert clean["samples"] == 360
    assert clean["same_class"] >= 0.99
    assert attacked["same_class"] >= 0.85
    assert clean["classifier_accuracy"] > 0.9 > attacked["classifier_accuracy"]
    assert abs(clean["onnx_accuracy"] - clean["classifier_accuracy"]) < 0.01
    assert min(row["deployed_same_class"] for row in (clean, attacked)) >= 0.99
    assert abs(attacked["deployed_accuracy"] - attacked["onnx_accuracy"]) < 0.01
    assert report["export"]["kernels"]["QLinearConv"] == 2
    assert "8-bit sums" in report["export"]["runtime"]
    assert report["export"]["file_bytes"] == (tmp_path / "net.onnx").stat().st_size
    packed = CliRunner().invoke(app, ["export", str(tmp_path / "net.safetensors")])
    assert packed.exit_code == 0, packed.output
    assert "1/8.00" in packed.stdout
    assert (tmp_path / "net.packed.safetensors").exists()
    (tmp_path / "net.onnx").unlink()
    arguments = ["export", str(tmp_path / "net.packed.safetensors"), "--to", "onnx", "--nb-test", "20"]
    noise = CliRunner().invoke(app, [*arguments, "--pixels", "uint8"])
    assert "same class" in noise.stdout
    assert "with deploy=True" in noise.stdout
    assert "QLinearConv 2" in noise.stdout
    assert "uniform noise" in noise.stdout
    assert (tmp_path / "net.onnx").exists(), "named after the network, not after its form"


@pytest.mark.parametrize("dataset", [["--dataset", "digits"], []])
def test_the_command_compares_on_images_in_the_range_of_the_pixels(make_classifier, tmp_path, monkeypatch, dataset):
    make_classifier(clip_values=(0.0, 255.0)).save(tmp_path / "net.safetensors")
    given = []
    monkeypatch.setattr(command, "export", lambda *_, **__: Exported(Path("net.onnx"), 1, 1, 1))
    monkeypatch.setattr(
        command, "agreement", lambda classifier, path, x, y, eps, **options: given.extend((x, eps)) or ()
    )
    arguments = ["export", str(tmp_path / "net.safetensors"), "--to", "qcdq", "--json", *dataset]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert 250 < given[0].max() <= 255
    assert given[1] == 8, "in pixel values"


def spread(classifier, digits):
    """Trains a little, so that ties at 0 don't decide."""
    qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, verbose=False).fit(
        digits.x_train, digits.y_train, batch_size=64, nb_epochs=2
    )
    return classifier


LINEAR = (nn.Flatten, lambda: nn.Linear(64, 32), nn.ReLU, lambda: nn.Linear(32, 32), nn.ReLU, lambda: nn.Linear(32, 10))
CONVOLUTIONS = (
    lambda: nn.Conv2d(1, 8, 3), nn.ReLU, lambda: nn.Conv2d(8, 8, 3), nn.ReLU, lambda: nn.Conv2d(8, 8, 3), nn.ReLU,
    nn.Flatten, lambda: nn.Linear(32, 10),
)  # fmt: skip


@pytest.mark.parametrize("parts", [LINEAR, CONVOLUTIONS], ids=["linear", "convolutions"])
def test_biases_between_quantized_activations_are_not_rounded(parts, digits, tmp_path):
    """Also with onnxruntime's own settings, in which it computes in integers."""
    import onnxruntime

    torch.manual_seed(0)
    model = qadv.quantize(nn.Sequential(*(part() for part in parts)), "int:2", "relu1:4")
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    x = np.random.default_rng(0).random((100, 1, 8, 8), dtype=np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for found in (OnnxNetwork(tmp_path / "net.onnx", as_written=True).predict(x), session.run(None, {"images": x})[0]):
        assert np.isclose(found, classifier.predict(x), atol=1e-4).all(axis=1).mean() >= 0.98


def test_float_weights_between_quantized_activations_stay_float(digits, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    model = qadv.quantize(net, "float", "relu6:4")
    classifier = spread(qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10), digits)
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    found = OnnxNetwork(tmp_path / "net.onnx", as_written=True).predict(digits.x_test)
    np.testing.assert_allclose(found, classifier.predict(digits.x_test), atol=1e-3)


def test_hooks_become_part_of_the_graph_and_nothing_random_is_used(make_classifier, digits, tmp_path):
    classifier = make_classifier("int:4", "relu6:4")
    layer = next(m for m in classifier.model.modules() if getattr(m, "weight_quantizer", None) is not None)
    layer.register_forward_hook(lambda module, inputs, output: output * 3)
    relu = next(m for m in classifier.model.modules() if hasattr(m, "act_quant"))
    relu.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.1,))
    before = torch.random.get_rng_state()
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    assert torch.equal(torch.random.get_rng_state(), before)
    x = digits.x_test[:50]
    found = OnnxNetwork(tmp_path / "net.onnx", as_written=True).predict(x)
    assert np.isclose(found, classifier.predict(x), atol=1e-3).all(axis=1).mean() > 0.9


def test_nothing_quantized_but_conversion_was_asked_for(tmp_path, digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    classifier = qadv.QuantizedClassifier(qadv.quantize(net, "float", "float"), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    found = OnnxNetwork(tmp_path / "net.onnx", as_written=True).predict(digits.x_test)
    np.testing.assert_allclose(found, classifier.predict(digits.x_test), atol=1e-5)


class FromTwo(ActivationQuantizer):
    """Levels 2, 3, 4 and 5: none of them, and no code of theirs, is 0."""

    steps = 3

    def __init__(self, bits, spec=""):
        super().__init__(bits, spec)
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)

    def quantize(self, x):
        return x.clamp(2, 2 + self.steps).round()

    def levels(self):
        return torch.arange(2.0, 3 + self.steps)

    def grid(self):
        return 2.0, 2.0 + self.steps, self.steps


class Fine(FromTwo):
    steps = 300


@pytest.mark.parametrize("quantizer", [FromTwo(2), Fine(9)])
def test_grids_away_from_zero_or_of_more_than_256_levels(quantizer):
    x = torch.linspace(-1, 320, 5000)
    layer = _Activation(quantizer)
    if layer.grid is None:
        assert quantizer.steps > 255
        assert torch.equal(layer(x), quantizer.quantize(x))
    else:
        program = torch.onnx.export(layer.eval(), (x,), dynamo=True, verbose=False)
        session = __import__("onnxruntime").InferenceSession(program.model_proto.SerializeToString())
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        np.testing.assert_array_equal(found, quantizer.quantize(x).numpy())


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scale_for_each_filter_or_each_input_channel(axis):
    """Of a plugin; 5 filters of 5 channels, so that lengths alone do not tell which is which."""

    class Scaled(WeightQuantizer):
        def encode(self, weight):
            scale = weight.abs().amax(dim=[d for d in range(weight.ndim) if d != axis], keepdim=True) / 7
            return (weight / scale).round(), scale

        def code_values(self):
            return torch.arange(-7, 8)

    torch.manual_seed(0)
    layer = QuantConv2d(5, 5, 3, weight_quant=Scaled(4, "scaled").injector())
    frozen = freeze(nn.Sequential(layer))[0]
    exported = _Layer(frozen)
    assert exported.dequantizes == (axis == 0)
    x = torch.rand(2, 5, 6, 6)
    program = torch.onnx.export(exported.eval(), (x,), dynamo=True, verbose=False)
    session = __import__("onnxruntime").InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, frozen(x).numpy(), rtol=1e-4, atol=1e-5)


def test_the_commands_errors(trained, make_classifier, tmp_path):
    def says(*arguments):
        result = CliRunner().invoke(app, ["export", *map(str, arguments)])
        assert result.exit_code == 1, result.output
        return str(result.exception)

    path = tmp_path / "net.safetensors"
    trained.save(path)
    assert "--dataset, --eps: only what has a runtime" in says(path, "--dataset", "digits", "--eps", "0.1")
    assert "--eps: expected a finite number above 0" in says(path, "--to", "onnx", "--eps", "0")
    assert "--nb-test: expected a whole number of at least 1" in says(path, "--to", "onnx", "--nb-test", "0")
    assert "is the model itself" in says(path, "--out", path)
    assert "end it in .safetensors" in says(path, "--to", "packed", "--out", tmp_path / "small.onnx")
    assert "end it in .onnx" in says(path, "--to", "onnx", "--out", tmp_path / "small.safetensors")
    assert "eps: expected at most 1, the range of the pixels" in says(path, "--to", "onnx", "--eps", "9")
    assert "did you mean packed" in says(path, "--to", "pack")
    make_classifier(input_shape=(1, 16, 16), image_size=16).save(tmp_path / "large.safetensors")
    other = says(tmp_path / "large.safetensors", "--to", "onnx", "--dataset", "digits")
    assert "images of shape (1, 8, 8), the network takes (1, 16, 16)" in other
    assert "no file" in says(tmp_path / "none")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10), nn.Linear(10, 10))
    own = qadv.QuantizedClassifier(qadv.quantize(net, "int:4", "float"), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    own.save(tmp_path / "own.safetensors")
    assert "PACKAGE.MODULE:FUNCTION --checkpoint" in says(tmp_path / "own.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.safetensors", "net.safetensors", "own.safetensors"]


def test_what_torch_can_not_export_is_one_line_that_says_why(make_classifier, tmp_path, monkeypatch):
    def fail(*_, **__):
        try:
            raise NotImplementedError("no such operator\nFor more information, run with …")
        except NotImplementedError as error:
            raise RuntimeError("Failed to export the model. Next steps:\n- …") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        UnsupportedModelError, match=r"ONNX \(NotImplementedError: no such operator\): write"
    ) as refused:
        qadv.export(make_classifier("int:4"), tmp_path / "net.onnx", to="qcdq")
    assert "\n" not in str(refused.value)


def test_errors(make_classifier, tmp_path, monkeypatch):
    from art.defences.preprocessor import SpatialSmoothing

    defended = make_classifier("int:4", preprocessing_defences=SpatialSmoothing())
    with pytest.raises(InvalidInputError, match="SpatialSmoothing would not be part"):
        qadv.export(defended, tmp_path / "x.onnx", to="qcdq")
    with pytest.raises(StorageError, match="no file"):
        OnnxNetwork(tmp_path / "none.onnx")
    plain = make_classifier("int:4")
    qadv.export(plain, tmp_path / "net.onnx", to="qcdq")
    network = OnnxNetwork(tmp_path / "net.onnx", as_written=True)
    with pytest.raises(InvalidInputError, match=r"expected float images of shape \(N, 1, 8, 8\)"):
        network.predict(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(InvalidInputError, match="N >= 1"):
        network.predict(np.zeros((0, 1, 8, 8), np.float32))
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    with pytest.raises(InvalidInputError, match="eps: expected a finite number above 0"):
        agreement(plain, tmp_path / "net.onnx", x, eps=0)
    with pytest.raises(InvalidInputError, match=r"the graph gives logits \(4, 10\), the classifier \(4, 7\)"):
        agreement(make_classifier("int:4", nb_classes=7), tmp_path / "net.onnx", x)
    (tmp_path / "no.onnx").write_text("no graph")
    with pytest.raises(FileFormatError, match="can't load"):
        OnnxNetwork(tmp_path / "no.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingRequirementError, match=r"pip install 'qadv\[onnx\]'"):
        qadv.export(make_classifier("int:4"), tmp_path / "x.onnx", to="qcdq")
