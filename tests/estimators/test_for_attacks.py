"""What ART's attacks ask of an estimator beside `predict` and gradients."""

import copy
import inspect
import os
import pickle

import numpy as np
import pytest
import torch
from art import config
from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, ProjectedGradientDescent, SimBA
from art.defences.postprocessor import Rounded
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.frozen import freeze

LABELS = np.eye(10, dtype=np.float32)


def rebuilt(classifier):
    """A plain classifier as APGD with a loss of its own, ACG and BrendelBethge make one."""
    return PyTorchClassifier(
        model=classifier.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=classifier.input_shape,
        nb_classes=classifier.nb_classes,
        clip_values=classifier.clip_values,
        preprocessing_defences=classifier.preprocessing_defences,
        postprocessing_defences=classifier.postprocessing_defences,
        preprocessing=classifier.preprocessing,
    )


@pytest.mark.parametrize("options", [{}, {"preprocessing": (0.3, 0.4)}, {"probabilities": True}])
def test_a_plain_rebuild_is_the_same_function(options, make_classifier, digits):
    classifier = make_classifier(**options)
    plain = rebuilt(classifier)
    x, y = digits.x_test[:7].astype(np.float64), LABELS[digits.y_test[:7]]
    for batch_size in (1, 3, 7):
        mine = classifier.predict(x.astype(np.float32), batch_size)
        assert mine.dtype == np.float32
        np.testing.assert_allclose(plain.predict(x, batch_size), mine, atol=1e-6)
    np.testing.assert_array_equal(plain.loss_gradient(x, y), classifier.loss_gradient(x, y))
    np.testing.assert_array_equal(plain.class_gradient(x), classifier.class_gradient(x))


def test_one_sample_at_a_time_and_a_short_last_batch_change_nothing(trained, digits):
    x, y = digits.x_test[:7], LABELS[digits.y_test[:7]]
    whole = trained.predict(x, batch_size=7)
    np.testing.assert_allclose(trained.predict(x, batch_size=3), whole, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([trained.predict(row[None]) for row in x]), whole, atol=1e-5)
    attacks = [ProjectedGradientDescent(trained, eps=0.1, batch_size=n, max_iter=3, verbose=False) for n in (7, 3, 1)]
    first, *others = [attack.generate(x, y) for attack in attacks]
    for other in others:
        assert np.mean(np.abs(other - first) > 1e-4) < 0.01  # a sign of a gradient next to zero may differ


def test_probabilities(trained, digits, tmp_path):
    x = digits.x_test[:5]
    classifier = qadv.QuantizedClassifier(
        trained.model, trained.loss, (1, 8, 8), 10, postprocessing_defences=Rounded(3), probabilities=True
    )
    expected = torch.from_numpy(trained.predict(x)).softmax(1).numpy().round(3)
    np.testing.assert_allclose(classifier.predict(x), expected, atol=1e-6)
    y = digits.y_test[:5]
    np.testing.assert_array_equal(classifier.loss_gradient(x, y), trained.loss_gradient(x, y))
    with pytest.raises(ValueError, match="predicting probabilities"):
        SimBA(trained, verbose=False).generate(x)


def test_probabilities_are_saved_shown_and_kept_by_clones(make_classifier, digits, tmp_path):
    classifier = make_classifier(probabilities=True)
    classifier.save("net.safetensors", tmp_path)
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    assert again.probabilities
    np.testing.assert_array_equal(again.predict(digits.x_test[:3]), classifier.predict(digits.x_test[:3]))
    assert not qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", probabilities=False).probabilities
    assert "probabilities=True" in repr(classifier)
    assert eval(repr(classifier), {"QuantizedClassifier": qadv.QuantizedClassifier}).probabilities
    assert "probabilities" not in repr(make_classifier())
    optimizer = torch.optim.SGD(classifier.model.parameters(), lr=0.1)
    trainable = qadv.QuantizedClassifier(
        classifier.model, classifier.loss, (1, 8, 8), 10, optimizer, probabilities=True
    )
    assert trainable.clone_for_refitting().probabilities


def test_activations_by_name_and_by_index(trained, digits):
    x = digits.x_test[:7]
    hooks = [len(module._forward_hooks) for module in trained.model.modules()]
    images = torch.from_numpy(x)
    with torch.no_grad():
        expected = trained.model[:6](images).numpy()
    for layer in ("5", 5, -8):
        np.testing.assert_allclose(trained.get_activations(x, layer, batch_size=3), expected, atol=1e-5)
    np.testing.assert_allclose(trained.get_activations(images, 5), expected, atol=1e-5)
    images.requires_grad_(True)
    trained.get_activations(images, "5", framework=True).sum().backward()
    assert images.grad.abs().max() > 0
    assert [len(module._forward_hooks) for module in trained.model.modules()] == hooks


def test_activations_of_layers_inside_others(digits):
    inner = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    model = qadv.quantize(nn.Sequential(nn.Flatten(), inner), skip_first_last=False)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=(0.5, 0.5))
    x = digits.x_test[:3]
    with torch.no_grad():
        expected = model[1][:2](model[0](torch.from_numpy((x - 0.5) / 0.5)))
    np.testing.assert_allclose(classifier.get_activations(x, "1.1"), expected, atol=1e-6)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten, self.pair, self.linear, self.unused = nn.Flatten(), Pair(), nn.Linear(64, 10), nn.ReLU()

    def forward(self, x):
        return self.linear(self.pair(self.flatten(x))[0])


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("linaer", "got 'linaer'; did you mean linear"),
        (4, "index below 4 into layer_names, got 4"),
        (None, "got None"),
        ("pair", "'pair' gives no tensor but a tuple"),
        ("unused", "'unused' does not run"),
    ],
)
def test_layers_without_activations_are_named(layer, message, digits):
    classifier = qadv.QuantizedClassifier(Odd(), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    hooks = [len(module._forward_hooks) for module in classifier.model.modules()]
    with pytest.raises(InvalidInputError, match=message):
        classifier.get_activations(digits.x_test[:2], layer)
    assert [len(module._forward_hooks) for module in classifier.model.modules()] == hooks


def networks(make_classifier, digits):
    yield make_classifier("int:4", "relu6:4")
    yield make_classifier("sq(twn)", "pact:3", calibration=digits.x_train[:64], preprocessing=(0.3, 0.4))
    yield make_classifier("float", "float", probabilities=True)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))
    quantized = qadv.quantize(own, "bwn", "relu6:4", skip_first_last=False)
    for network in (quantized, freeze(quantized)):
        yield qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda classifier: pickle.loads(pickle.dumps(classifier))])
def test_copies_and_pickles_are_the_same_and_leave_no_files(copied, make_classifier, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path))
    x, y = digits.x_test[:5], digits.y_test[:5]
    for classifier in networks(make_classifier, digits):
        again = copied(classifier)
        assert type(again) is qadv.QuantizedClassifier
        assert repr(again) == repr(classifier)
        np.testing.assert_array_equal(again.predict(x), classifier.predict(x))
        np.testing.assert_array_equal(again.loss_gradient(x, y), classifier.loss_gradient(x, y))
        for before, after in zip(classifier.model.modules(), again.model.modules(), strict=True):
            assert (type(before), before.training) == (type(after), after.training)
        for name, parameter in again.model.named_parameters():
            original = classifier.model.get_parameter(name)
            assert parameter is not original
            assert torch.equal(parameter, original)
            assert parameter.requires_grad == original.requires_grad
    assert os.listdir(tmp_path) == []


def test_a_pickled_classifier_trains_on(make_classifier, digits):
    classifier = make_classifier("binary-connect")
    optimizer = torch.optim.SGD(classifier.model.parameters(), lr=0.5, momentum=0.9)
    first = qadv.QuantizedClassifier(classifier.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    x, y = digits.x_train[:64], digits.y_train[:64]
    first.fit(x, y, nb_epochs=1)
    second = pickle.loads(pickle.dumps(first))
    before = second.predict(x[:3])
    for trainable in (first, second):
        np.random.seed(0)
        torch.manual_seed(0)
        trainable.fit(x, y, nb_epochs=2)
    np.testing.assert_allclose(first.predict(x[:3]), second.predict(x[:3]), atol=1e-5)
    assert not np.allclose(before, second.predict(x[:3]))
    assert all(layer.weight.abs().max() <= 1 for layer in second.model.modules() if isinstance(layer, nn.Conv2d))


class FunctionalReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(1))))


def test_a_network_with_rewritten_code_is_copied_and_not_pickled(digits):
    model = qadv.quantize(FunctionalReLU(), skip_first_last=False)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    again = copy.deepcopy(classifier)
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))
    with torch.no_grad():
        again.model.first.weight.zero_()
    assert not np.allclose(again.predict(digits.x_test), classifier.predict(digits.x_test))
    with pytest.raises(UnsupportedModelError, match=r"FunctionalReLU calls a functional ReLU.*use nn\.ReLU modules"):
        pickle.dumps(classifier)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_auto_attack_in_another_process(trained, digits):
    pytest.importorskip("multiprocess", reason="AutoAttack needs multiprocess, which ART does not install")
    if "parallel_pool_size" not in inspect.signature(AutoAttack).parameters:
        pytest.skip("ART 1.18 has no pool")
    x, y = digits.x_test[:4], digits.y_test[:4]
    options = {"eps": 0.3, "eps_step": 0.1, "max_iter": 5, "nb_random_init": 1, "verbose": False}
    attacks = [
        ProjectedGradientDescent(trained, eps=0.3, max_iter=5, verbose=False),
        AutoProjectedGradientDescent(trained, loss_type="cross_entropy", **options),
    ]
    adversarial = AutoAttack(trained, eps=0.3, attacks=attacks, parallel_pool_size=1).generate(x, y)
    assert (trained.predict(adversarial).argmax(1) != y).any()
