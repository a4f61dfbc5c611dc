"""What every scheme promises: levels, symmetry, order, both ends, zero, gradients; and that nothing breaks it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from qadv.quantization import parse_scheme
from qadv.quantization.layers import QuantActivation, quantized_layer
from tests.quantization import definitions
from tests.quantization.each import each

WEIGHTS = [
    *(f"{name}:{k}" for name in ("int", "int-per-tensor", "pwlq") for k in range(2, 9)),
    *(f"dorefa:{k}" for k in range(1, 9)),
    *("bwn", "twn", "binary-connect", "binary-net", "sq(bwn)", "sq-inverse(int:3)"),
]
# the scheme inside sq, which in evaluation mode is what sq computes
PLAIN = {spec: {"sq(bwn)": "bwn", "sq-inverse(int:3)": "int:3"}.get(spec, spec) for spec in WEIGHTS}
SIGNS = ("bwn", "binary-connect", "binary-net")
HAVE_ZERO = ("int", "int-per-tensor", "twn", "pwlq")
WHOLE_LAYER = ("int-per-tensor", "dorefa")


def family(spec):
    return PLAIN[spec].partition(":")[0]


def bits_of(spec):
    return int(PLAIN[spec].partition(":")[2])


def layer_of(spec, weight):
    linear = nn.Linear(weight[0].size, len(weight), bias=False)
    linear.weight = nn.Parameter(torch.tensor(weight.reshape(len(weight), -1)))
    return quantized_layer(linear, parse_scheme(spec, "weights").for_weights(), None).eval()


def value(spec, weight):
    return layer_of(spec, weight).decoded().numpy()


arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-50, 50, width=32, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-5),
)


@settings(max_examples=6, deadline=None)
@given(arrays)
@each("spec", WEIGHTS)
def test_weights_are_levels_in_order_with_zero_and_both_ends(spec, weight):
    layer = layer_of(spec, weight)
    out = layer.decoded().numpy()
    levels = layer.levels.expand(len(weight), -1).numpy()
    quantizer = layer.weight_quantizer
    bits = bits_of(spec) + (family(spec) == "pwlq") if ":" in PLAIN[spec] else 2 if spec == "twn" else 1
    assert quantizer.bits == bits
    assert len(quantizer.code_values()) <= 2**bits
    for row, values, available in zip(weight, out, levels, strict=True):
        assert np.isin(values, available).all()
        assert len(np.unique(values)) <= 2**bits
        assert (np.diff(values[np.argsort(row, kind="stable")]) >= 0).all()
    if family(spec) in HAVE_ZERO:
        assert not out[weight == 0].any()
    whole = family(spec) in WHOLE_LAYER
    units = [(weight.ravel(), out.ravel(), levels[0])] if whole else zip(weight, out, levels, strict=True)
    for row, values, available in units:
        if row.any():  # the largest weight gets the largest level
            assert np.abs(values[np.abs(row).argmax()]) == np.abs(available).max()


@settings(max_examples=4, deadline=None)
@given(arrays)
@each("spec", WEIGHTS)
def test_weights_of_the_other_sign_get_the_other_sign(spec, weight):
    there, back = value(spec, weight), value(spec, -weight)
    if family(spec) == "dorefa":  # an even number of levels on an offset grid: 0 and other ties go to one side
        n = 2 ** bits_of(spec) - 1
        position = (definitions.dorefa_before_rounding(weight) + 1) / 2 * n
        clear = np.abs(position - np.floor(position) - 0.5) > 1e-4
        np.testing.assert_array_equal(back[clear], -there[clear])
        assert np.abs(back + there).max() < 2.01 / n
        return
    clear = weight != 0 if family(spec) in SIGNS else np.full(weight.shape, True)  # sign(0) = +1
    np.testing.assert_array_equal(back[clear], -there[clear])


@settings(max_examples=4, deadline=None)
@given(arrays)
@each("spec", [s for s in WEIGHTS if family(s) != "dorefa" or s == "dorefa:1"])
def test_quantizing_twice_is_quantizing_once(spec, weight):
    layer = layer_of(spec, weight)
    once = layer.decoded()
    layer.weight.data = once  # pwlq keeps the breakpoint it has
    torch.testing.assert_close(layer.decoded(), once, rtol=1e-5, atol=0)


def test_dorefa_is_not_idempotent_because_it_squashes_again():
    layer = layer_of("dorefa:4", np.linspace(-2, 2, 40, dtype=np.float32).reshape(4, 10))
    once = layer.decoded()
    layer.weight.data = once
    assert not torch.allclose(layer.decoded(), once, atol=0.05)


SPECIAL = np.array([[0, -0.0, 1, -1, np.nextafter(np.float32(1), np.float32(2)), 1e30, -1e30, 1e-40, 0.3]], np.float32)


@each("spec", [s for s in WEIGHTS if family(s) != "dorefa"])
def test_weight_gradients_are_straight_through(spec):
    weight = np.concatenate([SPECIAL, np.random.default_rng(0).normal(0, 1, (5, 9)).astype(np.float32)])
    layer = layer_of(spec, weight)
    upstream = torch.randn_like(layer.weight)
    (gradient,) = torch.autograd.grad(layer.quant_weight(), layer.weight, upstream)
    passes = np.abs(weight) <= 1 if family(spec).startswith("binary") else np.ones(weight.shape)
    np.testing.assert_array_equal(gradient.numpy(), upstream.numpy() * passes)


@each("spec", [f"dorefa:{k}" for k in range(1, 9)])
def test_the_gradient_of_dorefa_weights_is_that_of_the_part_before_rounding(spec):
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(weight)
    quantizer = parse_scheme(spec, "weights").for_weights()
    (gradient,) = torch.autograd.grad(quantizer(weight)[0], weight, upstream)
    w = weight.detach().numpy()
    largest = np.abs(np.tanh(w)).argmax()
    top, slope = np.tanh(w).flat[largest], 1 - np.tanh(w) ** 2
    expected = upstream.numpy() * slope / abs(top)
    expected.flat[largest] -= (upstream.numpy() * np.tanh(w)).sum() * np.sign(top) * slope.flat[largest] / top**2
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-12)


def hostile_weights():
    random = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    constant, zero = random.copy(), random.copy()
    constant[1], zero[2] = -0.37, 0
    return {
        "random": random,
        "all zeros": np.zeros((2, 5), np.float32),
        "one zero filter": zero,
        "one constant filter": constant,
        "one element": np.array([[-0.3]], np.float32),
        "one element per filter": np.array([[0.3], [-2], [0]], np.float32),
        "very large": random * np.float32(1e30),
        "denormal": random * np.float32(1e-40),
        "denormal and normal": np.array([[1e-40, -1e-40, 1, -2]], np.float32),
        "the smallest": np.array([[1.4e-45, -1.4e-45, 0]], np.float32),
    }


def check_definition(spec, weight, out, layer):
    """Equal to NumPy; where NumPy may round a tie to the other side, as near to the weight as NumPy's level is."""
    w = weight.reshape(len(weight), -1)
    name = family(spec)
    if name in ("int", "int-per-tensor"):
        function = definitions.int_weights if name == "int" else definitions.int_per_tensor_weights
        np.testing.assert_array_equal(out, function(w, bits_of(spec)))
    elif name in SIGNS or name == "twn":
        function = {"bwn": definitions.bwn, "twn": definitions.twn}.get(name, definitions.sign)
        np.testing.assert_allclose(out, function(w), rtol=2e-6, atol=3e-45)
    elif name == "dorefa":
        n = 2 ** bits_of(spec) - 1
        np.testing.assert_allclose((out + 1) / 2 * n, np.round((out + 1) / 2 * n), atol=1e-4)
        assert np.abs(out - definitions.dorefa_before_rounding(w)).max() <= 1.0001 / n
    else:
        breakpoints = layer.weight_quantizer.breakpoint(layer.quantized()[1]).double().numpy()
        for row, values, p in zip(w.astype(np.float64), out, breakpoints, strict=True):
            if np.abs(row).max() <= 1e-30:
                assert np.abs(values).max() <= np.abs(row).max() * 1.1  # steps underflow
                continue
            expected = np.abs(definitions.pwlq(row, p, bits_of(spec)) - row)
            np.testing.assert_allclose(np.abs(values - row), expected, rtol=0, atol=1e-6 * np.abs(row).max())


HOSTILE = hostile_weights()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_weights_are_quantized_as_defined(case):
    weight = HOSTILE[case]
    for spec in WEIGHTS:
        layer = layer_of(spec, weight)
        out = layer.decoded().numpy()
        assert np.isfinite(out).all(), spec
        check_definition(spec, weight, out, layer)


# not bwn and twn: their scale is a mean, which the ties would change
@each("spec", [s for s in WEIGHTS if family(s) not in ("bwn", "twn")])
def test_a_tie_goes_to_one_of_its_neighbours(spec):
    layer = layer_of(spec, np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32))
    levels = layer.levels.expand(3, -1)
    ties = (levels[:, 1:] + levels[:, :-1]) / 2
    with_ends = torch.cat([ties, levels[:, :1], levels[:, -1:]], dim=1)
    quantizer = layer.weight_quantizer
    codes, scale = quantizer.encode(with_ends)  # for dorefa, after the squashing
    out = quantizer.decode(codes, scale)[:, :-2]
    below, above = (out - levels[:, :-1]).abs(), (out - levels[:, 1:]).abs()
    assert torch.minimum(below, above).max() <= 1e-6 * levels.abs().max()


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3), (1, 1), (1, 2, 3, 3)])
@each("spec", WEIGHTS)
def test_the_layer_computes_with_what_it_stores(spec, shape):
    weight = torch.randn(shape)
    layer = nn.Linear(*shape[::-1]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], 3)
    layer.weight = nn.Parameter(weight)
    layer = quantized_layer(layer, parse_scheme(spec, "weights").for_weights(), None).eval()
    codes, scale = layer.quantized()
    assert torch.equal(codes, codes.round())
    assert torch.isin(codes, layer.weight_quantizer.code_values().float()).all()
    assert torch.equal(layer.decoded(), layer.weight_quantizer.decode(codes, scale))
    assert torch.equal(layer.quant_weight(), layer.decoded())
    x = torch.randn(2, shape[1]) if len(shape) == 2 else torch.randn(2, shape[1], 5, 5)
    plain = nn.functional.linear if len(shape) == 2 else nn.functional.conv2d
    assert torch.equal(layer(x), plain(x, layer.decoded(), layer.bias))


C = 2.7182817459106445  # no power of two: a calibrated or learned range


def _activations():
    for k in range(1, 9):
        yield from (
            (f"{name}:{k}", signed) for name in ("relu6", "relu1", "relu", "dorefa") for signed in (False, True)
        )
        yield from ((f"{name}:{k}", name == "tanh") for name in ("pact", "tanh"))
    yield "binary-net", True


ACTIVATIONS = list(_activations())


def activation(spec, signed):
    scheme = parse_scheme(spec, "activations")
    quantizer = scheme.for_input() if signed else scheme.for_activation()
    if quantizer.takes_range:
        quantizer.set_range(C)
    return quantizer


def ends(spec, signed):
    high = {"relu6": 6.0, "relu": C, "pact": C}.get(spec.partition(":")[0], 1.0)
    return -high if signed else 0.0, high


def expected_levels(spec, signed):
    """Both ends and equal steps; signed ones have zero among them, so one level less (tanh and one bit apart)."""
    k = int(spec.partition(":")[2] or 1)
    count = 2**k - 1 if signed and k > 1 and "tanh" not in spec else 2**k
    return np.linspace(*ends(spec, signed), count)


def before_rounding(spec, signed, x):
    return np.tanh(x.astype(np.float64)) if "tanh" in spec else np.clip(x.astype(np.float64), *ends(spec, signed))


def run(quantizer, x):
    return quantizer.quantize(torch.from_numpy(x)).detach().numpy()


def check_activation(spec, signed, x, out):
    """Each output is a level, and the nearest one."""
    levels = expected_levels(spec, signed)
    span, step = levels[-1] - levels[0], levels[1] - levels[0]
    assert np.abs(out[:, None] - levels).min(1).max() <= 1e-6 * span
    assert np.abs(out - before_rounding(spec, signed, x)).max() <= step / 2 + 1e-6 * span


vectors = hnp.arrays(np.float32, 12, elements=st.floats(-10, 10, width=32))


@settings(max_examples=6, deadline=None)
@given(vectors)
@each(("spec", "signed"), ACTIVATIONS)
def test_activations_are_the_nearest_levels_in_order(spec, signed, x):
    quantizer = activation(spec, signed)
    out = run(quantizer, x)
    check_activation(spec, signed, x, out)
    assert len(np.unique(out)) <= len(quantizer.levels()) <= 2**quantizer.bits
    assert (np.diff(out[np.argsort(x, kind="stable")]) >= 0).all()
    if "tanh" not in spec or spec == "tanh:1":  # tanh squashes its own levels again
        np.testing.assert_array_equal(run(quantizer, out), out)
    if signed:
        levels = expected_levels(spec, signed)
        ties = (levels[1:] + levels[:-1]) / 2
        clear = np.abs(before_rounding(spec, signed, x)[:, None] - ties).min(1) > 1e-5 * levels[-1]
        np.testing.assert_allclose(run(quantizer, -x)[clear], -out[clear], rtol=0, atol=1e-6 * levels[-1])


@each(("spec", "signed"), ACTIVATIONS)
def test_the_levels_of_activations_are_all_reached(spec, signed):
    quantizer = activation(spec, signed)
    low, high = ends(spec, signed)
    reached = torch.unique(quantizer.quantize(torch.linspace(low - 6, high + 6, 50_001))).detach()
    np.testing.assert_allclose(quantizer.levels().detach().numpy(), expected_levels(spec, signed), atol=1e-6 * high)
    assert len(reached) == len(quantizer.levels())
    torch.testing.assert_close(reached, quantizer.levels().detach(), rtol=1e-6, atol=1e-6 * high)
    assert (torch.diff(quantizer.levels()) > 0).all()


RANGES = np.random.default_rng(0).uniform(0.05, 20, 200).astype(np.float32).tolist()
NOT_TANH = [(spec, signed) for spec, signed in ACTIVATIONS if "tanh" not in spec]


def with_ranges(spec, signed):
    """The quantizer at its own range, or, where that comes from data, at many."""
    quantizer = activation(spec, signed)
    for high in RANGES if quantizer.takes_range else [ends(spec, signed)[1]]:
        if quantizer.takes_range:
            quantizer.set_range(high)
        yield quantizer, high


@each(("spec", "signed"), NOT_TANH)
def test_both_ends_are_levels_and_a_float_from_the_ranges_ends_at_most(spec, signed):
    for quantizer, high in with_ranges(spec, signed):
        out = quantizer.quantize(torch.tensor([-1e30, -high, high, 1e30])).detach().numpy()
        first, last = quantizer.levels()[[0, -1]].tolist()
        assert out.tolist() == [first, first, last, last]
        np.testing.assert_array_max_ulp(out[[0, -1]], np.float32([-high if signed else 0, high]), 1)
        if not quantizer.takes_range:
            assert last == high


@each(("spec", "signed"), [(s, signed) for s, signed in NOT_TANH if s[-1] != "1" and ":" in s])
def test_zero_stays_zero_in_activations(spec, signed):
    for quantizer, _ in with_ranges(spec, signed):
        assert quantizer.quantize(torch.zeros(2)).tolist() == [0, 0]
        assert 0 in quantizer.levels().tolist()


@each(("spec", "signed"), ACTIVATIONS)
def test_activation_gradients_are_the_papers_masks(spec, signed):
    low, high = ends(spec, signed)
    edges = [np.nextafter(np.float32(end), np.float32(side)) for end in (low, high) for side in (-np.inf, np.inf)]
    special = [low, high, *edges, 0.0, -0.0, 1e30, -1e30, 1e-40, -1e-40]
    x = np.concatenate([np.array(special), np.random.default_rng(0).uniform(-10, 10, 300)]).astype(np.float32)
    if "tanh" in spec:
        x = x[np.abs(x) < 1e20]
    tensor = torch.from_numpy(x).requires_grad_()
    upstream = torch.randn_like(tensor)
    (gradient,) = torch.autograd.grad(activation(spec, signed).quantize(tensor), tensor, upstream)
    if "tanh" in spec:
        slope = 1 - np.tanh(x.astype(np.float64)) ** 2
        np.testing.assert_allclose(gradient.numpy(), upstream.numpy() * slope, rtol=1e-3, atol=1e-6)
        return
    inside = (x >= low) & ((x < np.float32(high)) if "pact" in spec else (x <= np.float32(high)))
    np.testing.assert_array_equal(gradient.numpy(), upstream.numpy() * inside)


@each("spec", [f"pact:{k}" for k in range(1, 9)])
def test_pact_gives_its_range_the_gradient_of_all_that_is_clipped(spec):
    quantizer = activation(spec, False)
    x = torch.tensor([-1.0, 0.0, 2.0, C, C + 1, 1e30])
    (gradient,) = torch.autograd.grad(quantizer.quantize(x), quantizer.alpha, torch.arange(1.0, 7.0))
    assert gradient.item() == 4 + 5 + 6


def hostile_activations(spec, signed):
    levels = expected_levels(spec, signed)
    ties = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    return {
        "zeros": np.zeros(7, np.float32),
        "constant": np.full(7, 0.37, np.float32),
        "one element": np.array([-0.3], np.float32),
        "ties": np.arctanh(ties) if "tanh" in spec else ties,
        "very large": np.array([1e30, -1e30, 3e38, -3e38], np.float32),
        "denormal": np.array([1e-40, -1e-40, 1.4e-45, -1.4e-45], np.float32),
        "none": np.zeros(0, np.float32),
    }


@each(("spec", "signed"), ACTIVATIONS)
def test_hostile_activations_are_quantized_as_defined(spec, signed):
    for case, x in hostile_activations(spec, signed).items():
        out = run(activation(spec, signed), x)
        assert np.isfinite(out).all(), case
        assert out.shape == x.shape
        if len(x):
            check_activation(spec, signed, x, out)


@pytest.mark.parametrize("high", [1e-40, 1e-30, 1e30])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_extreme_ranges_stay_finite(bits, signed, high):
    quantizer = activation(f"relu:{bits}", signed)
    quantizer.set_range(high)
    first, last, steps = quantizer.grid()
    assert last == pytest.approx(max(high, 1e-36))  # a smaller one has steps without an inverse
    x = torch.tensor([0.0, -high, high, high / 3, -1.0, 1.0])
    out = quantizer.quantize(x)
    assert out.isfinite().all()
    assert (out - x.clamp(first, last)).abs().max() <= 0.51 * (last - first) / steps + 3e-45


@each(("spec", "signed"), ACTIVATIONS)
def test_layers_quantize_their_input_and_output_alike(spec, signed):
    quantizer, x = activation(spec, signed), torch.randn(3, 4) * 3
    expected = quantizer.quantize(x)
    if signed:
        linear = nn.Linear(4, 2)
        layer = quantized_layer(linear, None, quantizer)
        assert torch.equal(layer(x), nn.functional.linear(expected, linear.weight, linear.bias))
    assert torch.equal(QuantActivation(quantizer)(x), expected)
