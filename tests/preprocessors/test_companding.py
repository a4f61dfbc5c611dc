"""The μ-law against its equation, and what is known of it."""

import numpy as np
import pytest
import torch

from qadv.errors import InvalidInputError
from qadv.preprocessors.companding import inverse_mu_law, mu_law


def definition(w, mu, largest):
    x = w / largest
    return largest * np.sign(x) * np.log(1 + mu * np.abs(x)) / np.log(1 + mu)


@pytest.mark.parametrize("mu", [0.01, 1.0, 3, 255.0, 1e6])
def test_values_are_those_of_the_equation_and_the_inverse_undoes_them(mu):
    w = np.random.default_rng(0).normal(size=(5, 4, 3))
    mapped = mu_law(torch.from_numpy(w), mu)
    np.testing.assert_allclose(mapped.numpy(), definition(w, mu, np.abs(w).max()), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(inverse_mu_law(mapped, mu).numpy(), w, rtol=1e-9, atol=1e-12)
    assert mapped.abs().max() == pytest.approx(np.abs(w).max(), rel=1e-12), "the largest stays"


def test_known_values():
    """F(1/3) at μ = 3 is ln 2 / ln 4."""
    mapped = mu_law(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], dtype=torch.float64), 3.0)
    np.testing.assert_allclose(mapped.numpy(), [-3, -1.5, 0, 1.5, 3], rtol=1e-12)
    assert mu_law(torch.tensor([0.5]), 255.0, largest=1.0).item() == pytest.approx(np.log(128.5) / np.log(256))


def test_a_small_mu_is_the_identity_and_a_large_one_nearly_the_sign():
    w = torch.tensor([-0.5, -0.001, 0.2, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(mu_law(w, 1e-9).numpy(), w.numpy(), atol=1e-8)
    assert (mu_law(w, 1e300).abs() > 0.98).all()


def test_zeros_stay_and_one_element_stays():
    assert torch.equal(mu_law(torch.zeros(2, 3), 255.0), torch.zeros(2, 3))
    assert torch.equal(inverse_mu_law(torch.zeros(2, 3), 255.0), torch.zeros(2, 3))
    assert mu_law(torch.tensor([-0.7]), 255.0).item() == pytest.approx(-0.7)


def test_gradients_are_the_derivatives_also_at_zero_and_at_the_ends():
    mu = 255.0
    x = torch.tensor([-1.0, -0.3, 0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mu_law(x, mu, largest=1.0).sum(), x)
    expected = mu / (1 + mu * x.detach().abs()) / np.log1p(mu)
    np.testing.assert_allclose(slope.numpy(), expected.numpy(), rtol=1e-12)
    (slope,) = torch.autograd.grad(inverse_mu_law(x, mu, largest=1.0).sum(), x)
    expected = np.log1p(mu) * (1 + mu) ** x.detach().abs().numpy() / mu
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-12)


def test_single_precision_keeps_small_values():
    """ln(1 + μx) would lose what is left of x below 1e-8."""
    w = torch.tensor([1e-12, 1.0])
    assert mu_law(w, 3.0)[0].item() == pytest.approx(3e-12 / np.log(4), rel=1e-5)


@pytest.mark.parametrize("mu", [0, -1.0, float("nan"), float("inf"), "255", None, True])
def test_a_mu_that_is_none_is_refused(mu):
    with pytest.raises(InvalidInputError, match="mu: expected a finite number above 0"):
        mu_law(torch.ones(2), mu)


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan")])
def test_a_largest_that_is_none_is_refused(largest):
    with pytest.raises(InvalidInputError, match="largest"):
        mu_law(torch.ones(2), 3.0, largest=largest)
