"""Other backward passes: the outputs stay as they are to the bit, the gradients are the surrogate's."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.frontends.other_backward import SURROGATES, other_backward
from qadv.quantization.frozen import freeze
from qadv.quantization.layers import activation_quantizers

POINTS = np.linspace(-8, 8, 65, dtype=np.float64)

# by scheme: gradient of each surrogate at POINTS, written out
ONES = np.ones_like(POINTS)
GRADIENTS = {
    "relu6:2": {
        "identity": ONES,
        "clipped": ((POINTS >= 0) & (POINTS <= 6)).astype(float),
        "tanh": 1 - np.tanh((POINTS - 3) / 3) ** 2,
        "float": (POINTS > 0).astype(float),
    },
    "tanh:3": {
        "identity": ONES,
        "clipped": (np.abs(POINTS) <= 1).astype(float),
        "tanh": 1 - np.tanh(POINTS) ** 2,
        "float": ONES,
    },
}


@pytest.mark.parametrize("scheme", list(GRADIENTS))
@pytest.mark.parametrize("surrogate", list(SURROGATES))
def test_gradient_is_the_surrogates(scheme, surrogate):
    model = qadv.quantize(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), "int:8", scheme)
    activation = model[1]
    x = torch.tensor(POINTS, dtype=torch.float32, requires_grad=True)
    value = activation(x)
    with other_backward(model, SURROGATES[surrogate]) as changed:
        assert changed == 1
        other = activation(x)
        (gradient,) = torch.autograd.grad(other.sum(), x)
    assert torch.equal(value, other)
    np.testing.assert_allclose(gradient.numpy(), GRADIENTS[scheme][surrogate], atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_network_gives_the_same_logits_and_other_gradients_until_the_block_ends(make_classifier, digits, frozen):
    model = make_classifier(activations="relu6:2").model.eval()
    model = freeze(model) if frozen else model

    def answer():
        x = torch.from_numpy(digits.x_test[:8]).requires_grad_()
        logits = model(x)
        return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]

    logits, gradient = answer()
    with other_backward(model, SURROGATES["identity"]):
        other_logits, other_gradient = answer()
    assert torch.equal(logits, other_logits)
    assert not torch.allclose(gradient, other_gradient)
    assert torch.equal(gradient, answer()[1])


def test_gradients_are_put_back_after_an_error(make_classifier):
    model = make_classifier().model
    with suppress(KeyError), other_backward(model, SURROGATES["identity"]):
        raise KeyError
    assert not any("quantize" in vars(quantizer) for _, quantizer in activation_quantizers(model))


def test_a_quantizer_in_several_places_is_changed_once_and_put_back():
    relu = nn.ReLU()
    model = qadv.quantize(
        nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu, nn.Linear(2, 2)), "int:8", "relu6:4"
    )
    with other_backward(model, SURROGATES["identity"]) as changed:
        assert changed == len({id(quantizer) for _, quantizer in activation_quantizers(model)})
    assert not any("quantize" in vars(quantizer) for _, quantizer in activation_quantizers(model))


def test_layer_inputs_are_changed_too():
    model = qadv.quantize(
        nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 2)), "int:8", "relu6:2"
    )
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 9
    x.requires_grad_()
    plain = model(x)
    with other_backward(model, SURROGATES["clipped"]) as changed:
        assert changed > 0
        assert torch.equal(plain, model(x))


def test_a_float_network_has_nothing_to_change():
    with other_backward(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), SURROGATES["float"]) as changed:
        assert changed == 0
