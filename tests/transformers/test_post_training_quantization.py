"""Post-training quantization as an ART transformer."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

import qadv
from qadv.errors import InvalidInputError, SchemeError
from qadv.preprocessors.bit_depth import BitDepthReduction


def accuracy(classifier, data):
    return (classifier.predict(data.x_test).argmax(1) == data.y_test).mean()


def test_it_is_quantize_with_images_as_the_network_takes_them(trained_float, digits):
    x = digits.x_train[:100]
    found = qadv.PostTrainingQuantization(trained_float, "pwlq:3", "relu:4")(x)
    by_hand = qadv.quantize(trained_float.model, "pwlq:3", "relu:4", calibration=(x - 0.3) / np.float32(0.4))
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert accuracy(found, digits) > accuracy(trained_float, digits) - 0.05


def test_images_and_settings_come_from_the_constructor_or_the_call(trained_float, digits):
    x = digits.x_train[:64]
    in_constructor = qadv.PostTrainingQuantization(
        trained_float, "int:4", "relu:3", calibration=qadv.Calibration(x, ranges="percentile", percentile=90.0)
    )
    in_call = qadv.PostTrainingQuantization(
        trained_float,
        "int:4",
        "relu:3",
        calibration=qadv.Calibration(digits.x_train[64:70], ranges="percentile", percentile=90.0),
    )
    by_default = qadv.PostTrainingQuantization(trained_float, "int:4", "relu:3", calibration=x)
    first, second, third = in_constructor(), in_call(x), by_default()
    np.testing.assert_array_equal(first.predict(x), second.predict(x))
    assert not np.allclose(first.predict(x), third.predict(x), atol=1e-2)


@pytest.mark.parametrize(("weights", "activations"), [("int:3", "float"), ("float", "relu6:2"), ("int:4", "relu6:4")])
def test_what_is_quantized_is_a_choice_and_some_needs_no_images(trained_float, weights, activations):
    found = qadv.PostTrainingQuantization(trained_float, weights, activations)()
    schemes = {part.scheme for part in qadv.summarize(found).layers}
    assert {scheme for scheme in (weights, activations) if scheme != "float"} <= schemes
    assert found.model.qadv_quantization["weights"] == weights
    assert found.model.qadv_quantization["activations"] == activations


def test_the_mapped_last_layer_is_quantized_where_first_and_last_are_not_skipped(trained_float):
    mapped = qadv.MuLawWeightMapping(trained_float, mu=30.0)()
    quantized = qadv.PostTrainingQuantization(mapped, "int:3", "float", skip_first_last=False)()
    last = quantized.model[12].decoded().numpy()
    weight = mapped.model[12].weight.detach().numpy()
    step = np.abs(weight).max(axis=1, keepdims=True) / 3
    np.testing.assert_allclose(last, step * np.round(weight / step), atol=1e-6)
    skipped = qadv.PostTrainingQuantization(mapped, "int:3", "float")()
    np.testing.assert_array_equal(skipped.model[12].weight.detach().numpy(), weight)


def test_robust_calibration_takes_adversarial_images(trained_float, digits):
    x = digits.x_train[:64]
    attack = FastGradientMethod(trained_float, eps=0.2)
    robust = qadv.PostTrainingQuantization(trained_float, "int:4", "relu:3", attack=attack)(x)
    by_hand = qadv.PostTrainingQuantization(trained_float, "int:4", "relu:3")(attack.generate(x))
    natural = qadv.PostTrainingQuantization(trained_float, "int:4", "relu:3")(x)
    np.testing.assert_array_equal(robust.predict(x), by_hand.predict(x))
    assert not np.allclose(robust.predict(x), natural.predict(x), atol=1e-2)


def test_the_new_classifier_is_like_the_old_one_and_can_be_attacked_and_saved(trained_float, digits, tmp_path):
    defended = qadv.QuantizedClassifier(
        trained_float.model,
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        (1, 8, 8),
        10,
        clip_values=(0, 1),
        preprocessing_defences=BitDepthReduction(4),
        preprocessing=(0.3, 0.4),
        probabilities=True,
    )
    x = digits.x_test[:32]
    quantized = qadv.PostTrainingQuantization(defended, "int:4", "relu:4")(digits.x_train[:64])
    assert type(quantized) is qadv.QuantizedClassifier
    assert quantized.loss is defended.loss
    assert quantized.probabilities
    assert quantized.clip_values == (0.0, 1.0)
    assert quantized.preprocessing_defences == defended.preprocessing_defences
    np.testing.assert_allclose(quantized.predict(x).sum(1), 1, rtol=1e-5)
    attack = ProjectedGradientDescent(quantized, eps=0.2, eps_step=0.05, max_iter=5, verbose=False)
    assert np.abs(attack.generate(x, digits.y_test[:32]) - x).max() > 0.19
    quantized.save(tmp_path / "net.safetensors")
    loaded = qadv.QuantizedClassifier.load(
        tmp_path / "net.safetensors", loss=defended.loss, preprocessing_defences=BitDepthReduction(4)
    )
    np.testing.assert_array_equal(loaded.predict(x), quantized.predict(x))


def test_defences_on_the_input_come_before_calibration(trained_float, digits):
    """With one bit for each pixel, the network sees 0 and 1 only, and is calibrated for that."""
    squeezed = qadv.QuantizedClassifier(
        trained_float.model,
        torch.nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        preprocessing_defences=BitDepthReduction(1),
        preprocessing=(0.3, 0.4),
    )
    x = digits.x_train[:64]
    found = qadv.PostTrainingQuantization(squeezed, "int:4", "relu:4")(x)
    black_and_white = (x.round() - np.float32(0.3)) / np.float32(0.4)
    by_hand = qadv.quantize(trained_float.model, "int:4", "relu:4", calibration=black_and_white)
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_given_classifier_is_transformed_in_place(trained_float, digits):
    x = digits.x_train[:64]
    plain = PyTorchClassifier(
        trained_float.model,
        torch.nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        clip_values=(0.0, 1.0),
        preprocessing=(0.3, 0.4),
    )
    expected = qadv.PostTrainingQuantization(trained_float, "int:3", "relu:3")(x)
    assert qadv.PostTrainingQuantization(trained_float, "int:3", "relu:3")(x, plain) is plain
    np.testing.assert_array_equal(plain.predict(x), expected.predict(x))
    assert type(plain) is PyTorchClassifier


def test_what_is_off_is_refused(trained_float, trained, digits):
    with pytest.raises(SchemeError, match="calibration=images"):
        qadv.PostTrainingQuantization(trained_float, "int:4", "relu:4")()
    with pytest.raises(InvalidInputError, match="quantized already"):
        qadv.PostTrainingQuantization(trained, "int:4", "relu6:4")()
    with pytest.raises(InvalidInputError, match="skip_first_last"):
        qadv.PostTrainingQuantization(trained_float, skip_first_last=1)
    with pytest.raises(InvalidInputError, match="attack: expected an ART evasion attack"):
        qadv.PostTrainingQuantization(trained_float, attack="pgd")
    attack = FastGradientMethod(trained_float, eps=0.2)
    with pytest.raises(InvalidInputError, match="needs images"):
        qadv.PostTrainingQuantization(trained_float, "int:4", "relu6:4", attack=attack)()
    with pytest.raises(InvalidInputError, match="2 or more images"):
        qadv.PostTrainingQuantization(trained_float, calibration=digits.x_train[0, 0, 0])
    with pytest.raises(InvalidInputError, match="divide by 255"):
        qadv.PostTrainingQuantization(trained_float)(digits.x_train[:9] * 255)
