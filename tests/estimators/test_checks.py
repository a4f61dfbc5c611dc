"""What is refused at the boundary, and what the message says."""

import numpy as np
import pytest

from qadv.errors import InvalidInputError, QadvError
from qadv.estimators.checks import check_images, check_labels, check_targets

GOOD = np.full((4, 3, 8, 8), 0.5, np.float32)


def with_value(value):
    x = GOOD.copy()
    x[1, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0.5], [0.5, 0.5]], "as a numpy array, got list"),
        (GOOD[0], r"got one image of shape \(3, 8, 8\); use x\[None\]"),
        (GOOD.transpose(0, 2, 3, 1), r"channels come first here: x.transpose\(0, 3, 1, 2\)"),
        (GOOD[:, :1], r"expected float images of shape \(N, 3, 8, 8\), got shape \(4, 1, 8, 8\)"),
        (GOOD[:0], "with N >= 1, got an empty array"),
        ((GOOD * 255).astype(np.uint8), r"got dtype uint8; convert to float32: \(x / 255\).astype\('float32'\)"),
        (GOOD.astype(object), "got dtype object"),
        (with_value(np.nan), "1 of 4 images have NaN or infinite values"),
        (with_value(np.inf), "1 of 4 images have NaN or infinite values"),
        (GOOD * 255, r"expected values from 0 to 1 \(clip_values\), got 127.5 to 127.5; divide by 255"),
        (with_value(-0.1), "expected values from 0 to 1"),
    ],
)
def test_wrong_images(x, message):
    with pytest.raises(InvalidInputError, match=message):
        check_images(x, (3, 8, 8), (0.0, 1.0))


def test_queries_of_attacks_may_leave_the_range_but_not_the_scale():
    check_images(with_value(2.1), (3, 8, 8), (0.0, 1.0), strict=False)
    with pytest.raises(InvalidInputError, match="divide by 255"):
        check_images(GOOD * 255, (3, 8, 8), (0.0, 1.0), strict=False)
    check_images(GOOD.astype(np.float64), (3, 8, 8), (0.0, 1.0))
    check_images(with_value(900.0), (3, 8, 8), None)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2], "expected 4 labels from 0 to 9.*got 3"),
        ([0, 1, 2, 10], "got labels from 0 to 10"),
        ([0, 1, 2, -1], "got labels from -1 to 2"),
        ([0, 1, 2, 0.5], "no whole numbers"),
        ([0, 1, 2, np.nan], "no whole numbers"),
        (["a", "b", "c", "d"], "no whole numbers"),
        (np.zeros((4, 7)), r"got shape \(4, 7\)"),
        (np.full((4, 10), 0.1), "rows that are not one-hot"),
        (np.zeros((4, 10)), "rows that are not one-hot"),
        (np.zeros((4, 2, 2)), "got shape"),
    ],
)
def test_wrong_labels(y, message):
    with pytest.raises(InvalidInputError, match=message):
        check_labels(y, 4, 10)


def test_labels_in_any_usual_form():
    expected = np.array([3, 1, 0, 9])
    for y in (
        expected,
        expected.tolist(),
        expected[:, None],
        np.eye(10)[expected],
        expected.astype(np.uint8),
        expected * 1.0,
    ):
        found = check_labels(y, 4, 10)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int64


def test_every_error_is_a_qadv_error_and_the_builtin_one():
    with pytest.raises(QadvError):
        check_labels([99], 1, 10)
    with pytest.raises(ValueError, match="got labels"):
        check_labels([99], 1, 10)


@pytest.mark.parametrize(
    ("x", "clip_values", "hint"),
    [
        (GOOD * 255, (0.0, 1.0), r"; divide by 255: x / 255$"),
        (GOOD * 255, (-1.0, 1.0), r"; pixels from 0 to 255 become -1 \+ 2 \* x / 255$"),
        ((with_value(0.0) - 0.4) / 0.2, (0.0, 1.0), r"; if they are standardised,.*preprocessing=\(mean, std\)$"),
        ((with_value(0.0) - 0.4) / 0.2, (0.0, 255.0), r"; if they are standardised,.*preprocessing=\(mean, std\)$"),
        (with_value(1.1), (0.0, 1.0), "got 0.5 to 1.1$"),
        (with_value(-0.01), (0.0, 1.0), "got -0.01 to 0.5$"),
    ],
)
def test_images_of_another_scale_are_told_what_they_are(x, clip_values, hint):
    with pytest.raises(InvalidInputError, match=hint):
        check_images(x, (3, 8, 8), clip_values)


@pytest.mark.parametrize(
    "y", [np.full((2, 3), -1.0), np.full((2, 3), 1e30), np.full((2, 3), np.nan), np.zeros((2, 3)), np.eye(3)[:2] * 2]
)
def test_rows_that_are_no_probabilities_are_refused(y):
    with pytest.raises(InvalidInputError, match="or probabilities that sum to 1 in each row"):
        check_targets(y, 2, 3)


def test_soft_labels_are_taken_as_they_are():
    soft = np.array([[0.2, 0.3, 0.5], [0, 1, 0]], np.float16)
    np.testing.assert_array_equal(check_targets(soft, 2, 3), soft.astype(np.float32), strict=True)
    np.testing.assert_array_equal(check_targets([2, 0], 2, 3), [[0, 0, 1], [1, 0, 0]])
