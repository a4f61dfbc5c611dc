"""DDN against its definition, closed forms and other toolkits."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.attacks.draws import image_generators, normal
from qadv.errors import InvalidInputError
from tests.attacks.networks import SHAPE, Linear, counted, linear_case, plain, smooth_network


def distances(a, b):
    return np.linalg.norm((a - b).reshape(len(a), -1), axis=1)


def test_finds_the_distance_to_the_boundary_of_a_linear_classifier_within_one_percent():
    classifier, x, f, _, l2 = linear_case(n=20)
    labels = (f < 0).astype(int)
    found = qadv.DDN(classifier, verbose=False).generate(x, labels)
    assert (classifier.predict(found).argmax(1) != labels).all()
    exact = np.abs(f) / l2
    assert (distances(found, x) >= exact * (1 - 1e-4)).all()
    np.testing.assert_allclose(distances(found, x), exact, rtol=0.01)


def by_definition(network, x, y, targeted, init_eps, gamma, steps, quantize, draw):
    """Algorithm 1 for one image in NumPy, float64."""
    sign = -1 if targeted else 1
    corner = np.linalg.norm(np.maximum(x, 1 - x))
    delta, eps, best = np.zeros(x.shape), init_eps, None
    for k in range(steps):
        point = torch.tensor((x + delta)[None], dtype=torch.float32, requires_grad=True)
        logits = network(point)
        nn.functional.cross_entropy(logits, torch.tensor([y])).backward()
        won = (logits.argmax().item() == y) == targeted
        if won and (best is None or np.linalg.norm(delta) < np.linalg.norm(best)):
            best = delta
        g = point.grad[0].double().numpy()
        g = g if g.any() else draw()
        alpha = 0.01 + 0.99 * (1 + np.cos(np.pi * k / steps)) / 2
        delta = delta + sign * alpha * g / np.linalg.norm(g)
        eps = min(eps * (1 - gamma if won else 1 + gamma), corner)
        moved = np.clip(x + eps * delta / np.linalg.norm(delta), 0, 1)
        delta = (np.round(moved * 255) / 255 if quantize else moved) - x
    return x if best is None else x + best


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("quantize", "init_eps"), [(False, 0.6), (True, 0.6), (False, 3.9)])
def test_step_by_step_as_defined(targeted, quantize, init_eps):
    network = smooth_network()
    x = np.random.default_rng(3).random((5, *SHAPE)).astype(np.float32)
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    y = (y + 1) % 4 if targeted else y
    settings = {"init_eps": init_eps, "gamma": 0.1, "max_iter": 15, "quantize": quantize}
    attack = qadv.DDN(plain(network, 4, SHAPE), targeted=targeted, seed=5, verbose=False, batch_size=3, **settings)
    found = attack.generate(x, y)
    assert (distances(found, x) > 0).any()
    for i in range(5):
        expected = by_definition(network, x[i].astype(np.float64), y[i], targeted, init_eps, 0.1, 15, quantize, None)
        np.testing.assert_allclose(found[i], expected, atol=5e-5)


def test_quantized_results_are_8_bit_images():
    network = smooth_network()
    x = np.random.default_rng(3).integers(0, 256, (5, *SHAPE)).astype(np.float32) / 255
    found = qadv.DDN(plain(network, 4, SHAPE), quantize=True, verbose=False).generate(x)
    np.testing.assert_allclose(found * 255, np.round(found * 255), atol=1e-4)
    assert (distances(found, x) > 0).all()


def test_where_nothing_is_found_and_where_nothing_is_needed_the_original_comes_back():
    classifier, x, f, *_ = linear_case()
    wrong_already = (f > 0).astype(int)
    np.testing.assert_array_equal(qadv.DDN(classifier, verbose=False).generate(x, wrong_already), x)
    one_step = qadv.DDN(classifier, max_iter=1, verbose=False)
    np.testing.assert_array_equal(one_step.generate(x, 1 - wrong_already), x)


class FlatAround(nn.Module):
    """No gradient within 0.3 of the grey image, beyond it a linear function."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        change = x - 0.5
        length = change.flatten(1).norm(dim=1).clamp(min=1e-9).view(-1, 1, 1, 1)
        return self.inner(0.5 + change / length * (length - 0.3).clamp(min=0))


def test_a_random_direction_of_length_one_leads_out_of_a_flat_region():
    network = FlatAround(Linear(bias=0.5))
    distance = 0.3 + 0.5 / network.inner.w.norm().item()
    x = np.full((2, *SHAPE), 0.5, dtype=np.float32)
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    attack = qadv.DDN(plain(network, 2, SHAPE), init_eps=0.2, seed=2, max_iter=30, verbose=False)
    with pytest.warns(UserWarning, match=r"exactly zero for 2 of 2 images \(100%\)"):
        found = attack.generate(x, y)
    generators = image_generators(2, range(2), torch.device("cpu"))
    for i, generator in enumerate(generators):

        def draw(own=generator):
            return normal([own], SHAPE)[0].double().numpy()

        expected = by_definition(network, x[i].astype(np.float64), y[i], False, 0.2, 0.05, 30, False, draw)
        np.testing.assert_allclose(found[i], expected, atol=5e-5)
    assert (distances(found, x) > distance).all()
    assert (distances(found, x) < 1.3 * distance).all()


def test_every_image_costs_one_query_and_one_gradient_per_step():
    classifier, x, *_ = linear_case()
    attack = qadv.DDN(classifier, max_iter=11, batch_size=4, verbose=False)
    with counted(classifier.model) as rows:
        attack.generate(x, np.zeros(len(x)))
    assert rows == [4] * 11 + [2] * 11
    assert (attack.queries == 11).all()


@pytest.mark.parametrize("quantize", [False, True])
def test_agrees_with_adv_lib(trained, digits, quantize):
    adv_lib = pytest.importorskip("adv_lib.attacks")
    x, y = digits.x_test[:64], digits.y_test[:64]
    attack = qadv.DDN(trained, quantize=quantize, verbose=False)
    found = attack.generate(x, y)
    expected = adv_lib.ddn(
        trained.model.eval(), torch.from_numpy(x), torch.from_numpy(y), levels=256 if quantize else None
    ).numpy()
    assert (np.abs(found - expected).max(axis=(1, 2, 3)) < 1e-4).mean() > 0.9  # rounding turns a few of 100 steps
    np.testing.assert_allclose(np.median(distances(found, x)), np.median(distances(expected, x)), rtol=0.01)


def test_agrees_with_foolbox(trained, digits):
    foolbox = pytest.importorskip("foolbox")
    x, y = digits.x_test[:64], digits.y_test[:64]
    found = qadv.DDN(trained, verbose=False).generate(x, y)
    model = foolbox.PyTorchModel(trained.model.eval(), bounds=(0, 1), device="cpu")
    expected = foolbox.attacks.DDNAttack().run(model, torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(np.median(distances(found, x)), np.median(distances(expected, x)), rtol=0.01)


def test_needs_the_range_of_the_pixels():
    with pytest.raises(InvalidInputError, match="give the classifier clip_values"):
        qadv.DDN(plain(smooth_network(), 4, SHAPE, clip_values=None))
