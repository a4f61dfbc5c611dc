"""A network's form: its weights quantized once, to the bit or with BatchNorm folded, and never out of date."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import qadv
from qadv.backbones import create_backbone
from qadv.estimators.attacked import AttackedNetwork
from qadv.estimators.upkeep import run_after_steps
from qadv.quantization.form import FormOptions
from qadv.quantization.kept_values import KeptValues
from qadv.quantization.pwlq import PiecewiseWeights
from qadv.quantization.stand_ins import NoFormError
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


PLAIN = FormOptions()
FOLDED = FormOptions(fold_batch_norm=True, channels_last=True)


def with_statistics(model):
    """BatchNorms as training leaves them: else activations lie at exactly 0, where their gradient has a step."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_(1, 0.1)
                module.bias.normal_(std=0.5)
    return model


@pytest.mark.parametrize(
    ("name", "weights", "activations"),
    [("mnist-cnn", w, "relu6:4") for w in WEIGHTS]
    + [("mnist-cnn", "int:4", a) for a in ACTIVATIONS]
    + [(name, "int:4", "relu6:4") for name in NETWORKS if name != "mnist-cnn"],
)
def test_outputs_and_gradients_are_those_of_the_network_to_the_bit_or_when_folded_to_rounding(
    name, weights, activations, monkeypatch
):
    model, x = network(name, weights, activations)
    with_statistics(model)
    kept = []
    keep = KeptValues._keep
    monkeypatch.setattr(KeptValues, "_keep", lambda self: kept.append(len(self._sources)) or keep(self))
    expected = outputs_and_gradients(model, x)
    assert kept == []
    held = AttackedNetwork(model)
    found = outputs_and_gradients(held, x)
    assert kept[0] >= len(layers(model))
    assert len(found) == len(expected) == 2 + len(list(model.parameters()))
    assert all(map(torch.equal, found, expected))
    # in its hundred layers some activation lies on a threshold; before its max pooling some of four values are the same
    if name not in ("tf_efficientnet_b0", "lowbit-convnet"):
        for a, b in zip(outputs_and_gradients(AttackedNetwork(model, FOLDED), x), expected, strict=True):
            assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert all(map(torch.equal, outputs_and_gradients(held, x), expected[:2]))
    with torch.no_grad():
        assert torch.equal(held(x), expected[0])


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


def scale_of_a_norm(model, layer):
    norm(model).weight.data *= 2


def shift_of_a_norm_through_numpy(model, layer):
    norm(model).bias.detach().numpy()[0] += 1


def mean_of_a_norm(model, layer):
    norm(model).running_mean += 1


def variance_of_a_norm_through_data(model, layer):
    norm(model).running_var.data.mul_(3)


def new_variance_of_a_norm(model, layer):
    norm(model).running_var = torch.full_like(norm(model).running_var, 3.0)


def epsilon_of_a_norm(model, layer):
    norm(model).eps = 1.0


def new_norm(model, layer):
    model[1] = nn.BatchNorm2d(len(model[1].weight), eps=1.0).eval()


def a_norm_in_training_mode(model, layer):
    norm(model).train()


def new_layer(model, layer):
    model[0] = nn.Conv2d(1, model[0].out_channels, 3, padding=1)


def own_forward(model, layer):
    before = layer.forward
    layer.forward = lambda x: 2 * before(x)


def a_pass_in_training_mode(model, layer):
    model.train()
    model(torch.rand(4, 1, 28, 28))
    model.eval()


def unquantized(model, layer):
    layer.weight_quant.disable_quant = True


def norm(model):
    return next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


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
    new_layer,
    own_forward,
    unquantized,
]
OF_NORMS = [
    scale_of_a_norm,
    shift_of_a_norm_through_numpy,
    mean_of_a_norm,
    variance_of_a_norm_through_data,
    new_variance_of_a_norm,
    epsilon_of_a_norm,
    new_norm,
    a_norm_in_training_mode,
    a_pass_in_training_mode,
]


class WithFactor(IntWeights):
    factor = 1.0

    def encode(self, weight):
        codes, scale = super().encode(weight)
        return codes, scale * self.factor


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
@pytest.mark.parametrize("change", CHANGES + OF_NORMS)
def test_no_change_leaves_a_weight_out_of_date(change, options):
    model, x = network()
    with_statistics(model)
    layer = layers(model)[1]
    layer.weight_quant.tensor_quant = WithFactor(4, "int:4")
    held = AttackedNetwork(model, options)
    with torch.no_grad():
        before = held(x)
        change(model, layer)
        expected = AttackedNetwork(model, options)(x)
        after = held(x)
        own = model(x)
    assert torch.equal(after, expected)
    assert (after - own).abs().max() <= 1e-4 * own.abs().max()
    assert (after - before).abs().max() > 1e-3 * before.abs().max(), "the change is one that shows"


@pytest.mark.parametrize("scheme", ["pwlq:3", "sq(pwlq:3)"])
def test_what_a_quantizer_found_once_is_followed(scheme):
    model, x = network(weights=scheme)
    layer = layers(model)[1]
    quantizer = next(m for m in layer.modules() if isinstance(m, PiecewiseWeights))
    held, outputs = AttackedNetwork(model), []
    with torch.no_grad():
        outputs.append(held(x))
        quantizer.scale *= 1.5
        outputs.append(held(x))
        quantizer.scale.data.mul_(1.5)
        outputs.append(held(x))
        quantizer.scale = quantizer.scale * 1.5
        outputs.append(held(x))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(outputs))


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_nothing_is_quantized_again_while_nothing_changes(options, monkeypatch):
    model, x = network()
    held = AttackedNetwork(model, options)
    held.eval()(x)
    calls = []
    encode = IntWeights.encode
    monkeypatch.setattr(IntWeights, "encode", lambda self, weight: calls.append(1) or encode(self, weight))
    for _ in range(3):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(held.eval()(leaf).sum(), leaf)
    assert calls == []
    held.train()
    held(x)
    assert len(calls) == len(layers(model)), "in training mode at each pass"


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_a_change_between_the_passes_forward_and_backward_is_an_error_for_parameters(options):
    model, x = network()
    y = AttackedNetwork(model, options)(x).sum()
    with torch.no_grad():
        layers(model)[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_a_gradient_penalty_reaches_the_parameters(options):
    model, x = network()
    with_statistics(model)
    found = []
    for each in (model, AttackedNetwork(model, options)):
        model.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(each(leaf).square().sum(), leaf, create_graph=True)
        gradient.square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(grad is not None for grad in found[0])
    for expected, grad in zip(*found, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_weight_that_two_layers_have_in_common_gets_both_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
    model = qadv.quantize(model, "int:4").eval()
    model[3].weight = model[1].weight
    x = torch.rand(4, 6)
    for a, b in zip(outputs_and_gradients(AttackedNetwork(model), x), outputs_and_gradients(model, x), strict=True):
        torch.testing.assert_close(a, b)


def test_kept_in_inference_mode_and_used_in_a_graph():
    held, x = AttackedNetwork(network()[0], FOLDED), network()[1]
    with torch.inference_mode():
        held(x)
    outputs_and_gradients(held, x)


def test_copies_keep_their_own():
    model, x = network()
    held = AttackedNetwork(model, FOLDED)
    with torch.no_grad():
        before = held(x)
        copied = copy.deepcopy(held)
        in_place(model, layers(model)[0])
        assert copied.form_options == FOLDED
        assert torch.equal(copied(x), before)
        assert not torch.equal(held(x), before)


def test_functional_call_uses_the_weights_given():
    model, x = network()
    held = AttackedNetwork(model, FOLDED)
    given = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        before = held(x)
        found = torch.func.functional_call(model, given, x)
        assert torch.equal(torch.func.functional_call(held, given, x), found)
        assert torch.equal(held(x), before)
    leaves = {name: value.requires_grad_() for name, value in given.items()}
    own, gradients = (
        torch.autograd.grad(torch.func.functional_call(each, leaves, x).sum(), list(leaves.values()))
        for each in (model, held)
    )
    assert all(map(torch.equal, own, gradients))
    with torch.no_grad():
        model.load_state_dict({**model.state_dict(), **given})
        torch.testing.assert_close(held(x), found)


def test_hooks_inside_run_and_see_the_network_itself():
    model, x = network()
    held, seen = AttackedNetwork(model, FOLDED), []
    with torch.no_grad():
        held(x)
        for module in (layers(model)[0], norm(model)):
            handle = module.register_forward_hook(lambda module, inputs, output: seen.append(module))
            assert torch.equal(held(x), model(x))
            handle.remove()
        assert seen == [layers(model)[0]] * 2 + [norm(model)] * 2
        held(x)
    assert len(seen) == 4


class SeveralWays(nn.Module):
    """Goes past its BatchNorm, or changes what comes to it, if a switch says so."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.end = nn.ReLU(), nn.Linear(4, 2)
        self.way = "ordinary"
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        features = self.convolution(x)
        normalised = {
            "ordinary": lambda: self.norm(features),
            "past": lambda: features,
            "changed": lambda: self.norm(features + 1),
            "twice": lambda: self.norm(self.convolution(x)),
            "besides": lambda: self.norm(features) + features,
            "without graph": lambda: self.norm(features) * features.detach().mean((2, 3), keepdim=True),
            "in place": lambda: self.norm(features.mul_(2)),
            "kept": lambda: self.norm(self.keep(features)),
        }[self.way]()
        return self.end(self.relu(normalised).mean((2, 3)))

    def keep(self, features):
        self.features = [features]
        return features


def test_another_way_through_the_network_is_followed_and_its_attributes_are_its_own():
    model = with_statistics(qadv.quantize(SeveralWays(), "int:4", "float", skip_first_last=False)).eval()
    held, x = AttackedNetwork(model, FOLDED), torch.rand(2, 3, 6, 6)
    held(x)
    calls = model.calls
    torch.testing.assert_close(held(x), model(x))
    assert model.calls == calls + 2
    for model.way in ("past", "changed", "twice", "besides", "without graph", "in place"):
        assert torch.equal(held(x), model(x))
    model.way = "kept"  # from now on
    held(x)
    with pytest.raises(NoFormError, match="fold=False"):
        model.features[0].mean()
    assert copy.deepcopy(model).features[0] is pickle.loads(pickle.dumps(model.features[0])) is model.features[0]


def test_an_output_that_the_network_keeps_is_not_folded_away():
    model = SeveralWays()
    model.way = "kept"
    model = with_statistics(qadv.quantize(model, "int:4", "float", skip_first_last=False)).eval()
    held, x = AttackedNetwork(model, FOLDED), torch.rand(2, 3, 6, 6)
    logits, (features,) = held(x), model.features
    torch.testing.assert_close(logits, model(x))
    torch.testing.assert_close(features, model.features[0])


def test_torch_compile_takes_what_a_classifier_holds():
    model = with_statistics(qadv.quantize(SeveralWays(), "int:4", "relu6:4", skip_first_last=False)).eval()
    held, x = AttackedNetwork(model, FOLDED), torch.rand(2, 3, 6, 6)
    expected = held(x)
    torch.testing.assert_close(torch.compile(held, backend="eager")(x), expected)
    torch.compiler.reset()


class ChangedMeanwhile:
    """A layer's weight, which another thread changes, or swaps out, before it is read for the first time."""

    def __init__(self, in_place):
        self.modules, self.in_place, self.reads = [nn.Linear(3, 3)], in_place, 0

    def values(self):
        (layer,), self.reads = self.modules, self.reads + 1
        if self.reads == 1 and self.in_place:
            layer.weight.data.zero_()
        elif self.reads == 1:
            layer.weight = nn.Parameter(torch.zeros(3, 3))
        return (layer.weight * 2,)


@pytest.mark.parametrize("in_place", [False, True])
def test_values_of_a_moment_that_is_gone_are_not_kept(in_place):
    source = ChangedMeanwhile(in_place)
    before, (layer,) = source.modules[0].weight.detach().clone(), source.modules
    kept = KeptValues([source], channels_last=False)
    kept()
    with torch.no_grad():
        if in_place:
            layer.weight.copy_(before)
        else:
            layer.weight = nn.Parameter(before)
    for _ in range(2):
        ((found,),) = kept()
        assert torch.equal(found, before * 2)
    assert source.reads == 2


class InSlices(nn.Module):
    """Runs slices of its layers, has attributes of any name, and registers classes that derive from it."""

    derived = []

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
        self.parts = self.layer = 2

    def __init_subclass__(cls):
        InSlices.derived.append(cls)

    def forward(self, x):
        return self.parts * self.layer * self.layers[3:](self.layers[:3](x))


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_modules_that_stand_in_are_taken_for_the_networks_own(options):
    model = with_statistics(qadv.quantize(InSlices(), "int:4", "relu6:4", skip_first_last=False)).eval()
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(AttackedNetwork(model, options)(x), model(x))
    assert not InSlices.derived


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_an_interrupted_pass_leaves_nothing_out_of_date(options, monkeypatch):
    model, x = network()
    held = AttackedNetwork(with_statistics(model), options)
    held(x)
    layers(model)[1].weight.data.mul_(-1)
    with monkeypatch.context() as patch:
        patch.setattr(IntWeights, "encode", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            held(x)
    torch.testing.assert_close(held(x), model(x))


def test_statistics_that_are_taken_away_are_those_of_the_batch():
    model, x = network()
    held = AttackedNetwork(with_statistics(model), FOLDED)
    held(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
    for _ in range(2):
        assert torch.equal(held(x), model(x))


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_a_hook_on_a_quantizer_and_a_buffer_that_is_not_saved_are_seen(options):
    model, x = network()
    held = AttackedNetwork(with_statistics(model), options)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_buffer("running_mean", norm.running_mean, persistent=False)
    held(x)
    norm.running_mean.add_(1)
    torch.testing.assert_close(held(x), model(x))
    layers(model)[0].weight_quantizer.register_forward_hook(lambda module, given, out: (out[0] / 2, *out[1:]))
    assert torch.equal(held(x), model(x))


def test_a_form_leaves_nothing_in_the_network():
    model, x = network("resnet20")
    before = {name: (dict(vars(m)), dict(m._modules)) for name, m in model.named_modules()}
    outputs_and_gradients(AttackedNetwork(model, FOLDED), x)
    after = {name: (dict(vars(m)), dict(m._modules)) for name, m in model.named_modules()}
    assert all(before[name][1] == after[name][1] for name in before)
    assert all(before[name][0].keys() == after[name][0].keys() for name in before)
    assert before.keys() == after.keys()


@pytest.mark.parametrize("options", [PLAIN, FOLDED], ids=["plain", "folded"])
def test_brevitas_switches_still_work(options):
    model, x = network()
    held = AttackedNetwork(model, options)
    with torch.no_grad():
        quantized = held(x)
        for module in model.modules():
            if hasattr(module, "disable_quant"):
                module.disable_quant = True
        unquantized = held(x)
        torch.testing.assert_close(unquantized, model(x))
        for module in model.modules():
            if hasattr(module, "disable_quant"):
                module.disable_quant = False
        assert torch.equal(held(x), quantized)
    assert not torch.equal(unquantized, quantized)


def test_training_mode_is_passed_on():
    model, _ = network(weights="sq(bwn)", activations="pact:3")
    for mode in (True, False, True):
        model.train(mode)
        assert all(module.training == mode for module in model.modules())
