"""Flipped bits in files: what changes, what does not, and that the same list takes them back."""

import json
from contextlib import ExitStack

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import qadv
from qadv.cli import app
from qadv.deployment import Flip, apply_flips, read_flips, write_flips
from qadv.errors import FileFormatError, InvalidInputError, UnsupportedModelError
from qadv.files import read_json, read_tensors, write_json
from qadv.frontends.find import quantized_weights
from qadv.quantization.frozen import freeze

needs_export = pytest.mark.skipif(not hasattr(torch.onnx, "ops"), reason="exporting needs torch 2.8")


def some_flips(classifier):
    """The highest of 4 bits of three weights, two of the first layer with codes and the last one of the last."""
    found = {each.layer: each.codes.flatten().int().tolist() for each in quantized_weights(classifier.model)}
    (first, a), *_, (last, b) = found.items()
    chosen = [(first, index, a[index]) for index in [i for i, code in enumerate(a) if code][:2]]
    chosen.append((last, *[(i, code) for i, code in enumerate(b) if code][-1]))
    return [Flip(*place, 3, code, code - 8 if code >= 0 else code + 8) for *place, code in chosen]


def flipped_codes(classifier, flips):
    """Codes with flips, by layer."""
    found = {each.layer: each.codes.float().clone() for each in quantized_weights(classifier.model)}
    for flip in flips:
        assert found[flip.layer].view(-1)[flip.index] == flip.code
        found[flip.layer].view(-1)[flip.index] = flip.flipped
    return found


@pytest.fixture
def packed(make_classifier, tmp_path):
    classifier = make_classifier("int:4")
    qadv.export(classifier, tmp_path / "net.packed")
    write_flips(tmp_path / "flips.json", classifier, some_flips(classifier), {"accuracy": [0.9, 0.1]})
    return classifier, tmp_path


def test_a_packed_file_has_the_new_codes_and_is_itself_again_the_second_time(packed, digits):
    classifier, folder = packed
    done = apply_flips(folder / "net.packed", folder / "flips.json", folder / "flipped.packed")
    assert (done.flips, done.layers, done.undone) == (3, 2, False)
    scales = {each.layer: each.scale for each in quantized_weights(classifier.model)}
    codes = {name: (each, scales[name]) for name, each in flipped_codes(classifier, some_flips(classifier)).items()}
    expected = qadv.QuantizedClassifier(freeze(classifier.network, codes), classifier.loss, (1, 8, 8), 10, fold=False)
    found = qadv.QuantizedClassifier.load(folder / "flipped.packed", fold=False)
    np.testing.assert_array_equal(found.predict(digits.x_test[:50]), expected.predict(digits.x_test[:50]))
    before, after = (read_tensors(folder / name)[0] for name in ("net.packed", "flipped.packed"))
    assert {name for name in before if (before[name] != after[name]).any()} == {"4.weight.codes", "9.weight.codes"}
    assert apply_flips(folder / "flipped.packed", folder / "flips.json", folder / "again.packed").undone
    assert (folder / "again.packed").read_bytes() == (folder / "net.packed").read_bytes()
    assert read_flips(folder / "flips.json")[1:] == (some_flips(classifier), {"accuracy": [0.9, 0.1]})


def test_flips_that_change_nothing_in_a_layer_are_undone_too(packed):
    classifier, folder = packed
    first, _, last = some_flips(classifier)
    back = Flip(first.layer, first.index, 3, first.flipped, first.code)
    write_flips(folder / "flips.json", classifier, [first, back, last])
    apply_flips(folder / "net.packed", folder / "flips.json", folder / "flipped.packed")
    assert apply_flips(folder / "flipped.packed", folder / "flips.json", folder / "again.packed").undone
    assert (folder / "again.packed").read_bytes() == (folder / "net.packed").read_bytes()


@needs_export
def test_a_graph_has_the_new_codes_and_nothing_else(make_classifier, digits, tmp_path):
    graph, listed, flipped = (tmp_path / name for name in ("net.onnx", "flips.json", "flipped.onnx"))
    qadv.export(make_classifier("int:4"), graph, "onnx", packed_weights=True)
    classifier, x = qadv.QuantizedClassifier.from_file(graph), torch.from_numpy(digits.x_test[:20])
    flips = some_flips(classifier)
    write_flips(listed, classifier, flips)
    apply_flips(graph, listed, flipped)
    before, after = (
        {t.name: numpy_helper.to_array(t).astype(int) for t in onnx.load(f).graph.initializer} for f in (graph, flipped)
    )
    pairs = [pair for n in before for pair in zip(before[n].flat, after[n].flat, strict=True) if pair[0] != pair[1]]
    assert sorted(pairs) == sorted((each.code, each.flipped) for each in flips)
    with ExitStack() as stack, torch.no_grad():
        for each in quantized_weights(classifier.model):
            stack.enter_context(each.replaced_by(flipped_codes(classifier, flips)[each.layer]))
        expected = classifier.network.twin(x)
    of_file = qadv.QuantizedClassifier.from_file(flipped)
    assert torch.equal(of_file.network.twin(x), expected)
    np.testing.assert_allclose(of_file.predict(x.numpy()), expected, atol=1e-3)
    assert not torch.allclose(classifier.network.twin(x), expected, atol=1e-2), "the network is as it was"
    apply_flips(flipped, listed, flipped)
    assert flipped.read_bytes() == graph.read_bytes()


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT4", "UINT4"])
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_in_every_way_that_onnx_stores_them(kind, raw, tmp_path):
    low, type_ = (0 if kind[0] == "U" else -(2 ** (int(kind[-1]) - 1))), getattr(TensorProto, kind)
    codes = low + np.arange(15)  # an odd number: half a byte is left
    weight = helper.make_tensor("w", type_, (5, 3), codes.tolist())
    if raw:
        content = codes.astype(np.uint8).tobytes()
        if kind.endswith("4"):
            half = np.append(codes, 0).astype(np.uint8) & 15
            content = (half[::2] | half[1::2] << 4).tobytes()
        weight = TensorProto(name="w", data_type=type_, dims=(5, 3), raw_data=content)
    real = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("Gemm", ["x", "v"], ["y"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 3), ("y", 5))]
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    model = helper.make_model(
        helper.make_graph(real, "g", ends[:1], ends[1:], [weight, scale]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    classifier = qadv.QuantizedClassifier.from_file(tmp_path / "net.onnx", surrogate=None)
    (layer,) = quantized_weights(classifier.model)
    flips = [Flip(layer.layer, at, 0, int(codes[at]), int(codes[at]) ^ 1) for at in (0, 7, 14)]
    write_flips(tmp_path / "flips.json", classifier, flips)
    apply_flips(tmp_path / "net.onnx", tmp_path / "flips.json", tmp_path / "flipped.onnx")
    found = numpy_helper.to_array(onnx.load(tmp_path / "flipped.onnx").graph.initializer[0]).astype(int).flatten()
    expected = codes.copy()
    expected[[0, 7, 14]] ^= 1
    np.testing.assert_array_equal(found, expected)
    apply_flips(tmp_path / "flipped.onnx", tmp_path / "flips.json", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == model.SerializeToString()


@needs_export
def test_what_is_refused(packed, make_classifier):
    classifier, folder = packed
    graph, flips = folder / "net.onnx", some_flips(classifier)
    qadv.export(classifier, graph, "qcdq")
    apply_flips(graph, folder / "flips.json", folder / "flipped.onnx")  # under other names
    other = make_classifier("int:4", seed=1)
    qadv.export(other, folder / "other.packed")
    with pytest.raises(InvalidInputError, match="of another network"):
        apply_flips(folder / "other.packed", folder / "flips.json", folder / "out")
    write_flips(folder / "one.json", classifier, flips[:1])
    apply_flips(folder / "net.packed", folder / "one.json", folder / "part.packed")
    with pytest.raises(InvalidInputError, match="some of the flips"):
        apply_flips(folder / "part.packed", folder / "flips.json", folder / "out")
    with pytest.raises(InvalidInputError, match="another network"):
        apply_flips(folder / "flipped.onnx", folder / "one.json", folder / "out")
    classifier.save(folder / "net.safetensors")
    with pytest.raises(InvalidInputError, match="qadv export --to packed"):
        apply_flips(folder / "net.safetensors", folder / "flips.json", folder / "out")
    write_flips(folder / "low.json", classifier, [Flip(flips[0].layer, flips[0].index, 3, flips[0].code, -8)])
    with pytest.raises(UnsupportedModelError, match="can't store the code -8"):
        apply_flips(folder / "net.packed", folder / "low.json", folder / "out")
    apply_flips(graph, folder / "low.json", folder / "low.onnx")  # int8 can
    graph.write_bytes(graph.read_bytes() + b"\x08\x0a")  # says its version again
    with pytest.raises(UnsupportedModelError, match=r"onnx\.save"):
        apply_flips(graph, folder / "flips.json", folder / "out")
    for wrong in ([Flip("4", 10**6, 0, 0, 1)], [Flip("5", 0, 0, 0, 1)], [Flip("4", 0, 0, 7, -7)]):
        with pytest.raises(InvalidInputError, match=r"^flips: "):
            write_flips(folder / "wrong.json", other, wrong)
    assert not {"out", "wrong.json"} & {path.name for path in folder.iterdir()}
    data = read_json(folder / "flips.json")
    for wrong in ({**data, "format": "qadv-audit/2"}, {**data, "flips": [{"layer": "4"}]}, {**data, "network": {}}):
        write_json(folder / "wrong.json", wrong)
        with pytest.raises(FileFormatError, match="is no list of flips"):
            read_flips(folder / "wrong.json")
    (folder / "flips.json").write_text((folder / "flips.json").read_text().replace('"bit": 3', '"bit": 2', 1))
    with pytest.raises(FileFormatError, match="digest"):
        read_flips(folder / "flips.json")


def test_the_command(packed):
    _, folder = packed
    model, listed, out = folder / "net.packed", folder / "flips.json", folder / "flipped.packed"

    def run(*more):
        return CliRunner().invoke(app, ["export", str(model), "--flips", str(listed), *map(str, more)])

    assert "Applied 3 flips in 2 layers" in run("-o", out).stdout
    model = out
    done = json.loads(run("-o", folder / "again.packed", "--json").stdout)["flips"]
    assert done == {"path": str(folder / "again.packed"), "flips": 3, "layers": 2, "undone": True}
    for more, said in (((), "--out"), (("-o", out), "--out"), (("-o", "x", "--to", "onnx"), "leave out to")):
        assert said in str(run(*more).exception)
