"""`switchable:k` is the ordinary k-bit quantizer at each precision, and changes with nothing but `set_precision`."""

import numpy as np
import pytest
import torch
from qadv_double_win.precision import check_precisions, set_precision
from qadv_double_win.switchable import SwitchableActivations, SwitchableInputs, SwitchableWeights

import qadv
from qadv.errors import InvalidInputError
from qadv.quantization import parse_scheme
from qadv.testing import digits_classifier

LOW_TO_HIGH = range(2, 17)


def symmetric(weight, bits):
    """The definition, filter by filter, in float32 numpy: ties to even, a filter of zeros stays one."""
    out = np.zeros_like(weight)
    for index, row in enumerate(weight):
        largest = np.float32(2 ** (bits - 1) - 1)
        scale = np.abs(row).max() / largest
        if scale > 0:
            out[index] = np.clip(np.rint(row / scale), -largest, largest) * scale
    return out


def filters():
    weight = np.random.default_rng(0).standard_normal((6, 2, 3, 3)).astype(np.float32)
    weight[1], weight[2], weight[3] = 0, 0.5, weight[3] * 1e-6
    return weight


@pytest.mark.parametrize("bits", LOW_TO_HIGH)
def test_weights_follow_the_definition_at_each_precision(bits):
    quantizer = SwitchableWeights(16)
    quantizer.set_precision(bits)
    value = quantizer(torch.from_numpy(filters()))[0].numpy()
    np.testing.assert_array_equal(value, symmetric(filters(), bits))
    assert len(np.unique(value[0])) <= 2**bits - 1


@pytest.mark.parametrize("bits", LOW_TO_HIGH)
def test_activations_follow_the_definition_at_each_precision(bits):
    x = np.random.default_rng(0).uniform(-2, 8, 500).astype(np.float32)
    x[:3] = 0, 6, 3  # both ends, and a tie
    quantizer = SwitchableActivations(16)
    quantizer.set_precision(bits)
    out = quantizer.quantize(torch.from_numpy(x)).numpy()
    steps = 2**bits - 1
    np.testing.assert_allclose(out, np.rint(np.clip(x, 0, 6).astype(np.float64) / 6 * steps) / steps * 6, atol=7e-4)
    assert np.abs(out[:, None] - quantizer.levels().numpy()).min(1).max() < 1e-6
    assert len(quantizer.levels()) == 2**bits
    assert quantizer.scale.item() == pytest.approx(6 / steps)


@pytest.mark.parametrize("bits", range(2, 9))
def test_up_to_8_bits_each_precision_is_an_ordinary_scheme_to_the_bit(bits):
    x, weight = torch.linspace(-8, 8, 777), torch.from_numpy(filters())
    for role, scheme, value in (("weights", "int", weight), ("activations", "relu6", x)):
        ordinary, switchable = parse_scheme(f"{scheme}:{bits}", role), parse_scheme("switchable:8", role)
        pair = [each.for_weights() if role == "weights" else each.for_activation() for each in (ordinary, switchable)]
        pair[1].set_precision(bits)
        results = []
        for quantizer in pair:
            leaf = value.clone().requires_grad_()
            out = quantizer(leaf)[0]
            results.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
    ordinary, switchable = parse_scheme(f"relu6:{bits}", "activations").for_input(), SwitchableInputs(8)
    switchable.set_precision(bits)
    assert torch.equal(ordinary.quantize(x), switchable.quantize(x))
    assert torch.equal(ordinary.levels(), switchable.levels())
    assert switchable.quantize(torch.zeros(1)).item() == 0


def test_the_gradient_is_one_within_the_clip_with_both_ends_and_zero_outside():
    x = torch.tensor([-0.1, 0.0, 0.3, 6.0, 6.1], requires_grad=True)
    SwitchableActivations(4).quantize(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_codes_of_a_lower_precision_are_codes_of_the_scheme():
    quantizer = SwitchableWeights(8)
    quantizer.set_precision(3)
    codes, _ = quantizer.encode(torch.from_numpy(filters()))
    assert set(codes.flatten().tolist()) == {-3, -2, -1, 0, 1, 2, 3}
    assert set(codes.flatten().tolist()) <= set(quantizer.code_values().tolist())


def test_a_network_answers_at_its_precision_and_comes_back():
    x = qadv.create("dataset", "digits").x_test[:20]
    classifier = digits_classifier("switchable:8", "switchable:8")
    at_eight = classifier.predict(x)
    assert set_precision(classifier, 3) == 2 + 3  # two layers and three activations
    at_three = classifier.predict(x)
    assert np.abs(at_three - at_eight).max() > 0.01
    set_precision(classifier.model, 8)
    np.testing.assert_array_equal(classifier.predict(x), at_eight)


def test_the_precision_is_saved_copied_and_kept_by_attacks(tmp_path):
    x = qadv.create("dataset", "digits").x_test[:20]
    classifier = digits_classifier("switchable:8", "switchable:8")
    set_precision(classifier, 3)
    logits = classifier.predict(x)
    classifier.save(tmp_path / "net.safetensors")
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", device_type="cpu")
    np.testing.assert_array_equal(loaded.predict(x), logits)
    set_precision(loaded, 8)
    assert np.abs(loaded.predict(x) - logits).max() > 0.01  # the float weights are all there
    qadv.export(classifier, tmp_path / "packed.safetensors")
    packed = qadv.QuantizedClassifier.load(tmp_path / "packed.safetensors", device_type="cpu")
    np.testing.assert_array_equal(packed.predict(x), logits)
    with pytest.raises(InvalidInputError, match="frozen"):
        set_precision(packed, 8)
    np.testing.assert_array_equal(packed.predict(x), logits)


@pytest.mark.parametrize("schemes", [("switchable:8", "switchable:4"), ("switchable:4", "switchable:8")])
def test_a_precision_that_a_part_does_not_have_is_refused_and_nothing_changes(schemes):
    x = qadv.create("dataset", "digits").x_test[:20]
    classifier = digits_classifier(*schemes)
    logits = classifier.predict(x)
    for bits in (5, 1, 4.0, True, None):
        with pytest.raises(InvalidInputError, match="bits, got"):
            set_precision(classifier, bits)
    np.testing.assert_array_equal(classifier.predict(x), logits)


def test_a_network_without_switchable_parts_is_refused():
    with pytest.raises(InvalidInputError, match="nothing in the network is switchable"):
        set_precision(digits_classifier(), 4)


@pytest.mark.parametrize("precisions", [(), (4, 4), (1, 4), (4, 17), (4.0,), "48", 4, None, (True, 4)])
def test_a_candidate_set_is_checked(precisions):
    with pytest.raises(InvalidInputError, match="precisions: expected"):
        check_precisions(precisions)


def test_a_candidate_set_is_sorted():
    assert check_precisions([8, 4, 6]) == (4, 6, 8)
    assert check_precisions(range(4, 17)) == tuple(range(4, 17))
