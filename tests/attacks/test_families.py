"""Every extraction, inference and poisoning attack of the installed ART, and its defences against poisoning,
unmodified, against a 4-bit classifier, an ensemble and an ONNX file."""

import copy
import inspect
from functools import partial
from pathlib import Path

import art
import art.defences.detector.poison
import art.defences.transformer.poisoning
import numpy as np
import pytest
import torch
from art.attacks import extraction, poisoning
from art.attacks.inference import attribute_inference as attribute
from art.attacks.inference import membership_inference as membership
from art.attacks.inference import reconstruction
from art.attacks.inference.model_inversion import MIFace
from art.attacks.poisoning.perturbations import add_pattern_bd
from art.defences.detector import poison as detectors
from art.defences.detector.poison.poison_filtering_defence import PoisonFilteringDefence
from art.defences.transformer import Transformer
from art.defences.transformer import poisoning as transformers
from art.estimators.classification import PyTorchClassifier
from packaging.version import Version
from torch import nn

import qadv
from qadv.attacks.art_catalogue import classes
from qadv.errors import InvalidInputError
from qadv.estimators.door import give_optimizer
from qadv.postprocessors.softmax import with_softmax
from qadv.testing.global_state import set_random_states

EYE = np.eye(10, dtype=np.float32)
BACKDOOR = poisoning.PoisoningAttackBackdoor(partial(add_pattern_bd, channels_first=True))
HOPS = {"max_iter": 1, "max_eval": 10, "init_eval": 4, "init_size": 20, "verbose": False}
SHORT = {"max_trials": 1, "max_epochs": 1, "verbose": 0}


class Case:
    """A classifier under attack, with images of digits and one-hot labels; `layer` gives features to collide."""

    def __init__(self, classifier, thief, data, layer, tabular=False):
        self.classifier, self.thief, self.layer = classifier, thief, layer
        noise = np.random.default_rng(0).uniform(0, 0.02, (140, *data.x_train.shape[1:])).astype(np.float32)
        self.x, self.y = 0.98 * data.x_train[:80] + noise[:80], EYE[data.y_train[:80]]  # no two pixels are the same
        self.others, self.of_others = 0.98 * data.x_test[:60] + noise[80:], EYE[data.y_test[:60]]
        if tabular:
            self.x, self.others = self.x.reshape(-1, 64), self.others.reshape(-1, 64)
        self.target = self.x[self.y[:, 1] == 1][:1]
        self.bases = self.x[self.y[:, 0] == 1][:2]

    def answers(self, classifier):
        return np.asarray(classifier.predict(self.others)).argmax(1)


def copied(case, attack):
    same = (case.answers(case.thief) == case.answers(case.classifier)).mean()
    thief = attack.extract(case.x, thieved_classifier=case.thief)
    assert (case.answers(thief) == case.answers(case.classifier)).mean() > same + 0.1


def members(case, attack, **more):
    found = np.asarray(attack.infer(case.x[:10], case.y[:10], **more))
    assert set(found.ravel()) <= {0, 1}
    return found


def black_box(case):
    attack = membership.MembershipInferenceBlackBox(case.classifier, attack_model_type="lr")
    attack.fit(case.x, case.y, case.others, case.of_others)
    members(case, attack)


def boundary(case):
    attack = membership.LabelOnlyDecisionBoundary(case.classifier)
    attack.calibrate_distance_threshold(case.x[:3], case.y[:3], case.others[:3], case.of_others[:3], **HOPS)
    assert attack.distance_threshold_tau > 0
    found = np.asarray(attack.infer(case.x[:3], case.y[:3], **HOPS))
    assert set(found) <= {0, 1}


def rule(case, kind=membership.MembershipInferenceBlackBoxRuleBased):
    right = case.classifier.predict(case.x[:10]).argmax(1) == case.y[:10].argmax(1)
    assert (members(case, kind(case.classifier)).ravel() == right).all()


def shadows(case):
    made = membership.ShadowModels(case.classifier, num_shadow_models=1, random_state=0)
    (x, y, answers), (others, of_others, to_others) = made.generate_shadow_dataset(case.x, case.y)
    attack = membership.MembershipInferenceBlackBox(case.classifier, attack_model_type="lr")
    attack.fit(x, y, others, of_others, answers, to_others)
    members(case, attack)


def inversion(case):
    grey = np.full((10, *case.classifier.input_shape), 0.5, np.float32)
    drawn = MIFace(case.classifier, max_iter=10, threshold=1.0, batch_size=10, verbose=False).infer(grey, EYE)
    assert (drawn != grey).any((1, 2, 3)).all()


def attributes(case, kind, **options):
    """The attacked feature is one pixel, taken as dark or light."""
    x = case.x.copy()
    x[:, 20] = x[:, 20] > 0.5
    attack, given = kind(attack_feature=20, **options), {"y": case.y}
    if kind is attribute.AttributeInferenceBlackBox:
        given = {"pred": case.classifier.predict(x).argmax(1)[:, None]}
    if kind is attribute.AttributeInferenceBaseline:
        given = {}
    if hasattr(attack, "fit"):
        attack.fit(x, **{key: value for key, value in given.items() if key == "y"})
    assert set(attack.infer(np.delete(x, 20, 1), values=[0.0, 1.0], **given)) <= {0.0, 1.0}


def attribute_membership(case):
    attack = membership.MembershipInferenceBlackBox(case.classifier, attack_model_type="lr")
    attack.fit(case.x, case.y, case.others, case.of_others)
    kind = attribute.AttributeInferenceMembership
    attributes(case, kind, estimator=case.classifier, membership_attack=attack)


def poisoned(case, made, base, eps=0.3):
    images = made[0] if isinstance(made, tuple) else made
    assert images.shape == base.shape
    assert np.isfinite(images).all()
    change = np.abs(images - base).max()
    assert 1e-4 < change <= eps + 1e-6


def clean_label(case):
    attack = poisoning.PoisoningAttackCleanLabelBackdoor(BACKDOOR, case.classifier, EYE[1], 0.5, max_iter=2)
    x, y = attack.poison(case.x, case.y)
    assert (y == case.y).all()
    changed = (x != case.x).any((1, 2, 3))
    assert changed.any()
    assert case.y[changed, 1].all()


def collision(case):
    attack = poisoning.FeatureCollisionAttack(case.classifier, case.target, case.layer, 0.1, max_iter=3, verbose=False)
    poisoned(case, attack.poison(case.bases.copy()), case.bases, 1)


def polytope(case):
    attack = poisoning.BullseyePolytopeAttackPyTorch(case.classifier, case.target, case.layer, max_iter=2)
    poisoned(case, attack.poison(case.bases.copy(), EYE[[0, 0]]), case.bases)


def hidden(case, kind=poisoning.HiddenTriggerBackdoor):
    options = {"eps": 0.3, "max_iter": 2, "learning_rate": 10.0, "poison_percent": 0.3, "verbose": False}
    made, indices = kind(case.classifier, EYE[1], EYE[2], case.layer, BACKDOOR, **options).poison(case.x, case.y)
    poisoned(case, made, case.x[indices])


def matching(case):
    attack = poisoning.GradientMatchingAttack(case.classifier, 0.05, epsilon=0.3, **SHORT)
    x, _ = attack.poison(case.bases[:1], np.array([1]), case.x, case.y.argmax(1))
    poisoned(case, x, case.x)


def sleeper(case):
    indices = np.flatnonzero(case.y[:, 1])
    patch = np.ones((1, 2, 2), np.float32)
    attack = poisoning.SleeperAgentAttack(case.classifier, 0.5, patch, indices, 0.3, **SHORT)
    x, _ = attack.poison(case.bases.copy(), EYE[[1, 1]], case.x, case.y, case.others, case.of_others)
    poisoned(case, x, case.x)


def backdoor(case):
    x, y = BACKDOOR.poison(case.x, EYE[3], broadcast=True)
    assert (y == EYE[3]).all()
    assert case.classifier.predict(x).shape == (len(x), 10)


def share_right(y, answers):
    return (y.argmax(1) == answers.argmax(1)).mean()


def filtering(case, kind, **options):
    defence = kind(case.classifier, case.x, case.y, **options)
    _, clean = defence.detect_poison()
    assert len(clean) == len(case.x)
    assert set(np.asarray(clean)) <= {0, 1}


def provenance(case):
    filtering(case, detectors.ProvenanceDefense, p_train=np.eye(2)[np.arange(80) % 2], perf_func=share_right, eps=1.0)


def reject(case):
    few = {"x_val": case.others[:10], "y_val": case.of_others[:10], "calibrated": False, "perf_func": share_right}
    case.x, case.y = case.x[:5], case.y[:5]
    filtering(case, detectors.RONIDefense, **few)


def strip(case):
    case.classifier.postprocessing_defences = with_softmax(case.classifier.postprocessing_defences)
    defence = transformers.STRIP(case.classifier)(num_samples=4)
    defence.mitigate(case.others[:10])
    assert len(defence.predict(case.x[:10])) == 10


RUN = {
    "CopycatCNN": lambda c: copied(c, extraction.CopycatCNN(c.classifier, 16, 16, 10, 80)),
    "KnockoffNets": lambda c: copied(c, extraction.KnockoffNets(c.classifier, 16, 16, 10, 80, verbose=False)),
    "FunctionallyEquivalentExtraction": lambda c: extraction.FunctionallyEquivalentExtraction(
        c.classifier, num_neurons=4
    ).extract(c.x),
    "MembershipInferenceBlackBox": black_box,
    "MembershipInferenceBlackBoxRuleBased": rule,
    "LabelOnlyGapAttack": rule,
    "LabelOnlyDecisionBoundary": boundary,
    "ShadowModels": shadows,
    "MIFace": inversion,
    "AttributeInferenceBaseline": lambda c: attributes(c, attribute.AttributeInferenceBaseline, attack_model_type="lr"),
    "AttributeInferenceBaselineTrueLabel": lambda c: attributes(
        c, attribute.AttributeInferenceBaselineTrueLabel, attack_model_type="lr"
    ),
    "AttributeInferenceBlackBox": lambda c: attributes(
        c, attribute.AttributeInferenceBlackBox, estimator=c.classifier, attack_model_type="lr"
    ),
    "AttributeInferenceMembership": attribute_membership,
    "AttributeInferenceWhiteBoxDecisionTree": lambda c: attribute.AttributeInferenceWhiteBoxDecisionTree(c.classifier),
    "AttributeInferenceWhiteBoxLifestyleDecisionTree": lambda c: (
        attribute.AttributeInferenceWhiteBoxLifestyleDecisionTree(c.classifier)
    ),
    "DatabaseReconstruction": lambda c: reconstruction.DatabaseReconstruction(c.classifier),
    "PoisoningAttackBackdoor": backdoor,
    "PoisoningAttackCleanLabelBackdoor": clean_label,
    "FeatureCollisionAttack": collision,
    "BullseyePolytopeAttackPyTorch": polytope,
    "HiddenTriggerBackdoor": hidden,
    "HiddenTriggerBackdoorPyTorch": partial(hidden, kind=poisoning.HiddenTriggerBackdoorPyTorch),
    "HiddenTriggerBackdoorKeras": partial(hidden, kind=poisoning.HiddenTriggerBackdoorKeras),
    "GradientMatchingAttack": matching,
    "SleeperAgentAttack": sleeper,
    "BadDetGlobalMisclassificationAttack": lambda c: poisoning.BadDetGlobalMisclassificationAttack(BACKDOOR).poison(
        c.x, c.y
    ),
    "BadDetObjectDisappearanceAttack": lambda c: poisoning.BadDetObjectDisappearanceAttack(BACKDOOR).poison(c.x, c.y),
    "BadDetObjectGenerationAttack": lambda c: poisoning.BadDetObjectGenerationAttack(BACKDOOR, 2, 2).poison(c.x, c.y),
    "BadDetRegionalMisclassificationAttack": lambda c: poisoning.BadDetRegionalMisclassificationAttack(BACKDOOR).poison(
        c.x, c.y
    ),
    "PoisoningAttackSVM": lambda c: poisoning.PoisoningAttackSVM(c.classifier, 0.1, 0.1, c.x, c.y, c.x, c.y, 1),
    "PoisoningAttackAdversarialEmbedding": lambda c: poisoning.PoisoningAttackAdversarialEmbedding(
        c.classifier, BACKDOOR, c.layer, EYE[1]
    ),
    "BackdoorAttackDGMReDTensorFlowV2": lambda c: poisoning.BackdoorAttackDGMReDTensorFlowV2(c.classifier),
    "BackdoorAttackDGMTrailTensorFlowV2": lambda c: poisoning.BackdoorAttackDGMTrailTensorFlowV2(c.classifier),
    "ActivationDefence": lambda c: filtering(c, detectors.ActivationDefence),
    "SpectralSignatureDefense": lambda c: filtering(c, detectors.SpectralSignatureDefense),
    "ProvenanceDefense": provenance,
    "RONIDefense": reject,
    "NeuralCleanse": lambda c: transformers.NeuralCleanse(c.classifier),
    "STRIP": strip,
}

# what ART itself can't do with images in PyTorch; the second text is in the error
TENSORFLOW, TREES = ("TensorFlow only", "tensorflow|keras|generator"), ("decision trees", "DecisionTree")
DETECTORS = ("object detectors", "items")
CANNOT = {
    "AttributeInferenceWhiteBoxDecisionTree": TREES,
    "AttributeInferenceWhiteBoxLifestyleDecisionTree": TREES,
    "BackdoorAttackDGMReDTensorFlowV2": TENSORFLOW,
    "BackdoorAttackDGMTrailTensorFlowV2": TENSORFLOW,
    "BadDetGlobalMisclassificationAttack": DETECTORS,
    "BadDetObjectDisappearanceAttack": DETECTORS,
    "BadDetObjectGenerationAttack": DETECTORS,
    "BadDetRegionalMisclassificationAttack": DETECTORS,
    "DatabaseReconstruction": ("scikit-learn's models", "ScikitlearnEstimator"),
    "FunctionallyEquivalentExtraction": ("asks in float64, from far outside the pixels' range", "Double"),
    "HiddenTriggerBackdoorKeras": TENSORFLOW,
    "NeuralCleanse": ("Keras only", "Keras"),
    "PoisoningAttackAdversarialEmbedding": ("Keras only", "Keras"),
    "PoisoningAttackSVM": ("support vector machines", "ScikitlearnSVC"),
}
TRAINS, WEIGHTS = ("trains copies of the network", "optimizer"), ("takes gradients of the weights", "`inputs`")
NOT_A_FILE = {  # whose weights nobody trains; ART itself reads no files
    "GradientMatchingAttack": WEIGHTS,
    "ProvenanceDefense": TRAINS,
    "RONIDefense": TRAINS,
    "ShadowModels": TRAINS,
    "SleeperAgentAttack": WEIGHTS,
}
TABULAR = {"FunctionallyEquivalentExtraction", "RONIDefense", *(name for name in RUN if name.startswith("Attribute"))}
NO_PIXELS = "pixels one by one, of a network of linear layers"


def defences():
    """The names of ART's defences against poisoning."""
    found = {**vars(art.defences.detector.poison), **vars(art.defences.transformer.poisoning)}.items()
    kinds = PoisonFilteringDefence, Transformer
    return [n for n, v in found if isinstance(v, type) and issubclass(v, kinds) and not inspect.isabstract(v)]


FAMILIES = {each: classes(each) for each in ("extraction", "inference", "poisoning")}
FAMILIES["inference"].append("ShadowModels")  # what it makes is for the black box: no attack by itself
FAMILIES["defences against poisoning"] = sorted(defences())
ALL = [name for names in FAMILIES.values() for name in sorted(names)]
for_current_art = pytest.mark.skipif(Version(art.__version__) < Version("1.20"), reason="the lists are of ART 1.20")


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """Makes classifiers by kind, for pixels one by one (tabular) or images."""

    def linear(weights="int:4", activations="relu6:4"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        if weights != "float":
            network = qadv.quantize(network, weights, activations, skip_first_last=False)
        return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (64,), 10)

    def convolutional(weights="int:4", activations="relu6:4", **options):
        torch.manual_seed(1)
        settings = {"input_shape": (1, 8, 8), "image_size": 8, "width": 8, **options}
        return qadv.QuantizedClassifier.from_backbone("mnist-cnn", weights, activations, **settings)

    trained = convolutional()
    trainer = qadv.DefensiveQuantTrainer(trained, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train[:400], digits.y_train[:400], nb_epochs=3, batch_size=32)
    folder = tmp_path_factory.mktemp("files")
    qadv.export(trained, folder / "images.onnx", to="onnx")
    qadv.export(linear(), folder / "tabular.onnx", to="onnx")

    def make(kind, tabular):
        new = linear if tabular else convolutional
        if kind == "file":
            return qadv.QuantizedClassifier.from_file(folder / f"{'tabular' if tabular else 'images'}.onnx")
        if kind == "plain":
            network, shape = new("float", "float").network, (64,) if tabular else (1, 8, 8)
            classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0))
        else:
            classifier = new() if tabular else copy.deepcopy(trained)
            if kind == "ensemble":
                classifier = qadv.EnsembleClassifier.of([classifier, new("bwn")])
        give_optimizer(classifier, torch.optim.Adam(classifier.model.parameters(), lr=0.01))
        return classifier

    def case(name, kind):
        classifier, thief = make(kind, name in TABULAR), convolutional("float", "float")
        give_optimizer(thief, torch.optim.Adam(thief.model.parameters(), lr=0.01))
        linear_layers = [n for n, m in classifier.model.named_modules() if isinstance(m, nn.Linear)]
        layer = classifier.layer_names[-2] if kind == "file" else linear_layers[0]
        set_random_states(0)
        return Case(classifier, thief, digits, layer, name in TABULAR)

    return case


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["4 bit", "ensemble", "file"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in CANNOT])
def test_arts_attack_runs_unmodified(name, kind, made, capsys):
    if kind == "file" and name in NOT_A_FILE:
        with pytest.raises(Exception, match=NOT_A_FILE[name][1]):
            RUN[name](made(name, kind))
    else:
        RUN[name](made(name, kind))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in CANNOT if name in ALL])
def test_art_itself_fails_for_the_reason_given(name, made):
    """A float network in ART's own classifier fails too. When it no longer does, the attack goes off the list."""
    with pytest.raises(Exception, match=f"(?i){CANNOT[name][1]}") as error:
        RUN[name](made(name, "plain"))
    with pytest.raises((error.type, InvalidInputError)):
        RUN[name](made(name, "4 bit"))


@for_current_art
def test_the_lists_name_what_art_has():
    assert set(RUN) == set(ALL)
    assert {*CANNOT, *NOT_A_FILE, *TABULAR} <= set(ALL)
    assert len(ALL) > 35


def table():
    """The table in the docs; `python -m tests.attacks.test_families` writes it anew."""
    rows = [
        "| family | attack or defence | against a 4-bit classifier, an ensemble, an ONNX file |",
        "|---|---|---|",
    ]
    for family, names in FAMILIES.items():
        for name in sorted(names):
            text = "works" if name not in NOT_A_FILE else f"works; on a file not: it {NOT_A_FILE[name][0]}"
            text = f"no: {CANNOT[name][0]}" if name in CANNOT else text
            text += f"; {NO_PIXELS}" if name in TABULAR - CANNOT.keys() else ""
            rows.append(f"| {family} | `{name}` | {text} |")
    return "\n".join(rows)


PAGE = Path(__file__).parents[2] / "docs" / "attacks/families.md"


@for_current_art
def test_the_docs_have_this_table():
    assert table() in PAGE.read_text()


if __name__ == "__main__":
    before = PAGE.read_text().partition("| family |")[0]
    PAGE.write_text(f"{before}{table()}\n")
