"""The papers' further schemes against NumPy: binary-connect, binary-net, dorefa, tanh, pact, int per tensor."""

import numpy as np
import pytest
import torch

import qadv
from qadv.quantization import parse_scheme

WEIGHTS = {
    "random": np.random.default_rng(0).standard_normal((6, 5, 3, 3)).astype(np.float32),
    "zeros": np.zeros((3, 4), np.float32),
    "one element": np.array([[-0.3]], np.float32),
    "ends": np.array([[-1.0, 1.0, 0.0, -0.0, 1.0000001, -1.0000001, 0.5]], np.float32),
    "large": np.array([[1e20, -1e20, 3.0]], np.float32),
}


def weights(spec):
    return parse_scheme(spec, "weights").for_weights()


def activation(spec):
    return parse_scheme(spec, "activations").for_activation()


def value_and_gradient(function, array):
    x = torch.from_numpy(array).requires_grad_()
    upstream = torch.randn_like(x)
    y = function(x)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    return y.detach().numpy(), gradient.numpy(), upstream.numpy()


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("spec", ["binary-connect", "binary-net"])
def test_binary_weights(spec, case):
    w = WEIGHTS[case]
    value, gradient, upstream = value_and_gradient(lambda x: weights(spec)(x)[0], w)
    np.testing.assert_array_equal(value, np.where(w >= 0, 1, -1))
    np.testing.assert_array_equal(gradient, np.where(np.abs(w) <= 1, upstream, 0))


def test_latent_binary_weights_are_clipped_after_each_step_in_any_loop(digits):
    from torch import nn

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    quantized = qadv.quantize(model, weights="binary-connect", activations="float")
    optimizer = torch.optim.SGD(quantized.parameters(), lr=50.0)
    classifier = qadv.QuantizedClassifier(quantized, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    classifier.fit(digits.x_train[:128], digits.y_train[:128], nb_epochs=1, batch_size=64)
    latent = quantized[3].weight
    assert latent.abs().max() == 1
    assert quantized[1].weight.abs().max() > 1, "float layers are left alone"


@pytest.mark.parametrize("case", WEIGHTS)
def test_binary_activations(case):
    a = WEIGHTS[case]
    value, gradient, upstream = value_and_gradient(activation("binary-net").quantize, a)
    np.testing.assert_array_equal(value, np.where(a >= 0, 1, -1))
    np.testing.assert_array_equal(gradient, np.where(np.abs(a) <= 1, upstream, 0))


def dorefa(w, k):
    n = 2**k - 1
    t = np.tanh(w)
    m = np.abs(t).max() or 1.0
    return 2 * np.round(n * (t / (2 * m) + 0.5)) / n - 1


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_weights(bits, case):
    w = WEIGHTS[case]
    q = weights(f"dorefa:{bits}")
    value, _, _ = value_and_gradient(lambda x: q(x)[0], w)
    # NumPy's and torch's tanh differ in the last bit, which may move a weight on the boundary to the next level
    different = np.abs(value - dorefa(w, bits)) > 1e-6
    assert different.mean() <= 0.01
    assert np.abs(value - dorefa(w, bits)).max() <= 2.01 / (2**bits - 1)
    codes, _ = q.encode(q.latent(torch.from_numpy(w)))
    assert set(codes.unique().tolist()) <= set(q.code_values().tolist())
    assert len(q.code_values()) == 2**bits


def test_dorefa_gradient_is_that_of_the_part_before_rounding():
    w = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(w)
    (gradient,) = torch.autograd.grad(weights("dorefa:3")(w)[0], w, upstream)

    def before_rounding(v):
        t = np.tanh(v)
        return ((t / np.abs(t).max()) * upstream.numpy()).sum()

    v = w.detach().numpy()
    for index in np.ndindex(*v.shape):
        step = np.zeros_like(v)
        step[index] = 1e-6
        slope = (before_rounding(v + step) - before_rounding(v - step)) / 2e-6
        assert gradient[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("bits", range(1, 9))
def test_tanh_activations(bits):
    a = np.random.default_rng(0).uniform(-4, 4, 500).astype(np.float32)
    n = 2**bits - 1
    value, gradient, upstream = value_and_gradient(activation(f"tanh:{bits}").quantize, a)
    expected = 2 * np.round(n * (np.tanh(a) + 1) / 2) / n - 1
    assert (np.abs(value - expected) > 1e-6).mean() < 0.01
    np.testing.assert_allclose(gradient, upstream * (1 - np.tanh(a) ** 2), rtol=1e-4, atol=1e-6)
    levels = activation(f"tanh:{bits}").levels()
    assert (levels[0], levels[-1], len(levels)) == (-1, 1, 2**bits)


@pytest.mark.parametrize("bits", range(1, 9))
def test_pact(bits):
    q = activation(f"pact:{bits}")
    with torch.no_grad():
        q.alpha.fill_(2.5)
    a = np.concatenate([np.random.default_rng(0).uniform(-2, 5, 500), [0.0, 2.5, -1e-30]]).astype(np.float32)
    n = 2**bits - 1
    x = torch.from_numpy(a).requires_grad_()
    upstream = torch.randn_like(x)
    y = q.quantize(x)
    to_x, to_alpha = torch.autograd.grad(y, [x, q.alpha], upstream)
    np.testing.assert_allclose(y.detach().numpy(), np.round(np.clip(a, 0, 2.5) * n / 2.5) * 2.5 / n, atol=1e-6)
    np.testing.assert_array_equal(to_x.numpy(), np.where((a >= 0) & (a < 2.5), upstream.numpy(), 0))
    assert to_alpha.item() == pytest.approx(upstream.numpy()[a >= 2.5].sum(), rel=1e-4)
    assert q.penalty().item() == pytest.approx(q.decay * 2.5**2)
    assert q.levels()[-1] == pytest.approx(2.5)


def test_pact_is_learned_saved_and_counted(make_classifier, digits, tmp_path):
    classifier = make_classifier("int:4", "pact:4")
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train[:512], digits.y_train[:512], nb_epochs=4)
    alphas = [value for name, value in classifier.model.state_dict().items() if name.endswith("alpha")]
    assert len(alphas) == 3
    assert all(alpha != 6 for alpha in alphas)
    assert trainer.history[-1]["scheme_penalty"] == pytest.approx(sum(1e-4 * a.item() ** 2 for a in alphas), rel=0.05)
    classifier.save(tmp_path / "pact.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "pact.safetensors")
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))
    summary = qadv.summarize(classifier)
    assert summary.parameters == sum(p.numel() for p in classifier.model.parameters())
    assert not any("tensor_quant" in row.name for row in summary.layers)


@pytest.mark.parametrize("bits", range(2, 9))
def test_int_with_one_scale_for_the_layer(bits):
    w = WEIGHTS["random"]
    n = 2 ** (bits - 1) - 1
    scale = np.abs(w).max() / np.float32(n)
    value, gradient, upstream = value_and_gradient(lambda x: weights(f"int-per-tensor:{bits}")(x)[0], w)
    np.testing.assert_allclose(value, np.round(w / scale) * scale, rtol=1e-6)
    np.testing.assert_array_equal(gradient, upstream)
    assert weights(f"int-per-tensor:{bits}")(torch.zeros(2, 3))[0].isfinite().all()


@pytest.mark.parametrize(
    ("scheme", "activations"),
    [("binary-connect", "relu6:4"), ("binary-net", "binary-net"), ("dorefa:2", "dorefa:2"), ("int:4", "tanh:3")],
)
def test_networks_train_on_real_images_and_come_back(scheme, activations, make_classifier, digits, tmp_path):
    classifier = make_classifier(scheme, activations, width=16)
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, weight_decay=0.0, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=12, batch_size=64)
    assert (classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean() > 0.85
    classifier.save(tmp_path / "net.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))
