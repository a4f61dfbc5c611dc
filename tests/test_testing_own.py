"""qadv's own components hold to what the kit asks of plugins."""

import os

import pytest
from art.attacks.evasion import FastGradientMethod

import qadv
from qadv.components import KINDS
from qadv.registry import default_registry
from qadv.testing import conformance, digits_classifier, run_check

BUDGET = {"seed": 0, "verbose": False}
DATA = os.environ.get("QADV_DATA_DIR")
ROUNDS = {"gradient": "rounds, with a straight-through estimator"}


def ensemble():
    return qadv.EnsembleClassifier.of([digits_classifier(), digits_classifier("float", "float")])


def float_classifier():
    return digits_classifier("float", "float")


def fgsm(classifier, eps=0.1):
    return FastGradientMethod(classifier, eps=eps)


test_attack_spsa = conformance("attack", "spsa", eps=0.3, max_iter=1, nb_samples=16, **BUDGET)
test_attack_n_attack = conformance("attack", "n-attack", eps=0.3, max_iter=1, **BUDGET)
test_attack_square = conformance("attack", "square", eps=0.3, max_iter=20, **BUDGET)
test_attack_ddn = conformance("attack", "ddn", max_iter=5, verbose=False)
test_attack_r_fgsm = conformance("attack", "r-fgsm", eps=0.3, **BUDGET)
test_attack_uniform_noise = conformance("attack", "uniform-noise", eps=0.3, max_iter=3, **BUDGET)
test_attack_gaussian_noise = conformance("attack", "gaussian-noise", std=0.3, max_iter=3, **BUDGET)
test_attack_art = conformance(
    "attack", "art/FastGradientMethod", eps=0.3, exempt={"bad-options": "ART's own takes eps=nan"}
)

test_trainer_dq = conformance("trainer", "dq", beta=1e-3, lr=0.1, verbose=False)
test_trainer_eq = conformance("trainer", "eq", max_iter=2, lr=0.1, verbose=False)
test_trainer_adversarial = conformance("trainer", "adversarial", max_iter=2, lr=0.1, verbose=False)
test_trainer_feedback = conformance(
    "trainer", "feedback", rounds=1, nb_directions=4, nb_nearest=2, samples_per_class=(1, 1, 2), lr=0.1, verbose=False
)

test_transformer_mu_law = conformance("transformer", "mu-law", mu=5.0)
test_transformer_ptq = conformance(
    "transformer", "ptq", weights="int:3", activations="relu:3", classifier=float_classifier
)

test_preprocessor_bit_depth = conformance("preprocessor", "bit-depth", bit_depth=3, exempt=ROUNDS)
test_preprocessor_median_smoothing = conformance("preprocessor", "median-smoothing")
test_preprocessor_mu_law = conformance("preprocessor", "mu-law-companding", mu=10.0)
test_preprocessor_mu_law_rounded = conformance("preprocessor", "mu-law-companding", mu=10.0, bits=4, exempt=ROUNDS)

test_postprocessor_softmax = conformance("postprocessor", "softmax")

test_detector_ensemble_agreement = conformance("detector", "ensemble-agreement", m=2, classifier=ensemble)

test_dataset_digits = conformance("dataset", "digits")
test_dataset_mnist = pytest.mark.data(
    pytest.mark.skipif(not DATA, reason="QADV_DATA_DIR names no folder with the image files")(
        conformance("dataset", "mnist", data_dir=DATA)
    )
)

test_diagnostic_error_amplification = conformance("diagnostic", "error-amplification")
test_diagnostic_weight_error = conformance("diagnostic", "weight-error")
test_diagnostic_ensemble_agreement = conformance("diagnostic", "ensemble-agreement", m=2, classifier=ensemble)
test_diagnostic_source_agreement = conformance("diagnostic", "source-agreement", source=0, classifier=ensemble)
test_diagnostic_amplification_by_eps = conformance("diagnostic", "amplification-by-eps", eps=(0.0, 0.1), attack=fgsm)
test_diagnostic_value_shift = conformance("diagnostic", "value-shift")
test_diagnostic_gradient_similarity = conformance("diagnostic", "gradient-similarity")
test_diagnostic_transfer_matrix = conformance("diagnostic", "transfer-matrix", attacks={"FGSM": fgsm})
test_diagnostic_accuracy_curve = conformance("diagnostic", "accuracy-curve", eps=(0.0, 0.1), attack=fgsm)
test_diagnostic_accuracy_by_distance = conformance("diagnostic", "accuracy-by-distance", eps=(0.1, 1.0), attack=fgsm)

SMALL = {"input_shape": (1, 8, 8)}
test_backbone_mnist_cnn = conformance("backbone", "mnist-cnn", image_size=8, width=4, **SMALL)
test_backbone_resnet20 = conformance("backbone", "resnet20", **SMALL)
test_backbone_wide_resnet = conformance("backbone", "wide-resnet", depth=10, width=1, **SMALL)
test_backbone_small_image_resnet = conformance("backbone", "small-image-resnet", **SMALL)
test_backbone_lowbit_convnet = conformance("backbone", "lowbit-convnet", channels=(8, 8, 8, 8, 8, 8), dense=32)
test_backbone_vgg16 = conformance("backbone", "vgg16")
test_backbone_timm = conformance("backbone", "resnet10t", input_shape=(3, 32, 32))

WEIGHTS = ["int", "bwn", "twn", "int-per-tensor", "binary-connect", "dorefa", "pwlq", "sq", "sq-inverse"]
for name in [*WEIGHTS, "binary-net", "pact", "relu", "relu6", "relu1", "tanh"]:
    globals()[f"test_quantizer_{name}"] = conformance("quantizer", name)


@pytest.mark.parametrize("check", ["listed", "unknown-options", "bad-options", "contract", "bad-input"])
def test_diagnostic_audit(check):
    """One audit takes seconds, so not all checks are run; it passes the others, but for the seconds in its result."""
    run_check(check, "diagnostic", "audit", eps=0.1, verbose=False)


NOT_ALL = {
    ("diagnostic", "audit"): "above: one audit takes seconds",
    ("dataset", "cifar10"): "read as mnist is, from five times the bytes",
    ("dataset", "cifar100"): "its files are not here; tests/test_datasets.py reads small ones",
    ("dataset", "svhn"): "its files are not here; tests/test_datasets.py reads small ones",
    ("attack", "art"): "a family; one of its members is here",
    ("backbone", "timm"): "a family; one of its members is here",
}


def test_every_component_is_here():
    here = {value.component for value in globals().values() if hasattr(value, "component")}
    provided = {
        (kind, entry.component.name)
        for kind in KINDS
        for entry in default_registry().entries(kind)
        if entry.distribution == "qadv"
    }
    assert provided - here == set(NOT_ALL)
