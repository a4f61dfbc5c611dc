"""The packed file: sizes measured on disk, and the same outputs to the bit when it is read back."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qadv
from qadv.errors import FileFormatError, InvalidInputError, SchemeError, StorageError
from qadv.files import read_tensors, write_tensors
from qadv.quantization.packing import pack, packed_size, unpack

BITS = {"bwn": 1, "binary-connect": 1, "twn": 2, "dorefa:3": 3, "int:2": 2, "int:4": 4, "int:8": 8, "pwlq:3": 4}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.randoms())
def test_packing_is_the_indices_in_binary(bits, count, random):
    values = torch.tensor(sorted(random.sample(range(-600, 600), random.randint(1, 2**bits))))
    indices = [random.randrange(len(values)) for _ in range(count)]
    codes = values[indices]
    packed = pack(codes.float(), values, bits)
    text = "".join(format(index, f"0{bits}b") for index in indices)
    text += "0" * (-len(text) % 8)
    assert bytes(packed.tolist()) == int(text, 2).to_bytes(len(text) // 8, "big")
    assert packed.numel() == packed_size(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, values, bits, (count,)), codes.float())


def test_codes_that_a_scheme_does_not_list_are_an_error():
    with pytest.raises(SchemeError, match="code 2 is not among"):
        pack(torch.tensor([0.0, 2.0]), torch.tensor([-1, 0, 1]), 2)
    with pytest.raises(SchemeError, match="do not fit into 1 bits"):
        pack(torch.tensor([0.0]), torch.tensor([-1, 0, 1]), 1)


@pytest.mark.parametrize("scheme", BITS)
def test_the_file_is_k_of_32_parts_of_the_float_weights_plus_scales(scheme, make_classifier, digits, tmp_path):
    classifier = make_classifier(scheme, "pact:3", width=32)
    result = qadv.export(classifier, tmp_path / "net.packed")
    weights = sum(layer.weight.numel() for name, layer in classifier.model.named_modules() if hasattr(layer, "scale")
                  and hasattr(layer, "weight_quant") and layer.weight_quantizer is not None)  # fmt: skip
    tensors, _ = read_tensors(tmp_path / "net.packed")
    codes = sum(t.nbytes for name, t in tensors.items() if name.endswith("codes"))
    assert result.weights == weights > 10_000
    assert codes == pytest.approx(4 * weights * BITS[scheme] / 32, abs=2)
    assert result.weight_bytes == codes + sum(t.nbytes for name, t in tensors.items() if name.endswith("scale"))
    assert result.file_bytes == (tmp_path / "net.packed").stat().st_size
    assert result.file_bytes < result.weight_bytes + 4 * (result.float_bytes / 4 - weights) + 12_000, "header and rest"
    rows = {row.name: row for row in qadv.summarize(classifier).layers}
    for name in rows:
        if f"{name}.weight.codes" in tensors:
            own = tensors[f"{name}.weight.codes"].nbytes + tensors[f"{name}.weight.scale"].nbytes
            bias = tensors[f"{name}.bias"].nbytes if f"{name}.bias" in tensors else 0
            assert rows[name].packed_bytes == own + bias, "summarize counts the bytes of the file"

    again = qadv.QuantizedClassifier.load(tmp_path / "net.packed")
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))
    gradients = [c.loss_gradient(digits.x_test[:20], digits.y_test[:20]) for c in (again, classifier)]
    np.testing.assert_array_equal(*gradients)


def test_a_packed_classifier_can_be_saved_again_and_attacked(make_classifier, digits, tmp_path):
    from art.attacks.evasion import ProjectedGradientDescent

    classifier = make_classifier("twn", "relu6:3")
    classifier.save(tmp_path / "net.safetensors")
    qadv.export(classifier, tmp_path / "net.packed")
    frozen = qadv.QuantizedClassifier.load(tmp_path / "net.packed")
    with pytest.raises(InvalidInputError, match="no trainable parameters"):
        qadv.DefensiveQuantTrainer(frozen, verbose=False).fit(digits.x_train, digits.y_train)
    frozen.save(tmp_path / "again.packed")
    assert (tmp_path / "again.packed").read_bytes() == (tmp_path / "net.packed").read_bytes()
    attacked = [
        ProjectedGradientDescent(c, eps=0.1, eps_step=0.02, max_iter=5, verbose=False).generate(
            digits.x_test[:20], digits.y_test[:20]
        )
        for c in (classifier, frozen)
    ]
    np.testing.assert_array_equal(*attacked)


def test_a_network_of_the_users_own_and_calibrated_ranges(digits, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    model = qadv.quantize(net, {"*": "int:4", "3": "bwn"}, "relu:4", calibration=digits.x_train[:64])
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    qadv.export(classifier, tmp_path / "own.packed")
    again = qadv.QuantizedClassifier.load(tmp_path / "own.packed", model=net)
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))


def rewrite_header(path, change):
    tensors, header = read_tensors(path)
    change(header, tensors)
    write_tensors(path, tensors, header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.pop("layers"), "damaged"),
        (lambda h, t: h["schemes"].clear(), "damaged"),
        (lambda h, t: h["layers"].update(nonsense={"scheme": "int:4", "shape": [1]}), "no quantized layer 'nonsense'"),
        (lambda h, t: t.pop(next(n for n in t if n.endswith("codes"))), "no tensor"),
        (lambda h, t: next(iter(h["layers"].values())).update(shape=[3, 3]), "expected 5 bytes"),
        (lambda h, t: next(iter(h["schemes"].values())).update(codes=[0]), "a code has index"),
    ],
)
def test_damaged_files(change, message, make_classifier, tmp_path):
    path = tmp_path / "net.packed"
    qadv.export(make_classifier("int:4"), path)
    rewrite_header(path, change)
    with pytest.raises(FileFormatError, match=message):
        qadv.QuantizedClassifier.load(path)


def test_a_truncated_file(make_classifier, tmp_path):
    path = tmp_path / "net.packed"
    qadv.export(make_classifier("int:4"), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match="cut off"):
        qadv.QuantizedClassifier.load(path)
    assert struct.unpack("<Q", content[:8])[0] < len(content)
    assert json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def test_errors(make_classifier, tmp_path):
    with pytest.raises(InvalidInputError, match="nothing to pack"):
        qadv.export(make_classifier("float", "relu6:4"), tmp_path / "x")
    with pytest.raises(InvalidInputError, match=r"to: expected 'packed' or 'onnx', got 'onx'.*onnx"):
        qadv.export(make_classifier("int:4"), tmp_path / "x", to="onx")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        qadv.export(make_classifier("int:4"), tmp_path / "file" / "x")
