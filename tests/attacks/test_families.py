"""Every extraction, inference and poisoning attack of the installed ART, and the defences against poisoning, unmodified,
against a 4-bit classifier, an ensemble and an ONNX file."""

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
from art.defences.transformer import Transformer, poisoning as transformers
from art.estimators.classification import PyTorchClassifier
from packaging.version import Version
from torch import nn

import qadv
from qadv.attacks.art_catalogue import classes
from qadv.testing.global_state import random_states, set_random_states

EYE = np.eye(10, dtype=np.float32)
BACKDOOR = poisoning.PoisoningAttackBackdoor(partial(add_pattern_bd, channels_first=True))
HOPS = {"max_iter": 1, "max_eval": 10, "init_eval": 4, "init_size": 20, "verbose": False}
SHORT = {"max_trials": 1, "max_epochs": 1, "verbose": 0}


class Case:
    """A classifier under attack, with images of digits and one-hot labels; `layer` gives features to collide."""

    def __init__(self, classifier, thief, data, layer):
        self.classifier, self.thief, self.layer = classifier, thief, layer
        self.x, self.y = data.x_train[:80], EYE[data.y_train[:80]]
        self.others, self.of_others = data.x_test[:60], EYE[data.y_test[:60]]
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
    (x, y, answers), (_, _, of_others) = made.generate_shadow_dataset(case.x, case.y)
    attack = membership.MembershipInferenceBlackBox(case.classifier, attack_model_type="lr")
    attack.fit(x, y, case.others, case.of_others, answers, of_others)
    members(case, attack)


def inversion(case):
    drawn = MIFace(case.classifier, max_iter=10, threshold=1.0, batch_size=10, verbose=False).infer(None, EYE)
    assert drawn.shape == (10, *case.classifier.input_shape)
    assert (drawn != 0).any()


def attributes(case, kind, **options):
    """The attacked feature is one pixel, taken as dark or light."""
    x = case.x.copy()
    x[:, 20] = x[:, 20] > 0.5
    known, values = np.delete(x, 20, 1), {"values": [0.0, 1.0]}
    attack = kind(attack_feature=20, **options)
    asked = {}
    if "y" in inspect.signature(kind.fit).parameters if hasattr(kind, "fit") else False:
        attack.fit(x, case.y)
        asked = {"y": case.y}
    elif hasattr(kind, "fit"):
        attack.fit(x)
    if kind is attribute.AttributeInferenceBlackBox:
        asked = {"pred": case.classifier.predict(x), "y": case.y}
    if kind is attribute.AttributeInferenceMembership:
        asked = {"y": case.y}
    assert set(attack.infer(known, **asked, **values)) <= {0.0, 1.0}


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
    assert (x != case.x).any((1, 2, 3)).sum() == (case.y[:, 1] == 1).sum() // 2


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
    x, y = attack.poison(case.bases[:1], np.array([1]), case.x, case.y.argmax(1))
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


def filtering(case, kind, **options):
    defence = kind(case.classifier, case.x, case.y, **options)
    _, clean = defence.detect_poison()
    assert len(clean) == len(case.x)
    assert set(np.asarray(clean)) <= {0, 1}


def provenance(case):
    filtering(case, detectors.ProvenanceDefense, p_train=np.eye(2)[np.arange(80) % 2])


def reject(case):
    few = {"x_val": case.others[:10], "y_val": case.of_others[:10], "calibrated": False}
    case.x, case.y = case.x[:5], case.y[:5]
    filtering(case, detectors.RONIDefense, **few)


def strip(case):
    defence = transformers.STRIP(case.classifier)(num_samples=4)
    defence.mitigate(case.others[:10])
    assert len(defence.predict(case.x[:10])) == 10


RUN = {
    "CopycatCNN": lambda c: copied(c, extraction.CopycatCNN(c.classifier, 16, 16, 4, 80)),
    "KnockoffNets": lambda c: copied(c, extraction.KnockoffNets(c.classifier, 16, 16, 4, 80, verbose=False)),
    "FunctionallyEquivalentExtraction": lambda c: extraction.FunctionallyEquivalentExtraction(
        c.classifier, num_neurons=4
    ).extract(c.x),
    "MembershipInferenceBlackBox": black_box,
    "MembershipInferenceBlackBoxRuleBased": rule,
    "LabelOnlyGapAttack": rule,
    "LabelOnlyDecisionBoundary": boundary,
    "ShadowModels": shadows,
    "MIFace": inversion,
    "AttributeInferenceBaseline": lambda c: attributes(
        c, attribute.AttributeInferenceBaseline, attack_model_type="lr"
    ),
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
