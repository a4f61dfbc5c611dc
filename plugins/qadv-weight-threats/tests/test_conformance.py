"""What qadv asks of every diagnostic; the options are what it is tried with."""

from qadv.testing import conformance

test_bit_flips = conformance("diagnostic", "bit-flips", max_flips=2, nb_bits=1)
