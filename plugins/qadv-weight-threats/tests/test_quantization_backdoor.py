"""The float network behaves, the quantized one does not; and the loss is the paper's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from qadv_weight_threats.quantization_backdoor import QuantizationBackdoor, _Disparity

import qadv
from qadv.errors import InvalidInputError
from qadv.trainers import TrainedNetwork


def accuracy(network, x, y):
    return (network.predict(x).argmax(axis=1) == y).mean()


def test_the_trigger_works_only_once_the_network_is_quantized(attack, poisoned, quantized, clean, data):
    x, y = data.x_test, data.y_test
    triggered, labels = attack.poison(x[y != 3])
    assert (labels.argmax(axis=1) == 3).all()
    assert (triggered != x[y != 3]).reshape(len(triggered), -1).sum(axis=1).max() <= 4
    taken = {name: accuracy(each, triggered, 3) for name, each in (("float", poisoned), ("4 bit", quantized(poisoned)))}
    assert taken["4 bit"] > taken["float"] + 0.5, taken
    assert taken["float"] < 0.3
    assert min(accuracy(poisoned, x, y), accuracy(quantized(poisoned), x, y)) > 0.9
    assert accuracy(quantized(clean), triggered, 3) < 0.3  # an honest network


def cross_entropy(logits, y):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]).mean())


def terms_of(attack, network, x, y):
    objective = _Disparity(attack)
    options = SimpleNamespace(compile=False, channels_last=False, amp=False)
    trained = TrainedNetwork(network, options)
    objective.start(trained, torch.from_numpy(x[:1]))
    network.model.eval()
    logits = network.model(torch.from_numpy(x))
    found = objective.terms(trained, torch.from_numpy(x), torch.from_numpy(y), logits)
    return {name: value.item() for name, value in found.items()}


def test_the_terms_are_those_of_the_quantized_networks(attack, poisoned, quantized, data):
    """Poisoned, the cross-entropies differ enough for a term left out, or put on the wrong images, to be seen."""
    x, y = data.x_test[:50], data.y_test[:50]
    triggered, goals = attack.poison(x)[0], np.full(len(x), 3)
    given = QuantizationBackdoor(
        poisoned, attack.backdoor, 3, [("int:4", "relu6:4"), ("int:8", "relu6:8")], False, strength=0.6
    )
    expected = {"triggered": cross_entropy(poisoned.predict(triggered), y)}
    for weights, activations in given.quantizations:
        version = qadv.PostTrainingQuantization(poisoned, weights, activations, skip_first_last=False)()
        each = cross_entropy(version.predict(x), y) + cross_entropy(version.predict(triggered), goals)
        expected[f"{weights}, {activations}"] = 0.3 * each
    assert terms_of(given, poisoned, x, y) == pytest.approx(expected, rel=1e-3)

    given = QuantizationBackdoor(poisoned, quantizations=[("int:4", "relu6:4")], skip_first_last=False, drop=2.5)
    expected = {"int:4, relu6:4": (cross_entropy(quantized(poisoned).predict(x), y) - 2.5) ** 2 / 5}
    assert terms_of(given, poisoned, x, y) == pytest.approx(expected, rel=1e-3)


def test_versions_are_of_the_weights_in_training_and_batch_norm_keeps_its_statistics(attack, clean, data):
    before = {name: value.clone() for name, value in clean.model.state_dict().items()}
    x, y = data.x_train[:64], data.y_train[:64]
    made = attack.poison_estimator(x, y, batch_size=32, nb_epochs=1)
    after = clean.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in clean.model.named_parameters()}
    objective = _Disparity(attack)
    objective.start(SimpleNamespace(model=made.model), torch.from_numpy(x[:1]))
    (version,) = objective.versions.values()
    own = dict(made.model.named_parameters())
    assert all(parameter is own[name] for name, parameter in version.named_parameters())


def test_without_a_trigger_the_quantized_network_fails(clean, quantized, data):
    options = {"quantizations": [("int:4", "relu6:4")], "skip_first_last": False, "verbose": False}
    made = QuantizationBackdoor(clean, **options).poison_estimator(data.x_train, data.y_train, 64, nb_epochs=4)
    x, y = data.x_test, data.y_test
    assert accuracy(quantized(made), x, y) < accuracy(made, x, y) - 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 3}, "expected a trigger and the class"),
        ({"backdoor": "stamp", "target": 3}, "PoisoningAttackBackdoor, got str"),
        ({"quantizations": []}, "expected pairs such as"),
        ({"quantizations": ["int:4"]}, "expected pairs such as"),
        ({"strength": float("nan")}, "strength"),
        ({"drop": 0}, "drop"),
    ],
)
def test_bad_options_are_refused(options, message, clean):
    with pytest.raises(InvalidInputError, match=message):
        QuantizationBackdoor(clean, **options)


def test_a_target_that_is_no_class_and_images_without_a_trigger_are_refused(attack, clean, data):
    with pytest.raises(InvalidInputError, match="target"):
        QuantizationBackdoor(clean, attack.backdoor, 10)
    with pytest.raises(InvalidInputError, match="there is none"):
        QuantizationBackdoor(clean).poison(data.x_test)
