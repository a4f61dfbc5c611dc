"""Piecewise linear weights: the decoding, the breakpoint that is found, and that it stays."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import qadv
from qadv.quantization import parse_scheme
from tests.quantization import definitions

BITS = (2, 3, 4, 6, 8)


def fitted(weight, k):
    quantizer = parse_scheme(f"pwlq:{k}", "weights").for_weights()
    quantizer.fit(torch.from_numpy(weight))
    return quantizer


def breakpoints(quantizer):
    return quantizer.breakpoint(quantizer.scale)


def value(weight, k):
    return fitted(weight, k)(torch.from_numpy(weight))[0].numpy()


def squared_errors(weight, out):
    return np.square(weight.astype(np.float64) - out).reshape(len(weight), -1).sum(1)


def brute_force(row, k, count=5000):
    """The smallest squared error of `count` breakpoints in (0, max |w|]."""
    a = np.abs(row.astype(np.float64))
    p = a.max() * (np.arange(count)[:, None] + 1) / count
    centre, tail = p / (2 ** (k - 1) - 1), (a.max() - p) / 2 ** (k - 1)
    inner = np.abs(np.round(a / centre) * centre - a)
    outer = np.abs(p + np.round((a - p) / np.where(tail > 0, tail, 1)) * tail - a)
    return np.square(np.where(a <= p, inner, outer)).sum(1).min()


def distributions():
    rng = np.random.default_rng(0)
    shape = (3, 288)
    trained = rng.normal(0, 1, shape) * rng.gamma(0.5, 1, shape)  # a peak at zero, few large ones
    return {
        "gaussian": rng.normal(0, 0.05, shape).astype(np.float32),
        "laplace": rng.laplace(0, 0.05, shape).astype(np.float32),
        "uniform": rng.uniform(-0.1, 0.1, shape).astype(np.float32),
        "heavy-tailed": rng.standard_t(2, shape).astype(np.float32),
        "trained-like": (trained * 0.02 + 0.01).astype(np.float32),
    }


@pytest.mark.parametrize("name", distributions())
@pytest.mark.parametrize("k", range(2, 9))
def test_values_and_codes_are_the_definition(k, name):
    weight = distributions()[name]
    quantizer = fitted(weight, k)
    out = quantizer(torch.from_numpy(weight))[0].numpy()
    codes = quantizer.encode(torch.from_numpy(weight))[0].numpy()
    n, t = 2 ** (k - 1) - 1, 2 ** (k - 1)
    for row, values, code, p in zip(weight, out, codes, breakpoints(quantizer).double().numpy(), strict=True):
        m = np.abs(row).max().astype(np.float64)
        assert 0 < p <= m
        expected = np.abs(definitions.pwlq(row, p, k) - row)  # a tie may go to either side: the error is the same
        np.testing.assert_allclose(np.abs(values - row), expected, atol=2e-6 * m)
        np.testing.assert_allclose(
            squared_errors(row[None], values[None])[0], definitions.pwlq_error(row, p, k), rtol=1e-3
        )
        assert np.abs(code).max() <= n + t
        magnitude = np.abs(code).astype(np.float64)
        decoded = np.where(magnitude <= n, magnitude * p / n, p + (magnitude - n) * (m - p) / t)
        np.testing.assert_allclose(values, np.sign(code) * decoded, atol=2e-6 * m)
    assert quantizer.bits == k + 1
    assert quantizer.code_values().tolist() == list(range(-n - t, n + t + 1))


@pytest.mark.parametrize("k", BITS)
def test_the_breakpoint_is_one_level_and_the_tails_codes_lie_beyond_it(k):
    """The reading: 2^(k-1) levels in each tail, evenly from there to the largest weight."""
    weight = distributions()["laplace"]
    quantizer = fitted(weight, k)
    codes = quantizer.code_values()[:, None].float()
    for row, p, steps in zip(weight, breakpoints(quantizer).tolist(), quantizer.scale.flatten(1).T, strict=True):
        levels = quantizer.decode(codes, steps[:, None, None]).flatten().numpy()
        assert (np.isclose(np.abs(levels), p)).sum() == 2
        beyond = levels[levels > p + 1e-6]
        assert len(beyond) == 2 ** (k - 1)
        np.testing.assert_allclose(np.diff([p, *beyond]), (np.abs(row).max() - p) / 2 ** (k - 1), rtol=1e-3)


@pytest.mark.parametrize("name", distributions())
@pytest.mark.parametrize("k", BITS)
def test_the_breakpoint_is_as_good_as_the_best_of_5000(k, name):
    weight = distributions()[name]
    for row, p in zip(weight, breakpoints(fitted(weight, k)).double().numpy(), strict=True):
        assert definitions.pwlq_error(row, p, k) <= 1.01 * brute_force(row, k)


filters = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6),
)


@settings(max_examples=12, deadline=None)
@given(filters)
def test_the_error_is_never_above_that_of_int(weight):
    for k in range(2, 9):
        uniform = parse_scheme(f"int:{k}", "weights").for_weights()(torch.from_numpy(weight))[0].numpy()
        assert (squared_errors(weight, value(weight, k)) <= squared_errors(weight, uniform)).all(), k


@pytest.mark.parametrize("k", BITS)
def test_for_laplace_weights_the_error_is_clearly_below_that_of_int(k):
    weight = distributions()["laplace"]
    ours = squared_errors(weight, value(weight, k))
    assert (ours < 0.5 * squared_errors(weight, definitions.int_weights(weight, k))).all()


def test_each_filter_has_a_breakpoint_of_its_own_that_scales_with_it():
    weight = distributions()["laplace"]
    both = np.concatenate([weight, 4 * weight, -weight])
    quantizer = fitted(both.reshape(9, 32, 3, 3), 4)
    assert breakpoints(quantizer).shape == (9,)
    p = breakpoints(quantizer).reshape(3, 3)
    assert torch.equal(p[1], 4 * p[0])
    assert torch.equal(p[2], p[0])
    assert len(p[0].unique()) == 3
    np.testing.assert_array_equal(breakpoints(fitted(weight[1:2], 4)), p[0, 1:2])


@pytest.mark.parametrize("k", range(2, 9))
@pytest.mark.parametrize(
    "weight", [[[0.0] * 5], [[-0.37] * 5], [[0.3]], [[-0.3], [0.0], [1e-40]], [[1e30, -1e30, 1e29]], [[0.0, -2.0, 0.0]]]
)
def test_filters_with_one_magnitude_are_exact(k, weight):
    weight = np.array(weight, np.float32)
    out = value(weight, k)
    assert np.isfinite(out).all()
    if np.abs(weight).max() > 1e-30 and len(np.unique(np.abs(weight[weight != 0]))) <= 1:
        np.testing.assert_allclose(out, weight, rtol=1e-6)


def test_the_breakpoint_is_found_once_and_later_weights_are_clipped():
    weight = distributions()["gaussian"]
    quantizer = fitted(weight, 4)
    p, largest = breakpoints(quantizer).clone(), np.abs(weight).max(1, keepdims=True)
    out = quantizer(torch.from_numpy(3 * weight))[0].numpy()
    assert torch.equal(breakpoints(quantizer), p)
    np.testing.assert_allclose(np.abs(out).max(1, keepdims=True), largest, rtol=1e-6)
    np.testing.assert_allclose(
        out[np.abs(3 * weight) > largest], (np.sign(weight) * largest)[np.abs(3 * weight) > largest], rtol=1e-6
    )


def test_the_breakpoints_are_in_the_state_dict_and_survive_saving_to_the_bit(make_classifier, digits, tmp_path):
    classifier = make_classifier("pwlq:4", "relu6:4")
    layers = [m for m in classifier.model.modules() if getattr(m, "weight_quantizer", None) is not None]
    state = classifier.model.state_dict()
    assert len(layers) == 2
    for layer in layers:
        assert any(torch.equal(tensor, layer.weight_quantizer.scale) for tensor in state.values())
        with torch.no_grad():
            layer.weight.mul_(1.3).add_(0.01)  # weights move on, as in fine-tuning; the breakpoints stay
    classifier.save(tmp_path / "pwlq.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "pwlq.safetensors")
    for key, tensor in classifier.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], tensor), key
    loaded = [m for m in again.model.modules() if getattr(m, "weight_quantizer", None) is not None]
    for mine, theirs in zip(layers, loaded, strict=True):
        assert torch.equal(breakpoints(mine.weight_quantizer), breakpoints(theirs.weight_quantizer))
        assert torch.equal(mine.decoded(), theirs.decoded())
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))


def test_quantize_finds_the_breakpoints_of_the_float_weights():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3))
    quantized = qadv.quantize(model, weights="pwlq:4", activations="float")
    expected = breakpoints(fitted(model[2].weight.detach().numpy(), 4))
    assert torch.equal(breakpoints(quantized[2].weight_quantizer), expected)
    assert quantized[2].scale.shape == (2, 5)
    assert quantized[2].levels.shape == (5, 2 * (7 + 8) + 1)
    assert (quantized[2].levels.diff(dim=1) >= 0).all()
    copied = nn.Sequential(*quantized)
    assert "pwlq:4" in repr(copied)
