"""Activations that change bucket, counted one by one in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.diagnostics.value_shift import draw_value_shift
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.frozen import freeze


def network(activations, calibration=None):
    torch.manual_seed(0)
    layers = nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 10)
    return qadv.quantize(nn.Sequential(nn.Flatten(), *layers), "float", activations, calibration=calibration)


def classifier_of(model):
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)


def counted(model, clean, moved, squash, low, high, levels):
    """(changed, moved, absorbed, steps) of both activations, from the weights and the nearest level of each value."""
    grid = np.linspace(low, high, levels)
    a, b = (images.reshape(len(images), -1).astype(np.float64) for images in (clean, moved))
    rows = []
    for index in (1, 3):
        weight, bias = (p.detach().numpy().astype(np.float64) for p in (model[index].weight, model[index].bias))
        a, b = (np.clip(squash(v @ weight.T + bias), low, high) for v in (a, b))
        bucket = [np.abs(v[..., None] - grid).argmin(-1) for v in (a, b)]
        jump = np.abs(bucket[0] - bucket[1])
        differ = a != b
        rows.append(
            (
                (jump > 0).mean(),
                differ.mean(),
                (jump[differ] == 0).mean(),
                jump[jump > 0].mean(),
            )
        )
        a, b = (grid[i] for i in bucket)
    return np.array(rows).T


CASES = {
    "relu1:2": (lambda v: v, 0, 1, 4),
    "relu6:4": (lambda v: v, 0, 6, 16),
    "tanh:3": (np.tanh, -1, 1, 8),
    "pact:2": (lambda v: v, 0, 0.5, 4),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("scheme", CASES)
def test_shares_are_those_of_single_activations(digits, scheme, frozen):
    x = digits.x_test[:11]
    moved = np.clip(x + np.random.default_rng(1).uniform(-0.3, 0.3, x.shape), 0, 1).astype(np.float32)
    calibration = digits.x_train[:64] if scheme.startswith("pact") else None
    model = network(scheme, calibration=calibration)
    squash, low, high, levels = CASES[scheme]
    if calibration is not None:
        for quantizer in (model[2].quantizer, model[4].quantizer):
            quantizer.set_range(high)
    if frozen:
        model = freeze(model)
    found = qadv.value_shift(classifier_of(model), x, moved, batch_size=4)
    assert found.layers == ("2", "4")
    assert found.levels == (levels, levels)
    expected = counted(model, x, moved, squash, low, high, levels)
    for name, values in zip(("changed", "moved", "absorbed", "steps"), expected, strict=True):
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-6, err_msg=name)
    assert (found.changed > 0).all()
    np.testing.assert_allclose(found.changed, found.moved * (1 - found.absorbed))


def test_signs_have_two_buckets(digits):
    x = digits.x_test[:5]
    found = qadv.value_shift(classifier_of(network("binary-net")), x, 1 - x)
    assert found.levels == (2, 2)
    assert (found.steps == 1).all()


def test_nothing_changes_between_equal_images_and_there_is_then_no_share_of_it(trained, digits):
    found = qadv.value_shift(trained, digits.x_test[:6], digits.x_test[:6])
    assert (found.changed == 0).all()
    assert (found.moved == 0).all()
    assert np.isnan(found.absorbed).all()
    assert found.to_dict()["steps"] == [None] * len(found.layers)
    assert "–" in str(found)


def test_a_relu_that_runs_twice_counts_both_times(digits):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.relu = nn.Linear(64, 6), nn.Linear(6, 10), nn.ReLU()

        def forward(self, x):
            return self.relu(self.second(self.relu(self.first(x.flatten(1)))))

    torch.manual_seed(0)
    model = qadv.quantize(Twice(), "float", "relu1:1")
    x = digits.x_test[:7]
    moved = np.clip(x + np.random.default_rng(1).uniform(-0.5, 0.5, x.shape), 0, 1).astype(np.float32)
    outputs = []
    for images in (x, moved):
        with torch.no_grad():
            hidden = model.relu(model.first(torch.from_numpy(images).flatten(1)))
            outputs.append(np.hstack([hidden.numpy(), model(torch.from_numpy(images)).numpy()]))
    found = qadv.value_shift(classifier_of(model), x, moved)
    assert found.layers == ("relu",)
    assert found.changed[0] == pytest.approx((outputs[0] != outputs[1]).mean())


def test_fewer_levels_absorb_more_of_a_small_change_where_weights_are_the_same(digits):
    x = digits.x_test[:40]
    moved = np.clip(x + 0.02, 0, 1)
    absorbed = [qadv.value_shift(classifier_of(network(f"relu1:{bits}")), x, moved).absorbed[0] for bits in (2, 4, 8)]
    assert absorbed[0] > absorbed[1] > absorbed[2]


def test_inputs_of_layers_are_counted_where_there_is_no_relu(digits):
    torch.manual_seed(0)
    layers = nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 10)
    model = qadv.quantize(nn.Sequential(nn.Flatten(), *layers), "int:4", "relu1:3", skip_first_last=False)
    found = qadv.value_shift(classifier_of(model), digits.x_test[:5], 1 - digits.x_test[:5])
    assert found.layers == ("3", "5")
    assert found.levels == (7, 7)


def test_what_can_not_be_measured_is_refused(trained, digits, make_classifier):
    x = digits.x_test[:3]
    with pytest.raises(UnsupportedModelError, match="no activation"):
        qadv.value_shift(make_classifier("float", "float"), x, x)
    with pytest.raises(InvalidInputError, match="expected the shape of x"):
        qadv.value_shift(trained, x, x[:2])
    with pytest.raises(InvalidInputError, match="x_adversarial"):
        qadv.value_shift(trained, x, np.full_like(x, np.nan))


def test_it_is_drawn_in_per_cent(trained, digits):
    found = qadv.value_shift(trained, digits.x_test[:4], 1 - digits.x_test[:4])
    figure = draw_value_shift({"4 bit": found}, "absorbed")
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 100 * found.absorbed)
    with pytest.raises(InvalidInputError, match="quantity"):
        draw_value_shift({"4 bit": found}, "moved")
