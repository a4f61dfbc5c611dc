"""Calibration against NumPy and the float network: ranges of activations, BatchNorm statistics, biases."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import InvalidInputError, QadvError, SchemeError
from qadv.quantization import Calibration
from qadv.quantization.layers import activation_quantizers

BINS = 4096
CANDIDATES = 128


def images(n=64, shape=(2, 8, 8), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (n, *shape)).astype(np.float32)


def one_layer(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU())


def vectors(n=300):
    """Heavy tails, so that the best range is well below the largest activation."""
    return np.random.default_rng(0).standard_t(3, (n, 6)).astype(np.float32)


def with_batch_norm(bias=False, seed=0):
    """Convolutions read by BatchNorms whose statistics are those of the images, and a linear layer."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 5)),
    )
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
        for seed in range(30):
            model(torch.from_numpy(images(seed=100 + seed)))
    return model.eval()


def without_batch_norm(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 5)),
    ).eval()


@torch.no_grad()
def outputs(model, x, kinds):
    """The output of each layer of these kinds, by name."""
    found = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: found.__setitem__(name, output))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    model(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return found


def channel_mean(x):
    return x.mean(dim=[d for d in range(x.ndim) if d != 1])


def channel_deviation(x):
    return x.std(dim=[d for d in range(x.ndim) if d != 1], unbiased=False)


def ranges_of(model):
    return [(q.alpha.item() if hasattr(q, "alpha") else q.bound) for _, q in activation_quantizers(model)]


def same_state(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ranges


@pytest.mark.parametrize("batch_size", [17, 128, 1000])
@pytest.mark.parametrize("percentile", [1, 50, 75, 99, 99.9, 100])
@pytest.mark.parametrize("scheme", ["relu:4", "pact:4"])
def test_the_percentile_is_numpys_within_one_bin(scheme, percentile, batch_size):
    model, x = one_layer(), vectors()
    calibration = Calibration(x, ranges="percentile", percentile=percentile, batch_size=batch_size)
    (found,) = ranges_of(qadv.quantize(model, "float", scheme, calibration=calibration))
    activations = np.sort(model(torch.from_numpy(x)).detach().numpy().ravel())
    exact = activations[int(np.ceil(percentile * len(activations) / 100 - 1e-6)) - 1]
    assert abs(found - exact) <= activations[-1] / BINS
    assert 0 < found <= activations[-1] * (1 + 1e-6)


def uniform(x, high, bits, signed):
    low, intervals = (-high, max(2**bits - 2, 1)) if signed else (0.0, 2**bits - 1)
    step = (high - low) / intervals
    return low + np.round((np.clip(x.astype(np.float64), low, high) - low) / step) * step


def check_mse_range(found, x, bits, signed):
    def error(high):
        return np.square(uniform(x, high, bits, signed) - x).sum()

    candidates = np.abs(x).max() * np.arange(1, CANDIDATES + 1) / CANDIDATES
    assert np.abs(candidates - found).min() < 1e-5 * candidates[-1]
    assert error(found) <= 1.01 * min(map(error, candidates))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", ["relu", "pact"])
def test_the_mse_range_is_as_good_as_brute_force_on_the_activations(name, bits):
    model, x = one_layer(), vectors()
    (found,) = ranges_of(qadv.quantize(model, "float", f"{name}:{bits}", calibration=x))
    activations = model(torch.from_numpy(x)).detach().numpy()
    check_mse_range(found, activations, bits, signed=False)
    if bits <= 4:
        assert found < 0.9 * activations.max()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("rule", ["mse", "percentile"])
def test_signed_inputs_in_a_network_with_gelu(rule, bits):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 30), nn.GELU(), nn.Linear(30, 4)), vectors()
    calibration = Calibration(x, ranges=rule, percentile=99)
    schemes = {"*": f"relu:{bits}", "0": f"relu:{bits}"}  # named, also the layer that reads the images
    quantized = qadv.quantize(model, "float", schemes, skip_first_last=False, calibration=calibration)
    hidden = model[:2](torch.from_numpy(x)).detach().numpy()
    for found, values in zip(ranges_of(quantized), (x, hidden), strict=True):
        magnitudes = np.abs(values).ravel()
        if rule == "mse":
            check_mse_range(found, values, bits, signed=True)
        else:
            exact = np.sort(magnitudes)[int(np.ceil(0.99 * magnitudes.size)) - 1]
            assert abs(found - exact) <= 2 * magnitudes.max() / BINS
    for _, quantizer in activation_quantizers(quantized):
        assert quantizer.signed
        assert quantizer.levels()[0].item() == pytest.approx(-quantizer.levels()[-1].item())


def test_ranges_are_chosen_on_float_activations_behind_quantized_weights():
    model, x = without_batch_norm(), images()
    plain = {"ranges": "percentile", "percentile": 100, "batch_norm": False, "bias_correction": False}
    found = ranges_of(qadv.quantize(model, "int:3", "relu:2", calibration=Calibration(x, **plain)))
    largest = outputs(qadv.quantize(model, "int:3", "float"), x, nn.ReLU)
    np.testing.assert_allclose(found, [y.max().item() for y in largest.values()], rtol=1e-6)


def test_ranges_take_two_passes_over_the_images():
    model, x = one_layer(), vectors()
    calls = []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    qadv.quantize(model, "float", "relu:3", calibration=Calibration(x, bias_correction=False, batch_norm=False))
    assert sum(calls) == 2 * len(x)


def test_a_dead_layer_and_constant_activations_have_a_range():
    model = one_layer()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
        assert 0 < ranges_of(qadv.quantize(model, "float", "relu:4", calibration=vectors()))[0] <= 1
        model[0].bias.fill_(1000)
    for rule in ("mse", "percentile"):
        quantized = qadv.quantize(model, "float", "relu:4", calibration=Calibration(vectors(), ranges=rule))
        assert ranges_of(quantized)[0] == pytest.approx(1000, rel=1e-3)
        torch.testing.assert_close(quantized(torch.zeros(1, 6)), torch.full((1, 40), 1000.0), rtol=1e-3, atol=0)


def test_relu_needs_calibration():
    with pytest.raises(SchemeError, match=r"ranges of 1 come from data; give some: quantize\(\.\.\., calibration="):
        qadv.quantize(one_layer(), "float", "relu:4")
    with pytest.raises(SchemeError, match="calibration"):
        qadv.QuantizedClassifier.from_backbone("mnist-cnn", activations="relu:4", input_shape=(1, 28, 28))


def test_fixed_ranges_stay_and_learned_ones_start_from_data():
    model, x = one_layer(), vectors()
    assert ranges_of(qadv.quantize(model, "float", "relu6:4", calibration=x)) == [6]
    assert ranges_of(qadv.quantize(model, "float", "relu1:4", calibration=x)) == [1]
    assert ranges_of(qadv.quantize(model, "float", "pact:4")) == [6]
    pact = qadv.quantize(model, "float", "pact:4", calibration=x)
    relu = qadv.quantize(model, "float", "relu:4", calibration=x)
    assert ranges_of(pact) == pytest.approx(ranges_of(relu), rel=1e-6)
    assert ranges_of(pact) != [6]
    (alpha,) = [parameter for name, parameter in pact.named_parameters() if name.endswith("alpha")]
    assert alpha.requires_grad


def test_a_range_from_data_has_less_error_than_a_fixed_one():
    model, x = one_layer(), vectors()
    target = model(torch.from_numpy(x))
    error = {
        name: (qadv.quantize(model, "float", f"{name}:3", calibration=x)(torch.from_numpy(x)) - target).square().mean()
        for name in ("relu", "relu6", "relu1")
    }
    assert error["relu"] < 0.7 * min(error["relu6"], error["relu1"])


# arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((0, 6), np.float32)}, "expected 2 or more images"),
        ({"images": np.zeros((1, 6), np.float32)}, "expected 2 or more images"),
        ({"images": np.zeros(6, np.float32)}, "expected 2 or more images"),
        ({"images": np.zeros((4, 6), np.uint8)}, "expected floating images, got uint8; divide by 255"),
        ({"images": torch.zeros(4, 6, dtype=torch.int64)}, "expected floating images"),
        ({"images": np.zeros((4, 6), bool)}, "expected floating images"),
        ({"images": np.zeros((4, 6), object)}, "expected floating images"),
        ({"images": np.full((4, 6), np.nan, np.float32)}, "NaN or infinite"),
        ({"images": np.full((4, 6), np.inf, np.float32)}, "NaN or infinite"),
        ({"images": [[0.0] * 6] * 4}, "expected an array or tensor of images, got list"),
        ({"images": "images.npy"}, "expected an array or tensor of images, got str"),
        ({"ranges": "x"}, "ranges: expected one of mse, percentile, got 'x'"),
        ({"percentile": 0}, "percentile: expected a finite number above 0 and at most 100, got 0"),
        ({"percentile": 100.1}, "percentile: expected a finite number"),
        ({"percentile": float("nan")}, "percentile: expected a finite number"),
        ({"batch_size": 1}, "batch_size: expected a whole number of at least 2, got 1"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(InvalidInputError, match=message):
        Calibration(**{"images": vectors(4), **change})


def test_images_alone_are_the_default_calibration_whatever_holds_them():
    model, x = one_layer(), vectors()
    expected = qadv.quantize(model, "int:4", "relu:4", skip_first_last=False, calibration=Calibration(x))
    for same in (x, torch.from_numpy(x), x.astype(np.float64), np.asfortranarray(x)):
        assert same_state(qadv.quantize(model, "int:4", "relu:4", skip_first_last=False, calibration=same), expected)


def test_images_in_reverse_order_are_images():
    reverse = qadv.quantize(one_layer(), "float", "relu:4", calibration=vectors()[::-1])
    assert ranges_of(reverse) == ranges_of(qadv.quantize(one_layer(), "float", "relu:4", calibration=vectors()))


def test_a_float_classifier_has_nothing_to_calibrate(digits):
    with pytest.raises(InvalidInputError, match="nothing to calibrate"):
        qadv.QuantizedClassifier.from_backbone(
            "mnist-cnn", "float", "float", input_shape=(1, 8, 8), image_size=8, calibration=digits.x_train[:8]
        )
    with pytest.raises(QadvError, match="calibration"):  # checked as all images are: these are not in [0, 1]
        qadv.QuantizedClassifier.from_backbone(
            "mnist-cnn", input_shape=(1, 8, 8), image_size=8, calibration=255 * digits.x_train[:8]
        )


# corrections


def statistics(model):
    return [(m.running_mean, m.running_var) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_eight_bit_weights_hardly_change_batch_norm():
    model = with_batch_norm()
    quantized = qadv.quantize(model, "int:8", "float", calibration=images())
    for (mean, variance), (new_mean, new_variance) in zip(statistics(model), statistics(quantized), strict=True):
        assert ((new_mean - mean).abs() / variance.sqrt()).max() < 0.05
        assert (new_variance / variance - 1).abs().max() < 0.05
    coarse = qadv.quantize(model, "int:2", "float", calibration=images())
    assert (statistics(coarse)[1][1] / statistics(model)[1][1] - 1).abs().max() > 0.1


def on_the_grid(model, scheme):
    """The same network with weights that the scheme leaves as they are."""
    quantized = qadv.quantize(model, scheme, "float", skip_first_last=False)
    exact = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in quantized.named_modules():
            if hasattr(module, "decoded"):
                exact.get_submodule(name).weight.copy_(module.decoded())
    return exact


@pytest.mark.parametrize("options", [{}, {"batch_norm": False}, {"batch_size": 10}])
def test_a_network_whose_quantization_is_exact_keeps_its_statistics_and_biases(options):
    model = on_the_grid(with_batch_norm(bias=True), "int:4")
    quantized = qadv.quantize(model, "int:4", "float", calibration=Calibration(images(), **options))
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(quantized.state_dict()[key], tensor, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        quantized(torch.from_numpy(images())).detach(), model(torch.from_numpy(images())).detach(), atol=1e-4
    )


@pytest.mark.parametrize("activations", ["float", "relu6:2", "relu:2", "pact:3"])
def test_bias_correction_gives_every_layer_the_mean_output_of_the_float_network(activations):
    model, x = without_batch_norm(), images()
    kinds = nn.Conv2d | nn.Linear
    corrected = qadv.quantize(model, "int:2", activations, calibration=x)
    without = qadv.quantize(model, "int:2", activations, calibration=Calibration(x, bias_correction=False))
    expected, found, shifted = (outputs(net, x, kinds) for net in (model, corrected, without))
    assert len(expected) == 5
    for name, output in expected.items():
        torch.testing.assert_close(channel_mean(found[name]), channel_mean(output), rtol=0, atol=1e-4)
    assert (channel_mean(shifted["4"]) - channel_mean(expected["4"])).abs().max() > 1e-2
    assert torch.equal(corrected[2].weight, model[2].weight)
    assert same_state(
        without,
        qadv.quantize(model, "int:2", activations, calibration=Calibration(x, bias_correction=False, batch_norm=False)),
    )


def test_linear_layers_on_sequences_are_corrected_per_feature():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 9), nn.GELU(), nn.Linear(9, 4))
    x = np.random.default_rng(0).standard_normal((20, 7, 6)).astype(np.float32)
    quantized = qadv.quantize(model, "int:2", "relu:3", calibration=x)
    for name, output in outputs(model, x, nn.Linear).items():
        found = outputs(quantized, x, nn.Linear)[name]
        torch.testing.assert_close(found.mean((0, 1)), output.mean((0, 1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("activations", ["float", "relu:2"])
def test_without_biases_the_running_means_move_so_that_the_means_behind_are_the_float_networks(activations):
    model, x = with_batch_norm(), images()
    calibration = Calibration(x, batch_norm=False)
    quantized = qadv.quantize(model, "int:2", activations, calibration=calibration)
    expected, found = outputs(model, x, nn.BatchNorm2d), outputs(quantized, x, nn.BatchNorm2d)
    for name, output in expected.items():
        torch.testing.assert_close(channel_mean(found[name]), channel_mean(output), rtol=0, atol=1e-4)
    for (mean, variance), (new_mean, new_variance) in zip(
        statistics(model)[1:], statistics(quantized)[1:], strict=True
    ):
        assert (new_mean - mean).abs().max() > 1e-3
        assert torch.equal(new_variance, variance)
    for name, output in outputs(model, x, nn.Linear).items():
        assert torch.allclose(channel_mean(outputs(quantized, x, nn.Linear)[name]), channel_mean(output), atol=1e-4)


def test_convolutions_with_biases_before_batch_norm_are_corrected_in_the_bias():
    model, x = with_batch_norm(bias=True), images()
    quantized = qadv.quantize(model, "int:2", "float", calibration=Calibration(x, batch_norm=False))
    for old, new in zip(statistics(model), statistics(quantized), strict=True):
        for a, b in zip(old, new, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert not torch.equal(quantized[3].bias, model[3].bias)
    for name, output in outputs(model, x, nn.Conv2d).items():
        assert torch.allclose(channel_mean(outputs(quantized, x, nn.Conv2d)[name]), channel_mean(output), atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activations", ["float", "relu6:3", "relu:2"])
def test_with_batch_norm_mean_and_variance_behind_it_are_the_float_networks(activations, bias):
    model, x = with_batch_norm(bias), images()
    quantized = qadv.quantize(model, "int:2", activations, calibration=x)
    raw = qadv.quantize(
        model, "int:2", activations, calibration=Calibration(x, batch_norm=False, bias_correction=False)
    )
    expected, found, off = (outputs(net, x, nn.BatchNorm2d) for net in (model, quantized, raw))
    for name, output in expected.items():
        torch.testing.assert_close(channel_mean(found[name]), channel_mean(output), rtol=0, atol=1e-4)
        torch.testing.assert_close(channel_deviation(found[name]), channel_deviation(output), rtol=1e-3, atol=1e-4)
    assert (channel_deviation(off["4"]) / channel_deviation(expected["4"]) - 1).abs().max() > 0.05
    assert torch.equal(quantized[4].weight, model[4].weight)


def test_several_batches_are_averaged():
    model, x = with_batch_norm(), images(200)
    calibration = Calibration(x, batch_size=50)
    quantized = qadv.quantize(model, "int:3", "relu6:4", calibration=calibration)
    expected, found = outputs(model, x, nn.BatchNorm2d), outputs(quantized, x, nn.BatchNorm2d)
    for name, output in expected.items():
        torch.testing.assert_close(channel_mean(found[name]), channel_mean(output), rtol=0, atol=0.02)
        torch.testing.assert_close(channel_deviation(found[name]), channel_deviation(output), rtol=0.02, atol=0.02)


def test_a_layer_without_bias_and_batch_norm_keeps_its_shift():
    model = without_batch_norm()
    model[4].register_parameter("bias", None)
    quantized = qadv.quantize(model, "int:2", "relu6:4", calibration=images())
    assert quantized[4].bias is None


class PreActivation(nn.Module):
    """As in a wide ResNet: a sum and a BatchNorm both read what a convolution without bias gives."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.other_norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.branch, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        h = self.conv(self.stem(x).relu())
        h = h + self.branch(self.norm(h).relu()) + self.other_norm(h)
        return self.last(h.relu())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_what_several_modules_read_is_right_in_each_of_them(batch_norm):
    torch.manual_seed(0)
    model, x = PreActivation().eval(), images()
    quantized = qadv.quantize(model, "int:2", "relu6:8", calibration=Calibration(x, batch_norm=batch_norm))
    for kind, names in ((nn.BatchNorm2d, ("norm", "other_norm")), (nn.Conv2d, ("branch", "last"))):
        expected, found = outputs(model, x, kind), outputs(quantized, x, kind)
        for name in names:
            torch.testing.assert_close(channel_mean(found[name]), channel_mean(expected[name]), rtol=0, atol=1e-4)


def test_a_layer_that_is_called_twice_is_corrected_for_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.shared(self.shared(self.first(x).relu()).relu()).relu())

    torch.manual_seed(0)
    model, x = Twice(), vectors()
    quantized = qadv.quantize(model, "int:2", "relu:4", calibration=x)

    def mean_of_both(net):
        found = []
        hook = net.shared.register_forward_hook(lambda *args: found.append(args[2].mean(0)))
        net(torch.from_numpy(x))
        hook.remove()
        return torch.stack(found).mean(0).detach()

    raw = qadv.quantize(model, "int:2", "relu:4", calibration=Calibration(x, bias_correction=False))
    error, before = ((mean_of_both(net) - mean_of_both(model)).abs().max() for net in (quantized, raw))
    assert error < 0.5 * before


# side effects


@pytest.mark.parametrize("training", [False, True])
def test_the_float_network_is_untouched_and_modes_stay(training):
    model = with_batch_norm().train(training)
    model[4].eval()  # frozen on purpose
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    quantized = qadv.quantize(model, "int:3", "relu:3", calibration=images())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert quantized.training is training
    assert quantized[1].training is training
    assert not quantized[4].training
    for net in (model, quantized):
        for module in net.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
    assert all("quantize" not in vars(quantizer) for _, quantizer in activation_quantizers(quantized))
    assert not hasattr(model, "qadv_quantization")
    assert all(p.requires_grad for p in quantized.parameters())
    assert all(p.grad is None for p in (*model.parameters(), *quantized.parameters()))


def test_after_an_error_the_float_network_is_untouched_too():
    model = with_batch_norm().train()
    with pytest.raises((RuntimeError, QadvError)):
        qadv.quantize(model, "int:3", "relu:3", calibration=images(shape=(3, 8, 8)))
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_calibration_is_deterministic_and_leaves_the_random_state_alone():
    model = nn.Sequential(*with_batch_norm()[:9], nn.Dropout(0.5), *with_batch_norm()[9:]).train()
    torch.manual_seed(3)
    first = qadv.quantize(model, "int:3", "relu:3", calibration=images())
    after = torch.rand(3)
    torch.manual_seed(3)
    expected = torch.rand(3)
    second = qadv.quantize(model, "int:3", "relu:3", calibration=images())
    assert torch.equal(after, expected)
    assert same_state(first, second)
    assert not same_state(first, qadv.quantize(model, "int:3", "relu:3", calibration=images(seed=1)))


# whole classifiers


@pytest.fixture(scope="module")
def float_classifier(digits):
    """A trained float network for the digits; not to be changed by a test."""
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "float", "float", input_shape=(1, 8, 8), image_size=8, width=8
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=5, batch_size=64)
    return classifier


@torch.no_grad()
def accuracy(model, digits):
    return (model.eval()(torch.from_numpy(digits.x_test)).argmax(1).numpy() == digits.y_test).mean()


@pytest.mark.parametrize("activations", ["float", "relu6:4"])
def test_real_images_are_classified_better_with_calibration(activations, float_classifier, digits):
    model = float_classifier.model
    assert accuracy(model, digits) > 0.93
    plain = accuracy(qadv.quantize(model, "int:2", activations), digits)
    calibrated = accuracy(qadv.quantize(model, "int:2", activations, calibration=digits.x_train[:512]), digits)
    assert calibrated > plain + 0.02
    assert calibrated > 0.8


def test_ranges_from_real_images_keep_the_accuracy(float_classifier, digits):
    model, x = float_classifier.model, digits.x_train[:512]
    for rule in ("mse", "percentile"):
        quantized = qadv.quantize(model, "int:4", "relu:3", calibration=Calibration(x, ranges=rule))
        assert accuracy(quantized, digits) > accuracy(model, digits) - 0.04


@pytest.mark.parametrize("given", ["array", "tensor", "calibration"])
@pytest.mark.parametrize("activations", ["relu:4", "pact:4", "relu6:4"])
def test_from_backbone_standardises_the_images(activations, given, digits):
    x = digits.x_train[:100]
    calibration = {
        "array": x,
        "tensor": torch.from_numpy(x),
        "calibration": Calibration(x, ranges="percentile", percentile=99, batch_size=33),
    }[given]
    settings = {"input_shape": (1, 8, 8), "image_size": 8, "width": 8, "preprocessing": ([0.3], [0.4])}
    torch.manual_seed(0)
    ours = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "int:3", activations, calibration=calibration, **settings
    )
    torch.manual_seed(0)
    network = qadv.create("backbone", "mnist-cnn", nb_classes=10, in_channels=1, image_size=8, width=8)
    options = {"ranges": "percentile", "percentile": 99, "batch_size": 33} if given == "calibration" else {}
    standard = (x - np.float32(0.3)) / np.float32(0.4)
    by_hand = qadv.quantize(network, "int:3", activations, calibration=Calibration(standard, **options))
    assert same_state(ours.model, by_hand)
    other = qadv.quantize(network, "int:3", activations, calibration=Calibration(x, **options))
    assert not same_state(other, by_hand)
    if given == "calibration":
        assert calibration.images is x


@pytest.mark.parametrize("activations", ["relu:4", "pact:3"])
def test_calibrated_ranges_survive_saving_to_the_bit(activations, digits, tmp_path):
    settings = {"input_shape": (1, 8, 8), "image_size": 8, "width": 8, "preprocessing": ([0.3], [0.4])}
    ours = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "int:3", activations, calibration=digits.x_train[:100], **settings
    )
    ours.save(tmp_path / "net.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    assert same_state(ours.model, again.model)
    assert ranges_of(again.model) == ranges_of(ours.model)
    assert len(set(ranges_of(ours.model))) == 3
    for (_, mine), (_, theirs) in zip(
        activation_quantizers(ours.model), activation_quantizers(again.model), strict=True
    ):
        assert torch.equal(mine.scale, theirs.scale)
        assert torch.equal(mine.levels(), theirs.levels())
    np.testing.assert_array_equal(again.predict(digits.x_test), ours.predict(digits.x_test))
    copied = copy.deepcopy(ours.model)
    x = torch.from_numpy(digits.x_test)
    assert torch.equal(copied.eval()(x), ours.model.eval()(x))


def test_a_state_dict_brings_the_ranges_along():
    model = one_layer()
    source = qadv.quantize(model, "float", "relu:4", calibration=vectors())
    target = qadv.quantize(model, "float", "relu:4", calibration=100 * vectors())
    target.load_state_dict(source.state_dict())
    assert ranges_of(target) == ranges_of(source)
    x = torch.from_numpy(vectors())
    assert torch.equal(target(x), source(x))


def test_what_the_images_never_reach_is_named_with_what_to_do():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.unused = nn.Linear(4, 4), nn.ReLU(), nn.ReLU()
            self.aside, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.relu(self.first(x)))

    x = torch.rand(8, 4)
    with pytest.raises(InvalidInputError, match=r"unused, aside saw no activation, .*'unused': 'float'"):
        qadv.quantize(Unused(), activations="relu:4", calibration=x)
    schemes = {"*": "relu:4", "unused": "float", "aside": "float"}
    assert qadv.quantize(Unused(), activations=schemes, calibration=x)(x).isfinite().all()
