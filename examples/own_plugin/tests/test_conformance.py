"""What qadv asks of every quantizer and attack; the options are what they are tried with."""

from qadv.testing import conformance

test_pow2 = conformance("quantizer", "pow2")
test_sign_noise = conformance("attack", "sign-noise", eps=0.1, nb_draws=3, seed=0)
