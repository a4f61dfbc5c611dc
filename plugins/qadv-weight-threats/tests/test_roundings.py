"""A network with other rounding errors: none gives the float network, its own the quantized one."""

import numpy as np
import pytest
import torch
from qadv_weight_threats.roundings import roundings, with_errors

import qadv
from qadv.errors import UnsupportedModelError
from qadv.testing import digits_classifier

X = qadv.create("dataset", "digits").x_test[:6]


def quantized():
    network = digits_classifier("float", "float")
    return network, qadv.PostTrainingQuantization(network, "int:4", "relu6:4", skip_first_last=False)()


def test_without_errors_it_is_the_float_network_and_with_its_own_the_quantized_one():
    network, given = quantized()
    np.testing.assert_allclose(with_errors(given, torch.zeros_like, True).predict(X), network.predict(X), atol=1e-4)
    same = with_errors(given, lambda error: error, True).predict(X)
    np.testing.assert_allclose(same, given.predict(X), atol=1e-4)
    only_weights = qadv.PostTrainingQuantization(network, "float", "relu6:4", skip_first_last=False)()
    np.testing.assert_allclose(with_errors(given, torch.zeros_like).predict(X), only_weights.predict(X), atol=1e-4)


def test_errors_of_activations_are_changed_too_and_the_gradient_passes_them():
    _, given = quantized()
    doubled = qadv.as_module(with_errors(given, lambda error: 2 * error, True))
    x = torch.from_numpy(X).requires_grad_()
    out = doubled(x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0
    assert np.abs(out.detach().numpy() - with_errors(given, lambda error: 2 * error).predict(X)).max() > 0.01


def test_a_network_without_float_weights_is_refused():
    with pytest.raises(UnsupportedModelError, match="no quantized weights with the float ones"):
        roundings(digits_classifier("float", "float").model)
