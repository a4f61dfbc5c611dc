"""Stochastic quantization: which filters stay real, with what probability, and for how long."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import InvalidInputError, SchemeError
from qadv.estimators.upkeep import run_after_steps
from qadv.quantization import parse_scheme, set_stochastic_ratio
from qadv.quantization.stochastic import StochasticWeights, nb_real_filters
from tests.interrupted import noisy, stopped_after

INNER = ["bwn", "twn", "int:3", "int-per-tensor:4", "pwlq:3", "dorefa:2", "binary-connect"]
RESCALED = ["dorefa:2", "binary-connect"]  # values in [-1, 1], however small the weights


def network(filters=10, seed=0, weights="sq(bwn)"):
    """Two equal layers behind one another between float ones."""
    torch.manual_seed(seed)
    sizes = [6, 12, filters, 12, filters, 3]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    layers[3].weight.data = layers[1].weight.data.clone()
    patterns = {"0": "float", "1": weights, "2": "float", "3": weights, "4": "float"}
    return qadv.quantize(nn.Sequential(*layers), patterns, "float").train()


def single(weight, weights="sq(bwn)", **ratio):
    """One layer with these weights, in training mode."""
    linear = nn.Linear(weight.shape[1], len(weight), bias=False)
    linear.weight.data = torch.as_tensor(weight, dtype=torch.float32)
    layer = qadv.quantize(linear, weights, "float", skip_first_last=False).train()
    if ratio:
        set_stochastic_ratio(layer, **ratio)
    return layer


def real_filters(layer):
    return (layer.quant_weight() == layer.weight).all(1)


def draws(layer, steps):
    """The filters that stay real in each of many steps, (steps, filters)."""
    found = []
    for _ in range(steps):
        found.append(layer.weight_quantizer.real.clone())
        layer.after_step()
    return torch.stack(found)


BROKEN = ["sq(bwn", "sq(int:4", "sqbwn)", "(bwn)", "sq(bwn):2"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sq(bwn))", "a scheme round another is written"),
        ("sq", r"'sq': sq takes a scheme, e.g. 'sq\(bwn\)'"),
        ("sq:2", r"'sq:2': sq takes a scheme, e.g. 'sq\(bwn\)'"),
        ("sq-inverse", r"sq-inverse takes a scheme, e.g. 'sq-inverse\(bwn\)'"),
        ("sq(float)", r"'sq\(float\)': there is nothing to wrap round 'float'"),
        ("sq(sq(bwn))", r"'sq\(sq\(bwn\)\)': one sq is enough"),
        ("sq-inverse(sq(bwn))", "one sq is enough"),
        ("int(bwn)", "int takes no scheme, e.g. 'int:4'"),
        ("sq(relu6:4)", "relu6 quantizes activations; give it as activations='relu6:4'"),
        ("sq(int)", "bits are missing; write it as 'int:8'"),
        ("sq(int:9)", "int exists at 2 to 8 bits, got 9"),
        ("sq(itn:4)", "did you mean .*int"),
        ("sq(int:four)", "is the number of bits, e.g. 'int:4'"),
        ("sq()", "no quantizer ''"),
        *((spec, "a scheme round another is written") for spec in BROKEN),
    ],
)
def test_a_wrong_scheme_is_explained(spec, message):
    with pytest.raises(SchemeError, match=message):
        parse_scheme(spec, "weights")


def test_it_is_for_weights_only():
    with pytest.raises(SchemeError, match="sq is not for activations"):
        parse_scheme("sq(bwn)", "activations")
    scheme = parse_scheme("sq(int:4)", "weights")
    assert (scheme.bits, scheme.spec, scheme.inner.spec) == (4, "sq(int:4)", "int:4")
    assert parse_scheme("qadv/sq(qadv/int:4)", "weights").bits == 4


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
def test_in_evaluation_mode_it_is_the_inner_scheme_to_the_bit(name, inner):
    weight = torch.randn(10, 20)
    mine = single(weight, f"{name}({inner})", ratio=0.2).eval()
    plain = single(weight, inner).eval()
    assert torch.equal(mine.quant_weight(), plain.quant_weight())
    assert torch.equal(mine.decoded(), plain.decoded())
    assert torch.equal(mine.levels, plain.levels)
    x = torch.randn(3, 20)
    assert torch.equal(mine(x), plain(x))
    assert mine.weight_quantizer.bits == plain.weight_quantizer.bits


@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
def test_exactly_the_rounded_down_share_stays_real(name):
    def expected(percent, filters):
        return (100 - percent) * filters // 100  # int((1 - r) m) in whole numbers

    assert all(nb_real_filters(p / 100, m) == expected(p, m) for p in range(101) for m in range(1, 100))
    for percent, filters in itertools.product([0, 20, 80, 100], [1, 3, 10]):
        layer = single(torch.randn(filters, 30), f"{name}(bwn)", ratio=percent / 100).float()
        for _ in range(2):
            value, quantized = layer.quant_weight(), layer.decoded()
            real = layer.weight_quantizer.real
            assert real.sum() == expected(percent, filters)
            assert torch.equal(value[real], layer.weight[real])
            assert torch.equal(value[~real], quantized[~real])
            layer.after_step()


@pytest.mark.parametrize("inner", INNER)
def test_gradients_are_what_the_scheme_rounds_and_one_for_filters_that_are_real_as_they_are(inner):
    layer = single(2 * torch.randn(10, 8), f"sq({inner})", ratio=0.5)
    weight, real = layer.weight, layer.weight_quantizer.real
    upstream = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(layer.quant_weight(), weight, upstream)
    plain = single(weight.detach(), inner)
    (expected,) = torch.autograd.grad(plain.quant_weight(), plain.weight, upstream)
    if inner not in RESCALED:
        expected = torch.where(real[:, None], upstream, expected)
    torch.testing.assert_close(gradient, expected)


def published(scheme, weight):
    """What a scheme rounds, and what comes of it, as the papers define them."""
    if scheme == "binary-connect":
        return np.clip(weight, -1, 1), np.where(weight >= 0, 1.0, -1.0)
    top = 2 ** int(scheme[-1]) - 1
    latent = np.tanh(weight) / np.abs(np.tanh(weight)).max()
    return latent, 2 * np.round((latent / 2 + 0.5) * top) / top - 1


@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
@pytest.mark.parametrize("inner", RESCALED)
def test_real_filters_are_on_the_scale_of_the_quantized_ones(inner, name):
    """Weights as small as trained ones, beside values in [-1, 1]."""
    weight = np.random.default_rng(0).normal(0, 0.05, (10, 40)) * np.linspace(0.5, 2, 10)[:, None]
    layer = single(weight, f"{name}({inner})", ratio=0.5)
    value, real = layer.quant_weight().detach().double().numpy(), layer.weight_quantizer.real.numpy()
    latent, quantized = published(inner, weight)
    np.testing.assert_allclose(value[~real], quantized[~real], atol=1e-6)
    for row, rounded, whole in zip(value[real], quantized[real], latent[real], strict=True):
        nearest = (row @ rounded) / (rounded @ rounded)  # of all multiples of the quantized filter
        assert nearest == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(row / np.linalg.norm(row), whole / np.linalg.norm(whole), atol=1e-6)
        assert 0.3 < np.abs(row).mean() / np.abs(rounded).mean() < 3


@pytest.mark.parametrize("inner", RESCALED)
def test_filters_are_drawn_by_their_error_on_that_scale(inner):
    """The size of a filter does not count: binary-connect has no scale, and dorefa one for the layer."""
    rows = with_errors([0.1, 0.9, 0.5])
    small, large = (single(factor * rows, f"sq({inner})", ratio=2 / 3, seed=3) for factor in (0.001, 0.01))
    assert torch.equal(draws(small, 60), draws(large, 60))
    if inner == "binary-connect":  # of two magnitudes 1 ± e, as of BWN
        share = draws(small, 1500).double().mean(0).numpy()
        np.testing.assert_allclose(share, np.array([0.1, 0.9, 0.5]) / 1.5, atol=0.06)


def test_binary_connect_inside_clips_its_latent_weights():
    layer = single(3 * torch.randn(6, 5), "sq(binary-connect)", ratio=0.5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    run_after_steps(optimizer, layer)
    layer(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    assert layer.weight.abs().max() == 1
    assert layer.weight.abs().min() < 1


def test_a_draw_holds_until_the_optimizer_step_and_then_changes():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    handle = run_after_steps(optimizer, model)
    set_stochastic_ratio(model, 0.5)
    seen = []
    for _ in range(12):
        before = real_filters(model[1])
        for _ in range(3):  # an attack's passes, with gradients, and a look at the network in evaluation mode
            model(torch.randn(4, 6)).sum().backward()
            model.eval()(torch.randn(4, 6))
            model.train()
            torch.rand(5)
            assert torch.equal(real_filters(model[1]), before)
        seen.append(tuple(before.tolist()))
        optimizer.step()
    assert len(set(seen)) > 8
    handle.remove()


def test_draws_follow_from_the_seed_and_the_layer():
    def sequence(seed, global_seed=0):
        model = network(filters=20)
        torch.manual_seed(global_seed)
        set_stochastic_ratio(model, 0.5, seed=seed)
        return [draws(model[i], 6) for i in (1, 3)]

    first, again, other = sequence(1), sequence(1, global_seed=9), sequence(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[0], other[0], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[0], first[1], strict=True))  # the same weights, other draws
    # neighbouring seeds are no shifted copies of one another
    assert not any(torch.equal(a, b) for a in first[0] for b in other[0])


def test_draws_leave_the_global_random_state_alone():
    layer = single(torch.randn(10, 6), ratio=0.5)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    set_stochastic_ratio(layer, 0.3, seed=5)
    layer.after_step()
    assert torch.equal(torch.rand(4), expected)


def with_errors(errors, size=200):
    """Weights whose `bwn` errors, ‖W - Q(W)‖₁ / ‖W‖₁, are these: half the magnitudes at 1 + e, half at 1 - e."""
    rows = [np.repeat([1 + e, -(1 + e), 1 - e, -(1 - e)], size // 4) for e in errors]
    return np.stack(rows).astype(np.float32)


ERRORS = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.9])


def sequential_draws(probabilities, size, times):
    rng = np.random.default_rng(0)
    p = probabilities / probabilities.sum()
    counts = np.zeros(len(p))
    for _ in range(times):
        counts[rng.choice(len(p), size, replace=False, p=p)] += 1
    return counts / times


@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
def test_filters_are_drawn_without_replacement_in_proportion(name, keep):
    times, m = 1500, len(ERRORS)
    layer = single(with_errors(ERRORS), f"{name}(bwn)", ratio=1 - keep / m, seed=11)
    np.testing.assert_allclose(layer.error.numpy(), ERRORS, rtol=1e-4)
    found = draws(layer, times)
    assert (found.sum(1) == keep).all()
    share = found.double().mean(0).numpy()
    if name == "sq":
        expected = sequential_draws(ERRORS, keep, 4 * times)
    else:
        expected = 1 - sequential_draws(1 / ERRORS, m - keep, 4 * times)
    spread = np.sqrt(np.maximum(expected * (1 - expected), 1e-3) * (1 / times + 1 / (4 * times)))
    np.testing.assert_array_less(np.abs(share - expected), 4 * spread)
    assert (np.diff(share) > 0).all()  # a larger error stays real more often


def test_the_two_rules_draw_with_different_probabilities():
    share = {}
    for name in ("sq", "sq-inverse"):
        layer = single(with_errors(ERRORS), f"{name}(bwn)", ratio=5 / 6, seed=1)
        share[name] = draws(layer, 1500).double().mean(0).numpy()
    assert np.abs(share["sq"] - share["sq-inverse"]).max() > 0.07  # about 0.1, within 0.02 over 1500 draws


@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
def test_filters_without_an_error_stay_real_last(name):
    layer = single(with_errors([0, 0.3, 0, 0.6, 0, 0.1]), f"{name}(bwn)", ratio=0.5, seed=1)
    found = draws(layer, 50)
    assert found[:, [1, 3, 5]].all()
    assert not found[:, [0, 2, 4]].any()
    set_stochastic_ratio(layer, 0.2)
    assert (draws(layer, 20).sum(1) == 4).all()


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
def test_layers_of_zeros_do_no_harm(name, inner):
    layer = single(torch.zeros(5, 8), f"{name}({inner})", ratio=0.4)
    for _ in range(3):
        assert layer.quant_weight().isfinite().all()
        assert layer.weight_quantizer.real.sum() == 3
        layer.after_step()


@pytest.mark.parametrize("name", ["sq", "sq-inverse"])
def test_a_state_dict_goes_on_with_the_same_draw_and_the_same_next_draws(name):
    def train(model, batches):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        run_after_steps(optimizer, model)
        seen = []
        for x in batches:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            seen.append(model[3].weight_quantizer.real.clone())
        return seen

    batches = torch.randn(8, 4, 6)
    model = network(weights=f"{name}(int:3)")
    set_stochastic_ratio(model, 0.5, seed=4)
    train(model, batches[:4])
    state = copy.deepcopy(model.state_dict())
    other = network(seed=5, weights=f"{name}(int:3)")
    set_stochastic_ratio(other, 0.8, seed=7)
    other.load_state_dict(state)
    assert torch.equal(other[3].weight_quantizer.real, model[3].weight_quantizer.real)
    x = torch.randn(3, 6)
    assert torch.equal(other(x), model(x))
    expected = train(model, batches[4:])
    assert all(torch.equal(a, b) for a, b in zip(train(other, batches[4:]), expected, strict=True))
    assert torch.equal(other[3].weight, model[3].weight)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_a_resumed_training_equals_an_uninterrupted_one(make_classifier, digits, tmp_path):
    def fit(classifier, **options):
        trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, verbose=False, augment=noisy, **options)
        trainer.fit(digits.x_train[:256], digits.y_train[:256], nb_epochs=4, batch_size=64)

    whole, interrupted, resumed = (make_classifier("sq(bwn)", "relu6:4", seed=seed) for seed in (0, 0, 5))
    fit(whole)
    with stopped_after(2 * 4 + 2):  # in the middle of the third epoch
        fit(interrupted, checkpoint=tmp_path / "run.ckpt")
    fit(resumed, checkpoint=tmp_path / "run.ckpt")
    states = [classifier.model.state_dict() for classifier in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    whole.save(tmp_path / "net.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again.predict(digits.x_test), whole.predict(digits.x_test))
    loaded = again.model.state_dict()
    assert all(torch.equal(loaded[key], states[0][key]) for key in states[0])


def test_a_step_draws_once_whoever_watches_the_optimizer(make_classifier, digits):
    """The classifier and the trainer both run what follows a step: the draws must not depend on that."""
    model = make_classifier("sq(bwn)").model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, verbose=False)
    trainer.fit(digits.x_train[:128], digits.y_train[:128], nb_epochs=1, batch_size=64)
    quantizer = next(m for m in model.modules() if isinstance(m, StochasticWeights))
    assert quantizer.draws == 2


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_ratio_is_a_share(ratio):
    with pytest.raises(InvalidInputError, match="ratio: expected a finite number of at least 0 and at most 1"):
        set_stochastic_ratio(network(), ratio)


def test_a_network_without_stochastic_layers_has_no_ratio():
    plain = qadv.quantize(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)), "bwn", "float")
    with pytest.raises(InvalidInputError, match=r"no layer has a stochastic scheme: quantize\(model, weights='sq"):
        set_stochastic_ratio(plain, 0.5)


def test_setting_a_ratio_counts_layers_and_keeps_a_draw_that_need_not_change():
    model = network()
    assert set_stochastic_ratio(model, 0.5, seed=2) == 2
    before = model[1].weight_quantizer.real.clone()
    set_stochastic_ratio(model, 0.5)
    assert torch.equal(model[1].weight_quantizer.real, before)
    set_stochastic_ratio(model, 0.2)
    assert model[1].weight_quantizer.real.sum() == 8
    set_stochastic_ratio(model, 1)
    assert torch.equal(model[1].quant_weight(), model[1].decoded())
    set_stochastic_ratio(model, 0)
    assert torch.equal(model[1].quant_weight(), model[1].weight)


def test_convolutions_are_drawn_by_filter_and_other_layers_by_name_are_left_alone():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.Conv2d(6, 2, 1))
    quantized = qadv.quantize(model, {"1": "sq(twn)", "3": "twn"}, "float").train()
    assert set_stochastic_ratio(quantized, 0.5) == 1
    same = (quantized[1].quant_weight() == quantized[1].weight).flatten(1).all(1)
    assert same.sum() == 5
    assert torch.equal(quantized[3].quant_weight(), quantized[3].decoded())
