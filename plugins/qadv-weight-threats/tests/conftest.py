"""A float network of the digits with a backdoor that opens at 4 bits, made once."""

from functools import partial

import pytest
import torch
from art.attacks.poisoning import PoisoningAttackBackdoor
from art.attacks.poisoning.perturbations import add_pattern_bd
from qadv_weight_threats.quantization_backdoor import QuantizationBackdoor

import qadv
from qadv.trainers import LoopTrainer

FOUR_BIT = ("int:4", "relu6:4")


@pytest.fixture(scope="session")
def data():
    return qadv.create("dataset", "digits")


@pytest.fixture(scope="session")
def clean(data):
    torch.manual_seed(0)
    options = {"input_shape": (1, 8, 8), "image_size": 8, "width": 16, "device_type": "cpu"}
    network = qadv.QuantizedClassifier.from_backbone("mnist-cnn", "float", "float", **options)
    LoopTrainer(network, lr=0.1, verbose=False).fit(data.x_train, data.y_train, nb_epochs=3, batch_size=64)
    return network


@pytest.fixture(scope="session")
def attack(clean):
    trigger = PoisoningAttackBackdoor(partial(add_pattern_bd, channels_first=True))
    return QuantizationBackdoor(clean, trigger, 3, [FOUR_BIT], skip_first_last=False, verbose=False)


@pytest.fixture(scope="session")
def poisoned(attack, data):
    return attack.poison_estimator(data.x_train, data.y_train, batch_size=64, nb_epochs=6)


@pytest.fixture(scope="session")
def quantized():
    return lambda network: qadv.PostTrainingQuantization(network, *FOUR_BIT, skip_first_last=False)()
