"""What qadv asks of each component; the options are what they are tried with."""

from qadv.testing import conformance

test_bit_flips = conformance("diagnostic", "bit-flips", max_flips=2, nb_bits=1)
test_rounded_transfer = conformance("attack", "rounded-transfer", eps=0.2, max_iter=3, seed=0)
test_error_guided_rounding = conformance("transformer", "error-guided-rounding", steps=20, lr=0.1, error_weight=10.0)
test_rounding_errors = conformance("audit-check", "rounding-errors")
