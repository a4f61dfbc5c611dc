"""Networks of torchao: PT2E graphs, weights of `quantize_`, layers in training."""

import copy

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn

import qadv
from qadv.backbones.float_weights import check_finite
from qadv.errors import InvalidInputError, NoGradientError, UnsupportedModelError
from qadv.estimators.fingerprint import fingerprint
from qadv.frontends import QuantizedActivation, QuantizedWeights, quantizers
from qadv.frontends.find import form_of
from qadv.frontends.other_backward import clipped, identity, other_backward, soft_tanh
from qadv.frontends.pt2e import uncounted
from qadv.frontends.straight_through_mode import _GRIDS
from qadv.quantization.form import Form, FormOptions
from qadv.quantization.stand_ins import with_stand_ins
from tests.frontends.deep import CLASSES, Deep, Transformer, X, Y, answers, classifier_of, images, settled, state

if Version(torch.__version__) < Version("2.11"):
    pytest.skip("torchao 0.18 needs torch 2.11", allow_module_level=True)
torchao = pytest.importorskip("torchao", "0.18")
from torchao import quantization as aoq  # noqa: E402
from torchao.float8.inference import Float8MMConfig  # noqa: E402
from torchao.quantization import linear_quant_modules, pt2e, qat  # noqa: E402
from torchao.quantization.pt2e import quantize_pt2e as flow  # noqa: E402
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86  # noqa: E402
from torchao.quantization.qat.fake_quantize_config import Int4WeightFakeQuantizeConfig  # noqa: E402
from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGURATIONS = {
    "weight only": (aoq.Int8WeightOnlyConfig(), 8, False),
    "dynamic": (aoq.Int8DynamicActivationInt8WeightConfig(), 8, True),
    "4 bit": (aoq.IntxWeightOnlyConfig(weight_dtype=torch.int4), 4, False),
    "4 bit in groups, dynamic": (
        aoq.Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=aoq.PerGroup(16)),
        4,
        True,
    ),
}


def transformer(configuration, seed=0):
    torch.manual_seed(seed)
    model = Transformer().eval()
    if configuration is not None:
        aoq.quantize_(model, configuration)
    return model


def in_training():
    inputs = qat.IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    weights = qat.IntxFakeQuantizeConfig(torch.int4, group_size=16)
    return transformer(qat.QATConfig(activation_config=inputs, weight_config=weights, step="prepare"))


def exported(trained):
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    model = Deep(norm=nn.Identity if trained else nn.BatchNorm2d).train(trained)  # preparing those takes a minute
    graph = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},))
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=trained))
    prepare = flow.prepare_qat_pt2e if trained else flow.prepare_pt2e
    return settled(prepare(graph.module(), quantizer))


@pytest.fixture(scope="module")
def graphs():
    trained = exported(trained=True)
    pt2e.move_exported_model_to_eval(trained)
    trained.apply(pt2e.disable_observer)
    return {
        "trained": trained,
        "trained, converted": flow.convert_pt2e(copy.deepcopy(trained)),
        "calibrated": flow.convert_pt2e(exported(trained=False)),
    }


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_quantized_weights_keep_values_and_have_gradients(name):
    configuration, bits, dynamic = CONFIGURATIONS[name]
    model = transformer(configuration)
    with torch.no_grad():
        logits = model(images()).numpy()
    classifier = classifier_of(model)
    assert np.array_equal(classifier.predict(X), logits)
    assert np.array_equal(answers(classifier.model)[0], logits)
    gradient = classifier.loss_gradient(X, Y)
    if not dynamic:
        assert np.array_equal(answers(classifier.model)[1], answers(model)[1])
    torch.manual_seed(0)
    expected = classifier_of(Transformer().eval()).loss_gradient(X, Y)
    assert (gradient * expected).sum() > 0.8 * np.linalg.norm(gradient) * np.linalg.norm(expected)
    summary = qadv.summarize(classifier)
    linear = [row for row in summary.layers if row.name != "(root)"]  # its attention is float
    assert {row.bits for row in linear} == {bits}
    assert {row.input_scheme for row in linear} == {"int:8 dynamic" if dynamic else ""}
    assert 0.6 * 32 / bits < summary.compression < 32 / bits
    weights = [each for each in quantizers(model) if isinstance(each, QuantizedWeights)]
    assert len(weights) == 4
    assert all(2 ** (bits - 1) >= each.codes.int().abs().max() > 2 ** (bits - 2) for each in weights)


def test_weights_of_floats_are_called_so():
    model = transformer(aoq.Float8WeightOnlyConfig())
    rows = qadv.summarize(model).layers[1:]  # after the root, whose attention is float
    assert {(row.scheme, row.bits, row.levels) for row in rows} == {("float:8", 8, None)}


def test_a_twin_follows_weights_that_are_loaded():
    configuration = aoq.Int8DynamicActivationInt8WeightConfig()
    model, other = transformer(configuration), transformer(configuration, seed=5)
    classifier = classifier_of(model)
    before = classifier.loss_gradient(X, Y)
    model.load_state_dict(other.state_dict(), assign=True)
    assert np.array_equal(classifier.loss_gradient(X, Y), classifier_of(other).loss_gradient(X, Y))
    assert not np.array_equal(classifier.loss_gradient(X, Y), before)


def _of_second(change):
    """A network whose layer `second` rounds its inputs, with the gradient of its class 2, and that of a float one.

    That of a logit does not depend on what the layer gives: kernels of some processors saturate.
    """
    torch.manual_seed(0)
    quantized, model = Transformer().eval(), Transformer().eval()
    model.load_state_dict(quantized.state_dict())
    model.second.register_forward_pre_hook(lambda module, given: (change(given[0]),))
    return quantized, classifier_of(model).class_gradient(X, 2)


def _is_second(module, name):
    return name == "second"


def _are_alike(a, b):
    length = np.linalg.norm(a), np.linalg.norm(b)
    return (a * b).sum() > 0.999 * length[0] * length[1] and 0.98 < length[0] / length[1] < 1.02


def test_inputs_with_one_scale_for_all_are_clipped_at_its_ends():
    network, expected = _of_second(lambda x: x.clamp(-0.128, 0.127))
    scale = torch.full((1, 1, 1), 0.001)
    configuration = aoq.Int8StaticActivationInt8WeightConfig(act_quant_scale=scale, granularity=aoq.PerTensor())
    aoq.quantize_(network, configuration, filter_fn=_is_second)
    classifier = classifier_of(network)
    assert _are_alike(classifier.class_gradient(X, 2), expected)
    row = next(row for row in qadv.summarize(classifier).layers if row.name == "second")
    assert (row.scheme, row.input_scheme) == ("int:8", "int:8")


def test_what_scales_inputs_before_they_are_rounded_is_in_the_gradient():
    network, expected = _of_second(lambda x: 3 * x)
    aoq.quantize_(network, aoq.Int8DynamicActivationInt8WeightConfig(), filter_fn=_is_second)
    network.second.weight.act_pre_scale = torch.full((64,), 3.0)
    assert _are_alike(classifier_of(network).class_gradient(X, 2), expected)


def test_weights_of_the_same_class_that_round_inputs_as_well_are_read_anew():
    model, rounding = (transformer(CONFIGURATIONS[name][0]) for name in ("4 bit", "4 bit in groups, dynamic"))
    classifier, expected = classifier_of(model), classifier_of(rounding)
    classifier.loss_gradient(X, Y)
    for name, layer in rounding.named_modules():
        if isinstance(layer, nn.Linear):
            assert type(layer.weight) is type(model.get_submodule(name).weight)
            model.get_submodule(name).weight = layer.weight
    assert np.array_equal(classifier.loss_gradient(X, Y), expected.loss_gradient(X, Y))


class _WithOwnWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(192, 32), nn.Linear(32, 5)
        self.own = nn.Parameter(torch.randn(32, 32))

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.last(x + nn.functional.linear(x, self.own).relu())


def test_weights_by_another_name_that_round_inputs_are_in_the_gradient():
    torch.manual_seed(0)
    network = _WithOwnWeight()
    expected = classifier_of(copy.deepcopy(network)).class_gradient(X, 2)
    configuration = aoq.FqnToConfig({"own": aoq.Int8DynamicActivationInt8WeightConfig()})
    aoq.quantize_(network, configuration, filter_fn=None)
    classifier = classifier_of(network)
    assert _are_alike(classifier.class_gradient(X, 2), expected)
    assert [each.bits for each in quantizers(network)] == [8, 8]


def test_tensors_of_their_own_class_are_compared_and_checked_by_their_parts():
    configuration = aoq.Int8WeightOnlyConfig()
    one, same, other = (classifier_of(transformer(configuration, seed)) for seed in (0, 0, 5))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    check_finite(one.model)
    one.network.head.weight.scale.mul_(float("nan"))
    with pytest.raises(InvalidInputError, match=r"head\.weight::scale"):
        check_finite(one.model)


def test_layers_in_training_have_their_own_values_and_gradients_to_the_bit():
    model = in_training()
    logits, gradient = answers(model)
    form = form_of(model, FormOptions())
    for _ in range(2):
        found, inside = answers(form)
        assert np.array_equal(found, logits)
        assert np.array_equal(inside, gradient)
    weights = [each for each in quantizers(model) if isinstance(each, QuantizedWeights)]
    assert [each.bits for each in weights] == [4] * 4
    assert torch.equal(weights[0].value, model.patches.weight_fake_quantizer(model.patches.weight))
    with torch.no_grad():
        model.patches.weight.mul_(2)
        assert torch.equal(form(images()), model(images()))
    model.patches.weight_fake_quantizer.enabled = False
    with torch.no_grad():
        assert torch.equal(form(images()), model(images()))
    assert "patches" not in [each.layer for each in quantizers(model) if each.role == "weights"]


def test_a_layer_in_training_has_its_weights_computed_once(monkeypatch):
    model, calls = in_training(), []
    kind = type(model.patches.weight_fake_quantizer)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: (calls.append(x.shape), own(self, x))[1])
    form = form_of(model, FormOptions())
    with torch.no_grad():
        form(images())
        calls.clear()
        form(images())
    assert len(calls) == 4  # of the inputs of four layers


@pytest.mark.parametrize("name", ["trained", "trained, converted", "calibrated"])
def test_graphs_have_their_own_values_and_straight_through_gradients(graphs, name):
    model = graphs[name]
    logits = copy.deepcopy(model)(images()).detach().numpy()
    before = state(model)
    classifier = classifier_of(model)
    assert np.array_equal(classifier.predict(X), logits)
    found, gradient = answers(classifier.model)
    assert np.array_equal(found, logits)
    if name == "trained":
        assert isinstance(classifier.model._form, Form)
        assert np.array_equal(gradient, answers(copy.deepcopy(model))[1])
    else:
        assert classifier.model._form.difference == 0
        expected = answers(classifier_of(graphs["trained"]).model)[1] if "trained" in name else gradient
        assert (gradient * expected).sum() > 0.8 * np.linalg.norm(gradient) * np.linalg.norm(expected) > 0
    for key, value in state(model).items():
        assert torch.equal(value, before[key]), key


def test_what_a_graph_quantizes(graphs):
    for model in graphs.values():
        found = quantizers(model)
        weights = {each.layer: each for each in found if isinstance(each, QuantizedWeights)}
        assert {"first", "last", "blocks.1.conv", "blocks.1.depthwise"} <= set(weights)
        assert len(weights) == 22
        assert {each.bits for each in found} == {8}
        assert sum(isinstance(each, QuantizedActivation) for each in found) >= 22
        assert 1.5 < qadv.summarize(classifier_of(model)).compression < 4
        assert all(row.bits == 8 for row in qadv.summarize(model).layers if row.name in weights)


def test_a_layers_input_is_shown_with_it(graphs):
    rows = {row.name: row for row in qadv.summarize(graphs["calibrated"]).layers}
    assert rows["blocks.1.depthwise"].input_scheme == "int:8"


def test_a_graphs_activations_can_have_another_gradient(graphs):
    model = graphs["calibrated"]
    attacked = classifier_of(model).model
    logits, gradient = answers(attacked)
    with other_backward(model, identity) as changed:
        same, other = answers(attacked)
    assert changed > 20
    assert np.array_equal(same, logits)
    assert not np.array_equal(other, gradient)


def test_observers_that_are_on_are_refused_with_the_line_to_write():
    with pytest.raises(UnsupportedModelError, match=r"model\.apply\(torchao\.quantization\.pt2e\.disable_observer\)"):
        classifier_of(exported(trained=True))
    with pytest.raises(UnsupportedModelError, match=r"convert_pt2e\(model\)"):
        classifier_of(exported(trained=False))


def test_a_graph_that_counts_batches_is_left_as_it_is():
    graph = torch.export.export(Deep().train(), (images(),)).module()
    pt2e.move_exported_model_to_eval(graph)
    before = state(graph)
    root, _ = with_stand_ins(graph, uncounted(graph))
    logits = root(images())
    assert all(torch.equal(value, before[key]) for key, value in state(graph).items())
    assert torch.equal(graph(images()), logits)
    assert graph.first is root.first
    assert int(graph.state_dict()["blocks.0.bn.num_batches_tracked"]) == 1  # by the graph itself


def _check_another_gradient(network, classifier, straight=True):
    """Where scales follow what comes, nothing is clipped: only a tanh has another gradient than a straight one."""
    logits, gradient = answers(classifier.model)
    for surrogate, same in ((identity, straight), (clipped, straight), (soft_tanh, False)):
        with other_backward(network, surrogate) as changed:
            found, other = answers(classifier.model)
        assert changed
        assert np.array_equal(found, logits)
        assert np.allclose(other, gradient, rtol=0, atol=1e-6 * np.abs(gradient).max()) == same


def test_inputs_with_scales_of_each_batch_can_have_another_gradient():
    for network, straight in ((transformer(CONFIGURATIONS["dynamic"][0]), True), (in_training(), False)):
        _check_another_gradient(network, classifier_of(network), straight)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x):
        return x + self.linear(x).relu()


def test_a_graph_with_scales_of_each_batch_says_so_and_keeps_none():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), Residual(), nn.Linear(32, 5)).eval()
    expected = classifier_of(copy.deepcopy(model)).loss_gradient(X, Y)
    graph = torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=True))
    prepared = flow.prepare_pt2e(graph, quantizer)
    prepared(images())
    network = flow.convert_pt2e(prepared)
    classifier = classifier_of(network)
    gradient = classifier.loss_gradient(X, Y)
    assert (gradient * expected).sum() > 0.9 * np.linalg.norm(gradient) * np.linalg.norm(expected)
    assert {row.input_scheme for row in qadv.summarize(classifier).layers} == {"int:8 dynamic"}
    assert len(_GRIDS[network]) == 1
    assert classifier.model.form.difference == 0  # the sum reads what is rounded for a layer as it is, too
    _check_another_gradient(network, classifier)


def test_weights_that_a_graph_rounds_itself_are_shown_as_those_that_it_keeps():
    graph = torch.export.export(Transformer().eval(), (images(1),)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = flow.prepare_pt2e(graph, quantizer)
    prepared(images(1))
    kept, rounded = (flow.convert_pt2e(copy.deepcopy(prepared), fold_quantize=fold) for fold in (True, False))
    a, b = ([(each.layer, each.role, each.scheme) for each in quantizers(network)] for network in (kept, rounded))
    assert sorted(a) == sorted(b)
    assert qadv.summarize(rounded).compression == qadv.summarize(kept).compression


def test_a_graph_of_one_image_has_gradients_of_one_image():
    torch.manual_seed(0)
    graph = torch.export.export(Transformer().eval(), (images(1),)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = flow.prepare_pt2e(graph, quantizer)
    prepared(images(1))
    classifier = classifier_of(flow.convert_pt2e(prepared))
    assert classifier.loss_gradient(X[:1], Y[:1]).any()
    assert classifier.model._form.difference == 0


def test_there_is_no_export(tmp_path):
    classifier = classifier_of(transformer(aoq.Int8WeightOnlyConfig()))
    with pytest.raises(UnsupportedModelError, match="no export for networks of torchao"):
        qadv.export(classifier, tmp_path / "a.onnx", to="onnx")


FLOAT8 = qat.Float8FakeQuantizeConfig()
IN_FLOAT8 = {
    "of its configuration": (qat.QATConfig(aoq.Float8DynamicActivationFloat8WeightConfig(), step="prepare"), "float:8"),
    "by rows": (qat.QATConfig(activation_config=FLOAT8, weight_config=FLOAT8, step="prepare"), "float:8"),
    "with weights of 4 bits": (
        qat.QATConfig(activation_config=FLOAT8, weight_config=Int4WeightFakeQuantizeConfig(16), step="prepare"),
        "int:4",
    ),
}


@pytest.mark.parametrize("name", IN_FLOAT8)
def test_layers_in_training_that_round_to_float8_have_straight_through_gradients(name):
    configuration, scheme = IN_FLOAT8[name]
    model, expected = transformer(configuration), _gradients(transformer(None))
    logits = answers(model)[0]
    classifier = classifier_of(model)
    assert np.array_equal(classifier.predict(X), logits)
    assert np.array_equal(answers(classifier.model)[0], logits)
    ends = {"of images": (classifier.loss_gradient(X, Y), classifier_of(transformer(None)).loss_gradient(X, Y))}
    ends |= {name: (found, expected[name]) for name, found in _gradients(classifier.model, model).items()}
    for of, (found, exact) in ends.items():
        assert (found != 0).mean() > 0.99 * (exact != 0).mean(), of
        assert (found * exact).sum() > 0.9 * np.linalg.norm(found) * np.linalg.norm(exact) > 0, of
    rows = [row for row in qadv.summarize(classifier).layers if row.name != "(root)"]
    assert {(row.scheme, row.input_scheme) for row in rows} == {(scheme, "float:8 dynamic")}
    assert np.array_equal(qadv.accelerate(classifier, X).loss_gradient(X, Y), classifier.loss_gradient(X, Y))
    _check_another_gradient(model, classifier)


def _gradients(network, parameters_of=None):
    """Returns the gradients of a network's weights, by name, of the sum of its logits' squares."""
    network(images()).square().sum().backward()
    named = (parameters_of or network).named_parameters()
    return {name: parameter.grad.numpy() for name, parameter in named if name.endswith("weight")}


def test_float8_of_a_bounded_scale_is_clipped_at_its_end():
    network, expected = _of_second(lambda x: x.clamp(-0.05, 0.05))
    bounded = qat.Float8FakeQuantizeConfig(hp_value_ub=0.05)
    aoq.quantize_(network, qat.QATConfig(activation_config=bounded, step="prepare"), filter_fn=_is_second)
    classifier = classifier_of(network)
    assert _are_alike(classifier.class_gradient(X, 2), expected)
    row = next(row for row in qadv.summarize(classifier).layers if row.name == "second")
    assert (row.scheme, row.input_scheme) == ("float", "float:8 dynamic")


def test_float8_in_training_is_straight_through_beside_layers_that_round_their_inputs():
    network, expected = _of_second(lambda x: x)
    aoq.quantize_(network, qat.QATConfig(activation_config=FLOAT8, step="prepare"), filter_fn=_is_second)
    dynamic = aoq.Int8DynamicActivationInt8WeightConfig()
    aoq.quantize_(network, dynamic, filter_fn=lambda module, name: name == "first")
    assert _are_alike(classifier_of(network).class_gradient(X, 2), expected)


class Branch(nn.Module):
    """A part beside a float path, whose gradient would be missing in silence."""

    def __init__(self, width, bias=True):
        super().__init__()
        self.first, self.last = nn.Linear(192, width), nn.Linear(width, CLASSES)
        self.branch = nn.Sequential(nn.Linear(width, width, bias=bias), nn.ReLU(), nn.Linear(width, width, bias=bias))

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.last(0.1 * x + self.branch(x))


def _in_groups(branch):
    return linear_quant_modules.Int8DynActInt4WeightQuantizer(groupsize=32).quantize(branch)


def _after_training(branch):
    quantizer = qat.Int8DynActInt4WeightQATQuantizer(groupsize=32)
    return quantizer.convert(quantizer.prepare(branch))


def _of_weights_only(branch):
    device = torch.device("cpu")
    return linear_quant_modules.Int4WeightOnlyQuantizer(groupsize=32, device=device).quantize(branch)


@pytest.mark.parametrize("quantized", [_in_groups, _after_training, _of_weights_only])
def test_layers_with_codes_in_buffers_have_straight_through_gradients(quantized):
    of_weights_only = quantized is _of_weights_only
    torch.manual_seed(0)
    network = Branch(128, bias=not of_weights_only).eval()
    exact, expected = network.branch[0].weight.detach().clone(), answers(network)[1]
    network.branch = quantized(network.branch)
    with torch.no_grad():
        logits = network(images()).numpy()
    classifier = classifier_of(network)
    assert np.array_equal(classifier.predict(X), logits)
    found, gradient = answers(classifier.model)
    assert np.array_equal(found, logits)
    assert (gradient * expected).sum() > 0.98 * np.linalg.norm(gradient) * np.linalg.norm(expected)
    assert classifier.model.form.difference == 0
    rows = {row.name: row for row in qadv.summarize(classifier).layers}
    input_scheme = "" if of_weights_only else "int:8 dynamic"
    assert (rows["branch.0"].scheme, rows["branch.0"].input_scheme) == ("int:4", input_scheme)
    assert rows["branch.0"].float_bytes == 4 * (128 * 128 + (0 if of_weights_only else 128))
    weights = next(each for each in quantizers(network) if isinstance(each, QuantizedWeights))
    assert (weights.value - exact).abs().max() < 0.6 * weights.scale.max()
    if not of_weights_only:
        assert rows["branch.0"].levels == (16, 16)
        _check_another_gradient(network, classifier)


class Rounding(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).square()


def _graph_of(function):
    """A graph with a part that rounds, beside a float path."""
    module = Branch(32)
    module.branch = Rounding(function)
    return torch.fx.symbolic_trace(module.eval())


def _by_channels(x):
    scales, zeros = torch.full((32,), 0.001), torch.zeros(32, dtype=torch.int64)
    about = (scales, zeros, 1, -128, 127, torch.int8)
    codes = torch.ops.quantized_decomposed.quantize_per_channel.default(x, *about)
    return torch.ops.quantized_decomposed.dequantize_per_channel.default(codes, *about)


def _by_tokens(x):
    scales = x.detach().abs().amax(1, keepdim=True) / 127
    about = (scales, torch.zeros_like(scales, dtype=torch.int64), -128, 127, torch.int8)
    codes = torch.ops.quantized_decomposed.quantize_per_token.default(x, *about)
    return torch.ops.quantized_decomposed.dequantize_per_token.default(codes, *about, torch.float32)


def _to_codes(x):
    scales = x.detach().abs().amax(1) / 127
    about = [1, 32], scales, torch.zeros_like(scales), torch.int8
    return torch.ops.torchao.quantize_affine.default(x, *about), about


def _by_blocks(x):
    codes, about = _to_codes(x)
    return torch.ops.torchao.dequantize_affine.default(codes, *about)


BETWEEN_ENDS = [(_by_channels, lambda x: x.clamp(-0.128, 0.127)), (_by_tokens, torch.clone), (_by_blocks, torch.clone)]


@pytest.mark.parametrize(("rounds", "like"), BETWEEN_ENDS)
def test_graphs_that_round_by_channels_tokens_or_blocks_have_gradients(rounds, like):
    torch.manual_seed(0)
    network = _graph_of(rounds)
    torch.manual_seed(0)
    expected = answers(_graph_of(like))[1]
    assert _are_alike(answers(classifier_of(network).model)[1], expected)


def _to_float8(x):
    return torch.ops.torchao.quantize_affine_float8_non_decomposed.default(x, torch.ones(1)).float()


def _in_codes(x):
    return torch.ops.aten._int_mm.default(_to_codes(x)[0], torch.eye(32, dtype=torch.int8)).float()


NO_COMPANION = [(_to_float8, r"torchao\.quantize_affine_float8_non_decomposed"), (_in_codes, "_int_mm")]


@pytest.mark.parametrize(("rounds", "name"), NO_COMPANION)
def test_operators_that_round_and_have_no_companion_are_named(rounds, name):
    classifier = classifier_of(_graph_of(rounds))
    with pytest.raises(NoGradientError, match=f"^{name} has no twin"):
        classifier.loss_gradient(X, Y)


def test_float8_inputs_with_one_scale_for_all_are_clipped_at_its_ends():
    kinds = pytest.importorskip("torchao.prototype.quantization.float8_static_quant.prototype_float8_tensor")
    network, expected = _of_second(lambda x: x.clamp(-0.0448, 0.0448))
    about = {"granularity": aoq.PerTensor(), "mm_config": Float8MMConfig(use_fast_accum=False)}
    rounded = kinds.PrototypeFloat8Tensor.from_hp(
        network.second.weight.detach(),
        act_quant_scale=torch.full((1, 1, 1), 0.0001),
        act_quant_kwargs=QuantizeTensorToFloat8Kwargs(**about),
        **about,
    )
    network.second.weight = nn.Parameter(rounded, requires_grad=False)
    try:
        network(images())
    except RuntimeError:
        pytest.skip("this processor multiplies no float8")
    classifier = classifier_of(network)
    assert _are_alike(classifier.class_gradient(X, 2), expected)
    row = next(row for row in qadv.summarize(classifier).layers if row.name == "second")
    assert (row.scheme, row.input_scheme) == ("float:8", "float:8")


def test_weights_that_cannot_be_read_are_named():
    workflow = pytest.importorskip("torchao.prototype.quantization.int4.inference_workflow")
    network = Branch(128).eval()
    aoq.quantize_(network.branch, workflow.PrototypeInt4WeightOnlyConfig(group_size=64))
    with pytest.raises(UnsupportedModelError, match=r"branch\.0: torchao can't dequantize .* Int4OpaqueTensor"):
        qadv.summarize(network)


def test_scales_that_are_floats_of_8_bits_are_shown():
    formats = pytest.importorskip("torchao.prototype.mx_formats")
    network = Branch(64).eval()
    aoq.quantize_(network.branch, formats.NVFP4WeightOnlyConfig())
    row = next(row for row in qadv.summarize(network).layers if row.name == "branch.0")
    assert (row.scheme, row.bits) == ("float:4", 4)
    assert row.scale[1] > 0


def test_graphs_of_a_fixed_number_of_images_are_refused_with_the_line_to_write():
    graph = torch.export.export(Branch(16).eval(), (images(4),)).module()
    with pytest.raises(InvalidInputError, match=r'dynamic_shapes=\(\{0: torch\.export\.Dim\("batch"\)\},\)'):
        classifier_of(graph)
    classifier = classifier_of(torch.export.export(Branch(16).eval(), (images(1),)).module())
    for ask in (classifier.predict, lambda x: classifier.loss_gradient(x, Y)):
        with pytest.raises(InvalidInputError, match=r"exported for one number of images"):
            ask(X)
