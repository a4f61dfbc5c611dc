"""Weights that are quantized once in evaluation mode: the same to the bit, and never out of date."""

import copy
import itertools

import pytest
import torch
from torch import nn

import qadv
from qadv.backbones import create_backbone
from qadv.estimators.upkeep import run_after_steps
from qadv.quantization.pwlq import PiecewiseWeights
from qadv.quantization.uniform import IntWeights

WEIGHTS = ["int:4", "int-per-tensor:3", "bwn", "twn", "binary-connect", "binary-net", "dorefa:3", "pwlq:3", "sq(bwn)"]
ACTIVATIONS = ["relu6:4", "relu1:2", "pact:3", "dorefa:2", "tanh:3", "binary-net", "float"]
NETWORKS = {
    "resnet20": (3, 32, 32),
    "mnist-cnn": (1, 28, 28),
    "vgg16": (3, 32, 32),
    "lowbit-convnet": (3, 32, 32),
    "wide-resnet": (3, 32, 32),
    "tf_efficientnet_b0": (3, 64, 64),  # pads as TensorFlow does
    "vit_tiny_patch16_224": (3, 32, 32),  # inputs of layers are quantized
}


def network(name="mnist-cnn", weights="int:4", activations="relu6:4"):
    torch.manual_seed(0)
    options = {"img_size": 32} if name.startswith("vit") else {"depth": 10, "width": 1} if name == "wide-resnet" else {}
    model = create_backbone(name, nb_classes=10, in_channels=NETWORKS[name][0], **options)
    return qadv.quantize(model, weights, activations).eval(), torch.rand(2, *NETWORKS[name])


def layers(model):
    return [m for m in model.modules() if getattr(m, "weight_quantizer", None) is not None]


def outputs_and_gradients(model, x):
    """Logits, and gradients of the images and of each parameter."""
    model.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("name", "weights", "activations"),
    [("mnist-cnn", w, "relu6:4") for w in WEIGHTS]
    + [("mnist-cnn", "int:4", a) for a in ACTIVATIONS]
    + [(name, "int:4", "relu6:4") for name in NETWORKS if name != "mnist-cnn"],
)
def test_outputs_and_gradients_are_those_of_training_to_the_bit(name, weights, activations):
    model, x = network(name, weights, activations)
    for layer in layers(model):
        layer._constant_weight = lambda x: None  # the way of training
    expected = outputs_and_gradients(model, x)
    assert all(layer._kept is None for layer in layers(model))
    for layer in layers(model):
        del layer._constant_weight
    found = outputs_and_gradients(model, x)
    assert all(layer._kept is not None for layer in layers(model))
    assert len(found) == len(expected) == 2 + len(list(model.parameters()))
    assert all(map(torch.equal, found, expected))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert all(map(torch.equal, outputs_and_gradients(model, x), expected[:2]))
    with torch.no_grad():
        assert torch.equal(model(x), expected[0])


@torch.enable_grad()
def step(model, layer):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    run_after_steps(optimizer, model)
    model.train()
    model(torch.rand(4, 1, 28, 28)).square().sum().backward()
    optimizer.step()
    model.eval()


def in_place(model, layer):
    with torch.no_grad():
        layer.weight.mul_(-1)


def one_value_through_data(model, layer):
    layer.weight.data.flatten()[0] += 1.0


def swapped_filters_through_data(model, layer):
    layer.weight.data.copy_(layer.weight.data.flip(0))


def through_numpy(model, layer):
    layer.weight.detach().numpy()[:] *= -1


def new_data(model, layer):
    layer.weight.data = layer.weight.data.flip(0).contiguous()


def new_parameter(model, layer):
    layer.weight = nn.Parameter(layer.weight.detach().flip(0).contiguous())


def state_dict(model, layer):
    other, _ = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.load_state_dict(other.state_dict())


def another_precision(model, layer):
    model.to(torch.bfloat16).to(torch.float32)


def another_scheme(model, layer):
    layer.weight_quant.tensor_quant = IntWeights(2, "int:2")


def another_attribute(model, layer):
    """Of a plugin's quantizer, which is no tensor."""
    layer.weight_quantizer.factor = 3.0


CHANGES = [
    step,
    in_place,
    one_value_through_data,
    swapped_filters_through_data,
    through_numpy,
    new_data,
    new_parameter,
    state_dict,
    another_precision,
    another_scheme,
    another_attribute,
]


class WithFactor(IntWeights):
    factor = 1.0

    def encode(self, weight):
        codes, scale = super().encode(weight)
        return codes, scale * self.factor


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_leaves_a_weight_out_of_date(change):
    model, x = network()
    layer = layers(model)[1]
    layer.weight_quant.tensor_quant = WithFactor(4, "int:4")
    with torch.no_grad():
        before = model(x)
        change(model, layer)
        after = model(x)
        fresh = copy.deepcopy(model)
        for each in layers(fresh):
            each._kept = None
        assert torch.equal(after, fresh(x))
        assert not torch.equal(after, before), "the change is one that shows"


@pytest.mark.parametrize("scheme", ["pwlq:3", "sq(pwlq:3)"])
def test_what_a_quantizer_found_once_is_followed(scheme):
    model, x = network(weights=scheme)
    layer = layers(model)[1]
    quantizer = next(m for m in layer.modules() if isinstance(m, PiecewiseWeights))
    outputs = []
    with torch.no_grad():
        outputs.append(model(x))
        quantizer.scale *= 1.5
        outputs.append(model(x))
        quantizer.scale.data.mul_(1.5)
        outputs.append(model(x))
        quantizer.scale = quantizer.scale * 1.5
        outputs.append(model(x))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(outputs))


def test_nothing_is_quantized_again_while_nothing_changes(monkeypatch):
    model, x = network()
    calls = []
    encode = IntWeights.encode
    monkeypatch.setattr(IntWeights, "encode", lambda self, weight: calls.append(1) or encode(self, weight))
    with torch.no_grad():
        for _ in range(3):
            model.eval()(x)
    assert len(calls) == len(layers(model))
    model.train()
    model(x)
    assert len(calls) == 2 * len(layers(model)), "in training mode at each pass"


def test_weights_that_ask_for_a_gradient_get_it_in_evaluation_mode():
    model, x = network()
    with torch.no_grad():
        model(x)
    model(x).sum().backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0 for layer in layers(model))


def test_kept_in_inference_mode_and_used_in_a_graph():
    model, x = network()
    with torch.inference_mode():
        model(x)
    outputs_and_gradients(model, x)


def test_copies_keep_their_own():
    model, x = network()
    with torch.no_grad():
        before = model(x)
        copied = copy.deepcopy(model)
        in_place(model, layers(model)[0])
        assert torch.equal(copied(x), before)
        assert not torch.equal(model(x), before)


def test_functional_call_uses_the_weights_given():
    model, x = network()
    given = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        model(x)
        found = torch.func.functional_call(model, given, x)
        model.load_state_dict({**model.state_dict(), **given})
        assert torch.equal(found, model(x))


def test_brevitas_switches_still_work():
    model, x = network()
    with torch.no_grad():
        quantized = model(x)
        for module in model.modules():
            if hasattr(module, "disable_quant"):
                module.disable_quant = True
        unquantized = model(x)
        for module in model.modules():
            if hasattr(module, "disable_quant"):
                module.disable_quant = False
        assert torch.equal(model(x), quantized)
    assert not torch.equal(unquantized, quantized)


def test_training_mode_is_passed_on():
    model, _ = network(weights="sq(bwn)", activations="pact:3")
    for mode in (True, False, True):
        model.train(mode)
        assert all(module.training == mode for module in model.modules())
