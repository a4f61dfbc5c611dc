"""Networks with Brevitas's own layers: what is said of them, and a form that is theirs to the bit."""

import copy
import warnings
from importlib.metadata import version

import brevitas.nn as qnn
import brevitas.quant as bq
import numpy as np
import pytest
import torch
from brevitas.core.quant import IntQuant
from brevitas.export.inference import quant_inference_mode
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from brevitas.graph.gptq import gptq_mode
from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize, quantize
from brevitas.quant_tensor import QuantTensor
from brevitas_examples.bnn_pynq.models.CNV import CNV
from brevitas_examples.bnn_pynq.models.resnet import QuantBasicBlock, QuantResNet
from brevitas_examples.common.generative.quantizers import Int8DynamicActPerTensorFloat
from packaging.version import Version
from torch import nn

import qadv
from qadv.diagnostics.value_shift import value_shift
from qadv.diagnostics.weight_error import weight_error_norms
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators.attacked import AttackedNetwork
from qadv.frontends.brevitas import BrevitasFrontend
from qadv.frontends.brevitas_parts import _OfScale
from qadv.frontends.find import frontend_of, quantized_activations, quantized_weights, quantizers
from qadv.frontends.other_backward import SURROGATES, other_backward
from qadv.quantization.kept_values import KeptValues
from qadv.quantization.layers import QuantConv2d

WEIGHTS = [
    *("Int8WeightPerTensorFloat", "Int8WeightPerChannelFloat", "Int8WeightPerTensorFixedPoint"),
    *("Int8WeightPerChannelFloatMSE", "Int8WeightNormL2PerChannelFixedPoint", "Int8WeightPerChannelFloatDecoupled"),
    *("ShiftedUint8WeightPerTensorFloat", "ShiftedUint8WeightPerChannelFloat"),
    *("SignedBinaryWeightPerTensorConst", "SignedTernaryWeightPerTensorConst", "Fp8e4m3WeightPerTensorFloat"),
]
ACTIVATIONS = [
    *("Uint8ActPerTensorFloat", "Int8ActPerTensorFloat", "ShiftedUint8ActPerTensorFloat"),
    *("Uint8ActPerTensorFixedPoint", "Int8ActPerTensorFloatBatchQuant2d", "Fp8e4m3ActPerTensorFloat"),
    *("SignedBinaryActPerTensorConst", "SignedTernaryActPerTensorConst"),
]


OLD = Version(version("brevitas")) < Version("0.13")  # has no floats there, and a flow that fails by itself
FLOWS = ("fx", "layerwise", *(() if OLD else ("bias correction",)), "gptq")
WEIGHTS, ACTIVATIONS = ([name for name in names if hasattr(bq, name)] for names in (WEIGHTS, ACTIVATIONS))


def network(
    weights=bq.Int8WeightPerTensorFloat, activations=bq.Uint8ActPerTensorFloat, activation=qnn.QuantReLU, **options
):
    torch.manual_seed(0)
    of_weights = {"weight_quant": weights, **{k: v for k, v in options.items() if k.startswith("weight_")}}
    others = {k: v for k, v in options.items() if not k.startswith("weight_")}
    return nn.Sequential(
        qnn.QuantConv2d(3, 6, 3, **of_weights),
        nn.BatchNorm2d(6),
        activation(act_quant=activations, **others),
        qnn.QuantConv2d(6, 6, 3, padding=1, groups=6, **of_weights),
        activation(act_quant=activations, **others),
        nn.Flatten(),
        qnn.QuantLinear(216, 5, **of_weights),
    )


class WithQuantTensors(nn.Module):
    """Sends Brevitas's tensors from layer to layer, and quantizes biases and outputs."""

    def __init__(self, gives_quant_tensor=False):
        super().__init__()
        torch.manual_seed(0)
        integer = {"bias_quant": bq.Int32Bias}
        self.input = qnn.QuantIdentity(return_quant_tensor=True)
        self.first = qnn.QuantConv2d(3, 6, 3, weight_quant=bq.Int8WeightPerChannelFloat, **integer)
        self.relu = qnn.QuantReLU(return_quant_tensor=True, bit_width=4)
        self.depthwise = qnn.QuantConv2d(
            *(6, 6, 3), padding=1, groups=6, output_quant=bq.Int8ActPerTensorFloat, return_quant_tensor=True, **integer
        )
        self.add = qnn.QuantEltwiseAdd(return_quant_tensor=True)
        self.pool = qnn.TruncAvgPool2d(2, float_to_int_impl_type="floor")
        self.end = qnn.QuantLinear(54, 5, return_quant_tensor=gives_quant_tensor, **integer)

    def forward(self, x):
        x = self.relu(self.first(self.input(x)))
        return self.end(self.pool(self.add(x, self.depthwise(x))).flatten(1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.depthwise, self.last_relu = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
        self.pool, self.end = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        return self.end(torch.flatten(self.pool(x + self.last_relu(self.depthwise(x))), 1))


def by_flow(kind):
    model, x = Residual().eval(), torch.rand(4, 3, 8, 8)
    model = layerwise_quantize(model) if kind == "layerwise" else quantize(preprocess_for_quantize(model))
    with torch.no_grad(), calibration_mode(model):
        model(x)
    if kind == "bias correction":
        with torch.no_grad(), bias_correction_mode(model):
            model(x)
    if kind == "gptq":
        with torch.no_grad(), gptq_mode(model) as mode:
            for _ in range(mode.num_layers):
                mode.model(x)
                mode.update()
    return model


NETWORKS = {
    **{name: lambda name=name: network(getattr(bq, name)) for name in WEIGHTS},
    **{
        name: lambda name=name: network(activations=getattr(bq, name), activation=qnn.QuantIdentity)
        for name in ACTIVATIONS
    },
    "4 bit": lambda: network(weight_bit_width=4, bit_width=4),
    "learned bits": lambda: network(bit_width_impl_type="parameter"),
    "signed after a ReLU": lambda: network(activations=bq.Int8ActPerTensorFloat),
    "tanh": lambda: network(activations=bq.Int8ActPerTensorFloat, activation=qnn.QuantTanh),
    "dynamic": lambda: network(activations=Int8DynamicActPerTensorFloat, activation=qnn.QuantIdentity),
    "QuantTensor": WithQuantTensors,
    "QuantTensor out": lambda: WithQuantTensors(gives_quant_tensor=True),
    "transposed": lambda: nn.Sequential(qnn.QuantConvTranspose2d(3, 4, 3, stride=2), qnn.QuantReLU(), nn.Flatten()),
    **{kind: lambda kind=kind: by_flow(kind) for kind in FLOWS},
}


def made(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


def trained(name):
    """A network after two passes in training mode, in evaluation mode, and images for it."""
    model = made(name)
    if name not in FLOWS:
        for _ in range(2):
            model(torch.rand(4, 3, 8, 8) * 2 - 0.5)
    return model.eval(), torch.rand(3, 3, 8, 8) * 2 - 0.5


def plain(y):
    return y.value if isinstance(y, QuantTensor) else y


def outputs_and_gradients(model, x):
    model.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = plain(model(x))
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_network(name, monkeypatch):
    model, x = trained(name)
    held = AttackedNetwork(model)
    expected = outputs_and_gradients(model, x)
    kept = []
    keep = KeptValues._keep
    monkeypatch.setattr(KeptValues, "_keep", lambda self: kept.append(keep(self)))
    for _ in range(2):
        found = outputs_and_gradients(held, x)
    assert len(kept) == 1
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    for a, b in zip(found[2:], expected[2:], strict=True):  # these are sums, whose order may differ
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() <= 1e-4 * b.abs().max()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(held(leaf)).square().sum(), leaf)
    assert torch.equal(gradient, expected[1])
    with torch.no_grad():
        assert torch.equal(plain(held(x)), expected[0])


@pytest.mark.parametrize("bits", [1, 2])
def test_bnn_pynq_cnv(bits):
    torch.manual_seed(0)
    model = CNV(10, bits, bits, 8, 3)
    model(torch.rand(2, 3, 32, 32))
    model.eval()
    x = torch.rand(2, 3, 32, 32)
    held = AttackedNetwork(model)
    assert all(map(torch.equal, outputs_and_gradients(held, x)[:2], outputs_and_gradients(model, x)[:2]))
    rows = [row for row in qadv.summarize(model).layers if row.kind in ("QuantConv2d", "QuantLinear")]
    assert len(rows) == 9
    assert {(row.bits, row.levels) for row in rows} == {(1, (2, 2)) if bits == 1 else (2, (3, 3))}
    if not OLD:  # whose code can't be traced
        assert [row.input_scheme for row in rows] == ["CommonActQuant:8", *[f"CommonActQuant:{bits}"] * 8]
    assert qadv.summarize(model).compression == pytest.approx(29.7 if bits == 1 else 15.4, abs=0.1)


def test_bnn_pynq_resnet():
    torch.manual_seed(0)
    model = QuantResNet(QuantBasicBlock, [1, 1, 1, 1], act_bit_width=4, weight_bit_width=4)
    model(torch.rand(2, 3, 32, 32))
    model.eval()
    x = torch.rand(1, 3, 32, 32)
    assert all(
        map(torch.equal, outputs_and_gradients(AttackedNetwork(model), x)[:2], outputs_and_gradients(model, x)[:2])
    )


# what else changes a network; each is one that shows in the outputs
def weight_in_place(model):
    with torch.no_grad():
        model[3].weight.mul_(-1)


def one_weight_through_data(model):
    model[3].weight.data.flatten()[0] += 1.0


def filters_swapped_through_data(model):
    model[3].weight.data.copy_(model[3].weight.data.flip(0))


def weight_through_numpy(model):
    model[3].weight.detach().numpy()[:] *= -1


def new_data(model):
    model[3].weight.data = model[3].weight.data.flip(0).contiguous()


def new_parameter(model):
    model[3].weight = nn.Parameter(model[3].weight.detach().flip(0).contiguous())


def bias_through_numpy(model):
    model[0].bias.detach().numpy()[0] += 1


def state_dict(model):
    state = {name: value * 1.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.load_state_dict(state)


def another_precision(model):
    model.to(torch.bfloat16).to(torch.float32)


def fewer_bits(model):
    model[3].weight_quant = network(weight_bit_width=2)[3].weight_quant.eval()


def another_quantizer(model):
    model[3].weight_quant.tensor_quant = network(weight_bit_width=2)[3].weight_quant.tensor_quant.eval()


def attribute_of_a_quantizer(model):
    model[2].act_quant.fused_activation_quant_proxy.tensor_quant.int_scaling_impl.signed = True


def scaling(model):
    return model[2].act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl


def learned_scale_through_data(model):
    scaling(model).value.data *= 0.5


def learned_scale_through_numpy(model):
    scaling(model).value.detach().numpy()[...] *= 0.5


def collected_statistics(model):
    scaling(model).counter = 0
    scaling(model).buffer *= 0.5


def only_observed(model):
    model[2].act_quant.fused_activation_quant_proxy.tensor_quant.observer_only = True


def weights_unquantized(model):
    model[3].weight_quant.disable_quant = True


def activations_unquantized(model):
    model[2].act_quant.disable_quant = True


def another_activation(model):
    model[2].act_quant.fused_activation_quant_proxy.activation_impl = nn.Tanh()


def own_forward_of_a_quantizer(model):
    fused = model[2].act_quant.fused_activation_quant_proxy
    before = fused.forward
    fused.forward = lambda x: before(2 * x)


def own_forward_of_a_layer(model):
    before = model[3].forward
    model[3].forward = lambda x: 2 * before(x)


def new_layer(model):
    model[0] = nn.Conv2d(3, 6, 3)


def a_training_pass(model):
    model.train()
    with torch.enable_grad():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model(torch.rand(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    model.eval()


CHANGES = [
    *(weight_in_place, one_weight_through_data, filters_swapped_through_data, weight_through_numpy, new_data),
    *(new_parameter, bias_through_numpy, state_dict, another_precision, fewer_bits, another_quantizer),
    *(attribute_of_a_quantizer, learned_scale_through_data, learned_scale_through_numpy, collected_statistics),
    *(only_observed, weights_unquantized, activations_unquantized, another_activation, own_forward_of_a_quantizer),
    *(own_forward_of_a_layer, new_layer, a_training_pass),
]


def four_bits():
    """A 4-bit network whose activations' scales are learned ones, in evaluation mode, and images for it."""
    model, x = trained("4 bit")
    for module in model.modules():
        if hasattr(module, "init_scale"):
            module.init_scale()
        elif hasattr(module, "collect_stats_steps"):  # before Brevitas 0.13
            module.value.data.copy_(module.buffer)
            module.counter = module.collect_stats_steps + 1
    return model, x


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_leaves_anything_out_of_date(change):
    model, x = four_bits()
    held = AttackedNetwork(model)
    with torch.no_grad():
        before = held(x)
        change(model)
        assert torch.equal(held(x), model(x))
    expected, found = outputs_and_gradients(model, x)[:2], outputs_and_gradients(held, x)[:2]
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(expected[0], before), "the change is one that shows"


def test_nothing_is_quantized_again_while_nothing_changes(monkeypatch):
    model, x = four_bits()
    held = AttackedNetwork(model)
    held(x)
    calls = []
    forward = IntQuant.forward
    monkeypatch.setattr(IntQuant, "forward", lambda self, *given: calls.append(1) or forward(self, *given))
    monkeypatch.setattr(_OfScale, "backward", lambda *given: calls.append(2))
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(held.eval()(leaf).sum(), leaf)
    assert calls == []
    held.train()
    held(x)
    assert len(calls) == 5, "in training mode at each pass"


def test_a_part_in_training_mode_computes_as_it_does_there():
    model, x = trained("4 bit")
    held = AttackedNetwork(model)
    held(x)
    model[2].train()
    counter = scaling(model).counter
    other = copy.deepcopy(model)
    assert torch.equal(held(x), other(x))
    assert scaling(model).counter == scaling(other).counter == counter + 1


def test_hooks_anywhere_see_the_network_itself():
    model, x = four_bits()
    held, seen = AttackedNetwork(model), []
    held(x)
    inner = model[2].act_quant.fused_activation_quant_proxy.tensor_quant
    for module in (model[0], model[2].act_quant, model[2].input_quant, inner, inner.int_quant, model[3].weight_quant):
        handle = module.register_forward_hook(lambda module, given, output: seen.append(module))
        assert torch.equal(held(x), model(x))
        assert seen == [module, module]
        handle.remove()
        seen.clear()
    held(x)
    assert seen == []


def test_functional_call_copies_and_inference_mode():
    model, x = four_bits()
    held = AttackedNetwork(model)
    with torch.inference_mode():
        before = held(x).clone()
    given = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        found = torch.func.functional_call(model, given, x)
        assert torch.equal(torch.func.functional_call(held, given, x), found)
        assert not torch.equal(found, before)
        copied = copy.deepcopy(held)
        weight_in_place(model)
        assert torch.equal(copied(x), before)
        assert not torch.equal(held(x), before)


def test_a_gradient_penalty_reaches_the_parameters():
    model, x = four_bits()
    found = []
    for each in (model, AttackedNetwork(model)):
        model.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(each(leaf).square().sum(), leaf, create_graph=True)
        gradient.square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for expected, grad in zip(*found, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def everything(model):
    """All that a network holds: its modules' attributes, and what its tensors contain."""
    attributes = {name: {k: id(v) for k, v in vars(m).items()} for name, m in model.named_modules()}
    tensors = {name: t.detach().numpy().tobytes() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    return attributes, tensors


@pytest.mark.parametrize("name", [*NETWORKS])
@pytest.mark.parametrize("run", [False, True], ids=["fresh", "run"])
def test_looking_at_a_network_changes_nothing(name, run):
    model, twin = (trained(name)[0] if run else made(name) for _ in range(2))
    twin.eval()
    before = everything(model)
    found = quantizers(model)
    assert everything(model) == before
    assert {type(frontend_of(model))} == {BrevitasFrontend}
    for quantizer in (q for q in found if q.role == "weights"):
        layer = model.get_submodule(quantizer.layer)
        assert quantizer.parameter is layer.weight
        with torch.no_grad():
            weight = twin.get_submodule(quantizer.layer).quant_weight()
        assert torch.equal(quantizer.value, weight.value)
        if quantizer.codes is not None:
            assert torch.equal(quantizer.codes.float(), torch.round(weight.value / weight.scale + weight.zero_point))
            assert len(quantizer.codes.unique()) <= quantizer.nb_codes <= 2**quantizer.bits


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_levels_are_all_that_an_activation_gives(name):
    model, _ = trained(name)
    (quantizer,) = [q for q in quantized_activations(model) if q.layer == "2"]
    scale, x = float(quantizer.scale), torch.linspace(-2, 2, 40001)
    top = float(quantizer.levels.abs().max())
    found = quantizer.function()(x * top).detach().unique()
    assert torch.isin(found, quantizer.levels).all()
    if not name.startswith("Fp8"):  # whose smallest are far smaller
        assert torch.equal(found, quantizer.levels)
        assert len(found) <= 2**quantizer.bits
        assert (quantizer.levels.diff() / scale).round().unique().tolist() in ([1], [2])


def test_what_is_said_of_a_network():
    model, _ = trained("QuantTensor")
    said = {(q.layer, q.role): (q.scheme, q.bits) for q in quantizers(model)}
    assert said == {
        ("input", "output"): ("Int8ActPerTensorFloat", 8),
        ("first", "weights"): ("Int8WeightPerChannelFloat", 8),
        ("relu", "output"): ("Uint8ActPerTensorFloat:4", 4),
        ("depthwise", "output"): ("Int8ActPerTensorFloat", 8),
        ("depthwise", "weights"): ("Int8WeightPerTensorFloat", 8),
        ("add", "input"): ("Int8ActPerTensorFloat", 8),
        ("add", "output"): ("Int8ActPerTensorFloat", 8),
        ("pool", "output"): ("RoundTo8bit", 8),
        ("end", "weights"): ("Int8WeightPerTensorFloat", 8),
    }
    inputs = {row.name: row.input_scheme for row in qadv.summarize(model).layers if row.kind.startswith("Quant")}
    assert {name: inputs[name] for name in ("first", "depthwise", "end")} == {
        "first": "Int8ActPerTensorFloat",
        "depthwise": "Uint8ActPerTensorFloat:4",
        "end": "RoundTo8bit",
    }


def classifier(model):
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (3, 8, 8), 5, clip_values=(0.0, 1.0))


OTHERS = ["4 bit", "QuantTensor", "SignedBinaryActPerTensorConst", "dynamic"]


@pytest.mark.parametrize("name", [*OTHERS, *(name for name in ACTIVATIONS if name.startswith("Fp8"))])
def test_other_backward_passes_leave_the_outputs(name):
    held, x = AttackedNetwork(trained(name)[0]), torch.rand(3, 3, 8, 8)
    expected = outputs_and_gradients(held, x)[:2]
    for surrogate in SURROGATES.values():
        with other_backward(held, surrogate) as changed:
            found = outputs_and_gradients(held, x)
        assert changed == len({q.place for q in quantized_activations(held)}) > 0
        assert torch.equal(found[0], expected[0])
        if surrogate is SURROGATES["tanh" if name == "dynamic" else "identity"]:
            assert not torch.allclose(found[1], expected[1])
    assert all(map(torch.equal, outputs_and_gradients(held, x)[:2], expected))


def test_diagnostics_of_a_classifier():
    model, _ = four_bits()
    attacked = classifier(model)
    x = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    found = value_shift(attacked, x, np.clip(x + 0.1, 0, 1))
    assert found.levels == (16, 16)
    assert all(0 < changed < moved for changed, moved in zip(found.changed, found.moved, strict=True))
    error = weight_error_norms(attacked, x)
    weights = {q.layer: q for q in quantized_weights(attacked.model)}
    assert error.layers == tuple(weights) == ("0", "3", "6")
    expected = torch.linalg.matrix_norm((weights["6"].value - weights["6"].latent).double(), ord=2)
    assert error.matrix[2] == pytest.approx(float(expected))


def test_packing_is_refused_and_says_what_to_do(tmp_path):
    with pytest.raises(InvalidInputError, match="to='onnx'"):
        qadv.export(classifier(four_bits()[0]), tmp_path / "network", to="packed")


def test_layers_of_both_origins_are_read_by_both():
    torch.manual_seed(0)
    own = qadv.quantize(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)), skip_first_last=False
    )
    model = nn.Sequential(own, qnn.QuantReLU(bit_width=2), nn.Flatten(), qnn.QuantLinear(216, 5)).eval()
    said = {q.layer: (q.origin, q.bits) for q in quantizers(model) if q.role != "input"}
    assert said == {
        "0.0": ("qadv", 4),
        "0.1": ("qadv", 4),
        "0.2": ("qadv", 4),
        "1": ("brevitas", 2),
        "3": ("brevitas", 8),
    }
    assert isinstance(own[0], QuantConv2d)
    assert not BrevitasFrontend().recognises(own)
    x, held = torch.rand(2, 3, 8, 8), AttackedNetwork(model)
    assert all(map(torch.equal, outputs_and_gradients(held, x)[:2], outputs_and_gradients(model, x)[:2]))


def test_inference_mode_of_brevitas_is_refused():
    model, x = four_bits()
    with torch.no_grad(), quant_inference_mode(model):
        model(x)
        model(x)
        with pytest.raises(UnsupportedModelError, match="quant_inference_mode"):
            classifier(model)
    classifier(model)
