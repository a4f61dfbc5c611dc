"""What qadv asks of every attack, of one attack by name, one that minimises, two without gradients."""

from qadv_foolbox import DDNAttack, SaltAndPepperNoiseAttack, SpatialAttack

from qadv.testing import conformance

test_by_name = conformance("attack", "foolbox-linf-pgd", eps=0.2, abs_stepsize=0.05, steps=3, seed=0)
test_ddn = conformance("attack", DDNAttack, init_epsilon=0.5, steps=8, gamma=0.1)
test_black_box = conformance("attack", SaltAndPepperNoiseAttack, steps=40)
test_spatial = conformance("attack", SpatialAttack, max_rotation=20.0, grid_search=False, random_steps=4)
