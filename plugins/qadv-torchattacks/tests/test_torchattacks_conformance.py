"""What qadv asks of every attack, of one attack of each kind that torchattacks has."""

from qadv_torchattacks import APGD, FAB, JSMA, PGD, PGDL2, SPSA, DeepFool, OnePixel, Square

from qadv.testing import conformance

test_by_name = conformance("attack", "torchattacks-pgd", eps=0.2, alpha=0.05, steps=3, seed=0)
test_pgd = conformance("attack", PGD, eps=0.2, alpha=0.05, steps=3, random_start=True)
test_pgdl2 = conformance("attack", PGDL2, eps=1.0, alpha=0.3, steps=3)
test_apgd = conformance("attack", APGD, eps=0.2, steps=3, loss="ce")
test_fab = conformance("attack", FAB, eps=0.3, steps=3, alpha_max=0.1)
test_deepfool = conformance("attack", DeepFool, steps=2, overshoot=0.05)
test_square = conformance("attack", Square, eps=0.3, n_queries=10)
test_spsa = conformance("attack", SPSA, eps=0.2, nb_iter=2, nb_sample=8, lr=0.1)
test_one_pixel = conformance("attack", OnePixel, pixels=2, steps=1, popsize=4)
test_jsma = conformance("attack", JSMA, theta=1.0, gamma=0.03)
