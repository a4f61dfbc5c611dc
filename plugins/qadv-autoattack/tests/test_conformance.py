"""qadv's own checks for attacks; few steps keep them quick."""

from qadv.testing import conformance

test_autoattack = conformance("attack", "autoattack", eps=0.3, max_iter=3, nb_queries=10)
test_apgd_t = conformance("attack", "aa-apgd-t", norm="inf", eps=0.1, max_iter=2, nb_targets=2)
test_fab = conformance("attack", "aa-fab", norm=2, eps=1.0, max_iter=2, nb_restarts=2)
test_square = conformance("attack", "aa-square", eps=0.2, max_iter=10, p_init=0.5)
