"""qadv's own components, one of each kind and name, hold to what the kit asks of plugins."""

import numpy as np
from art.attacks.evasion import FastGradientMethod

import qadv
from qadv.registry import default_registry
from qadv.testing import conformance, digits_classifier

BUDGET = {"seed": 0, "verbose": False}


def ensemble():
    return qadv.EnsembleClassifier.of([digits_classifier(), digits_classifier("float", "float")])


def float_classifier():
    return digits_classifier("float", "float")


test_spsa = conformance("attack", "spsa", eps=0.3, max_iter=2, **BUDGET)
test_n_attack = conformance("attack", "n-attack", eps=0.3, max_iter=2, **BUDGET)
test_ddn = conformance("attack", "ddn", max_iter=5, verbose=False)
test_r_fgsm = conformance("attack", "r-fgsm", eps=0.3, **BUDGET)
test_uniform_noise = conformance("attack", "uniform-noise", eps=0.3, max_iter=3, **BUDGET)
test_gaussian_noise = conformance("attack", "gaussian-noise", std=0.3, max_iter=3, **BUDGET)
