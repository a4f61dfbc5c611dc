"""An activation's own bound is kept: no scheme, range or training goes beyond it."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import SchemeError
from qadv.quantization import Calibration
from qadv.quantization.layers import activation_quantizers
from qadv.quantization.pact import LearnedClip, SignedLearnedClip


def net(activation, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), activation, nn.Flatten(), nn.Linear(288, 10)).eval()
    with torch.no_grad():
        model[0].weight *= 30
    return model


@pytest.mark.parametrize(
    ("activation", "bound"), [(nn.ReLU6(), 6.0), (nn.Hardtanh(0, 1), 1.0), (nn.Hardtanh(0, 0.5), 0.5)]
)
@pytest.mark.parametrize("ranges", ["mse", "percentile"])
def test_no_scheme_goes_beyond_the_bound_and_eight_bits_are_close_to_float(activation, bound, ranges):
    x = torch.rand(32, 1, 8, 8)
    model = net(activation)
    logits = model(x)
    for name in ("relu", "pact", "relu6", "relu1", "dorefa"):
        for bits in (1, 2, 4, 8):
            quantized = qadv.quantize(model, "float", f"{name}:{bits}", calibration=Calibration(x, ranges=ranges))
            ((_, quantizer),) = activation_quantizers(quantized)
            assert quantizer.levels().max() <= bound
            low, high, intervals = quantizer.grid()
            assert (low, intervals) == (0, 2**bits - 1)
            assert high == pytest.approx(quantizer.levels().max().item())
        if bound <= 1 or name in ("relu", "pact", "relu6"):
            error = (quantized(x) - logits).abs().max() / logits.abs().max()
            assert error < 0.02, name


@pytest.mark.parametrize("scheme", ["tanh:4", "binary-net"])
def test_a_scheme_that_cannot_be_capped_is_refused(scheme):
    qadv.quantize(net(nn.Hardtanh(0, 1)), "float", scheme)
    with pytest.raises(SchemeError, match=r"1: scheme .* has levels up to 1, above the bound 0.5 .* leave it float"):
        qadv.quantize(net(nn.Hardtanh(0, 0.5)), "float", scheme)


def test_without_calibration_pact_starts_at_the_bound_and_training_does_not_leave_it():
    quantized = qadv.quantize(net(nn.Hardtanh(0, 1)), "float", "pact:4")
    ((_, quantizer),) = activation_quantizers(quantized)
    assert quantizer.alpha.item() == 1
    with torch.no_grad():
        quantizer.alpha.fill_(3)
    quantizer.after_step()
    assert quantizer.alpha.item() == 1
    ((_, free),) = activation_quantizers(qadv.quantize(net(nn.ReLU()), "float", "pact:4"))
    with torch.no_grad():
        free.alpha.fill_(30)
    free.after_step()
    assert free.alpha.item() == 30


def test_bias_correction_sees_the_bounded_network():
    """With exact 8-bit ranges nothing shifts; with another network's activations behind the clip, means would."""
    model, x = net(nn.ReLU6()), torch.rand(64, 1, 8, 8)
    quantized = qadv.quantize(model, "float", "relu:8", calibration=x)
    assert (quantized[3].bias - model[3].bias).abs().max() < 0.02 * model(x).abs().max()


@pytest.mark.parametrize("kind", [LearnedClip, SignedLearnedClip])
def test_pact_against_numpy(kind):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 2, 400), [0, 1.5, -1.5, 3, -3]]).astype(np.float32)
    upstream = rng.normal(size=x.shape).astype(np.float32)
    for bits in range(1, 9):
        quantizer = kind(bits)
        quantizer.set_range(1.5)
        low = -1.5 if kind is SignedLearnedClip else 0.0
        n = max(2**bits - 2, 1) if low else 2**bits - 1
        step = (1.5 - low) / n
        t = torch.from_numpy(x).requires_grad_()
        y = quantizer.quantize(t)
        expected = low + step * np.round((np.clip(x.astype(np.float64), low, 1.5) - low) / step)
        ties = np.abs((np.clip(x, low, 1.5) - low) / step % 1 - 0.5) < 1e-5
        np.testing.assert_allclose(y.detach().numpy()[~ties], expected[~ties], atol=1e-5)
        levels = quantizer.levels().detach().numpy()
        assert len(levels) == n + 1
        assert np.abs(y.detach().numpy()[:, None] - levels).min(1).max() < 1e-6
        assert quantizer.scale.item() == pytest.approx(step)
        y.backward(torch.from_numpy(upstream))
        inside = (x > low) & (x < 1.5) if low else (x >= 0) & (x < 1.5)
        np.testing.assert_array_equal(t.grad.numpy(), upstream * inside)
        to_alpha = upstream[x >= 1.5].sum() - (upstream[x <= -1.5].sum() if low else 0)
        assert quantizer.alpha.grad.item() == pytest.approx(to_alpha, rel=1e-4)


@pytest.mark.parametrize("scheme", ["relu:4", "pact:4"])
@pytest.mark.parametrize("dead", [-100.0, 100.0], ids=["always zero", "always at the bound"])
def test_a_layer_that_is_dead_on_the_images_keeps_the_bound(scheme, dead):
    model = net(nn.Hardtanh(0, 0.5))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(dead)
    quantized = qadv.quantize(model, "float", scheme, calibration=torch.rand(8, 1, 8, 8))
    ((_, quantizer),) = activation_quantizers(quantized)
    assert quantizer.levels().max() <= 0.5
