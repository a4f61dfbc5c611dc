"""Quantizers of a study whose calibration images an attack made."""

import numpy as np
import pytest

import qadv
from qadv.benchmark.compute import compute
from qadv.benchmark.given import Given
from qadv.benchmark.network_cells import load_network
from qadv.benchmark.plan import plan
from qadv.benchmark.study_file import StudyError, read_study
from qadv.random_states import seeded
from qadv.registry import create
from tests.benchmark.studies import planned, write_tiny

ATTACK = 'calibration_attack = { name = "FastGradientMethod", options = { eps = 0.3, num_random_init = 1 } }'
STUDY = f"""
title = "robust calibration"
datasets = ["digits"]
nb_train = 48
nb_test = 8

[backbones.mnist-cnn]
options = {{ image_size = 8, width = 4 }}

[quantizers.float]

[quantizers.quantized]
weights = "pwlq:4"
activations = "relu:4"
calibration = 32
{ATTACK}

[defenses.as-it-is]
"""


def networks(text, tmp_path):
    """The networks of a study by quantizer: key, and what is computed."""
    given, cells = Given(None, tmp_path), planned(write_tiny(tmp_path, text))
    return {
        cell.place["quantizer"]: (cell.key, compute(cell.spec, {}, given)) for cell in cells if cell.kind == "network"
    }


def test_the_ranges_are_those_of_the_images_that_the_attack_made(tmp_path):
    found = networks(STUDY, tmp_path)
    float_network, quantized = (load_network(found[name][1]) for name in ("float", "quantized"))
    attack = qadv.create("attack", "FastGradientMethod", float_network, eps=0.3, num_random_init=1)
    images = create("dataset", "digits").x_train[:32]
    with seeded(0):  # as every cell is computed
        adversarial = attack.generate(images)
    expected = qadv.PostTrainingQuantization(float_network, "pwlq:4", "relu:4", calibration=adversarial)()
    for name, value in expected.model.state_dict().items():
        np.testing.assert_array_equal(quantized.model.state_dict()[name], value, name)
    plain = networks(STUDY.replace(ATTACK, ""), tmp_path)
    assert plain["quantized"][0] != found["quantized"][0]
    assert plain["float"][0] == found["float"][0]
    natural = load_network(plain["quantized"][1]).model.state_dict()
    assert any(not np.array_equal(natural[name], value) for name, value in quantized.model.state_dict().items())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("calibration = 32", "", "calibration = 1000, say"),
        ('weights = "pwlq:4"\nactivations = "relu:4"', "", "give schemes"),
        (ATTACK, 'calibration_attack = "PoisoningAttackBackdoor"', "poisoning"),
        (ATTACK, 'calibration_attack = { name = "pgd", options = { esp = 1 } }', "did you mean eps"),
    ],
)
def test_what_makes_no_such_images_is_refused(old, new, said, tmp_path):
    with pytest.raises(StudyError, match=said):
        plan(read_study(write_tiny(tmp_path, STUDY.replace(old, new))), {}, None)
