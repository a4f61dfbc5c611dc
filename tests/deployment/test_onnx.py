"""ONNX graphs in QCDQ form decide as the classifier does, clean and under PGD."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import qadv
from qadv.cli import app
from qadv.deployment.agreement import OnnxNetwork, agreement
from qadv.errors import FileFormatError, InvalidInputError, MissingRequirementError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
if not hasattr(torch.onnx, "ops"):
    pytest.skip("exporting needs torch 2.8", allow_module_level=True)

PAIRS = [
    ("int:4", "relu6:4"),
    ("bwn", "pact:2"),
    ("twn", "tanh:3"),
    ("binary-connect", "binary-net"),
    ("dorefa:3", "dorefa:2"),
    ("dorefa:8", "relu1:3"),
    ("pwlq:3", "relu6:1"),
    ("sq(int-per-tensor:3)", "float"),
    ("float", "relu6:3"),
    ("float", "float"),
]


@pytest.mark.parametrize(("weights", "activations"), PAIRS)
def test_the_graph_agrees_with_the_classifier(weights, activations, make_classifier, digits, tmp_path):
    classifier = make_classifier(weights, activations, preprocessing=(0.4, 0.3))
    for norm in classifier.model:
        if hasattr(norm, "running_mean"):  # as after training: untrained, sums of ternary weights meet ties at 0
            torch.nn.init.uniform_(norm.bias, 0.1, 0.5)
    qadv.export(classifier, tmp_path / "net.onnx", to="onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    x = digits.x_test[:200]
    clean, attacked = agreement(classifier, tmp_path / "net.onnx", x, digits.y_test[:200], eps=0.1, max_iter=3)
    # a value next to a rounding boundary may fall to the other level, as sums are taken in another order
    assert clean.same_class >= 0.985
    assert attacked.same_class >= 0.97
    logits = classifier.predict(x), OnnxNetwork(tmp_path / "net.onnx").predict(x, batch_size=64)
    close = np.isclose(*logits, rtol=1e-4, atol=1e-4).all(axis=1).mean()
    assert close >= 0.8 if weights.startswith("binary") else close >= 0.95


def test_weights_are_integers_with_a_scale_per_filter(make_classifier, tmp_path):
    classifier = make_classifier("int:4", "relu6:4")
    qadv.export(classifier, tmp_path / "net.onnx", to="onnx")
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


def test_a_timm_network_whose_layer_inputs_are_quantized(tmp_path):
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "vit_tiny_patch16_224", "int:8", "relu6:8", input_shape=(3, 32, 32), img_size=32
    )
    qadv.export(classifier, tmp_path / "vit.onnx", to="onnx")
    x = np.random.default_rng(0).random((8, 3, 32, 32), dtype=np.float32)
    difference = OnnxNetwork(tmp_path / "vit.onnx").predict(x) - classifier.predict(x)
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
    assert attacked["same_class"] >= 0.98
    assert clean["classifier_accuracy"] > 0.9 > attacked["classifier_accuracy"]
    assert abs(clean["onnx_accuracy"] - clean["classifier_accuracy"]) < 0.01
    assert report["export"]["file_bytes"] == (tmp_path / "net.onnx").stat().st_size
    table = CliRunner().invoke(app, arguments)
    assert "same class" in table.stdout
    packed = CliRunner().invoke(app, ["export", str(tmp_path / "net.safetensors")])
    assert packed.exit_code == 0, packed.output
    assert "1/8.00" in packed.stdout
    assert (tmp_path / "net.packed.safetensors").exists()
    noise = CliRunner().invoke(app, [*arguments[:4], "--nb-samples", "20"])
    assert "uniform noise" in noise.stdout


def test_errors(make_classifier, tmp_path, monkeypatch):
    from art.defences.preprocessor import SpatialSmoothing

    defended = make_classifier("int:4", preprocessing_defences=SpatialSmoothing())
    with pytest.raises(InvalidInputError, match="SpatialSmoothing would not be part"):
        qadv.export(defended, tmp_path / "x.onnx", to="onnx")
    (tmp_path / "no.onnx").write_text("no graph")
    with pytest.raises(FileFormatError, match="can't load"):
        OnnxNetwork(tmp_path / "no.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingRequirementError, match=r"pip install 'qadv\[onnx\]'"):
        qadv.export(make_classifier("int:4"), tmp_path / "x.onnx", to="onnx")
