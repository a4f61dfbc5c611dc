"""qadv's own components hold to what the kit asks of plugins: one of a kind to all, the others to what costs little."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import brevitas.nn as qnn
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from torch import nn

import qadv
from qadv.components import KINDS
from qadv.frontends import file_frontend
from qadv.registry import default_registry
from qadv.testing import NotApplicable, checks, conformance, digits_classifier, run_check
from tests.photographs import photographs

BUDGET = {"seed": 0, "verbose": False}


def ensemble():
    return qadv.EnsembleClassifier.of([digits_classifier(), digits_classifier("float", "float")])


def float_classifier():
    return digits_classifier("float", "float")


def fgsm(classifier, eps=0.1):
    return FastGradientMethod(classifier, eps=eps)


LITTLE = {
    "listed", "light", "shown", "params", "unknown-options", "bad-options", "contract", "shape-and-dtype",
    "range-of-pixels", "in-a-classifier", "bad-input",
}  # fmt: skip


def little(kind, component, exempt=(), **options):
    """Returns a test of the checks that cost little."""

    def test():
        for check in checks(kind):
            if check.name in LITTLE and check.name not in exempt:
                with contextlib.suppress(NotApplicable):
                    run_check(check, kind, component, **options)

    test.component = (kind, component)
    return test


test_attack_spsa = conformance("attack", "spsa", eps=0.3, max_iter=1, nb_samples=16, **BUDGET)
test_attack_n_attack = little("attack", "n-attack", eps=0.3, max_iter=1, **BUDGET)
test_attack_square = little("attack", "square", eps=0.3, max_iter=20, **BUDGET)
test_attack_ddn = little("attack", "ddn", max_iter=5, verbose=False)
test_attack_r_fgsm = little("attack", "r-fgsm", eps=0.3, **BUDGET)
test_attack_uniform_noise = little("attack", "uniform-noise", eps=0.3, max_iter=3, **BUDGET)
test_attack_gaussian_noise = little("attack", "gaussian-noise", std=0.3, max_iter=3, **BUDGET)
test_attack_art = little("attack", "art/FastGradientMethod", eps=0.3, exempt=["bad-options"])  # ART's takes eps=nan

test_trainer_dq = little("trainer", "dq", beta=1e-3, lr=0.1, verbose=False)
test_trainer_eq = conformance("trainer", "eq", max_iter=2, lr=0.1, verbose=False)
test_trainer_adversarial = little("trainer", "adversarial", max_iter=2, lr=0.1, verbose=False)
test_trainer_feedback = little(
    "trainer", "feedback", rounds=1, nb_directions=4, nb_nearest=2, samples_per_class=(1, 1, 2), lr=0.1, verbose=False
)

test_transformer_mu_law = little("transformer", "mu-law", mu=5.0)
test_transformer_ptq = conformance(
    "transformer", "ptq", weights="int:3", activations="relu:3", classifier=float_classifier
)

test_preprocessor_bit_depth = little("preprocessor", "bit-depth", bit_depth=3)
test_preprocessor_median_smoothing = little("preprocessor", "median-smoothing")
test_preprocessor_mu_law = conformance("preprocessor", "mu-law-companding", mu=10.0)
test_preprocessor_mu_law_rounded = conformance(
    "preprocessor", "mu-law-companding", mu=10.0, bits=4,
    exempt={"gradient": "rounds, with a straight-through estimator"},
)  # fmt: skip

test_postprocessor_softmax = conformance("postprocessor", "softmax")

test_detector_ensemble_agreement = conformance("detector", "ensemble-agreement", m=2, classifier=ensemble)

test_dataset_digits = conformance("dataset", "digits")
test_dataset_image_folder = conformance(
    "dataset", "image-folder", data_dir=photographs(mkdtemp()), input_shape=(3, 8, 8)
)
DIGITS = qadv.create("dataset", "digits")
test_dataset_resized = conformance("dataset", "resized", images=DIGITS, resizer="pillow-bilinear")
test_dataset_decoded = little("dataset", "decoded", images=DIGITS, decoder="torchvision")

test_diagnostic_error_amplification = conformance("diagnostic", "error-amplification")
test_diagnostic_weight_error = little("diagnostic", "weight-error")
test_diagnostic_ensemble_agreement = little("diagnostic", "ensemble-agreement", m=2, classifier=ensemble)
test_diagnostic_source_agreement = little("diagnostic", "source-agreement", source=0, classifier=ensemble)
test_diagnostic_amplification_by_eps = little("diagnostic", "amplification-by-eps", eps=(0.0, 0.1), attack=fgsm)
test_diagnostic_error_split = little("diagnostic", "error-split")
test_diagnostic_logit_statistics = little("diagnostic", "logit-statistics")
test_diagnostic_membership_inference = little("diagnostic", "membership-inference")
test_diagnostic_extraction = conformance("diagnostic", "extraction", nb_queries=4)
test_diagnostic_inversion = little("diagnostic", "inversion")
test_diagnostic_backdoor = little("diagnostic", "backdoor", share=0.5)
test_diagnostic_value_shift = little("diagnostic", "value-shift")
test_diagnostic_gradient_similarity = little("diagnostic", "gradient-similarity")
test_diagnostic_transfer_matrix = little("diagnostic", "transfer-matrix", attacks={"FGSM": fgsm})
test_diagnostic_accuracy_curve = little("diagnostic", "accuracy-curve", eps=(0.0, 0.1), attack=fgsm)
test_diagnostic_accuracy_by_distance = little("diagnostic", "accuracy-by-distance", eps=(0.1, 1.0), attack=fgsm)
test_diagnostic_audit = pytest.mark.usefixtures("short")(little("diagnostic", "audit", eps=0.1, verbose=False))

for name in (
    "zero-gradients", "answers-repeat", "black-box", "no-bound", "strength", "convergence", "transfer",
    "other-gradients", "adaptive-attack", "eight-bit-images",
):  # fmt: skip
    globals()[f"test_audit_check_{name}"] = little("audit-check", name)
test_audit_check_more_work = conformance("audit-check", "more-work")

test_frontend_qadv = conformance("frontend", "qadv", network=lambda: digits_classifier().network)


def by_brevitas():
    conv, last = qnn.QuantConv2d(1, 4, 3, weight_bit_width=4), qnn.QuantLinear(144, 10, bias=True, weight_bit_width=4)
    return nn.Sequential(conv, nn.BatchNorm2d(4), qnn.QuantReLU(bit_width=4), nn.Flatten(), last)


def by_torch_ao():
    ao = pytest.importorskip("torch.ao.quantization")
    network = nn.Sequential(ao.QuantStub(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).train()
    network.qconfig = ao.get_default_qat_qconfig("x86")
    prepared = ao.prepare_qat(network)
    prepared(torch.rand(16, 1, 8, 8))
    return prepared.apply(ao.disable_observer)


def by_torchao():
    quantization = pytest.importorskip("torchao.quantization")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    quantization.quantize_(network, quantization.Int8DynamicActivationInt8WeightConfig())
    return network


test_frontend_brevitas = conformance("frontend", "brevitas", network=by_brevitas)
test_frontend_torch_ao = pytest.mark.filterwarnings("ignore")(conformance("frontend", "torch-ao", network=by_torch_ao))
test_frontend_torchao = pytest.mark.filterwarnings("ignore")(conformance("frontend", "torchao", network=by_torchao))


def by_onnx():
    pytest.importorskip("onnxruntime")
    from tests.frontends.onnx.files import write

    with TemporaryDirectory() as folder:
        path = write("qdq", Path(folder))
        return file_frontend(path).read(path)


test_frontend_onnx = conformance("frontend", "onnx", network=by_onnx, input_shape=(3, 8, 8))

SMALL = {"input_shape": (1, 8, 8)}
test_backbone_mnist_cnn = conformance("backbone", "mnist-cnn", image_size=8, width=4, **SMALL)
test_backbone_resnet20 = little("backbone", "resnet20", **SMALL)
test_backbone_wide_resnet = little("backbone", "wide-resnet", depth=10, width=1, **SMALL)
test_backbone_small_image_resnet = little("backbone", "small-image-resnet", **SMALL)
test_backbone_lowbit_convnet = little("backbone", "lowbit-convnet", channels=(8, 8, 8, 8, 8, 8), dense=32)
test_backbone_vgg16 = little("backbone", "vgg16")
test_backbone_timm = little("backbone", "resnet10t", input_shape=(3, 32, 32))

test_quantizer_pwlq = conformance("quantizer", "pwlq")
test_quantizer_pact = conformance("quantizer", "pact")
for name in ("int", "bwn", "twn", "int-per-tensor", "binary-connect", "binary-net", "dorefa", "sq", "sq-inverse"):
    globals()[f"test_quantizer_{name}"] = little("quantizer", name)
for name in ("relu", "relu6", "relu1", "tanh"):
    globals()[f"test_quantizer_{name}"] = little("quantizer", name)


NOT_ALL = {
    ("dataset", "corrupted"): "it needs an extra; tests/test_changed_images.py does it where that is",
    ("dataset", "mnist"): "tests/test_datasets.py reads it",
    ("dataset", "cifar10"): "tests/test_datasets.py reads it",
    ("dataset", "cifar10-16"): "tests/test_datasets.py reads it",
    ("dataset", "cifar100"): "its files are not here; tests/test_datasets.py reads small ones",
    ("dataset", "svhn"): "its files are not here; tests/test_datasets.py reads small ones",
    ("dataset", "huggingface"): "its library is not here; tests/test_photographs.py reads one where it is",
    ("audit-check", "exported-model"): "exporting takes seconds; tests/diagnostics/test_audit.py does it",
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
