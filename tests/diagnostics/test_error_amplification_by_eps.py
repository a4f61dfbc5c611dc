"""Normalised distances with and without quantizing, layer by layer and by strength, against equation 4 in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.diagnostics.amplification_by_eps import draw_amplification_by_eps
from qadv.diagnostics.error_amplification import draw_error_amplification
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.frozen import freeze


def two_linear(activations="relu1:2", seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 10))
    if activations != "float":
        model = qadv.quantize(model, "float", activations)
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)


def by_hand(classifier, x, steps, top=1.0):
    """What the two activations round, and what they give, (N, units) each, from the weights alone."""
    first, second = (classifier.model[i] for i in (1, 3))
    values, found = x.reshape(len(x), -1).astype(np.float64), []
    for layer in (first, second):
        weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.bias))
        clipped = np.clip(values @ weight.T + bias, 0, top)
        values = np.round(clipped / top * steps) / steps * top
        found.append((clipped, values))
    return found


def mean_distance(clean, moved):
    norm = np.linalg.norm(clean, axis=1)
    return (np.linalg.norm(clean - moved, axis=1)[norm > 0] / norm[norm > 0]).mean()


@pytest.mark.parametrize("frozen", [False, True])
def test_at_activations_it_is_equation_4_with_and_without_rounding(digits, frozen):
    classifier = two_linear()
    if frozen:
        model = freeze(qadv.quantize(two_linear("float").model, "int:8", "relu1:2"))
        classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    x = digits.x_test[:9]
    moved = np.clip(x + 0.2 * np.sign(np.random.default_rng(0).normal(size=x.shape)), 0, 1).astype(np.float32)
    found = qadv.error_amplification(classifier, x, moved, batch_size=4, at="activations")
    assert found.layers == ("2", "4")
    for layer, (clean, other) in enumerate(zip(by_hand(classifier, x, 3), by_hand(classifier, moved, 3), strict=True)):
        assert found.unquantized[layer] == pytest.approx(mean_distance(clean[0], other[0]), rel=1e-4)
        assert found.distance[layer] == pytest.approx(mean_distance(clean[1], other[1]), rel=1e-4)
    assert set(found.to_dict()) == {"layers", "distance", "unquantized"}


def test_coarse_rounding_enlarges_what_fine_rounding_leaves(digits):
    """With so many levels the rounding is no longer seen; with two it is."""
    x = digits.x_test[:16]
    moved = np.clip(x + 0.1, 0, 1)
    gaps = {}
    for bits in (1, 8):
        found = qadv.error_amplification(two_linear(f"relu1:{bits}"), x, moved, at="activations")
        gaps[bits] = abs(found.distance[0] / found.unquantized[0] - 1)
    assert gaps[8] < 0.02 < gaps[1]


def test_by_strength_each_row_is_the_measurement_of_that_attack(trained, digits):
    x, y = digits.x_test[:12], digits.y_test[:12]

    def noise(classifier, eps):
        return qadv.UniformNoise(classifier, eps=eps, seed=3, verbose=False)

    found = qadv.amplification_by_eps(trained, x, y, [0, 0.05, 0.1], noise)
    assert found.distance.shape == (3, len(found.layers))
    assert (found.distance[0] == 0).all()
    moved = noise(trained, 0.1).generate(x, y)
    expected = qadv.error_amplification(trained, x, moved)
    np.testing.assert_allclose(found.distance[2], expected.distance, rtol=1e-6)
    assert (found.distance[2] > found.distance[1]).all()
    assert found.unquantized is None
    assert "ε = 0.05" in str(found)


def test_several_networks_can_see_the_images_of_one_source(trained, digits, make_classifier):
    x, y = digits.x_test[:8], digits.y_test[:8]
    other = make_classifier()
    attacked = []

    def noise(classifier, eps):
        attacked.append(classifier)
        return qadv.UniformNoise(classifier, eps=eps, seed=3, verbose=False)

    found = qadv.amplification_by_eps(trained, x, y, [0.1], noise, source=other, at="activations")
    assert attacked == [other]
    assert found.unquantized.shape == found.distance.shape == (1, 3)
    assert "without rounding" in str(found)


def test_pgd_is_the_attack_if_none_is_given_and_it_is_repeatable(trained, digits):
    x, y = digits.x_test[:6], digits.y_test[:6]
    state = np.random.get_state()[1].copy()
    one, two = (qadv.amplification_by_eps(trained, x, y, [0.1], seed=5).to_dict() for _ in range(2))
    assert one == two
    assert (np.random.get_state()[1] == state).all(), "the caller's random state is untouched"
    noise = np.clip(x + np.random.default_rng(0).uniform(-0.1, 0.1, x.shape), 0, 1).astype(np.float32)
    assert one["measured"][0]["distance"][-1] > 1.5 * qadv.error_amplification(trained, x, noise).distance[-1]


@pytest.mark.parametrize("eps", [[], [-0.1], [0.2, 0.1], [0.1, 0.1], [np.nan], ["much"], None])
def test_strengths_are_checked(trained, digits, eps):
    with pytest.raises(InvalidInputError, match="eps"):
        qadv.amplification_by_eps(trained, digits.x_test[:2], digits.y_test[:2], eps)


def test_wrong_places_are_refused(trained, digits, make_classifier):
    x = digits.x_test[:2]
    with pytest.raises(InvalidInputError, match="expected one of inputs, activations, got 'outputs'"):
        qadv.error_amplification(trained, x, x, at="outputs")
    with pytest.raises(UnsupportedModelError, match="relu6:3"):
        qadv.error_amplification(make_classifier("int:4", "float"), x, x, at="activations")
    with pytest.raises(InvalidInputError, match="batch_size"):
        qadv.error_amplification(trained, x, x, batch_size=0)


def test_the_network_is_left_as_it_was(digits, make_classifier):
    classifier = make_classifier()
    classifier.model.train()
    hooks = [len(module._forward_pre_hooks) for module in classifier.model.modules()]
    qadv.error_amplification(classifier, digits.x_test[:2], digits.x_test[:2], at="activations")
    assert classifier.model.training
    assert [len(module._forward_pre_hooks) for module in classifier.model.modules()] == hooks


def test_both_figures_are_drawn(trained, digits):
    x, y = digits.x_test[:4], digits.y_test[:4]
    curve = qadv.amplification_by_eps(trained, x, y, [0, 0.1, 0.2], at="activations")
    figure = draw_amplification_by_eps({"4 bit": curve}, layer=-1)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), curve.distance[:, -1])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), curve.unquantized[:, -1])
    with pytest.raises(InvalidInputError, match="layer"):
        draw_amplification_by_eps({"4 bit": curve}, layer="conv")
    given = figure.add_subplot()
    assert draw_error_amplification({"4 bit": curve.measured[2]}, given) is figure
    np.testing.assert_array_equal(given.lines[1].get_ydata(), curve.measured[2].unquantized)
    with pytest.raises(InvalidInputError, match="mapping from names"):
        draw_error_amplification(curve.measured[2])


def test_rounding_enlarges_small_changes_of_evenly_spread_values():
    """E|Q(a) - Q(a + δ)|² = δ s for a spread evenly over steps of size s: more than δ² while δ < s."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(64))
        model[1].bias.zero_()
    model = qadv.quantize(model, "float", "relu1:3")
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    step = 1 / 7
    x = np.random.default_rng(0).uniform(step / 2, 1 - 3 * step / 2, (400, 1, 8, 8)).astype(np.float32)  # whole steps
    for delta in (step / 16, step / 4, step):
        found = qadv.error_amplification(classifier, x, x + np.float32(delta), at="activations")
        assert found.distance[0] / found.unquantized[0] == pytest.approx(np.sqrt(step / delta), rel=0.05)
