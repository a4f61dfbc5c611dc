"""What qadv asks of every attack, of one attack by name, one that minimises, two without gradients."""

from qadv_torchattacks import FAB, OnePixel, Square

from qadv.testing import conformance

test_by_name = conformance("attack", "torchattacks-pgd", eps=0.2, alpha=0.05, steps=3, seed=0)
test_fab = conformance("attack", FAB, eps=0.3, steps=3, alpha_max=0.1)
test_square = conformance("attack", Square, eps=0.3, n_queries=10)
test_one_pixel = conformance("attack", OnePixel, pixels=2, steps=1, popsize=4)
