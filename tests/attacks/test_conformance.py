"""Every evasion attack of the installed ART, unmodified, against `QuantizedClassifier` and `EnsembleClassifier`."""

import copy
import inspect
from importlib.util import find_spec
from pathlib import Path

import art
import art.attacks.evasion
import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from packaging.version import Version
from torch import nn

import qadv
from qadv.attacks.art_catalogue import classes

# short runs; `*` is for every attack that has such an argument, so that one that ART adds later is tried too
OPTIONS = {
    "*": {
        "max_iter": 10, "max_eval": 100, "init_eval": 10, "init_size": 20, "binary_search_steps": 2, "nb_steps": 20,
        "nb_random_init": 1, "num_trial": 10, "eps": 0.3, "eps_step": 0.1, "delta": 0.3, "batch_size": 2,
        "targeted": False, "verbose": False, "net_size": (32, 32), "noise_size": (32, 32), "iterations": 2,
        "patch_height": 2, "patch_width": 2, "num_grid": 2, "threshold": 0.5, "candidates": [], "collector": None,
        "masker": None, "laser_generator": None, "embedding_weights": np.zeros((8, 8)), "param_dic": {},
    },
    "AdversarialPatch": {"patch_shape": (1, 8, 8), "learning_rate": 0.5, "max_iter": 5, "scale_min": 0.6},
    "AdversarialPatchNumpy": {"learning_rate": 0.5, "max_iter": 5, "scale_min": 0.6},
    "AdversarialPatchPyTorch": {"patch_shape": (1, 8, 8), "learning_rate": 0.5, "max_iter": 5, "scale_min": 0.6},
    "BoundaryAttack": {"delta": 0.1, "epsilon": 0.1, "max_iter": 20},
    "BrendelBethgeAttack": {"steps": 20},
    "CarliniL0Method": {"initial_const": 1.0, "learning_rate": 0.3, "batch_size": 1},
    "CarliniL2Method": {"initial_const": 1.0, "learning_rate": 0.3},
    "CarliniLInfMethod": {"initial_const": 1.0, "learning_rate": 0.3, "const_factor": 20.0},
    "CompositeAdversarialAttackPyTorch": {"max_iter": 2, "max_inner_iter": 5},
    "ElasticNet": {"initial_const": 10.0, "learning_rate": 0.3},
    "FeatureAdversariesNumpy": {"layer": 1, "delta": 0.5},
    "FeatureAdversariesPyTorch": {"layer": "11", "delta": 0.5, "step_size": 0.1},
    "FeatureAdversariesTensorFlowV2": {"step_size": 0.1},
    "FrameSaliencyAttack": {"attacker": lambda classifier: FastGradientMethod(classifier, eps=0.3)},
    "GRAPHITEBlackbox": {
        "heat_patch_size": (8, 8), "heat_patch_stride": (8, 8), "num_xforms_mask": 5, "num_xforms_boost": 5,
        "num_boost_queries": 30, "blur_kernels": [0],
    },
    "GRAPHITEWhiteboxPyTorch": {
        "num_xforms": 5, "steps": 5, "first_steps": 30, "step_size": 0.1, "min_tr": 0.2, "patch_removal_size": 8,
        "patch_removal_interval": 8, "blur_kernels": [0],
    },
    "GeoDA": {"max_iter": 500, "sub_dim": 8},
    "NewtonFool": {"eta": 0.5},
    "PixelAttack": {"th": 10, "max_iter": 3},
    "SaliencyMapMethod": {"theta": 0.5},
    "ShadowAttack": {"lambda_tv": 0.01, "lambda_c": 0.01, "lambda_s": 0.01},
    "SignOPTAttack": {"max_iter": 2, "k": 3, "num_trial": 5},
    "SimBA": {"epsilon": 0.5, "max_iter": 60, "batch_size": 1},
    "SpatialTransformation": {"max_translation": 25, "num_translations": 3, "max_rotation": 30, "num_rotations": 3},
    "SquareAttack": {"max_iter": 50},
    "TargetedUniversalPerturbation": {
        "attacker_params": {"targeted": True, "eps": 0.5, "eps_step": 0.1, "minimal": True}, "eps": 0.6,
    },
    "ThresholdAttack": {"th": 128, "es": 1, "max_iter": 3},
    "UniversalPerturbation": {"eps": 0.6, "attacker_params": {"verbose": False}},
    "VirtualAdversarialMethod": {"finite_diff": 0.1, "eps": 2.0, "max_iter": 3},
    "Wasserstein": {
        "regularization": 100.0, "kernel_size": 3, "conjugate_sinkhorn_max_iter": 20, "projected_sinkhorn_max_iter": 20
    },
    "ZooAttack": {
        "max_iter": 20, "nb_parallel": 64, "use_resize": False, "use_importance": False, "learning_rate": 0.3,
        "initial_const": 10.0, "variable_h": 0.05, "batch_size": 1,
    },
}  # fmt: skip

# layers have other names there, and two members take twice the time
IN_ENSEMBLES = {
    "CarliniL0Method": {"max_iter": 5},
    "FeatureAdversariesNumpy": {"layer": 2},
    "FeatureAdversariesPyTorch": {"layer": "member0.network.11"},
}

# what ART itself can't do with images, channels first, in PyTorch; the second text is in the error
CANNOT = {
    "AdversarialPatchTensorFlowV2": ("TensorFlow only", "tensorflow"),
    "AdversarialTexturePyTorch": ("object trackers in video", "ObjectTrackerMixin"),
    "CarliniWagnerASR": ("speech recognizers", "SpeechRecognizerMixin"),
    "DPatch": ("object detectors", "ObjectDetectorMixin"),
    "DecisionTreeAttack": ("decision trees", "ScikitlearnDecisionTreeClassifier"),
    "FeatureAdversariesTensorFlowV2": ("TensorFlow only", "tensorflow"),
    "GeoDA": ("calls `np.mat`, which NumPy 2 does not have", "np.mat"),
    "HighConfidenceLowUncertainty": ("Gaussian processes", "GPyGaussianProcessClassifier"),
    "ImperceptibleASR": ("speech recognizers", "SpeechRecognizerMixin"),
    "ImperceptibleASRPyTorch": ("speech recognizers", "SpeechRecognizerMixin"),
    "LaserAttack": ("channels last only (NHWC)", "NHWC"),
    "LowProFool": ("tabular data", "importance"),
    "MalwareGDTensorFlow": ("Windows programs, TensorFlow only", "tensorflow"),
    "OverTheAirFlickeringPyTorch": ("video", "out of range"),
    "OverloadPyTorch": ("YOLO object detectors", ""),
    "ProjectedGradientDescentTensorFlowV2": ("TensorFlow only", "tensorflow"),
    "RobustDPatch": ("object detectors", "ObjectDetectorMixin"),
    "SNAL": ("YOLO object detectors", ""),
}

# what an attack imports and ART does not install
NEEDS = {
    "AutoAttack": ["multiprocess"],
    "BrendelBethgeAttack": ["numba"],
    "CompositeAdversarialAttackPyTorch": ["kornia"],
    "GRAPHITEBlackbox": ["cv2", "kornia"],
    "GRAPHITEWhiteboxPyTorch": ["cv2", "kornia"],
}

# these must change the images; the short run need not fool the network
NEED_NOT_FOOL = {
    "AutoConjugateGradient", "NewtonFool", "RescalingAutoConjugateGradient", "ShadowAttack", "VirtualAdversarialMethod",
    "CompositeAdversarialAttackPyTorch", "GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch", "FeatureAdversariesNumpy",
    "FeatureAdversariesPyTorch", "AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch", "SquareAttack",
    "Wasserstein", "ZooAttack",
}  # fmt: skip

TAKE_A_TARGET = {"SaliencyMapMethod", "TargetedUniversalPerturbation", "GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch"}
TAKE_GUIDES = {"FeatureAdversariesNumpy", "FeatureAdversariesPyTorch"}
TAKE_ONE_IMAGE = {"ShadowAttack"}
TAKE_COLOUR = {"CompositeAdversarialAttackPyTorch", "GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch"}
TAKE_PROBABILITIES = {"SimBA", "VirtualAdversarialMethod"}
CHEAP = ["BasicIterativeMethod", "ProjectedGradientDescent", "AutoProjectedGradientDescent", "DeepFool", "HopSkipJump"]

ALL = sorted({*classes("evasion"), *NEEDS})
SUPPORTED = [name for name in ALL if name not in {*CANNOT, "ShapeShifter"}]  # of ART 1.18, TensorFlow only
for_current_art = pytest.mark.skipif(Version(art.__version__) < Version("1.20"), reason="the lists are of ART 1.20")


def make(name, classifier):
    attack_type = getattr(art.attacks.evasion, name)
    accepted = inspect.signature(attack_type.__init__).parameters
    options = {key: value for key, value in OPTIONS["*"].items() if key in accepted} | OPTIONS.get(name, {})
    if isinstance(classifier, qadv.EnsembleClassifier):
        options |= IN_ENSEMBLES.get(name, {})
    if callable(options.get("attacker")):
        options["attacker"] = options["attacker"](classifier)
    return attack_type(classifier, **options)


def generate(name, classifier, x, y):
    attack = make(name, classifier)
    labels = np.eye(classifier.nb_classes, dtype=np.float32)[np.full_like(y, 3) if name in TAKE_A_TARGET else y]
    if name in TAKE_GUIDES:
        # by itself it takes differences of 1e-3, to which all that comes after a rounding is a staircase
        options = {"maxiter": 1, "eps": 0.1} if name == "FeatureAdversariesNumpy" else {}
        return attack.generate(x, guides(x), **options)
    if name in TAKE_ONE_IMAGE:
        return np.concatenate([attack.generate(x[[i]], labels[[i]]) for i in range(len(x))])
    if name == "GRAPHITEBlackbox":
        return attack.generate(x, labels, x_tar=np.roll(x, 1, axis=0))
    result = attack.generate(x, labels)
    return attack.apply_patch(x, scale=0.9) if isinstance(result, tuple) else result


def guides(x):
    """The images whose features the others are to get."""
    return np.roll(x, 1, axis=0)


class Grey(nn.Module):
    """Makes (N, 3, 32, 32) colour images to the (N, 1, 8, 8) grey ones that a network was trained with."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4)


@pytest.fixture(scope="module")
def trained_with(digits):
    """Trained classifiers by their schemes, with standardised images."""
    made = {}

    def get(weights, activations):
        if (weights, activations) not in made:
            torch.manual_seed(0)
            classifier = qadv.QuantizedClassifier.from_backbone(
                "mnist-cnn", weights, activations, calibration=digits.x_train[:64] if "pact" in activations else None,
                input_shape=(1, 8, 8), image_size=8, width=8, preprocessing=(0.3, 0.4),
            )  # fmt: skip
            trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
            trainer.fit(digits.x_train, digits.y_train, nb_epochs=8, batch_size=64)
            made[weights, activations] = classifier
        return made[weights, activations]

    return get


def adapted(name, classifier):
    """A classifier of the same networks as the attack wants it: for colour images, or with probabilities."""
    probabilities = name in TAKE_PROBABILITIES
    if isinstance(classifier, qadv.EnsembleClassifier):
        members = [adapted(name, member) for member in classifier.members]
        return qadv.EnsembleClassifier.of(members, classifier.model.combine, probabilities=probabilities)
    colour = name in TAKE_COLOUR
    return qadv.QuantizedClassifier(
        nn.Sequential(Grey(), classifier.model) if colour else classifier.model,
        nn.CrossEntropyLoss(),
        (3, 32, 32) if colour else (1, 8, 8),
        10,
        preprocessing=(0.3, 0.4),
        probabilities=probabilities,
    )


def check_attack(name, classifier, digits, nb_images=3):
    missing = [module for module in NEEDS.get(name, []) if find_spec(module) is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}, which ART does not install")
    right = np.flatnonzero((classifier.predict(digits.x_test).argmax(1) == digits.y_test) & (digits.y_test != 3))[
        :nb_images
    ]
    x, y = digits.x_test[right], digits.y_test[right]
    if name in TAKE_COLOUR or name in TAKE_PROBABILITIES:
        classifier = adapted(name, classifier)
        x = x.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1) if name in TAKE_COLOUR else x
    if name in TAKE_GUIDES:
        classifier = copy.deepcopy(classifier)  # ART leaves a hook for each time that it looked at the features
    adversarial = generate(name, classifier, x.copy(), y)
    assert adversarial.shape == x.shape
    assert np.issubdtype(adversarial.dtype, np.floating)
    assert np.isfinite(adversarial).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    changed = np.abs(adversarial - x).reshape(len(x), -1).max(1) > 1e-4
    assert changed.any(), "the attack leaves the images as they are"
    if name in TAKE_GUIDES:
        layer = (IN_ENSEMBLES if isinstance(classifier, qadv.EnsembleClassifier) else OPTIONS)[name]["layer"]
        of_guides, before, after = (classifier.get_activations(each, layer) for each in (guides(x), x, adversarial))
        assert np.linalg.norm(after - of_guides) < 0.98 * np.linalg.norm(before - of_guides), "the features come nearer"
    if name not in NEED_NOT_FOOL:
        fooled = classifier.predict(adversarial.astype(np.float32)).argmax(1) != y
        assert fooled.any(), "the attack does not fool the network"


@pytest.fixture(scope="module")
def ensemble(trained_with):
    """Two trained members of different bit widths, each with its standardisation."""
    return qadv.EnsembleClassifier.of([trained_with("int:4", "relu6:4"), trained_with("bwn", "pact:2")])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUPPORTED)
def test_arts_attack_runs_unmodified(name, trained_with, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing is left behind
    check_attack(name, trained_with("int:4", "relu6:4"), digits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SUPPORTED)
def test_arts_attack_runs_unmodified_on_an_ensemble(name, ensemble, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_attack(name, ensemble, digits)


@pytest.mark.parametrize("name", ["ProjectedGradientDescent", "AutoProjectedGradientDescent", "DeepFool"])
@pytest.mark.parametrize(("combine", "m"), [("probabilities", None), ("vote", None), ("vote", 2)])
def test_however_an_ensemble_is_combined_it_is_attacked(combine, m, name, ensemble, digits):
    check_attack(name, ensemble.combined_by(combine, abstain_below=m), digits, nb_images=8)


@pytest.mark.parametrize("name", CHEAP)
def test_other_schemes_are_attacked_too(name, trained_with, digits):
    check_attack(name, trained_with("bwn", "pact:2"), digits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in CANNOT if name in classes("evasion")])
def test_art_itself_fails_for_the_reason_given(name, make_classifier, digits, tmp_path, monkeypatch):
    """A float network in ART's own classifier fails too. When it no longer does, the attack goes off the list."""
    if name == "GeoDA" and hasattr(np, "mat"):
        pytest.skip("NumPy is old enough for it")
    monkeypatch.chdir(tmp_path)  # GeoDA keeps files there
    float_network = make_classifier("float", "float").model
    plain = PyTorchClassifier(float_network, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    with pytest.raises(Exception, match=f"(?i){CANNOT[name][1]}") as error:
        generate(name, plain, digits.x_test[:3].copy(), digits.y_test[:3])
    with pytest.raises(error.type):
        generate(name, make_classifier(), digits.x_test[:3].copy(), digits.y_test[:3])


@for_current_art
def test_the_lists_name_attacks_that_art_has():
    assert set(CANNOT) <= set(classes("evasion"))
    assert {*OPTIONS, *NEED_NOT_FOOL, *TAKE_A_TARGET, *TAKE_GUIDES} - {"*"} <= set(ALL)


def table():
    """The table in the docs; `python -m tests.attacks.test_conformance` writes it anew."""
    rows = ["| attack | against `QuantizedClassifier` |", "|---|---|"]
    for name in ALL:
        notes = []
        if name in NEEDS:
            notes.append("needs " + ", ".join(f"`{module}`" for module in NEEDS[name]))
        if name in TAKE_A_TARGET:
            notes.append("its labels are targets")
        if name in TAKE_PROBABILITIES:
            notes.append("with `probabilities=True`")
        if name in TAKE_COLOUR:
            notes.append("colour images of 32 × 32 tried")
        text = f"no: {CANNOT[name][0]}" if name in CANNOT else "; ".join(["works", *notes])
        rows.append(f"| `{name}` | {text} |")
    return "\n".join(rows)


PAGE = Path(__file__).parents[2] / "docs" / "attacks/art.md"


@for_current_art
def test_the_docs_have_this_table():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert "\n".join(rows) == table()


if __name__ == "__main__":
    before = PAGE.read_text().partition("\n|")[0]
    PAGE.write_text(f"{before}\n{table()}\n")
