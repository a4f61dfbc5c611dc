"""Intervals over seeds and images: known cases, and how often they hold the truth."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from qadv.benchmark.claims.interval import interval


def test_of_numbers_by_seed_it_is_students():
    values = np.array([1.0, 2.5, 3.1, 2.2])
    assert interval(values) == pytest.approx(ttest_1samp(values, 0).confidence_interval(0.95))


def test_of_equal_seeds_it_is_that_of_the_images():
    by_image = 100.0 * np.random.default_rng(0).integers(-1, 2, 400)
    found = interval(np.stack([by_image] * 3))
    assert found == pytest.approx(ttest_1samp(by_image, 0).confidence_interval(0.95), abs=0.1)


def test_seeds_that_differ_widen_it_and_images_keep_it_from_being_a_point():
    equal = np.zeros((3, 100))
    low, high = interval(equal)
    assert -4 < low < -1 < 1 < high < 4  # Clopper-Pearson of 0 in 100: 3.6
    seeds = equal + np.array([[-10.0], [0.0], [10.0]])
    assert interval(seeds)[1] == pytest.approx(interval(seeds.mean(1))[1], rel=0.05)


def test_one_number_has_none():
    assert interval(np.array([3.0])) == (-np.inf, np.inf)
    assert np.isfinite(interval(np.eye(1, 50))).all()  # images alone


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.05, 0.0), (0.0, 0.3), (0.03, 0.2)])
def test_it_holds_the_truth_19_times_in_20(of_seeds, of_images):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        share = 0.5 + rng.normal(0, of_seeds, (3, 1)) + rng.choice([-of_images, of_images], (1, 200))
        low, high = interval(100.0 * (rng.random((3, 200)) < share))
        held += low < 50 < high
    assert held >= 0.93 * 400
