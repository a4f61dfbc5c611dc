"""ε: as a number or a fraction, and never larger than the pixels' range."""

import math

import numpy as np
import pytest

from qadv.errors import InvalidInputError
from qadv.strengths import check_eps, number

pytestmark = pytest.mark.core


@pytest.mark.parametrize("given", ["8/255", " 8 / 255 ", "8.0/255.0", "16/510", 8 / 255, np.float64(8 / 255)])
def test_a_fraction_is_understood(given):
    assert number("eps", given) == check_eps("eps", given, (0, 1)) == 8 / 255


@pytest.mark.parametrize(
    "given", ["8/0", "0/0", "8/255/2", "8:255", "", "nan", "inf", "-1/0", math.nan, math.inf, True, None, [1], 10**400]
)
def test_what_is_no_finite_number_is_refused(given):
    for check in (number, check_eps):
        with pytest.raises(InvalidInputError, match=r"^eps: expected a finite number.*a fraction such as 8/255"):
            check("eps", given)


@pytest.mark.parametrize(
    ("eps", "clip_values", "said"),
    [
        (4, (0, 1), r"expected at most 1, the range of the pixels \(0 to 1\), got 4; did you mean 4/255\?"),
        ("8", (0, 1), r"got '8'; did you mean 8/255\?"),
        (8, (-1, 1), r"expected at most 2, .* did you mean 8/255 of it, 0.06275\?"),
        (300, (0, 255), "expected at most 255, .* got 300$"),
        ("2/255", (0, 255), "2/255 of pixels from 0 to 255 is 0.0078, .* say 2, else 0.007843$"),
    ],
)
def test_a_radius_of_another_range_is_refused_with_what_was_meant(eps, clip_values, said):
    with pytest.raises(InvalidInputError, match=said):
        check_eps("eps", eps, clip_values)


def test_the_whole_range_is_a_radius_and_other_norms_have_larger_ones():
    assert check_eps("eps", 1, (0, 1)) == 1.0
    assert check_eps("eps", 255, (0, 255)) == 255.0
    assert check_eps("eps", 4, None) == 4.0
    assert check_eps("eps", 2.0, (0, 1), norm=2, nb_values=4) == 2.0
    with pytest.raises(InvalidInputError, match="expected at most 2, the largest L2 distance of two images"):
        check_eps("eps", 2.1, (0, 1), norm=2, nb_values=4)
    assert check_eps("eps", 0, zero=True) == 0.0
    for eps, zero in ((0, False), (-0.1, True)):
        with pytest.raises(InvalidInputError, match="of at least 0" if zero else "above 0"):
            check_eps("eps", eps, zero=zero)
