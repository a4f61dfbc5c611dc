"""R+FGSM against its definition and a closed form."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.attacks.draws import image_generators, normal
from qadv.errors import InvalidInputError
from tests.attacks.networks import SHAPE, counted, linear_case, plain, smooth_network


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("random_eps", "first"), [(None, 0.05), (0.02, 0.02), (0.1, 0.1)])
def test_both_steps_as_defined(targeted, random_eps, first):
    network = smooth_network()
    x = np.random.default_rng(3).random((5, *SHAPE)).astype(np.float32)
    y = np.array([0, 1, 2, 3, 0])
    attack = qadv.RandomFGSM(
        plain(network, 4, SHAPE), eps=0.1, random_eps=random_eps, targeted=targeted, seed=5, verbose=False, batch_size=2
    )
    found = attack.generate(x, y)
    drawn = normal(image_generators(5, range(5), torch.device("cpu")), SHAPE).numpy()
    start = torch.tensor(np.clip(x + first * np.sign(drawn), 0, 1), dtype=torch.float32, requires_grad=True)
    nn.functional.cross_entropy(network(start), torch.from_numpy(y)).backward()
    step = (0.1 - first) * np.sign(start.grad.numpy())
    expected = np.clip(start.detach().numpy() + (-step if targeted else step), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - x).max() <= 0.1 + 1e-6
    assert (attack.queries == 1).all()


def test_the_random_step_is_half_of_eps_in_every_pixel():
    classifier, x, *_ = linear_case()
    found = qadv.RandomFGSM(classifier, eps=0.05, random_eps=0.05, verbose=False).generate(x)
    np.testing.assert_allclose(np.abs(found - x), 0.05, atol=1e-6)
    halves = np.abs(qadv.RandomFGSM(classifier, eps=0.05, verbose=False).generate(x) - x)
    assert (np.isclose(halves, 0.05, atol=1e-6) | np.isclose(halves, 0, atol=1e-6)).all()


def test_the_gradient_step_is_exact_on_a_linear_classifier():
    """From x′ on, f falls by (ε - ε₁)·‖w‖₁: with no random step R+FGSM is FGSM and breaks just where ε > |f|/‖w‖₁."""
    classifier, x, f, l1, _ = linear_case()
    labels = (f < 0).astype(int)
    for share, broken in ((1.01, True), (0.99, False)):
        for i in range(len(x)):
            eps = share * abs(f[i]) / l1
            attack = qadv.RandomFGSM(classifier, eps=eps, random_eps=0.0, verbose=False)
            found = attack.generate(x[i : i + 1], labels[i : i + 1])
            assert (classifier.predict(found).argmax(1) != labels[i]).all() == broken


def test_one_query_and_one_gradient_for_each_image():
    classifier, x, *_ = linear_case()
    attack = qadv.RandomFGSM(classifier, batch_size=4, verbose=False)
    with counted(classifier.model) as rows:
        attack.generate(x, np.zeros(len(x)))
    assert rows == [4, 2]
    assert (attack.queries == 1).all()


def test_the_random_step_is_part_of_eps():
    classifier, *_ = linear_case()
    with pytest.raises(InvalidInputError, match=r"random_eps: expected at most eps=0\.1, got 0\.2"):
        qadv.RandomFGSM(classifier, eps=0.1, random_eps=0.2)
