"""Schemes are strings; a wrong one is answered with what exists."""

import pytest

from qadv.errors import SchemeError
from qadv.quantization import parse_scheme


@pytest.mark.parametrize(
    ("spec", "role", "message"),
    [
        ("int", "weights", "bits are missing; write it as 'int:8'"),
        ("int:1", "weights", "int exists at 2 to 8 bits, got 1"),
        ("int:9", "weights", "int exists at 2 to 8 bits, got 9"),
        ("int:four", "weights", "is the number of bits, e.g. 'int:4'"),
        ("int:", "weights", "is the number of bits"),
        (f"int:{'9' * 5000}", "weights", "got a text of 5,004 characters"),
        ("sq(" * 5000 + "bwn" + ")" * 5000, "weights", "got a text of 20,003 characters"),
        ("int:-4", "weights", "is the number of bits"),
        ("itn:4", "weights", "did you mean .*int"),
        ("bwn:1", "weights", "fixed bit width; write it as 'bwn'"),
        ("relu6:4", "weights", "relu6 quantizes activations; give it as activations='relu6:4'"),
        ("int:4", "activations", "int quantizes weights; give it as weights='int:4'"),
        ("relu6:0", "activations", "relu6 exists at 1 to 8 bits"),
        ("float:4", "weights", "no quantizer 'float'"),
        (4, "weights", "expected a scheme such as 'int:4'"),
    ],
)
def test_a_wrong_scheme_is_explained(spec, role, message):
    with pytest.raises(SchemeError, match=message):
        parse_scheme(spec, role)


def test_float_is_no_scheme_and_names_may_be_qualified():
    assert parse_scheme("float", "weights") is None
    assert parse_scheme("qadv/int:3", "weights").bits == 3
    assert repr(parse_scheme("relu6:2", "activations")) == "ReLU6(bits=2, spec='relu6:2')"
