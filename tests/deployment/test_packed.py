"""The packed file: sizes measured on disk, and the same outputs to the bit when it is read back."""

import json
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qadv
from qadv.components import Quantizer
from qadv.errors import FileFormatError, InvalidInputError, SchemeError, StorageError
from qadv.files import read_tensors, write_tensors
from qadv.plugins import PluginInfo
from qadv.quantization.frozen import freeze
from qadv.quantization.packing import pack, packed_size, unpack
from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.scheme import Scheme
from qadv.registry import Registry

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
    assert result.code_bytes == codes
    assert result.scale_bytes == sum(t.nbytes for name, t in tensors.items() if name.endswith("scale"))
    assert result.file_bytes == (tmp_path / "net.packed").stat().st_size
    assert result.file_bytes < codes + result.scale_bytes + 4 * (result.float_bytes / 4 - weights) + 12_000, (
        "header and rest"
    )
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


def test_layers_under_two_names_and_float_weights_with_learned_ranges(digits, tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle, self.relu, self.last = (
                nn.Linear(64, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
            )  # fmt: skip
            self.again = self.middle

        def forward(self, x):
            return self.last(self.relu(self.again(self.relu(self.middle(self.first(x.flatten(1)))))))

    for weights in ("int:4", "float"):
        net = Twice()
        classifier = qadv.QuantizedClassifier(
            qadv.quantize(net, weights, "pact:3"), nn.CrossEntropyLoss(), (1, 8, 8), 10
        )
        frozen = qadv.QuantizedClassifier(freeze(classifier.model), nn.CrossEntropyLoss(), (1, 8, 8), 10)
        frozen.save(tmp_path / "twice.safetensors")
        again = qadv.QuantizedClassifier.load(tmp_path / "twice.safetensors", model=net)
        np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))


def test_the_float_size_has_no_parts_of_quantizers(make_classifier, tmp_path):
    plain, learned = (
        qadv.export(make_classifier("int:4", activations), tmp_path / "net") for activations in ("relu6:4", "pact:4")
    )
    float_net = make_classifier("float", "float").model
    assert plain.float_bytes == learned.float_bytes == 4 * sum(t.numel() for t in float_net.state_dict().values())


class Halves(WeightQuantizer):
    """Codes that are not whole."""

    def encode(self, weight):
        return torch.where(weight >= 0, 0.5, -0.5), weight.abs().amax().reshape(1)

    def code_values(self):
        return torch.tensor([-0.5, 0.5])


class PerLayer(WeightQuantizer):
    """Codes that differ from layer to layer."""

    largest = 1

    def fit(self, weight):
        self.largest = min(weight.shape[0], 100)

    def encode(self, weight):
        scale = weight.abs().amax().reshape(1) / self.largest
        return (weight / scale).round(), scale

    def code_values(self):
        return torch.arange(-self.largest, self.largest + 1)


class Remembers(WeightQuantizer):
    """A part of the weights that is neither code nor scale."""

    def __init__(self, bits, spec=""):
        super().__init__(bits, spec)
        self.register_buffer("shift", torch.zeros(()))

    def fit(self, weight):
        self.shift.fill_(weight.mean())

    def encode(self, weight):
        return torch.where(weight >= self.shift, 1.0, -1.0), weight.abs().mean().reshape(1)

    def decode(self, codes, scale):
        return codes * scale + self.shift

    def code_values(self):
        return torch.tensor([-1, 1])


@pytest.fixture
def as_plugin(monkeypatch):
    """Makes weight quantizers schemes of a plugin, `own:8`."""

    def register(quantizer):
        scheme = type("Own", (Scheme,), {"weights": quantizer})
        monkeypatch.setitem(globals(), "Own", scheme)
        plugin = PluginInfo("own", "main", "1.0", components=[Quantizer(name="own", target=f"{__name__}:Own")])
        monkeypatch.setattr("qadv.quantization.scheme.default_registry", lambda: Registry([plugin]))

    return register


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [(Halves, "not whole"), (PerLayer, "differ from layer to layer"), (Remembers, "more than codes and scale")],
)
def test_plugin_schemes_that_a_file_could_not_give_back_are_refused(quantizer, message, as_plugin, digits, tmp_path):
    as_plugin(quantizer)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 9), nn.Linear(9, 10))
    model = qadv.quantize(net, "own:8", "float", skip_first_last=False)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    with pytest.raises(SchemeError, match=f"can't be packed.*{message}"):
        qadv.export(classifier, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def first(tensors, end):
    return next(name for name in tensors if name.endswith(f"weight.{end}"))


def rewrite_header(path, change):
    tensors, header = read_tensors(path)
    change(header, tensors)
    write_tensors(path, tensors, header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.pop("layers"), "expected the key 'layers'"),
        (lambda h, t: h["schemes"].clear(), "expected the key 'int:4'"),
        (
            lambda h, t: h["layers"].update(nonsense={"scheme": "int:4", "shape": [1]}),
            "network has no quantized layer 'nonsense'",
        ),
        (lambda h, t: t.pop(next(n for n in t if n.endswith("codes"))), "no tensor"),
        (lambda h, t: h.update(layers=[]), "damaged"),
        (lambda h, t: h.update(quantization=None), "damaged"),
        (lambda h, t: h.update(loss="Linear"), "no loss of torch.nn"),
        (lambda h, t: h.update(loss="nothing"), "damaged"),
        (lambda h, t: h["classifier"].pop("preprocessing"), "expected the key 'preprocessing'"),
        (lambda h, t: h.update(defences=3), "damaged"),
        (lambda h, t: h["backbone"].pop("name"), "expected the key 'name'"),
        (lambda h, t: h["layers"].popitem(), r"no tensor \w+\.weight"),
        (lambda h, t: next(iter(h["layers"].values())).update(shape=[3, 3]), r"weight is \(3, 3\), expected \("),
        (lambda h, t: next(iter(h["layers"].values())).update(shape=[2**40, 2**40]), r"weight is \(1099511627776, "),
        (lambda h, t: next(iter(h["layers"].values())).update(scheme="bwn"), "damaged|expected the scheme"),
        (lambda h, t: next(iter(h["schemes"].values())).update(codes=[0]), "expected the bits and codes"),
        (lambda h, t: next(iter(h["schemes"].values()))["codes"].reverse(), "expected the bits and codes"),
        (lambda h, t: t.update({first(t, "scale"): torch.ones(1000, 1, 1, 1, 1)}), "expected a float32 scale"),
        (lambda h, t: t[first(t, "scale")].fill_(math.nan), "expected finite scales above 0, found nan"),
        (lambda h, t: t[first(t, "scale")].neg_(), "expected finite scales above 0, found -"),
        (lambda h, t: t[first(t, "scale")].zero_(), "expected finite scales above 0, found 0"),
        (lambda h, t: t.update({first(t, "scale"): t[first(t, "scale")].double()}), "expected a float32 scale"),
        (lambda h, t: t.update({first(t, "codes"): t[first(t, "codes")][:-1]}), "expected .* bytes of 4-bit codes"),
        (lambda h, t: t[first(t, "codes")].fill_(255), "a code has index 15, but there are 15"),
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
    with pytest.raises(InvalidInputError, match="expected a QuantizedClassifier, got Linear"):
        qadv.export(nn.Linear(2, 2), tmp_path / "x")
    with pytest.raises(InvalidInputError, match="path: expected a file name, got None"):
        qadv.export(make_classifier("int:4"), None)
    with pytest.raises(StorageError):
        qadv.QuantizedClassifier.load("x" * 5000)
    with pytest.raises(InvalidInputError, match=r"to: expected 'packed' or 'onnx'.*, got 'onx'; did you mean onnx"):
        qadv.export(make_classifier("int:4"), tmp_path / "x", to="onx")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        qadv.export(make_classifier("int:4"), tmp_path / "file" / "x")
