"""Lengths in pixels: numbers as they are, shares of the range times its width."""

import numpy as np
import pytest
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images
from qadv.testing import digits_classifier
from qadv.units import Share, in_pixels, limits, to_range, width


def test_a_number_stays_and_a_share_is_of_the_range():
    for clip_values, expected in (((0, 1), 0.25), ((-1.0, 1.0), 0.5), ((0, 255), 63.75), (np.array([2.0, 6.0]), 1.0)):
        assert in_pixels("eps", 0.25, clip_values) == 0.25
        assert in_pixels("eps", Share(0.25), clip_values) == expected
    assert in_pixels("eps", 0.25, None) == 0.25


def test_a_share_of_no_range_is_refused():
    with pytest.raises(
        InvalidInputError, match=r"delta: a share of the pixels' range \(0.01\), and the classifier has none"
    ):
        in_pixels("delta", Share(0.01), None)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, True, "8/255", None, Share(0.1)])
def test_a_share_is_a_finite_number(value):
    with pytest.raises(InvalidInputError, match="of_range: expected a finite number of at least 0"):
        Share(value)


def test_limits_are_numbers_and_one_range_for_all_pixels():
    with pytest.raises(InvalidInputError, match="clip_values: expected one range for all pixels, got arrays"):
        limits((np.array([0.0, -1.0]), np.array([1.0, 2.0])))
    assert limits(None) == (-np.inf, np.inf)
    assert width(None) == 1.0


def test_images_of_a_data_set_come_into_the_range():
    x = np.array([0, 0.5, 1], dtype=np.float32)
    assert to_range(x, None) is x
    assert to_range(x, (0.0, 1.0)) is x
    np.testing.assert_array_equal(to_range(x, (-1.0, 1.0)), np.array([-1, 0, 1], dtype=np.float32))
    assert to_range(x, (0, 255)).dtype == np.float32


def test_a_share_may_be_given_and_is_a_number_afterwards():
    classifier = digits_classifier(clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    attack = qadv.SPSA(classifier, eps=Share(0.1), verbose=False)
    assert (attack.eps, attack.delta, attack.learning_rate) == pytest.approx((25.5, 2.55, 2.55))
    assert "eps=25.5" in repr(attack)
    adversary = qadv.Adversary("pgd", eps=Share(0.1))
    assert eval(repr(adversary), {"Adversary": qadv.Adversary, "Share": Share}) == adversary
    with pytest.raises(InvalidInputError, match="eps: expected a finite number above 0"):
        qadv.Adversary(eps=Share(0.0))


def test_images_may_be_off_by_a_rounding_error_of_their_range_and_no_more():
    for low, high in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (100.0, 101.0)):
        x = np.full((1, 1, 8, 8), high, dtype=np.float64)
        check_images(x * (1 + 5e-7), (1, 8, 8), (low, high))
        with pytest.raises(InvalidInputError, match="expected values from"):
            check_images(x * (1 + 3e-6), (1, 8, 8), (low, high))


def test_a_preprocessor_for_another_range_is_refused():
    with pytest.raises(
        InvalidInputError, match=r"BitDepthReduction is for pixels from 0 to 1, the classifier's are from"
    ):
        digits_classifier(clip_values=(0.0, 255.0), preprocessing_defences=[qadv.BitDepthReduction(5)])
    squeezed = qadv.BitDepthReduction(5, clip_values=(0.0, 255.0))
    digits_classifier(clip_values=(0.0, 255.0), preprocessing_defences=[squeezed, qadv.MedianSmoothing(2)])
    by_channel = (np.zeros(3), np.array([1.0, 1.0, 2.0]))
    with pytest.raises(InvalidInputError, match="BitDepthReduction takes one range for all pixels"):
        qadv.QuantizedClassifier(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), nn.CrossEntropyLoss(), (3, 2, 2), 2, clip_values=by_channel,
            preprocessing_defences=[qadv.BitDepthReduction(3, clip_values=(0.0, 2.0))],
        )  # fmt: skip
