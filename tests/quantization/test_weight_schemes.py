"""Each weight scheme against its definition, forward and gradient, on random and hostile weights."""

import numpy as np
import pytest
import torch

from qadv.quantization import parse_scheme
from tests.quantization import definitions

SCHEMES = {
    **{f"int:{k}": (lambda w, k=k: definitions.int_weights(w, k)) for k in range(2, 9)},
    "bwn": definitions.bwn,
    "twn": definitions.twn,
}


def quantizer(spec):
    return parse_scheme(spec, "weights").for_weights()


def value(spec, weight):
    return quantizer(spec)(torch.from_numpy(weight))[0].numpy()


def hostile():
    random = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    one_zero_filter = random.copy()
    one_zero_filter[3] = 0
    one_constant_filter = random.copy()
    one_constant_filter[2] = 0.37
    ties = np.array([[-3.0, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.0]], dtype=np.float32)
    return {
        "random": random,
        "linear": random.reshape(8, 36),
        "all zeros": np.zeros((2, 5), np.float32),
        "one zero filter": one_zero_filter,
        "one constant filter": one_constant_filter,
        "one element": np.array([[-0.3]], np.float32),
        "ties": ties,
        "very large": random * 1e30,
        "tiny": random * 1e-30,
        "with zeros": np.array([[0.0, -0.0, 1.0, -1.0]], np.float32),
    }


@pytest.mark.parametrize("case", hostile())
@pytest.mark.parametrize("spec", SCHEMES)
def test_forward_is_the_definition(spec, case):
    weight = hostile()[case]
    # the means of bwn and twn are sums in another order: equal up to float32's rounding
    np.testing.assert_allclose(value(spec, weight), SCHEMES[spec](weight), rtol=2e-6, atol=0)
    assert np.isfinite(value(spec, weight)).all()


@pytest.mark.parametrize("spec", SCHEMES)
def test_the_gradient_is_the_straight_through_estimators(spec):
    weight = torch.randn(6, 3, 3, 3, requires_grad=True)
    upstream = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(quantizer(spec)(weight)[0], weight, upstream)
    assert torch.equal(gradient, upstream)


@pytest.mark.parametrize("spec", SCHEMES)
def test_codes_are_among_the_levels_and_times_the_scale_give_the_value(spec):
    q = quantizer(spec)
    weight = torch.randn(5, 40)
    codes, scale = q.encode(weight)
    assert set(codes.unique().tolist()) <= set(q.code_values().tolist())
    assert len(q.code_values()) <= 2**q.bits
    assert torch.equal(codes * scale, q(weight)[0])


def test_quantizers_are_brevitas_quantizers():
    import brevitas.nn as qnn
    from torch import nn

    import qadv

    model = qadv.quantize(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3)))
    assert isinstance(model[1], qnn.QuantConv2d)
    assert model[1].weight_quant.is_quant_enabled
    assert model[1].weight_quant.is_narrow_range
    model[1].weight_quant.skip_create_quant_tensor = False
    quant_tensor = model[1].quant_weight()
    codes, scale = model[1].quantized()
    assert torch.equal(quant_tensor.int().float(), codes)
    assert torch.equal(quant_tensor.scale, scale)
    assert quant_tensor.bit_width == 4
