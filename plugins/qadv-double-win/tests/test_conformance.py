"""What qadv asks of every quantizer, backbone and trainer; the options are what they are tried with."""

from typing import Any

from qadv.testing import conformance, digits_classifier


def switchable_classifier() -> Any:
    return digits_classifier("switchable:8", "switchable:8")


test_switchable = conformance("quantizer", "switchable")
test_switchable_norm = conformance(
    "backbone", "switchable-norm", input_shape=(1, 8, 8), backbone="mnist-cnn", precisions=(4, 8), image_size=8, width=8
)
test_double_win = conformance(
    "trainer", "double-win", classifier=switchable_classifier, precisions=(4, 8), eps=0.05, max_iter=2, lr=0.05
)
