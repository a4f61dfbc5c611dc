"""Networks of torch.ao: trained with FakeQuantize, converted to int8, dynamic."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import FastGradientMethod
from torch import nn

import qadv
from qadv.diagnostics.value_shift import value_shift
from qadv.errors import NoGradientError, UnsupportedModelError
from qadv.estimators.batches import answers_alone
from qadv.estimators.fingerprint import fingerprint
from qadv.frontends import QuantizedActivation, QuantizedWeights, quantizers, straight_through_mode
from qadv.frontends.fake_quantize import fake_quantize
from qadv.frontends.find import form_of
from qadv.frontends.other_backward import clipped, identity, other_backward, soft_tanh
from qadv.quantization.form import FormOptions
from qadv.quantization.stand_ins import NoFormError
from tests.frontends.deep import CLASSES, Deep, Transformer, X, Y, answers, classifier_of, images, settled, state

taq = pytest.importorskip("torch.ao.quantization")
fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
BLOCKS = range(10)


def qconfig(bits, fake=None):
    fake = fake or taq.FusedMovingAvgObsFakeQuantize
    channels = {"qscheme": torch.per_channel_symmetric, "observer": taq.MovingAveragePerChannelMinMaxObserver}
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return taq.QConfig(
        activation=fake.with_args(quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8),
        weight=fake.with_args(quant_min=low, quant_max=high, dtype=torch.qint8, **channels),
    )


def eager(bits=8, fake=None, trained=True):
    torch.manual_seed(0)
    model = Deep(torch.ao.nn.quantized.FloatFunctional, taq.QuantStub, taq.DeQuantStub).train(trained)
    pairs = [[f"blocks.{i}.conv", f"blocks.{i}.bn", f"blocks.{i}.relu"] for i in BLOCKS]
    pairs += [[f"blocks.{i}.depthwise", f"blocks.{i}.bn2"] for i in BLOCKS]
    model = (taq.fuse_modules_qat if trained else taq.fuse_modules)(model, pairs)
    model.qconfig = qconfig(bits, fake) if trained else taq.get_default_qconfig("x86")
    return settled((taq.prepare_qat if trained else taq.prepare)(model, inplace=True)).eval()


def graph(bits=8, fake=None):
    torch.manual_seed(0)
    mapping = taq.QConfigMapping().set_global(qconfig(bits, fake))
    return settled(fx.prepare_qat_fx(Deep().train(), mapping, (images(),))).eval()


@pytest.fixture(scope="module")
def trained():
    found = {"eager": eager(), "fx": graph(4), "plain": graph(4, taq.FakeQuantize)}
    return {name: model.apply(taq.disable_observer) for name, model in found.items()}


@pytest.fixture(scope="module")
def integer(trained):
    torch.manual_seed(0)
    return {
        "eager": taq.convert(copy.deepcopy(trained["eager"])),
        "calibrated": taq.convert(eager(trained=False)),
        "fx": fx.convert_fx(copy.deepcopy(trained["fx"])),
        "dynamic": taq.quantize_dynamic(Transformer().eval(), {nn.Linear}, dtype=torch.qint8),
    }


@pytest.mark.parametrize("name", ["eager", "fx", "plain"])
def test_training_networks_have_their_own_values_and_gradients_to_the_bit(trained, name):
    model = trained[name]
    before = state(model)
    logits, gradient = answers(model)
    classifier = classifier_of(model, fold=False)
    assert np.array_equal(classifier.predict(X), logits)
    found, inside = answers(form_of(model, FormOptions()))
    assert np.array_equal(found, logits)
    assert np.array_equal(inside, gradient)
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())


@pytest.mark.parametrize("name", ["eager", "fx"])
def test_a_folded_form_is_the_same_function(trained, name):
    logits, gradient = answers(trained[name])
    found, inside = answers(form_of(trained[name], FormOptions(fold_batch_norm=True)))
    assert np.abs(found - logits).max() < 0.1 * logits.std()
    assert (found.argmax(1) == logits.argmax(1)).all()
    assert np.corrcoef(inside.ravel(), gradient.ravel())[0, 1] > 0.5


def test_parameters_keep_their_gradients(trained):
    model = copy.deepcopy(trained["fx"])

    def gradients(network):
        loss = network(images()).square().sum()
        wanted = [p for p in model.parameters() if p.requires_grad]
        return torch.autograd.grad(loss, wanted, allow_unused=True)

    pairs = zip(gradients(model), gradients(form_of(model, FormOptions())), strict=True)
    assert all(b is None if a is None else torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs)


@torch.no_grad()
def _other_weights(model):
    model.get_submodule("last").weight.mul_(2)


@torch.no_grad()
def _other_scale(model):
    next(m for m in model.modules() if isinstance(m, taq.FakeQuantize)).scale.mul_(3)


def _fewer_weight_levels(model):
    model.get_submodule("last").weight_fake_quant.activation_post_process.quant_max = 1


def _switched_off(model):
    model.apply(taq.disable_fake_quant)


CHANGES = [_other_weights, _other_scale, _fewer_weight_levels, _switched_off]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.lstrip("_"))
def test_changes_of_a_training_network_are_followed(trained, change):
    model = copy.deepcopy(trained["plain"])  # torch's fused kernel takes back what is written into a scale
    form = form_of(model, FormOptions())
    with torch.no_grad():
        before = form(images())
        change(model)
        assert torch.equal(form(images()), model(images()))
        assert not torch.equal(form(images()), before)


def test_observers_that_are_on_are_refused_with_the_line_to_write():
    with pytest.raises(UnsupportedModelError, match=r"model\.apply\(torch\.ao\.quantization\.disable_observer\)"):
        classifier_of(eager())
    with pytest.raises(UnsupportedModelError, match=r"torch\.ao\.quantization\.convert\(model\)"):
        classifier_of(eager(trained=False))


def test_scales_that_are_learned_are_read_where_their_observers_are_off():
    learned = pytest.importorskip("torch.ao.quantization._learnable_fake_quantize")._LearnableFakeQuantize
    per_tensor = {"observer": taq.MovingAverageMinMaxObserver, "use_grad_scaling": True}
    inputs = learned.with_args(**per_tensor, quant_min=0, quant_max=255)
    weights = learned.with_args(**per_tensor, quant_min=-8, quant_max=7, dtype=torch.qint8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    model.qconfig = taq.QConfig(activation=inputs, weight=weights)
    model = taq.prepare_qat(model)
    model(images())
    with pytest.raises(UnsupportedModelError, match=r"disable_observer"):
        classifier_of(model)
    model.apply(taq.disable_observer)
    layer = model[1]
    with torch.no_grad():
        layer.weight_fake_quant.zero_point += 0.7  # where learning leaves it
        layer.weight_fake_quant.qscheme = torch.per_tensor_affine
    logits, gradient = answers(model)
    classifier = classifier_of(model)
    for _ in range(2):
        found, inside = answers(classifier.model)
        assert np.array_equal(found, logits)
        assert np.array_equal(inside, gradient)
    found = next(each for each in quantizers(model) if isinstance(each, QuantizedWeights))
    assert found.bits == 4
    assert torch.allclose(found.value, layer.weight_fake_quant(layer.weight).detach())


def test_a_network_that_is_quantized_in_place_is_read_anew():
    torch.manual_seed(0)
    model = Transformer().eval()
    alone, member = classifier_of(model), classifier_of(model)
    ensemble = qadv.EnsembleClassifier.of([member, classifier_of(Transformer().eval())])
    before = [asked.loss_gradient(X, Y) for asked in (alone, ensemble)]
    alone.predict(X, batch_size=1)
    taq.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
    expected = classifier_of(copy.deepcopy(model))
    for asked, gradient in zip((alone, ensemble), before, strict=True):
        found = asked.loss_gradient(X, Y)
        assert found.any()
        assert not np.array_equal(found, gradient)
    assert np.array_equal(alone.predict(X), expected.predict(X))
    assert np.array_equal(alone.loss_gradient(X, Y), expected.loss_gradient(X, Y))
    one_by_one = np.concatenate([expected.predict(x[None]) for x in X])
    assert np.array_equal(alone.predict(X, batch_size=1), one_by_one)  # which was the same when it was float
    with pytest.raises(UnsupportedModelError, match=r"a straight-through twin's.*to accelerate"):
        qadv.accelerate(alone, X)


def test_observers_that_come_in_place_are_refused_until_they_are_off():
    torch.manual_seed(0)
    model = Deep()
    classifier = classifier_of(model)
    model.train().qconfig = qconfig(8)
    settled(taq.prepare_qat(model, inplace=True))
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=r"model\.apply\(torch\.ao\.quantization\.disable_observer\)"):
            classifier.predict(X)
    model.apply(taq.disable_observer).eval()
    logits, gradient = answers(model)
    assert np.array_equal(classifier.predict(X), logits)
    assert np.array_equal(answers(classifier.model)[1], gradient)


def test_an_observer_switched_on_later_sees_what_the_network_sees(trained):
    model = copy.deepcopy(trained["eager"])
    form = form_of(model, FormOptions())
    form(images())
    fake = model.get_submodule("first.activation_post_process")
    fake.enable_observer()
    with pytest.raises(NoFormError):
        form(images())
    fake.disable_observer()
    classifier, before = classifier_of(model), state(model)
    fake.enable_observer()
    with pytest.raises(UnsupportedModelError, match="observers of 1 quantizers are on"):
        classifier.predict(X / 2)
    fake.disable_observer()
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())


@pytest.mark.parametrize("change", [lambda bn: bn.train(), lambda bn: setattr(bn, "forward", lambda x: 3 * x)])
def test_a_batch_norm_that_is_another_function_now_is_not_folded(trained, change):
    model = copy.deepcopy(trained["eager"])
    classifier = classifier_of(model)
    assert classifier.model.form_options.fold_batch_norm
    change(model.blocks[0].conv.bn)
    with torch.no_grad():
        expected = copy.deepcopy(model)(images())
        assert torch.equal(classifier.model(images()), expected)


def test_what_a_training_network_quantizes(trained):
    model = trained["fx"]
    found = quantizers(model)
    weights = [each for each in found if isinstance(each, QuantizedWeights)]
    assert len(weights) == 22
    assert {each.bits for each in found} == {4}
    for each in weights:
        assert (each.codes.float() * each.scale - each.value).abs().max() < 1e-6
        assert each.codes.min() >= -8
        assert each.codes.max() <= 7
        assert each.parameter is model.get_submodule(each.layer).weight
    activations = [each for each in found if isinstance(each, QuantizedActivation)]
    assert all(len(each.levels) == 16 for each in activations)
    compression = qadv.summarize(classifier_of(model)).compression
    assert 3 < compression < 8  # scales of filters with few weights count


def test_what_an_integer_network_quantizes(integer):
    summary = qadv.summarize(classifier_of(integer["eager"]))
    rows = {row.name: row for row in summary.layers}
    layer = integer["eager"].blocks[0].conv
    assert (rows["blocks.0.conv"].bits, rows["blocks.0.conv"].parameters) == (8, 4 * 4 * 9 + 4)
    assert rows["blocks.0.conv"].packed_bytes == 4 * 4 * 9 + 4 * (4 + 4)  # codes, scales, bias
    assert (rows["enter"].scheme, rows["blocks.0.sum"].bits) == ("int:8", 8)
    found = {each.layer: each for each in quantizers(integer["eager"]) if each.role == "weights"}
    assert torch.equal(found["blocks.0.conv"].codes, layer.weight().int_repr())
    attention, *linear = qadv.summarize(integer["dynamic"]).layers
    assert (attention.name, attention.scheme) == ("(root)", "float")
    assert {row.input_scheme for row in linear} == {"int:8 dynamic"}


@pytest.mark.parametrize("name", ["eager", "calibrated", "fx", "dynamic"])
def test_integer_networks_have_the_kernels_values_and_a_twins_gradients(integer, name):
    model = integer[name]
    before = state(model)
    with torch.no_grad():
        logits = model(images()).numpy()
    classifier = classifier_of(model)
    assert np.array_equal(classifier.predict(X), logits)
    gradient = classifier.loss_gradient(X, Y)
    form = classifier.model._form
    assert (form.agreement, form.difference) == (1.0, 0.0)
    assert np.array_equal(answers(classifier.model)[0], logits)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    for key, value in state(model).items():
        assert torch.equal(value.dequantize(), before[key].dequantize()), key


def test_a_twins_gradient_is_that_of_the_same_network_in_training(trained, integer):
    classifier = classifier_of(integer["eager"])
    expected = classifier_of(trained["eager"], fold=False).loss_gradient(X, Y).ravel()
    found = classifier.loss_gradient(X, Y).ravel()
    assert found @ expected > 0.7 * np.linalg.norm(found) * np.linalg.norm(expected)


def test_a_saved_network_loads_into_one_that_has_seen_no_image(tmp_path):
    def prepared():
        torch.manual_seed(0)
        model = nn.Sequential(taq.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).train()
        model(torch.zeros(1, 3, 8, 8))
        model.qconfig = taq.get_default_qat_qconfig("x86")
        return taq.prepare_qat(model, inplace=True)

    network = settled(prepared()).eval().apply(taq.disable_observer)
    x = torch.rand(4, 3, 8, 8).numpy()
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (3, 8, 8), 5)
    classifier.save(tmp_path / "net.safetensors")
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=prepared().apply(taq.disable_observer))
    np.testing.assert_array_equal(loaded.predict(x), classifier.predict(x))


def test_the_float_part_of_an_integer_network_keeps_its_gradients():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()
    mixed = nn.Sequential(*taq.quantize_dynamic(network[:3], {nn.Linear}, dtype=torch.qint8), network[3])
    classifier = classifier_of(mixed)
    for x in (images(), images().requires_grad_()):
        (own,) = torch.autograd.grad(mixed(x).sum(), mixed[3].weight)
        (found,) = torch.autograd.grad(classifier.model(x).sum(), mixed[3].weight)
        assert torch.equal(found, own)


def test_a_twin_follows_a_network_that_is_loaded(integer):
    model = copy.deepcopy(integer["dynamic"])
    classifier = classifier_of(model)
    before = classifier.loss_gradient(X, Y)
    torch.manual_seed(5)
    other = taq.quantize_dynamic(Transformer().eval(), {nn.Linear}, dtype=torch.qint8)
    model.load_state_dict(other.state_dict())
    assert np.array_equal(classifier.loss_gradient(X, Y), classifier_of(other).loss_gradient(X, Y))
    assert not np.array_equal(classifier.loss_gradient(X, Y), before)


def test_an_activations_gradient_can_be_another(integer):
    classifier = classifier_of(integer["eager"])
    logits, gradient = answers(classifier.model)
    with other_backward(integer["eager"], identity) as changed:
        same, other = answers(classifier.model)
    assert changed > 20
    assert np.array_equal(same, logits)
    assert not np.array_equal(other, gradient)
    with other_backward(integer["eager"], clipped):
        assert np.abs(answers(classifier.model)[1] - gradient).max() < np.abs(other - gradient).max()


def test_ensembles_of_integer_networks_have_their_members_gradients_and_estimators(integer):
    members = [classifier_of(copy.deepcopy(integer[name])) for name in ("eager", "fx", "dynamic")]
    ensemble = qadv.EnsembleClassifier.of(members)
    gradient = ensemble.class_gradient(X)
    expected = np.mean([member.class_gradient(X) for member in members], axis=0)
    assert np.allclose(gradient, expected, atol=1e-6)
    with other_backward(ensemble.model, identity) as changed:
        other = ensemble.class_gradient(X)
        expected = np.mean([member.class_gradient(X) for member in members], axis=0)
    assert changed > 40
    assert np.allclose(other, expected, atol=1e-6)
    assert not np.allclose(other, gradient, atol=1e-6)


class InPlace(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.enter, self.conv, self.leave = taq.QuantStub(), nn.Conv2d(3, 4, 3, padding=1), taq.DeQuantStub()
        self.last, self.change = nn.Linear(256, 5), change

    def forward(self, x):
        x = self.conv(self.enter(x))
        self.change(x)
        return self.leave(self.last(x.flatten(1)))


def _swapped(x):
    x[:, 0] = x[:, 1]


def _clipped(x):
    nn.functional.relu(x, inplace=True)


@pytest.mark.parametrize("change", [torch.Tensor.relu_, _clipped, _swapped])
def test_what_is_changed_in_place_has_the_gradient_of_the_change(change):
    torch.manual_seed(0)
    model = InPlace(change).eval()
    expected = classifier_of(copy.deepcopy(model)).loss_gradient(X, Y)
    model.qconfig = taq.get_default_qconfig("x86")
    gradient = classifier_of(taq.convert(settled(taq.prepare(model)))).loss_gradient(X, Y)
    assert (gradient * expected).sum() > 0.9 * np.linalg.norm(gradient) * np.linalg.norm(expected)


def test_a_view_that_is_changed_in_place_is_refused():
    torch.manual_seed(0)
    model = InPlace(lambda x: x[:, 0].relu_()).eval()
    model.qconfig = taq.get_default_qconfig("x86")
    with pytest.raises(NoGradientError, match=r"relu_, in place on what another tensor shares, has no twin"):
        classifier_of(taq.convert(settled(taq.prepare(model)))).loss_gradient(X, Y)


def test_a_function_may_name_its_arguments(integer):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.weight = integer["dynamic"], nn.Parameter(torch.eye(CLASSES))

        def forward(self, x):
            return nn.functional.linear(input=self.network(x), weight=self.weight)

    assert np.array_equal(
        classifier_of(Named()).loss_gradient(X, Y), classifier_of(integer["dynamic"]).loss_gradient(X, Y)
    )


def test_a_layers_codes_are_given_as_their_values(integer):
    model = integer["eager"]
    found = classifier_of(model).get_activations(X, "first")
    seen = []
    hook = model.first.register_forward_hook(lambda module, args, output: seen.append(output.dequantize()))
    with torch.no_grad():
        model(images())
    hook.remove()
    assert np.array_equal(found, seen[0].numpy())
    x = images().requires_grad_()
    assert torch.autograd.grad(classifier_of(model).get_activations(x, "first", framework=True).sum(), x)[0].any()


def test_scales_of_each_batch_are_those_of_the_batches_that_were_asked_for(integer):
    model = integer["dynamic"]
    classifier = classifier_of(model)
    with torch.no_grad():
        alone = torch.cat([model(x) for x in images().split(1)]).numpy()
        together = model(images()).numpy()
    assert not np.allclose(alone, together, atol=1e-4)
    assert np.array_equal(classifier.predict(X, batch_size=1), alone)
    assert np.array_equal(classifier.predict(X), together)
    assert [answers_alone(classifier_of(integer[name])) for name in ("eager", "dynamic")] == [True, False]
    with pytest.warns(UserWarning, match="answers an image differently with other images in its batch"):
        qadv.QueryCoalescer(FastGradientMethod(classifier), seed=0, verbose=False).generate(X[:2])


def test_activations_with_scales_of_each_batch_have_no_levels_to_count(integer):
    with pytest.raises(UnsupportedModelError, match="quantized by scales that each batch or filter has of its own"):
        value_shift(classifier_of(integer["dynamic"]), X, X)


def test_activations_with_scales_of_each_batch_can_have_another_gradient(integer):
    classifier = classifier_of(integer["dynamic"])
    logits, gradient = answers(classifier.model)
    for surrogate, same in ((identity, True), (clipped, True), (soft_tanh, False)):
        with other_backward(integer["dynamic"], surrogate) as changed:
            found, other = answers(classifier.model)
        assert changed == 1  # all by one object
        assert np.array_equal(found, logits)
        assert np.array_equal(other, gradient) == same
    black = np.zeros_like(X)
    with other_backward(integer["dynamic"], soft_tanh):
        assert np.isfinite(classifier.loss_gradient(black, Y)).all()


FUNCTIONS = {
    "hardswish": F.hardswish,
    "elu": lambda x: F.elu(x, 0.5),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: F.softmax(x, dim=1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_in_a_graph_have_the_gradient_of_the_float_network(function):
    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 5)

        def forward(self, x):
            return self.last(FUNCTIONS[function](self.conv(x)).flatten(1))

    torch.manual_seed(0)
    network = Calls().eval()
    mapping = taq.get_default_qconfig_mapping("x86")
    prepared = fx.prepare_fx(copy.deepcopy(network), mapping, (images(),))
    converted = fx.convert_fx(settled(prepared).eval())
    found, expected = (classifier_of(each).loss_gradient(X, Y).ravel() for each in (converted, network))
    assert np.dot(found, expected) / np.linalg.norm(found) / np.linalg.norm(expected) > 0.97


@pytest.mark.parametrize("function", ["chunk", "max"])
def test_functions_that_give_several_tensors_keep_the_gradient(function):
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.conv, self.cat = (
                taq.QuantStub(),
                nn.Conv2d(3, 8, 3),
                torch.ao.nn.quantized.FloatFunctional(),
            )
            self.last, self.leave = nn.Linear(8 * 36, 5), taq.DeQuantStub()

        def forward(self, x):
            x = self.conv(self.enter(x))
            x, more = x.chunk(2, 1) if function == "chunk" else (x[:, :7], x.max(1, keepdim=True).values)
            return self.leave(self.last(self.cat.cat([more, x], 1).flatten(1)))

    torch.manual_seed(0)
    network = Shuffled().eval()
    network.qconfig = taq.get_default_qconfig("x86")
    expected = classifier_of(copy.deepcopy(network)).loss_gradient(X, Y).ravel()
    converted = taq.convert(settled(taq.prepare(network)).eval())
    found = classifier_of(converted).loss_gradient(X, Y).ravel()
    assert np.dot(found, expected) / np.linalg.norm(found) / np.linalg.norm(expected) > 0.97


def test_an_operator_that_is_called_in_another_way_is_named(integer, monkeypatch):
    rules = {name: lambda x: x for name in straight_through_mode._RULES if "conv2d" in name}
    monkeypatch.setattr(straight_through_mode, "_RULES", straight_through_mode._RULES | rules)
    with pytest.raises(NoGradientError, match=r"quantized\.conv2d\w*, called in a way .*, has no twin"):
        classifier_of(copy.deepcopy(integer["fx"])).loss_gradient(X, Y)


def test_operators_without_a_twin_are_named():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.norm, self.leave = taq.QuantStub(), nn.InstanceNorm2d(3, affine=True), taq.DeQuantStub()
            self.last = nn.Linear(192, 5)

        def forward(self, x):
            return self.leave(self.last(self.norm(self.enter(x)).flatten(1)))

    model = Normed().eval()
    model.qconfig = taq.get_default_qconfig("x86")
    classifier = classifier_of(taq.convert(settled(taq.prepare(model))))
    assert np.isfinite(classifier.predict(X)).all()
    with pytest.raises(NoGradientError, match=r"quantized\.instance_norm has no twin"):
        classifier.loss_gradient(X, Y)


def test_packed_weights_are_part_of_a_networks_fingerprint(trained, integer):
    names = {name: fingerprint(classifier_of(model)) for name, model in integer.items()}
    assert fingerprint(classifier_of(copy.deepcopy(integer["dynamic"]))) == names["dynamic"]
    torch.manual_seed(5)
    other = taq.quantize_dynamic(Transformer().eval(), {nn.Linear}, dtype=torch.qint8)
    assert fingerprint(classifier_of(other)) != names["dynamic"]


def test_there_is_no_export(integer, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"no export for networks of torch\.ao"):
        qadv.export(classifier_of(integer["eager"]), tmp_path / "a.onnx", to="onnx")


def test_fake_quantize_is_torchs_to_the_bit():
    torch.manual_seed(0)
    for scale, zero_point, low, high in [(0.05, 128, 0, 255), (0.0371, 0, -8, 7), (0.3, 7, 0, 15)]:
        x = (4 * torch.randn(4096)).requires_grad_()
        weight = torch.randn(4096)
        expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, low, high)
        found = fake_quantize(x, scale, zero_point, low, high)
        assert torch.equal(found, expected)
        ours, torchs = (torch.autograd.grad((weight * y).sum(), x)[0] for y in (found, expected))
        assert torch.equal(ours, torchs)
        with torch.no_grad():
            assert torch.equal(fake_quantize(x, scale, zero_point, low, high), expected)
