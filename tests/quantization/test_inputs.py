"""The input of every quantized layer comes from one quantizer, and `summarize` says from which."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qadv
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.layers import QuantActivation, activation_quantizers
from qadv.quantization.plan import SIGNED, UNSIGNED, Plan

CLIPPED = "ignore:.*clipped at ±:UserWarning"
pytestmark = pytest.mark.filterwarnings(CLIPPED)


def inputs_off_the_grid(model, x):
    """Names of the quantized layers whose input is no multiple of the step of any activation quantizer."""
    steps = [quantizer.scale.item() for _, quantizer in activation_quantizers(model)]
    off = []

    def look(name, layer, given):
        own = layer.input_quantizer
        values = given.detach() if own is None else own.quantize(given.detach())
        if min((values / step - (values / step).round()).abs().max().item() for step in steps) > 1e-3:
            off.append(name)

    layers = {name: m for name, m in model.named_modules() if hasattr(m, "weight_quantizer")}
    handles = [
        layer.register_forward_pre_hook(lambda m, inputs, name=name: look(name, m, inputs[0]))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return len(layers), off


@pytest.mark.parametrize(
    ("name", "layers", "own"),
    [("tf_efficientnet_lite0", 48, 16), ("mobilenetv2_050", 51, 17), ("regnety_002", 69, 26), ("repvgg_a0", 42, 0)],
)
def test_sums_gates_and_linear_bottlenecks_of_timm_networks_are_on_a_grid(name, layers, own):
    torch.manual_seed(0)
    from qadv.backbones import create_backbone

    result = qadv.quantize(create_backbone(f"timm/{name}", nb_classes=10))
    assert inputs_off_the_grid(result, torch.rand(1, 3, 32, 32)) == (layers, [])
    assert sum(where in (SIGNED, UNSIGNED) for where in result.qadv_quantization["plan"]["inputs"].values()) == own
    rows = {row.name: row for row in qadv.summarize(result).layers}
    assert {row.input_scheme for row in rows.values() if row.kind == "QuantConv2d"} == {"relu6:4"}
    if name == "repvgg_a0":  # both branches of the stem read the images
        for stem in (rows["stem.conv_kxk.conv"], rows["stem.conv_1x1.conv"]):
            assert (stem.kind, stem.input_scheme) == ("Conv2d", "float")


class Net(nn.Module):
    """Four layers; `how` says what stands between the second and the last two."""

    def __init__(self, how=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.relu = nn.ReLU()
        self.register_buffer("zero", torch.zeros(1), persistent=False)
        self.register_buffer("six", torch.tensor(6.0), persistent=False)
        self.how = how

    def forward(self, x):
        return self.d(self.relu(self.c(self.how(self, self.b(self.relu(self.a(x)))))))


class Last(Net):
    """The same in front of the last layer, whose weights and input stay float."""

    def forward(self, x):
        return self.d(self.how(self, self.b(self.relu(self.a(x)))))


# what is a ReLU, with a bound or none, however it is written
RELUS = {
    "hardtanh": lambda net, x: F.hardtanh(x, 0, 6),
    "hardtanh, in place": lambda net, x: F.hardtanh(x, 0.0, 6.0, True),
    "relu6": lambda net, x: F.relu6(x),
    "clamp": lambda net, x: x.clamp(0, 6),
    "clamp, by name": lambda net, x: x.clamp(min=0, max=6),
    "clamp, in place": lambda net, x: torch.clamp_(x, 0, 3),
    "clip": lambda net, x: x.clip(0, 3),
    "clamp_min": lambda net, x: x.clamp_min(0.0),
    "threshold": lambda net, x: F.threshold(x, 0, 0),
    "maximum": lambda net, x: torch.maximum(x, net.zero),
    "maximum of a new tensor": lambda net, x: torch.maximum(torch.zeros(1), x),
    "max": lambda net, x: torch.max(x, torch.zeros_like(x)),
    "product": lambda net, x: x * (x > 0),
    "product of floats": lambda net, x: (x >= 0).float() * x,
    "where": lambda net, x: torch.where(x > 0, x, 0),
    "hidden": lambda net, x: getattr(F, "re" + "lu")(x),
    "bounds that are held": lambda net, x: x.clamp(net.zero, net.six),
}
OTHERS = {
    "gelu": lambda net, x: F.gelu(x),
    "tanh": lambda net, x: torch.tanh(x),
    "hardtanh below 0": lambda net, x: F.hardtanh(x, -1, 1),
    "clamp below 0": lambda net, x: x.clamp(-1, 1),
    "sin": lambda net, x: x.sin(),
    "swish": lambda net, x: x * torch.sigmoid(x),
    "half the sum": lambda net, x: (x + x.abs()) / 2,
    "minimum of a relu": lambda net, x: torch.minimum(F.relu(x), torch.tensor(6.0)),
}


def written(base, how):
    """A network whose own code has the call, as conversion reads code."""
    return type("Written", (base,), {"forward": base.forward, "activation": staticmethod(how)})(how).eval()


def levels_into(model, layer):
    seen = []
    handle = getattr(model, layer).register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.from_numpy(np.random.default_rng(0).normal(0, 3, (500, 6)).astype(np.float32)))
    handle.remove()
    quantizer = getattr(getattr(model, layer), "input_quantizer", None)
    return len(torch.unique(seen[0] if quantizer is None else quantizer.quantize(seen[0])))


@pytest.mark.parametrize("how", RELUS)
def test_a_relu_that_is_written_as_a_call_is_quantized(how):
    float_net = written(Last, RELUS[how])
    result = qadv.quantize(float_net, "float", "relu6:8")
    assert sum(isinstance(m, QuantActivation) for m in result.modules()) == 2
    x = torch.rand(50, 6)
    torch.testing.assert_close(result(x), float_net(x), atol=0.02, rtol=0.02)
    assert levels_into(qadv.quantize(float_net, "float", "relu6:4"), "d") <= 16


@pytest.mark.parametrize("how", OTHERS)
def test_another_activation_that_is_written_as_a_call_is_quantized_before_a_layer_and_refused_before_the_last(how):
    with pytest.raises(UnsupportedModelError, match=r"calls \w+ as a function before 'd', whose input would silently"):
        qadv.quantize(written(Last, OTHERS[how]))
    named = qadv.quantize(written(Last, OTHERS[how]), "float", {"*": "relu6:4", "d": "relu6:4"})
    assert levels_into(named, "d") <= 16
    assert levels_into(qadv.quantize(written(Net, OTHERS[how])), "c") <= 16
    left = qadv.quantize(written(Last, OTHERS[how]), "float", {"*": "relu6:4", "d": "float"})
    assert {row.name: row.input_scheme for row in qadv.summarize(left).layers}["d"] == "float"


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def test_an_activation_module_of_ones_own_is_like_torchs():
    layers = (nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), Swish(), nn.Linear(6, 6), Swish(), nn.Linear(6, 4))
    result = qadv.quantize(nn.Sequential(*layers))
    assert result.qadv_quantization["plan"]["inputs"] == {"2": "1", "4": SIGNED}


class Joined(nn.Module):
    def __init__(self, join):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.r0, self.r1, self.r2 = nn.ReLU(), nn.ReLU(), nn.ReLU6()
        self.pool = nn.MaxPool2d(2)
        self.gamma = nn.Parameter(torch.ones(1))
        self.join = join
        self.after, self.fc = nn.LazyConv2d(4, 1), nn.LazyLinear(3)
        self(torch.zeros(1, 1, 8, 8))

    def forward(self, x):
        x = self.r0(self.stem(x))
        y = self.join(self, self.r1(self.a(x)), self.r2(self.b(x)))
        return self.fc(self.after(y).flatten(1))


@pytest.mark.parametrize(
    ("join", "fixed", "from_data"),
    [
        (lambda net, a, b: a + b, UNSIGNED, UNSIGNED),
        (lambda net, a, b: a - b, SIGNED, SIGNED),
        (lambda net, a, b: a * b.sigmoid(), UNSIGNED, UNSIGNED),
        (lambda net, a, b: a * b.mean((2, 3), keepdim=True), UNSIGNED, UNSIGNED),
        (lambda net, a, b: F.avg_pool2d(a, 2), UNSIGNED, UNSIGNED),
        (lambda net, a, b: net.a(a), SIGNED, SIGNED),
        (
            lambda net, a, b: torch.cat((a, b), 1),
            "r1",
            UNSIGNED,
        ),  # one grid at a fixed range, two where each has its own
        (lambda net, a, b: torch.cat((a, net.pool(a).repeat(1, 1, 2, 2)), 1), "r1", "r1"),
        (lambda net, a, b: net.pool(a).chunk(2, 1)[0].flip(3), "r1", "r1"),
        (lambda net, a, b: F.dropout(a.permute(0, 1, 3, 2), 0.5, net.training), "r1", "r1"),
        (lambda net, a, b: a if a.shape[-1] > 4 else F.adaptive_avg_pool2d(a, 4), UNSIGNED, UNSIGNED),
        (lambda net, a, b: a if a.shape[-1] > 4 else net.pool(a), "r1", "r1"),
        (lambda net, a, b: a.add_(1), UNSIGNED, UNSIGNED),
        (lambda net, a, b: a.mean(-1, keepdim=True), UNSIGNED, UNSIGNED),
        (lambda net, a, b: torch.add(a, b, alpha=-1), SIGNED, SIGNED),
        (lambda net, a, b: torch.mul(a, other=-0.5), SIGNED, SIGNED),
        (lambda net, a, b: a.clamp_max(max=-1.0), SIGNED, SIGNED),
        (lambda net, a, b: F.interpolate(a, scale_factor=2, mode="bicubic"), SIGNED, SIGNED),
        (lambda net, a, b: nn.Upsample(scale_factor=2, mode="bicubic")(a), SIGNED, SIGNED),
        (lambda net, a, b: F.interpolate(a, scale_factor=2, mode="bilinear"), UNSIGNED, UNSIGNED),
        (lambda net, a, b: a * net.gamma, SIGNED, SIGNED),  # it is trained, and may become negative
        (lambda net, a, b: F.fold(F.unfold(a, 3, padding=1), (8, 8), 3, padding=1), SIGNED, SIGNED),
        (lambda net, a, b: F.dropout(a, 0.3), SIGNED, SIGNED),  # in evaluation mode too
        (lambda net, a, b: sum(row for row in a.split([2] * len(a.shape[:2]), 1)), SIGNED, SIGNED),  # can't be traced
    ],
)
def test_where_an_input_comes_from(join, fixed, from_data):
    model, x = Joined(join).eval(), torch.rand(8, 1, 8, 8)
    for scheme, expected in (("relu6:3", fixed), ("relu:3", from_data), ("pact:3", from_data)):
        result = qadv.quantize(model, "int:4", scheme, calibration=x)
        assert result.qadv_quantization["plan"]["inputs"]["after"] == expected, scheme
        if scheme != "pact:3":
            assert inputs_off_the_grid(result, x)[1] == []


@pytest.mark.parametrize("change", ["+=", "-=", "*=", "/="])
@pytest.mark.parametrize("activation", [nn.ReLU(), F.relu])
def test_a_tensor_that_is_changed_under_another_name(change, activation):
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
            self.activation = activation

        def forward(self, x):
            width = columns = x.shape[1]
            columns += 1  # a number that is changed is another one
            kept = x = self.activation(self.a(x))
            if change == "+=":
                x += 3
            elif change == "-=":
                x -= 3
            elif change == "*=":
                x *= 3
            else:
                x /= 3
            return self.c(self.activation(self.b(kept.view(-1, width))))

    model, x = Aliased().eval(), torch.rand(8, 6)
    result = qadv.quantize(model, "float", "relu:8", calibration=x)
    error = (result(x) - model(x)).abs().max() / model(x).abs().max()
    assert error < 0.03


def test_what_stands_behind_weights_in_the_networks_own_code_is_no_image():
    class Embeds(nn.Module):
        def __init__(self, multiply):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(6, 6))
            self.multiply = multiply
            self.net = nn.Sequential(nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))

        def forward(self, x):
            return self.net(self.multiply(x, self.weight))

    for multiply in (torch.matmul, lambda x, w: torch.einsum("nc,dc->nd", x, w.t()), F.linear):
        result = qadv.quantize(Embeds(multiply), skip_first_last=False)
        assert result.qadv_quantization["plan"]["inputs"] == {"net.1": "net.0", "net.3": "net.2", "net.5": "net.4"}
        assert sum(isinstance(m, QuantActivation) for m in result.modules()) == 3


def test_images_are_not_quantized_whatever_clips_them():
    class Clips(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))

        def forward(self, x):
            return self.net(x.clamp(0, 1))

    for ends in (True, False):
        result = qadv.quantize(Clips(), skip_first_last=ends)
        assert result.qadv_quantization["plan"]["inputs"] == {"net.2": "net.1", "net.4": "net.3"}
        assert sum(isinstance(m, QuantActivation) for m in result.modules()) == 2


def test_what_the_user_leaves_float_stays_float_and_the_summary_says_so():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    result = qadv.quantize(model, activations={"*": "relu6:4", "3": "float"})
    rows = {row.name: row.input_scheme for row in qadv.summarize(result).layers}
    assert (rows["0"], rows["2"], rows["4"], rows["6"]) == ("float", "relu6:4", "float", "relu6:4")
    text = str(qadv.summarize(result))
    assert text.splitlines()[1].split("┃")[5].strip() == "input"
    alone = qadv.quantize(model, activations={"3": "relu6:4"})  # its levels reach a layer without a scheme
    assert {row.name: row.input_scheme for row in qadv.summarize(alone).layers if row.kind.endswith("Linear")} == {
        "0": "float",
        "2": "float",
        "4": "relu6:4",
        "6": "float",
    }
    named = qadv.quantize(model, activations={"*": "relu6:4", "3": "float", "4": "relu6:2"})
    assert {row.name: row.input_scheme for row in qadv.summarize(named).layers}["4"] == "relu6:2"


def test_looking_at_a_network_changes_nothing_in_it():
    class Remembers(Net):
        def forward(self, x):
            self.last = self.a(x)
            self.calls = getattr(self, "calls", 0) + 1
            return self.d(self.c(self.b(self.relu(self.last))))

    model = Remembers().train()
    model.c.eval()
    calls = []
    model.a.register_forward_hook(lambda *_: calls.append(1))
    result = qadv.quantize(model)
    assert not hasattr(result, "last")
    assert not hasattr(result, "calls")
    assert (calls, result.training, result.b.training, result.c.training) == ([], True, True, False)


def test_a_hook_that_takes_activations_off_their_levels_is_found_when_the_classifier_is_made():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[1].register_forward_hook(lambda module, inputs, output: output + 0.1)
    with pytest.raises(UnsupportedModelError, match="the input of 2 is not on the 16 levels of 1"):
        qadv.QuantizedClassifier(qadv.quantize(model), nn.CrossEntropyLoss(), (4,), 2)


def test_values_below_zero_in_front_of_an_unsigned_quantizer_are_found_when_the_classifier_is_made():
    class Averages(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu, self.pool = nn.Linear(4, 4), nn.ReLU(), nn.AvgPool1d(2)
            self.b, self.c = nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.c(self.relu(self.b(self.pool(self.relu(self.a(x))))))

    model = Averages()
    qadv.QuantizedClassifier(qadv.quantize(model), nn.CrossEntropyLoss(), (4,), 2)
    model.pool.register_forward_hook(lambda module, inputs, output: output - 1)
    with pytest.raises(UnsupportedModelError, match="the input of b has values below 0"):
        qadv.QuantizedClassifier(qadv.quantize(model), nn.CrossEntropyLoss(), (4,), 2)


def test_a_fixed_range_on_what_is_no_relu_is_said_and_calibration_mends_it():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(64, 4)
    with torch.no_grad():
        model[0].weight.mul_(100)
    with pytest.warns(
        UserWarning, match=r"inputs of 1 layers \(1\) come from no ReLU .* clipped at ±6; .* calibration="
    ):
        fixed = qadv.quantize(model, "float", "relu6:8")
    calibrated = qadv.quantize(model, "float", {"*": "relu6:8", "2": "float"}, calibration=x)
    assert (fixed(x) - model(x)).abs().max() > 10 * (calibrated(x) - model(x)).abs().max()
    assert {row.name: row.input_scheme for row in qadv.summarize(calibrated).layers}["1"] == "relu:8"


def test_a_plan_travels_with_the_file(tmp_path):
    model, x = Joined(lambda net, a, b: a + b).eval(), torch.rand(8, 1, 8, 8)
    classifier = qadv.QuantizedClassifier(
        qadv.quantize(model, "int:4", "relu6:4", calibration=x), nn.CrossEntropyLoss(), (1, 8, 8), 3
    )
    classifier.save(tmp_path / "net.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=model)
    assert again.model.qadv_quantization == classifier.model.qadv_quantization
    np.testing.assert_array_equal(again.predict(x.numpy()), classifier.predict(x.numpy()))
    for bad in ({}, {"kept": [], "inputs": {}, "bounds": 1, "from_data": True}, None, {"kept": 3}):
        with pytest.raises(InvalidInputError, match="expected a plan"):
            Plan.from_dict(bad)


class OfFormat1(nn.Module):
    """Bounded activations, a linear bottleneck with a sum, a gate, and a clip written as a call."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.act = nn.Hardtanh(0.0, 1.0)
        self.down = nn.Conv2d(4, 4, 1)
        self.squeeze = nn.Conv2d(4, 2, 1)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(2, 4, 1)
        self.gate = nn.Sigmoid()
        self.up = nn.Conv2d(4, 6, 3, stride=2)
        self.fc = nn.Linear(6 * 9, 3)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = x + self.down(x)
        x = x * self.gate(self.excite(self.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.fc(self.up(x).clamp(0, 6).flatten(1))


@pytest.mark.filterwarnings("ignore:.*format 1")
@pytest.mark.parametrize("name", ["fixed", "calibrated"])
def test_a_file_from_before_there_were_plans_is_the_network_that_it_was(name, tmp_path):
    folder = Path(__file__).parent / "format1"  # with logits that the qadv of then gave
    with np.load(folder / "answers.npz") as answers:
        x, expected = answers["x"], answers[name]
    classifier = qadv.QuantizedClassifier.load(folder / f"{name}.safetensors", model=OfFormat1())
    np.testing.assert_allclose(classifier.predict(x), expected, atol=1e-5)
    assert np.abs(classifier.predict(x) - expected).max() < np.abs(expected).min()
    classifier.save(tmp_path / "again.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "again.safetensors", model=OfFormat1())
    np.testing.assert_array_equal(again.predict(x), classifier.predict(x))
