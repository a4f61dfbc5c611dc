"""Accuracy against strength on a network whose boundary is known, and attacks that do what they should not."""

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.attacks.evasion import BoundaryAttack
from torch import nn

import qadv
from qadv.diagnostics.accuracy_curve import draw_accuracy_curve
from qadv.errors import InvalidInputError


@pytest.fixture
def classifier():
    """Class 1 where the first pixel is brighter than 0.5."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        model[1].bias.copy_(torch.tensor([0.0, -0.5]))
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 2)


def images(*first):
    x = np.zeros((len(first), 1, 2, 2), dtype=np.float32)
    x[:, 0, 0, 0] = first
    return x


class Brighten(EvasionAttack):
    """Adds eps to all pixels of chosen images, at most up to 1."""

    _estimator_requirements = ()

    def __init__(self, estimator, eps, chosen=slice(None)):
        super().__init__(estimator=estimator)
        self.eps, self.chosen = eps, chosen

    def generate(self, x, y=None, **kwargs):
        moved = x.copy()
        moved[self.chosen] = np.minimum(moved[self.chosen] + np.float32(self.eps), 1)
        return moved


class Nearest(Brighten):
    """Moves the first pixel just over the boundary, for dark images alone."""

    def __init__(self, estimator):
        super().__init__(estimator, 0)

    def generate(self, x, y=None, **kwargs):
        moved = x.copy()
        first = moved[:, 0, 0, 0]
        moved[:, 0, 0, 0] = np.where(first < 0.5, np.float32(0.5001), first)
        return moved


X, Y = images(0.05, 0.25, 0.45, 0.48, 0.9, 0.7), np.array([0, 0, 0, 1, 1, 1])  # the fourth is wrong as it is


def test_accuracy_is_that_of_each_ball(classifier):
    found = qadv.accuracy_curve(classifier, X, Y, [0, 0.1, 0.3, 0.5], Brighten)
    # dark images become bright one after the other; the fourth becomes right, which is no merit of the network
    np.testing.assert_allclose(found.accuracy * 6, [5, 5, 4, 3])
    np.testing.assert_allclose(found.worst_case * 6, [5, 4, 3, 2])
    assert found.monotonic
    assert found.largest_rise == 0
    assert found.to_dict()["norm"] == "inf"
    assert "falls monotonically" in str(found)


def test_an_attack_that_gets_weaker_with_its_strength_is_told(classifier):
    def shy(c, eps):
        return Brighten(c, eps, slice(None) if eps < 0.4 else slice(0, 0))

    found = qadv.accuracy_curve(classifier, X, Y, [0.1, 0.3, 0.5, 0.6], shy)
    np.testing.assert_allclose(found.accuracy * 6, [5, 4, 5, 5])
    np.testing.assert_allclose(found.worst_case * 6, [4, 3, 3, 3])
    assert not found.monotonic
    assert found.largest_rise == pytest.approx(1 / 6)
    assert "rises by up to 16.7%" in str(found)


def test_an_attack_that_leaves_its_ball_is_refused(classifier):
    with pytest.raises(InvalidInputError, match=r"within L∞ 0\.1, got 0\.2"):
        qadv.accuracy_curve(classifier, X, Y, [0.1], lambda c, eps: Brighten(c, 2 * eps))
    with pytest.raises(InvalidInputError, match=r"within L2 0\.1, got 0\.2"):  # four pixels
        qadv.accuracy_curve(classifier, X, Y, [0.1], Brighten, norm=2)
    found = qadv.accuracy_curve(classifier, X[:3], Y[:3], [0.2], lambda c, eps: Brighten(c, eps / 2), norm=2)
    np.testing.assert_allclose(found.accuracy, [2 / 3])


def test_distances_are_sorted_instead_of_running_again(classifier):
    runs = []

    def once(c):
        runs.append(c)
        return Nearest(c)

    eps = [0, 0.04, 0.0501, 0.2502, 0.46, 2]
    found = qadv.accuracy_by_distance(classifier, X, Y, eps, once)
    assert len(runs) == 1
    # distances 0.4501, 0.2501, 0.0501; the fourth was wrong before, the bright ones are not broken at any distance
    np.testing.assert_allclose(found.accuracy * 6, [5, 5, 4, 3, 2, 2])
    assert found.monotonic
    assert found.norm == 2
    np.testing.assert_array_equal(found.worst_case, found.accuracy)


@pytest.mark.parametrize("norm", [1, 2, "inf", np.inf])
def test_distances_are_in_the_norm_asked_for(trained, digits, norm):
    x, y = digits.x_test[:30], digits.y_test[:30]

    def ddn(c):
        return qadv.DDN(c, max_iter=20, seed=0, verbose=False)

    adversarial = ddn(trained).generate(x, y)
    change = np.abs((adversarial - x).reshape(30, -1).astype(np.float64))
    distance = {1: change.sum(1), 2: np.sqrt((change**2).sum(1)), np.inf: change.max(1)}[
        np.inf if norm == "inf" else norm
    ]
    distance[trained.predict(adversarial).argmax(1) == y] = np.inf
    distance[trained.predict(x).argmax(1) != y] = 0
    eps = np.quantile(distance[np.isfinite(distance)], [0.2, 0.5, 0.8]) * 1.00001
    found = qadv.accuracy_by_distance(trained, x, y, eps, ddn, norm=norm)
    np.testing.assert_allclose(found.accuracy, [(distance > e).mean() for e in eps])
    assert found.accuracy[0] > found.accuracy[2]


def test_pgd_is_the_attack_if_none_is_given(trained, digits):
    x, y = digits.x_test[:60], digits.y_test[:60]
    one, two = (qadv.accuracy_curve(trained, x, y, [0, 0.05, 0.2], seed=2) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    assert one.accuracy[0] == (trained.predict(x).argmax(1) == y).mean()
    assert one.accuracy[0] > one.accuracy[1] > one.accuracy[2]


def test_attacks_that_seed_themselves_from_the_system_are_repeatable(trained, digits):
    x, y = digits.x_test[:3], digits.y_test[:3]

    def boundary(c):
        return BoundaryAttack(c, targeted=False, max_iter=5, init_size=20, verbose=False)

    eps = np.linspace(0.1, 8, 60)
    one, two = (qadv.accuracy_by_distance(trained, x, y, eps, boundary, seed=4).to_dict() for _ in range(2))
    assert one == two


@pytest.mark.parametrize("norm", [3, "2", None])
def test_other_norms_are_refused(classifier, norm):
    with pytest.raises(InvalidInputError, match="norm"):
        qadv.accuracy_by_distance(classifier, X, Y, [1], Nearest, norm=norm)


def test_curves_of_one_norm_are_drawn_and_the_worst_case_where_it_differs(classifier):
    fine = qadv.accuracy_by_distance(classifier, X, Y, [0, 0.3], Nearest, norm=np.inf)
    rising = qadv.accuracy_curve(classifier, X, Y, [0.1, 0.3], Brighten)
    axes = draw_accuracy_curve({"fine": fine, "rising": rising}).axes[0]
    assert axes.get_legend_handles_labels()[1] == ["fine", "rising", "rising, worst case up to ε"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 100 * rising.accuracy)
    assert "L∞" in axes.get_xlabel()
    other = qadv.accuracy_by_distance(classifier, X, Y, [0, 0.3], Nearest)
    with pytest.raises(InvalidInputError, match="one norm"):
        draw_accuracy_curve({"fine": fine, "other": other})


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.3 * torch.randn_like(x)


def test_a_random_networks_noise_is_drawn_from_the_seed(classifier):
    noisy = qadv.QuantizedClassifier(nn.Sequential(Noisy(), classifier.network), nn.CrossEntropyLoss(), (1, 2, 2), 2)
    x = images(*np.linspace(0.3, 0.7, 40))
    y = (x[:, 0, 0, 0] > 0.5).astype(int)
    before = torch.get_rng_state()
    found = [qadv.accuracy_curve(noisy, x, y, [0, 0.1], seed=seed).accuracy.tolist() for seed in (0, 0, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2] or found[0] != found[3]
    assert torch.equal(before, torch.get_rng_state())
    matrices = [qadv.transfer_matrix({"a": noisy}, x, y, {"noise": qadv.UniformNoise}, seed=0) for _ in range(2)]
    np.testing.assert_array_equal(*(matrix.accuracy for matrix in matrices))
