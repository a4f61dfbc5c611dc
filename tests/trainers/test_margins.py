"""Margins along directions: closed form, an independent search one at a time, and what is asked of the network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from qadv.trainers.margins import margins, unit_directions


def linear_problem(classes=4, images=7, directions=9, pixels=12):
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*s, generator=generator) for s in ((classes, pixels), (classes,), (images, pixels)))
    y = (x @ weight.T + bias).argmax(1)
    return weight, bias, x, y, unit_directions(3, range(images), directions, (pixels,))


def test_the_closed_form_of_a_linear_classifier():
    """Class c overtakes y at t = (z_y - z_c) / ((w_c - w_y)·d), where that is positive."""
    weight, bias, x, y, d = linear_problem()
    w, z = weight.double().numpy(), (x @ weight.T + bias).double().numpy()
    expected = np.full(d.shape[:2], np.inf)
    for i, j in np.ndindex(*expected.shape):
        for c in set(range(len(w))) - {int(y[i])}:
            speed = (w[c] - w[y[i]]) @ d[i, j].double().numpy()
            if speed > 0:
                expected[i, j] = min(expected[i, j], (z[i, y[i]] - z[i, c]) / speed)
    expected[expected > 3] = np.inf
    assert 0.2 < np.isinf(expected).mean() < 0.8, "both kinds occur"

    found = margins(lambda v: (v @ weight.T + bias).argmax(1), x, y, d, 3.0, tolerance=1e-5).numpy()
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=3e-5, atol=1e-6)
    coarse = margins(lambda v: (v @ weight.T + bias).argmax(1), x, y, d, 3.0, tolerance=0.1).numpy()
    assert (coarse[finite] >= expected[finite] - 1e-6).all(), "the class differs at the distance that is returned"
    assert (coarse[finite] <= expected[finite] / 0.9 + 1e-6).all()


def one_at_a_time(predict, x, y, direction, end, tolerance, clip):
    """Doubling and bisection for one image and one direction, in numpy."""

    def changed(t):
        return predict(np.clip(x + np.float32(t) * direction, *clip)[None])[0] != y

    if changed(0):
        return 0.0
    low, high = 0.0, end / 16
    while not changed(high):
        if high >= end:
            return math.inf
        low, high = high, min(2 * high, end)
    while high - low > tolerance * max(high, end / 1024):
        middle = (low + high) / 2
        low, high = (low, middle) if changed(middle) else (middle, high)
    return high


def test_it_agrees_with_a_search_one_at_a_time_on_a_network(trained, digits):
    x, y = torch.from_numpy(digits.x_test[:12]), torch.from_numpy(digits.y_test[:12]).clone()
    y[3] = (y[3] + 1) % 10  # misclassified
    d = unit_directions(0, range(12), 10, (1, 8, 8))

    def predict(images):
        with torch.no_grad():
            return trained.model(images).argmax(1)

    expected = [
        [
            one_at_a_time(
                lambda v: predict(torch.from_numpy(v)).numpy(),
                x[i].numpy(),
                int(y[i]),
                d[i, j].numpy(),
                5.0,
                0.02,
                (0, 1),
            )
            for j in range(10)
        ]
        for i in range(12)
    ]
    for batch_size in (7, 1000):
        found = margins(predict, x, y, d, 5.0, clip_values=(0, 1), tolerance=0.02, batch_size=batch_size)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert (found[3] == 0).all()
    assert found.isinf().any()
    assert len(found.unique()) > 20


def test_only_the_nearest_can_be_asked_for_with_fewer_queries():
    weight, bias, x, y, d = linear_problem(images=20, directions=50)
    sizes = {}

    def search(nearest):
        sizes[nearest] = []

        def predict(v):
            sizes[nearest].append(len(v))
            return (v @ weight.T + bias).argmax(1)

        return margins(predict, x, y, d, 20.0, nearest=nearest, batch_size=64)

    whole, some = search(None), search(5)
    assert torch.equal(whole.sort(1).values[:, :5], some.sort(1).values[:, :5])
    assert sum(sizes[5]) < 0.6 * sum(sizes[None])
    assert max(sizes[None]) == 64


def test_finished_rows_are_not_asked_again():
    """Of 3 rows, one changes at the first distance, 1 of 16, and needs 2 bisections; two need all 5 distances."""
    asked = []

    def predict(v):
        asked.append(len(v))
        return (v[:, 0] > 0.9).long()

    x = torch.zeros(1, 2)
    d = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    found = margins(predict, x, torch.tensor([0]), d, 16.0, tolerance=0.25)
    assert asked == [1, 3, 3, 3, 2, 2]
    np.testing.assert_allclose(found.numpy(), [[1.0, np.inf, np.inf]])


def test_the_class_is_that_of_the_clipped_image_and_distance_is_measured_before():
    seen = []

    def predict(v):
        seen.append(v)
        return (v.sum(1) > 1.5).long()

    x = torch.tensor([[0.5, 0.5]])
    d = torch.tensor([[[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]]])
    found = margins(predict, x, torch.tensor([0]), d, 4.0, clip_values=(0.0, 1.0), tolerance=1e-5)
    # along (0.6, 0.8) the second pixel stops at 1 when t = 0.625; the sum passes 1.5 before, at t = 0.5 / 1.4
    np.testing.assert_allclose(found.numpy(), [[0.5 / 1.4, np.inf, np.inf]], rtol=3e-5)
    slow = torch.tensor([[[0.1, 0.9]]])  # the second stops at t = 0.556, the first goes on to 0.5 + 0.1 t = 0.75
    found = margins(lambda v: (v.sum(1) > 1.75).long(), x, torch.tensor([0]), slow, 4.0, clip_values=(0.0, 1.0))
    assert 2.5 <= found.item() <= 2.5 / 0.95
    assert min(v.min() for v in seen) >= 0
    assert max(v.max() for v in seen) <= 1


def test_a_class_that_any_step_changes_ends_the_search():
    x = torch.zeros(2, 3)
    found = margins(
        lambda v: (v != 0).any(1).long(), x, torch.tensor([0, 1]), unit_directions(0, range(2), 4, (3,)), 8.0
    )
    assert (found[0] > 0).all()
    assert (found[0] < 0.001).all()
    assert (found[1] == 0).all()


def test_the_search_leaves_no_graph():
    network = nn.Linear(3, 2)
    x = torch.zeros(1, 3)
    assert not margins(lambda v: network(v).argmax(1), x, torch.tensor([0]), torch.ones(1, 1, 3), 1.0).requires_grad


def test_directions_are_uniform_on_the_sphere_and_belong_to_their_image():
    d = unit_directions(5, [4, 9], 4000, (1, 2, 3))
    assert d.shape == (2, 4000, 1, 2, 3)
    torch.testing.assert_close(d.flatten(2).norm(dim=2), torch.ones(2, 4000))
    flat = d.flatten(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(6), rtol=0, atol=0.02)
    torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(6) / 6, rtol=0, atol=0.01)
    assert torch.equal(unit_directions(5, [9], 4000, (1, 2, 3))[0], d[1])
    assert not torch.equal(unit_directions(6, [9], 4000, (1, 2, 3))[0], d[1])


@pytest.mark.parametrize("tolerance", [0.5, 0.01])
def test_margins_are_never_beyond_the_end(tolerance):
    x, d = torch.zeros(1, 1), torch.ones(1, 1, 1)
    found = margins(lambda v: (v[:, 0] >= 2.7).long(), x, torch.tensor([0]), d, 2.7, tolerance=tolerance)
    assert found.item() <= np.float32(2.7)
