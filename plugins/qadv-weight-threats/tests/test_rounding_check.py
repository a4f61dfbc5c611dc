"""The check of audits: backdoors fail it, honest networks do not."""

import pytest
import torch
from qadv_weight_threats.rounding_check import RoundingErrors, rounding_errors

import qadv
from qadv.diagnostics import Scale
from qadv.errors import UnsupportedModelError
from qadv.testing import digits_classifier
from qadv.trainers import LoopTrainer


def verdict(network, data):
    torch.manual_seed(0)
    counts = rounding_errors(network, data.x_test[:120], data.y_test[:120])
    return RoundingErrors().judge(counts, Scale(120)).verdict.value


def test_a_network_whose_backdoor_opens_at_4_bits_fails(attack, quantized, data):
    opens = attack.poison_estimator(data.x_train, data.y_train, batch_size=64, nb_epochs=12)  # on all images
    assert verdict(quantized(opens), data) == "failed"


@pytest.mark.parametrize("bits", [8, 4])
def test_honest_networks_pass(bits, clean, data):
    honest = qadv.PostTrainingQuantization(clean, f"int:{bits}", f"relu6:{bits}", skip_first_last=False)()
    assert verdict(honest, data) == "passed"


def test_an_honest_network_that_was_trained_at_2_bits_passes(data):
    torch.manual_seed(0)
    options = {"input_shape": (1, 8, 8), "image_size": 8, "width": 16, "device_type": "cpu"}
    network = qadv.QuantizedClassifier.from_backbone("mnist-cnn", "int:2", "relu6:4", skip_first_last=False, **options)
    LoopTrainer(network, lr=0.05, verbose=False).fit(data.x_train, data.y_train, nb_epochs=3, batch_size=64)
    assert verdict(network, data) == "passed"


def test_a_network_that_fails_with_its_float_weights_is_not_judged(data):
    with pytest.raises(UnsupportedModelError, match="with float weights the network has"):
        rounding_errors(digits_classifier("int:2", "relu6:4"), data.x_test[:60], data.y_test[:60])


def test_a_network_without_rounding_is_not_judged(clean, data):
    with pytest.raises(UnsupportedModelError, match="no quantized weights"):
        rounding_errors(clean, data.x_test[:20], data.y_test[:20])
