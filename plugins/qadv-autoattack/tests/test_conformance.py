"""qadv's own checks for attacks; few steps keep them quick."""

import qadv
from qadv.testing import conformance, digits_classifier


def ensemble():
    return qadv.EnsembleClassifier.of([digits_classifier(), digits_classifier("int:2")], "vote")


test_autoattack = conformance("attack", "autoattack", eps=0.3, max_iter=3, nb_queries=10)
test_autoattack_on_an_ensemble = conformance(
    "attack",
    "autoattack",
    eps=0.3,
    attacks_to_run=["apgd-ce", "square"],
    max_iter=2,
    nb_queries=5,
    classifier=ensemble,
)
test_apgd_ce = conformance("attack", "aa-apgd-ce", eps=0.1, max_iter=3, nb_random_init=2)
test_apgd_dlr = conformance("attack", "aa-apgd-dlr", norm=2, eps=0.5, max_iter=3, eot_iter=2)
test_apgd_t = conformance("attack", "aa-apgd-t", norm="inf", eps=0.1, max_iter=2, nb_targets=2)
test_fab = conformance("attack", "aa-fab", norm=2, eps=1.0, max_iter=2, nb_restarts=2)
test_fab_t = conformance("attack", "aa-fab-t", eps=0.3, max_iter=3, nb_targets=2)
test_square = conformance("attack", "aa-square", eps=0.2, max_iter=10, p_init=0.5)
