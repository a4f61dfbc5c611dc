"""Which weights are flipped, and what that does to a backdoor."""

import numpy as np
import pytest
import torch
from qadv_weight_threats.error_guided_rounding import ErrorGuidedRounding
from qadv_weight_threats.roundings import roundings

import qadv
from qadv.errors import InvalidInputError, SchemeError, UnsupportedModelError
from qadv.testing import digits_classifier

QUICK = {"steps": 60, "lr": 0.1}


@pytest.fixture(scope="module")
def shut(poisoned, quantized, data):
    given = quantized(poisoned)
    return given, ErrorGuidedRounding(given, error_weight=10.0, **QUICK)(data.x_train[:128])


def taken(network, attack, data):
    images = attack.poison(data.x_test[data.y_test != 3])[0]
    return (network.predict(images).argmax(axis=1) == 3).mean()


def test_the_backdoor_shuts_and_clean_images_are_kept(shut, attack, data):
    given, made = shut
    assert taken(made, attack, data) < taken(given, attack, data) - 0.3
    before, after = ((each.predict(data.x_test).argmax(1) == data.y_test).mean() for each in (given, made))
    assert after > before - 0.05


def test_flipped_weights_are_on_the_other_side_of_the_float_ones_and_near_ties(shut):
    given, made = shut
    after = roundings(made.model)
    for name, weights in roundings(given.model).items():
        moved = after[name].codes - weights.codes
        assert set(moved.unique().tolist()) <= {-1.0, 0.0, 1.0}
        error = weights.latent - weights.value
        assert (moved[moved != 0] == error[moved != 0].sign()).all()
        size = (error / weights.scale).abs()
        assert size[moved != 0].mean() > size[moved == 0].mean() + 0.05, name
        torch.testing.assert_close(after[name].scale, weights.scale)


def test_without_the_guidance_the_output_is_nearer_than_with_the_nearest_levels(data):
    """Adaptive rounding, which is what is left at β = 0, does what it minimises, ‖(W_q - W) x‖² of a linear layer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    rounded = qadv.quantize(model, "int:3", "float", skip_first_last=False)
    given = qadv.QuantizedClassifier(rounded, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")
    made = ErrorGuidedRounding(given, error_weight=0.0, binary_weight=1e-4, steps=200, lr=0.05)(data.x_train[:128])
    weight, x = model[1].weight.detach().numpy(), data.x_test.reshape(-1, 64)
    nearest, adapted = (roundings(each.model)["1"].value.numpy() for each in (given, made))
    off = [np.square(x @ (values - weight).T).sum(axis=1).mean() for values in (nearest, adapted)]
    assert off[1] < 0.7 * off[0]


def test_without_images_to_keep_the_size_of_the_error_decides():
    """On black images the layer's output is its bias. With 4γ = 2βs the sum of the other two terms falls all the way
    from h = |e|/s to 1 where |e|/s > ¼, and rises there elsewhere."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    rounded = qadv.quantize(model, "int-per-tensor:3", "float", skip_first_last=False)
    given = qadv.QuantizedClassifier(rounded, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")
    (before,) = roundings(given.model).values()
    options = {"binary_weight": before.scale.item() / 2, "steps": 150, "lr": 0.1}
    made = ErrorGuidedRounding(given, **options)(np.zeros((4, 1, 8, 8), np.float32))
    (after,) = roundings(made.model).values()
    share = ((before.latent - before.value).abs() / before.scale).flatten()
    outside = ((before.codes + (before.latent - before.value).sign()).abs() > 3).flatten()
    clear = ((share - 0.25).abs() > 0.02) & ~outside
    flipped = (after.codes != before.codes).flatten()
    assert torch.equal(flipped[clear], share[clear] > 0.25)


def test_it_is_the_same_for_the_same_seed(clean, quantized, data):
    given = quantized(clean)
    first, again = (ErrorGuidedRounding(given, seed=1, steps=5)(data.x_train[:64]).predict(data.x_test) for _ in "ab")
    np.testing.assert_array_equal(first, again)


def test_what_can_not_be_flipped_is_refused(clean, quantized, data):
    with pytest.raises(InvalidInputError, match="clean images"):
        ErrorGuidedRounding(quantized(clean))()
    with pytest.raises(UnsupportedModelError, match="no quantized weights"):
        ErrorGuidedRounding(clean)(data.x_train[:8])
    dorefa = qadv.PostTrainingQuantization(digits_classifier("float", "float"), "dorefa:4", "relu6:4")()
    with pytest.raises(SchemeError, match="'dorefa:4' rounds flipped weights anew"):
        ErrorGuidedRounding(dorefa, steps=2)(data.x_train[:8])
