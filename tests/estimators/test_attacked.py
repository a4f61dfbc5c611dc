"""The module that a classifier holds stands for the user's network, which it leaves alone."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.estimators.attacked import AttackedNetwork
from qadv.network_lock import lock_of


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


class Own(nn.Module):
    """A network with a scale of its own, state of its own, and a method."""

    def __init__(self):
        super().__init__()
        self.body = sequential()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("seen", torch.tensor(0))
        self.note = "mine"

    def forward(self, x):
        return self.scale * self.body(x)

    def features(self, x):
        return self.body[:2](x)


def classifier_of(network):
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)


@pytest.mark.parametrize("make", [sequential, Own])
@pytest.mark.parametrize("quantized", [False, True])
def test_the_network_is_as_it_was(make, quantized):
    network = qadv.quantize(make()) if quantized else make()
    before = {name: set(vars(module)) for name, module in network.named_modules()}
    state = copy.deepcopy(network.state_dict())
    classifier = classifier_of(network)
    x, y = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32), [0, 1, 2, 3]
    classifier.predict(x)
    classifier.loss_gradient(x, y)
    assert classifier.network is network
    for name, module in network.named_modules():
        assert set(vars(module)) == before[name], name
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        assert not any(hooks)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_it_stands_for_the_network():
    network = Own()
    model = classifier_of(network).model
    assert dict(model.named_modules()) == dict(network.named_modules())
    assert [id(p) for p in model.parameters()] == [id(p) for p in network.parameters()]
    assert list(model.children()) == list(network.children())
    assert model.state_dict().keys() == network.state_dict().keys()
    assert (model.note, model.body, model.scale) == ("mine", network.body, network.scale)
    assert repr(model) == repr(network)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model.eval()(x), network(x))
    assert torch.equal(model.features(x), network.features(x))
    model.note, model.extra = "changed", nn.Linear(2, 2)
    assert (network.note, network.extra) == ("changed", model.extra)
    assert "extra.weight" in model.state_dict()
    del model.extra
    assert not hasattr(network, "extra")
    before, calls = model.forward, []
    model.forward = lambda images: calls.append(1) or before(images)
    assert torch.equal(model(x), network(x))
    del model.forward
    assert torch.equal(model(x), network(x))
    assert calls == [1]
    assert not hasattr(model, "nothing")
    assert "features" in dir(model)
    model.load_state_dict({name: torch.zeros_like(value) for name, value in network.state_dict().items()})
    assert not network.scale.any()
    model.double()
    assert network.scale.dtype == torch.float64


def test_it_is_indexed_as_a_sequential_and_only_then():
    network = sequential()
    model = classifier_of(network).model
    assert model[1] is network[1]
    assert model[-1] is network[4]
    assert list(model) == list(network)
    assert len(model) == 5
    assert bool(classifier_of(Own()).model)
    with pytest.raises(TypeError):
        len(classifier_of(Own()).model)
    with pytest.raises(TypeError):
        classifier_of(Own()).model[0]


def test_modes_are_the_networks():
    network = sequential()
    network[2].eval()
    model = AttackedNetwork(network)
    assert model.training
    assert not network[2].training
    model.eval()
    assert not network.training
    network.train()
    assert model.training
    model.training = False
    assert not network.training
    assert network[1].training


def test_a_mode_is_not_changed_while_another_thread_asks():
    held = AttackedNetwork(sequential().eval())
    with lock_of(held.held_network):
        other = threading.Thread(target=held.train)
        other.start()
        other.join(0.2)
        assert not held.training
    other.join()
    assert held.training


def test_wrapping_a_wrapped_network_is_wrapping_it_once():
    first = classifier_of(sequential())
    second = classifier_of(first.model)
    assert second.network is first.network
    assert second.model is first.model
    assert isinstance(first.network, nn.Sequential)


def test_float64_images_become_float32_also_where_art_rebuilds_the_classifier():
    classifier = classifier_of(sequential())
    rebuilt = PyTorchClassifier(classifier.model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    x = np.random.default_rng(0).random((4, 1, 8, 8))
    np.testing.assert_array_equal(rebuilt.predict(x), classifier.predict(x.astype(np.float32)))
    assert rebuilt.layer_names == classifier.layer_names == ["0", "1", "2", "3", "4"]


def test_copies_are_of_their_own():
    classifier = classifier_of(sequential())
    x = torch.rand(3, 1, 8, 8)
    for model in (copy.deepcopy(classifier.model), pickle.loads(pickle.dumps(classifier.model))):
        assert isinstance(model, AttackedNetwork)
        assert torch.equal(model.eval()(x), classifier.model.eval()(x))
        with torch.no_grad():
            model[1].weight.zero_()
        assert classifier.network[1].weight.any()
    twin = copy.deepcopy(classifier)
    assert twin.network is not classifier.network
    assert qadv.quantize(classifier.model)[1].weight.shape == (16, 64)


def test_a_network_with_its_own_way_of_being_copied_is_copied_with_what_holds_it():
    classifier = classifier_of(torch.fx.symbolic_trace(sequential().eval()))
    twin = copy.deepcopy(classifier)
    assert isinstance(twin.model, AttackedNetwork)
    assert twin.network is not classifier.network
    x = np.random.default_rng(0).random((4, 1, 8, 8))  # float64
    np.testing.assert_array_equal(twin.predict(x), classifier.predict(x))


def test_arts_poisoning_by_gradients_runs(digits):
    from art.attacks.poisoning import GradientMatchingAttack, SleeperAgentAttack

    torch.manual_seed(0)
    np.random.seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    classifier = classifier_of(qadv.quantize(network))
    settings = {"max_trials": 1, "max_epochs": 2, "clip_values": (0, 1), "epsilon": 0.1, "verbose": 0}
    matching = GradientMatchingAttack(
        classifier, percent_poison=0.1, learning_rate_schedule=([0.1, 0.05], [1, 2]), **settings
    )
    target = np.array([(digits.y_test[0] + 1) % 10])
    poisoned, _ = matching.poison(digits.x_test[:1], target, digits.x_train[:60], digits.y_train[:60])
    assert 0 < np.abs(poisoned - digits.x_train[:60]).max() <= 0.1 + 1e-6
    agent = SleeperAgentAttack(
        classifier, percent_poison=1.0, patch=np.ones((1, 2, 2), np.float32), indices_target=np.arange(5), max_trials=1,
        max_epochs=1, clip_values=(0, 1), epsilon=0.1, verbose=0, patching_strategy="fixed",
        learning_rate_schedule=([0.1], [1]), class_source=1, class_target=2, retraining_factor=1, device_name="cpu",
    )  # fmt: skip
    one_hot = np.eye(10, dtype=np.float32)
    poisoned, _ = agent.poison(
        digits.x_test[:60],
        one_hot[digits.y_test[:60]],
        digits.x_train[:60],
        one_hot[digits.y_train[:60]],
        digits.x_test[:60],
        one_hot[digits.y_test[:60]],
    )
    assert poisoned.shape == digits.x_train[:60].shape
    assert np.abs(poisoned - digits.x_train[:60]).max() > 0
