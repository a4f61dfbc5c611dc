"""Networks that qadv did not make, as classifiers: what they return, keep, save and combine to."""

import copy
import warnings
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.components import Frontend
from qadv.errors import AttackError, FileFormatError, InvalidInputError, PluginError, UnsupportedModelError
from qadv.evaluation import accuracy
from qadv.frontends import find
from qadv.registry import Entry

X = np.random.default_rng(0).random((6, 1, 4, 4)).astype(np.float32)
Y = np.arange(6) % 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def classifier_of(model, **options):
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 3, **options)


class Gives(nn.Module):
    """A network that returns its logits in something."""

    def __init__(self, how):
        super().__init__()
        self.network, self.how = network(), how

    def forward(self, x):
        return self.how(self.network(x), x)


class ModelOutput(OrderedDict):
    """As transformers' outputs are: entries are attributes too."""

    def __getattr__(self, name):
        return self[name]


Quantized = namedtuple("Quantized", ["value", "scale", "zero_point"])
TAKEN = {
    "logits": lambda logits, x: ModelOutput(loss=torch.zeros(()), logits=logits, hidden=x.flatten(1)),
    "value": lambda logits, x: Quantized(logits, torch.ones(()), torch.zeros(())),
    "tuple of one": lambda logits, x: (logits,),
    "list": lambda logits, x: [x, logits, torch.zeros(())],
    "dict": lambda logits, x: {"features": x, "scores": logits},
}


@pytest.mark.parametrize("how", TAKEN.values(), ids=TAKEN)
def test_logits_are_found_in_what_a_network_returns(how):
    model = Gives(how)
    classifier, plain = classifier_of(model), classifier_of(model.network)
    rebuilt = PyTorchClassifier(classifier.model, nn.CrossEntropyLoss(), (1, 4, 4), 3)
    for asked in (classifier, rebuilt):
        assert np.array_equal(asked.predict(X), plain.predict(X))
        assert np.array_equal(asked.loss_gradient(X, np.eye(3)[Y]), plain.loss_gradient(X, Y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained = classifier_of(model, optimizer=optimizer)
    trained.fit(X, Y, nb_epochs=1)
    qadv.DefensiveQuantTrainer(classifier_of(model), verbose=False).fit(X, Y, nb_epochs=1)


@pytest.mark.parametrize("how", [lambda y, x: (y, 2 * y), lambda y, x: {"a": y, "b": y}, lambda y, x: None])
def test_outputs_with_no_or_several_logits_are_refused(how):
    with pytest.raises(InvalidInputError, match=r"tensors that may be the logits.*model\(x\)\[0\]"):
        classifier_of(Gives(how))


class Counts(nn.Module):
    """Changes at each query."""

    def __init__(self):
        super().__init__()
        self.network = network()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return self.network(x)


def test_a_network_that_changes_when_it_is_asked_is_refused():
    with pytest.raises(UnsupportedModelError, match="changes when it is asked in evaluation mode: seen"):
        classifier_of(Counts())


class Brevitas(nn.Module):
    """Layers of Brevitas whose state grows while they are trained."""

    def __init__(self):
        super().__init__()
        self.conv = qnn.QuantConv2d(1, 4, 3, padding=1, weight_bit_width=4)
        self.act = qnn.QuantReLU(bit_width=4)
        self.last = qnn.QuantLinear(64, 3, bias=True, weight_bit_width=4)

    def forward(self, x):
        return self.last(self.act(self.conv(x)).flatten(1))


def trained_brevitas():
    torch.manual_seed(0)
    classifier = classifier_of(Brevitas())
    qadv.DefensiveQuantTrainer(classifier, lr=0.05, verbose=False).fit(X, Y, nb_epochs=3)
    return classifier


def test_state_that_appears_in_training_is_saved_and_loaded(tmp_path):
    classifier = trained_brevitas()
    classifier.save(tmp_path / "net.safetensors")
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=Brevitas())
    assert np.array_equal(loaded.predict(X), classifier.predict(X))
    other = Brevitas()
    other.conv = qnn.QuantConv2d(1, 5, 3, padding=1, weight_bit_width=4)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(FileFormatError, match=r"conv\.weight is \(4, 1, 3, 3\), expected \(5, 1, 3, 3\)"):
        qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=other)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())
    with pytest.raises(FileFormatError, match=r"unknown: .*act_quant"):
        qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=network_with_names())


def mixed(bits=4):
    """A network of two origins, as it was before qadv quantized its part, and after."""
    model = Brevitas()
    model.conv = qnn.QuantConv2d(1, 4, 3, padding=1, weight_bit_width=bits)
    model.act, model.last = nn.ReLU(), nn.Linear(64, 3)
    own = {"weights": {"last": "int:4"}, "activations": "relu6:4", "skip_first_last": False}
    return model, qadv.quantize(copy.deepcopy(model), **own)


def test_a_model_that_is_quantized_otherwise_is_not_loaded_into(tmp_path):
    path = tmp_path / "net.safetensors"
    before, quantized = mixed()
    classifier = classifier_of(quantized)
    classifier.save(path)
    assert np.array_equal(qadv.QuantizedClassifier.load(path, model=before).predict(X), classifier.predict(X))
    with pytest.raises(FileFormatError, match=r"quantized as the saved one: .*PerTensorFloat:4.*found .*Float:2"):
        qadv.QuantizedClassifier.load(path, model=mixed(bits=2)[0])
    with pytest.raises(InvalidInputError, match="conv of the network are quantized by brevitas"):
        qadv.export(classifier, tmp_path / "packed")


def test_a_member_that_was_quantized_in_place_is_not_saved_by_its_name(tmp_path):
    options = {"input_shape": (1, 8, 8), "image_size": 8}
    members = [qadv.QuantizedClassifier.from_backbone("mnist-cnn", "float", "float", **options) for _ in range(2)]
    ensemble = qadv.EnsembleClassifier.of(members)
    name, old = next((n, m) for n, m in members[0].network.named_modules() if isinstance(m, nn.Linear))
    members[0].network.set_submodule(name, qnn.QuantLinear(old.in_features, old.out_features, bias=True))
    with pytest.raises(InvalidInputError, match="member 0 was not made from a backbone's name"):
        ensemble.save(tmp_path / "ensemble")


def network_with_names():
    return nn.ModuleDict({"conv": nn.Conv2d(1, 4, 3, bias=False), "last": nn.Linear(64, 3)})


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*reduce_range")
def test_integer_weights_are_saved_as_codes_and_scales(tmp_path):
    ao = pytest.importorskip("torch.ao.quantization")

    def integer(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(
            ao.QuantStub(), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), ao.DeQuantStub()
        ).eval()
        model.qconfig = ao.get_default_qconfig("x86")  # weights by channel
        prepared = ao.prepare(ao.fuse_modules(model, [["1", "2"]]))
        prepared(torch.rand(32, 1, 4, 4))
        return ao.convert(prepared)

    classifier = classifier_of(integer(0))
    classifier.save(tmp_path / "net.safetensors")
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=integer(1))
    assert not np.array_equal(classifier_of(integer(1)).predict(X), classifier.predict(X))
    assert np.array_equal(loaded.predict(X), classifier.predict(X))


def test_a_surrogate_is_asked_for_when_a_classifier_is_loaded(tmp_path):
    classifier_of(network(), surrogate=network(1)).save(tmp_path / "net.safetensors")
    with pytest.raises(InvalidInputError, match=r"saved with a surrogate.*surrogate=network"):
        qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=network(2))
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=network(2), surrogate=network(1))
    assert np.array_equal(loaded.predict(X), classifier_of(network()).predict(X))
    assert np.allclose(loaded.class_gradient(X), classifier_of(network(1)).class_gradient(X))


def test_a_surrogate_is_compared_once_and_keeps_its_mode():
    surrogate, asked = network().train(), []
    classifier = classifier_of(Gives(lambda y, x: (y * 8).round() / 8), surrogate=surrogate)
    surrogate.register_forward_hook(lambda module, args, output: asked.append(len(output)))
    for _ in range(3):
        classifier.loss_gradient(X[:2], np.zeros(2, dtype=int))
    assert asked == [2] * (8 + 1 + 3)
    assert surrogate.training


def test_an_ensemble_of_mixed_origins():
    own = classifier_of(qadv.quantize(network(), "int:4", "float", skip_first_last=False))
    rounded = classifier_of(Gives(lambda y, x: (y * 8).round() / 8), surrogate=network(), preprocessing=(0.5, 2.0))
    members = [own, trained_brevitas(), rounded]
    ensemble = qadv.EnsembleClassifier.of(members)
    each = np.stack([member.predict(X) for member in members])
    assert np.allclose(ensemble.member_logits(X), each, atol=1e-6)
    assert np.allclose(ensemble.predict(X), each.mean(axis=0), atol=1e-6)
    gradients = np.mean([member.class_gradient(X) for member in members], axis=0)
    assert np.allclose(ensemble.class_gradient(X), gradients, atol=1e-6)
    assert all(np.allclose(a.predict(X), b, atol=1e-6) for a, b in zip(ensemble.members, each, strict=True))
    kinds = [type(module) for module in ensemble.network.modules()]
    assert "member0.1" in {row.name for row in qadv.summarize(ensemble).layers}
    assert [type(module) for module in ensemble.network.modules()] == kinds


def test_a_plugins_front_end_that_is_broken_takes_no_network_down(monkeypatch):
    broken = Entry("qadv-broken", Frontend(name="broken", target="gone:Missing"))
    entries = [broken, *find.default_registry().entries("frontend")]
    monkeypatch.setattr(find, "default_registry", lambda: SimpleNamespace(entries=lambda kind: entries))
    makers = find._frontends.__wrapped__
    with pytest.warns(UserWarning, match=r"of qadv-broken/broken are not known: PluginError: .*No module named 'gone'"):
        names = [frontend.name for frontend in makers()]
    assert {"qadv", "onnx"} <= {*names}
    monkeypatch.setenv("QADV_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="gone:Missing"):
        makers()


def test_statistics_of_the_batch_are_warned_of():
    norm = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), network())
    with pytest.warns(UserWarning, match=r"^0: BatchNorm without running statistics.*depend on the images beside it"):
        one = classifier_of(norm)
    assert not np.allclose(one.predict(X)[:1], one.predict(X[:1]), atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier_of(nn.Sequential(nn.InstanceNorm2d(1), nn.BatchNorm2d(1), network()))


class Calls(nn.Module):
    """A network behind a function of its images."""

    def __init__(self, function):
        super().__init__()
        self.network, self.function = network(), function

    def forward(self, x):
        return self.network(self.function(x))


def test_what_the_images_of_a_batch_share_is_warned_of():
    with pytest.warns(UserWarning, match="something of the whole batch.*depend on the images beside it"):
        one = classifier_of(Calls(lambda x: x - x.mean(0, keepdim=True)))
    assert not np.allclose(one.predict(X)[:1], one.predict(X[:1]), atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier_of(Calls(lambda x: x + torch.randn_like(x)))  # it answers otherwise alone, too
        classifier_of(Calls(lambda x: x.reshape(1, 1, 4, 4)))  # it takes one image at a time


def test_logits_that_are_nan_are_no_first_class():
    half = Calls(lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) > 0.5, torch.nan, x))
    one, bad = classifier_of(half), int((X.mean((1, 2, 3)) > 0.5).sum())
    assert 0 < bad < 6
    plain = PyTorchClassifier(half, nn.CrossEntropyLoss(), (1, 4, 4), 3, clip_values=(0, 1))
    said = f"logits are NaN for {bad} of 6 images"
    for ask in (lambda: one.predict(X), lambda: accuracy(plain, X, Y)):
        with pytest.raises(AttackError, match=said):
            ask()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32])
def test_losses_are_of_float32_logits(dtype):
    class Short(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, x):
            return (12 * self.network(x)).to(dtype)

    one = classifier_of(Short())
    logits = one.predict(X)
    assert logits.dtype == np.float32
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(Y), reduction="none").numpy()
    np.testing.assert_array_equal(one.compute_loss(X, Y, reduction="none"), expected)
    if dtype.is_floating_point:
        leaf = torch.from_numpy(X).requires_grad_()
        F.cross_entropy(12 * one.network.network(leaf), torch.from_numpy(Y), reduction="sum").backward()
        found = one.loss_gradient(X, Y) * (6 if one.loss.reduction == "mean" else 1)
        assert np.abs(found - leaf.grad.numpy()).max() < 0.03 * leaf.grad.abs().max()


def test_compiled_parts_are_parts():
    torch._dynamo.reset()
    whole = torch.compile(Calls(lambda x: x), backend="eager")
    part = nn.Sequential(torch.compile(nn.Conv2d(1, 1, 1), backend="eager"), network())
    for model in (whole, part):
        expected = model(torch.from_numpy(X)).detach().numpy()
        np.testing.assert_array_equal(classifier_of(model).predict(X), expected)


def test_a_script_within_a_network_is_refused_by_name():
    with pytest.raises(InvalidInputError, match=r"^0: TorchScript hides its layers"):
        classifier_of(nn.Sequential(torch.jit.trace(nn.Flatten(), torch.zeros(1, 1, 4, 4)), network()))
