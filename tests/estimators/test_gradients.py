"""Gradients of images: one backward pass, ART's values, and the parameters left out."""

import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.estimators import door
from tests.blur import Blur

MEAN_STD = ([0.4], [0.3])


class Residual(nn.Module):
    """No `nn.Sequential`: ART calls it as a whole."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.norm, self.relu = nn.BatchNorm1d(16), nn.ReLU()

    def forward(self, x):
        x = self.relu(self.norm(self.first(x.flatten(1))))
        return self.last(self.relu(self.second(x)) + x)


def classifier_of(net, weights="int:4", activations="relu6:4", **options):
    torch.manual_seed(0)
    model = qadv.quantize(net, weights, activations) if weights else net
    return qadv.QuantizedClassifier(
        model.eval(), nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=MEAN_STD, **options
    )


def sequential():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
    )


NETWORKS = {"sequential": sequential, "residual": Residual}


def plain(classifier):
    """What several ART attacks make of a classifier."""
    return PyTorchClassifier(
        model=classifier.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=classifier.input_shape,
        nb_classes=classifier.nb_classes,
        clip_values=classifier.clip_values,
        preprocessing_defences=classifier.preprocessing_defences,
        preprocessing=classifier.preprocessing,
    )


@pytest.fixture
def x(digits):
    return digits.x_test[:7].copy()


@pytest.fixture
def y(digits):
    return digits.y_test[:7]


@pytest.mark.parametrize("defence", [None, SpatialSmoothing, Blur])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("weights", "activations"), [("int:4", "relu6:4"), ("bwn", "pact:2"), ("twn", "tanh:3"), (None, None)]
)
def test_gradients_are_those_of_art(name, weights, activations, defence, x, y):
    defences = {SpatialSmoothing: [SpatialSmoothing(channels_first=True)], Blur: [Blur()], None: None}[defence]
    classifier = classifier_of(NETWORKS[name](), weights, activations, preprocessing_defences=defences)
    other = plain(classifier)
    one_hot = np.eye(10, dtype=np.float32)[y]
    close = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(classifier.loss_gradient(x, y), other.loss_gradient(x, one_hot), **close)
    for label in (None, 3, y, list(y)):
        expected = other.class_gradient(x, label)
        found = classifier.class_gradient(x, label)
        assert found.shape == expected.shape == (7, 10 if label is None else 1, 1, 8, 8)
        np.testing.assert_allclose(found, expected, **close)
    assert np.abs(classifier.class_gradient(x)).max() > 0


def test_a_whole_backbone_has_all_class_gradients_at_once():
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20", "int:4", "relu6:4", preprocessing=([0.5] * 3, [0.2] * 3)
    )
    images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    found, expected = classifier.class_gradient(images), plain(classifier).class_gradient(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("most", [1, 3 * 7 * 64, 2**30])
def test_class_gradients_in_parts_are_the_same(most, x, monkeypatch):
    classifier = classifier_of(Residual())
    expected, passes = classifier.class_gradient(x), []
    grad = torch.autograd.grad
    monkeypatch.setattr(door, "_MOST_VALUES", most)
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: passes.append(1) or grad(*args, **options))
    np.testing.assert_allclose(classifier.class_gradient(x), expected, rtol=1e-5, atol=1e-7)
    assert len(passes) == {1: 10, 3 * 7 * 64: 4, 2**30: 1}[most]


def test_tensors_give_tensors(x, y):
    classifier = classifier_of(Residual())
    gradient = classifier.loss_gradient(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_array_equal(gradient.numpy(), classifier.loss_gradient(x, y))
    gradient = classifier.class_gradient(torch.from_numpy(x), 2)
    np.testing.assert_array_equal(gradient.numpy(), classifier.class_gradient(x, 2))
    losses = classifier.compute_loss(torch.from_numpy(x), y)
    np.testing.assert_allclose(losses.detach(), classifier.compute_loss(x, y), rtol=1e-6)
    assert classifier.predict(torch.from_numpy(x).requires_grad_()).shape == (7, 10)


def test_inference_mode_takes_no_gradient_away(x, y):
    classifier = classifier_of(Residual())
    expected = classifier.loss_gradient(x, y), classifier.class_gradient(x)
    with torch.inference_mode():
        found = classifier.loss_gradient(x, y), classifier.class_gradient(x)
        tensor = classifier.loss_gradient(torch.from_numpy(x).clone(), torch.from_numpy(y).clone())
    for before, inside in zip(expected, found, strict=True):
        np.testing.assert_array_equal(inside, before)
    np.testing.assert_array_equal(tensor.numpy(), expected[0])


def test_class_gradients_past_what_takes_one_class_at_a_time(x):
    network, norms = Residual(), []
    classifier = classifier_of(network, weights=None)
    expected = classifier.class_gradient(x)
    network.second.register_full_backward_hook(lambda module, before, after: norms.append(after[0].norm().item()))
    np.testing.assert_allclose(classifier.class_gradient(x), expected, rtol=1e-5, atol=1e-7)
    assert len(norms) == 10
    with torch.autograd.set_detect_anomaly(True):
        np.testing.assert_allclose(classifier.class_gradient(x), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_attack_leaves_the_parameters_out_unless_art_calls_backward_itself(name, x, y, monkeypatch):
    from qadv.quantization import kept_values

    classifier = classifier_of(NETWORKS[name]())
    asked = []
    real = kept_values._FromLatent.backward
    monkeypatch.setattr(
        kept_values._FromLatent, "backward", staticmethod(lambda ctx, *g: asked.append(1) or real(ctx, *g))
    )
    before = classifier.loss_gradient(x, y)
    classifier.class_gradient(x)
    qadv.DDN(classifier, max_iter=2, verbose=False).generate(x, y)
    images = torch.from_numpy(x).requires_grad_()
    logits = qadv.as_module(classifier)(images)
    for _ in range(2):
        nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward(retain_graph=True)
    np.testing.assert_allclose(images.grad.numpy(), 2 * before, rtol=1e-5, atol=1e-8)
    assert asked == []
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())
    plain(classifier).loss_gradient(x, np.eye(10, dtype=np.float32)[y])
    assert asked


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("by_art", [False, True])
def test_training_gives_every_parameter_its_gradient(name, mode, by_art, x, y):
    classifier = classifier_of(NETWORKS[name]())
    classifier.loss_gradient(x, y)
    classifier.model.train(mode)
    outputs = classifier._model(torch.from_numpy(x))[-1] if by_art else classifier.model(torch.from_numpy(x))
    nn.functional.cross_entropy(outputs, torch.from_numpy(y)).backward()
    assert all(p.grad is not None for p in classifier.model.parameters())
    # also when images have gradients, as in adversarial training that shares a pass, and in poisoning attacks
    classifier.model.zero_grad()
    images = torch.from_numpy(x).requires_grad_()
    nn.functional.cross_entropy(classifier.model(images), torch.from_numpy(y)).backward()
    assert all(p.grad is not None for p in classifier.model.parameters())
    assert images.grad is not None


def test_two_classifiers_of_one_network_and_copies(x, y):
    import copy

    model = qadv.quantize(Residual()).eval()
    first, second = (qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10) for _ in range(2))
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()) == 0
    assert first.network is second.network is model
    np.testing.assert_array_equal(first.loss_gradient(x, y), second.loss_gradient(x, y))
    copied = copy.deepcopy(model)
    images = torch.from_numpy(x).requires_grad_()
    copied(images).sum().backward()
    assert all(p.grad is not None for p in copied.parameters()), "nothing is left on the user's network"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_predict_is_arts(x, digits):
    classifier = classifier_of(sequential(), preprocessing_defences=SpatialSmoothing(channels_first=True))
    other = plain(classifier)
    for size in (1, 3, 7, 100):
        np.testing.assert_allclose(
            classifier.predict(x, batch_size=size), other.predict(x, batch_size=size), rtol=1e-5, atol=1e-6
        )
    assert classifier.predict(x.astype(np.float64)).dtype == np.float32


def test_recurrent_networks_have_the_gradients_of_evaluation_mode(x, y):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.last = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.last(self.drop(self.lstm(x[:, 0])[0][:, -1]))

    classifier = qadv.QuantizedClassifier(Recurrent(), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    assert classifier.is_rnn
    leaf = torch.from_numpy(x).requires_grad_()
    logits = classifier.network.eval()(leaf)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.from_numpy(y)), leaf, retain_graph=True)
    np.testing.assert_allclose(classifier.loss_gradient(x, y), expected, rtol=1e-5, atol=1e-8)
    (expected,) = torch.autograd.grad(logits[:, 3].sum(), leaf)
    np.testing.assert_allclose(classifier.class_gradient(x)[:, 3], expected, rtol=1e-5, atol=1e-8)
    assert not classifier.network.training
    assert not classifier_of(Residual()).is_rnn
