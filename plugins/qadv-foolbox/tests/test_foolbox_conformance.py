"""What qadv asks of every attack, of one attack of each kind that Foolbox has."""

from qadv_foolbox import (
    DDNAttack,
    L2CarliniWagnerAttack,
    LinfDeepFoolAttack,
    LinfPGD,
    LinfRepeatedAdditiveUniformNoiseAttack,
    SaltAndPepperNoiseAttack,
    SpatialAttack,
)

from qadv.testing import conformance

test_by_name = conformance("attack", "foolbox-linf-pgd", eps=0.2, abs_stepsize=0.05, steps=3, seed=0)
test_pgd = conformance("attack", LinfPGD, eps=0.2, abs_stepsize=0.05, steps=3, random_start=True)
test_cw = conformance("attack", L2CarliniWagnerAttack, eps=0.5, binary_search_steps=2, steps=10, initial_const=1.0)
test_ddn = conformance("attack", DDNAttack, init_epsilon=0.5, steps=8, gamma=0.1)
test_deepfool = conformance("attack", LinfDeepFoolAttack, steps=3, candidates=4, loss="logits")
test_noise = conformance("attack", LinfRepeatedAdditiveUniformNoiseAttack, eps=0.4, repeats=5, check_trivial=False)
test_black_box = conformance("attack", SaltAndPepperNoiseAttack, steps=40)
test_spatial = conformance("attack", SpatialAttack, max_rotation=20.0, grid_search=False, random_steps=4)
