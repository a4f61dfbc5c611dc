"""Each activation scheme against its definition: clip first, then round; gradient 1 on [0, c], both ends included."""

import numpy as np
import pytest
import torch

from qadv.quantization import parse_scheme
from qadv.quantization.layers import QuantActivation
from tests.quantization import definitions

BOUNDS = {"relu6": 6.0, "relu1": 1.0}
CASES = [(name, bits) for name in BOUNDS for bits in range(1, 9)]


def quantizer(name, bits):
    return parse_scheme(f"{name}:{bits}", "activations").for_activation()


def inputs(bound, bits):
    step = bound / (2**bits - 1)
    ties = (np.arange(2**bits - 1) + 0.5) * step
    special = [
        0.0,
        -0.0,
        bound,
        -1e-40,
        1e-40,
        np.nextafter(np.float32(bound), np.float32(np.inf)),
        1e30,
        -1e30,
        bound / 2,
    ]
    random = np.random.default_rng(0).uniform(-bound, 2 * bound, 2000)
    return np.concatenate([ties, special, random]).astype(np.float32)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_forward_and_gradient_are_the_definition(name, bits):
    a = inputs(BOUNDS[name], bits)
    x = torch.from_numpy(a).requires_grad_()
    upstream = torch.randn_like(x)
    y = quantizer(name, bits).quantize(x)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    np.testing.assert_array_equal(y.detach().numpy(), definitions.clipped_relu(a, BOUNDS[name], bits))
    np.testing.assert_array_equal(gradient.numpy(), upstream.numpy() * definitions.clip_mask(a, BOUNDS[name]))
    with torch.no_grad():
        assert torch.equal(quantizer(name, bits).quantize(x), y)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_there_are_two_to_the_k_levels_with_both_ends_among_them(name, bits):
    q = quantizer(name, bits)
    reached = torch.unique(q.quantize(torch.linspace(-1, BOUNDS[name] + 1, 20001)))
    assert len(reached) == len(q.levels()) == 2**bits
    assert reached[0] == 0
    assert reached[-1] == BOUNDS[name]
    assert torch.equal(reached, q.levels())


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_signed_form_is_symmetric(bits):
    q = parse_scheme(f"relu6:{bits}", "activations").for_input()
    x = torch.cat([torch.linspace(-8, 8, 1001), torch.tensor([-6.0, 6.0, 0.0])])
    y = q.quantize(x)
    assert y.min() == -6
    assert y.max() == 6
    assert len(torch.unique(y)) <= 2**bits
    if bits > 1:
        assert q.quantize(torch.zeros(1)).item() == 0
        torch.testing.assert_close(q.quantize(-x), -y)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(q.quantize(x).sum(), x)
    assert torch.equal(gradient, ((x >= -6) & (x <= 6)).float())


def test_gradients_flow_through_brevitas_layers():
    from torch import nn

    import qadv

    model = qadv.quantize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), weights="float")
    x = torch.randn(3, 4, requires_grad=True)
    hidden = model[0](x)
    (gradient,) = torch.autograd.grad(model[1](hidden).sum(), hidden)
    assert torch.equal(gradient, ((hidden >= 0) & (hidden <= 6)).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_float_types_keep_their_type_and_mask(dtype):
    q = quantizer("relu6", 4)
    x = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0], dtype=dtype, requires_grad=True)
    y = q.quantize(x)
    assert y.dtype == dtype
    assert y.tolist() == pytest.approx([0, 0, 3.2, 6, 6], rel=4e-3 if dtype == torch.bfloat16 else 1e-15)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [0, 1, 1, 1, 0]


def exported(module, x):
    return torch.export.export(module, (x,)).module()(x)


def compiled(module, x):
    return torch.compile(module, backend="aot_eager")(x)


def recorded(module, x):
    return torch.jit.trace(module, x)(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("traced", "bound"), [(exported, 3.7), (compiled, 3.8), (recorded, 3.9)])  # new to the process
def test_a_traced_pass_and_those_after_it_are_right(traced, bound):
    q = parse_scheme("relu:4", "activations").for_activation()
    q.set_range(bound)
    x, network = torch.rand(2, 50) * 4, torch.nn.Sequential(torch.nn.Linear(50, 50), QuantActivation(q)).eval()
    found = traced(network, x).detach()
    before = network[0](x).detach()
    np.testing.assert_array_equal(q.quantize(before), definitions.clipped_relu(before.numpy(), q.bound, 4))
    torch.testing.assert_close(found, q.quantize(before))
