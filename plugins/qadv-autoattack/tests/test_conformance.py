"""qadv's own checks for attacks; few steps keep them quick."""

import qadv
from qadv.testing import conformance, digits_classifier


def abstaining():
    members = [digits_classifier(), digits_classifier("int:2"), digits_classifier("int:3", "relu6:3")]
    return qadv.EnsembleClassifier.of(members, "vote", abstain_below=3)


test_autoattack = conformance("attack", "autoattack", eps=0.05, max_iter=3, nb_queries=10)
test_autoattack_plus_l2 = conformance(
    "attack", "autoattack", norm=2, eps=0.3, version="plus", max_iter=2, nb_queries=5, batch_size=100
)
test_autoattack_on_an_ensemble = conformance(
    "attack", "autoattack", eps=0.1, max_iter=2, nb_queries=5, abstention_breaks=False, classifier=abstaining
)
test_apgd_ce = conformance("attack", "aa-apgd-ce", eps=0.1, max_iter=5, nb_random_init=2)
test_apgd_ce_l1 = conformance("attack", "aa-apgd-ce", norm=1, eps=2.0, max_iter=5, larger_eps=True)
test_apgd_dlr = conformance("attack", "aa-apgd-dlr", eps=0.1, max_iter=5, eot_iter=2)
test_apgd_t = conformance("attack", "aa-apgd-t", norm="inf", eps=0.1, max_iter=3, nb_targets=3)
test_fab = conformance("attack", "aa-fab", norm=2, eps=1.0, max_iter=5, nb_restarts=2)
test_fab_t = conformance("attack", "aa-fab-t", eps=0.2, max_iter=5, nb_targets=2)
test_square = conformance("attack", "aa-square", eps=0.2, max_iter=20, p_init=0.5)
