"""Square against an independent definition, and against ART's at the same number of passes."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import SquareAttack

import qadv
from qadv.attacks.square import _bump, _side, _tiled, square
from qadv.errors import InvalidInputError
from tests.attacks.networks import SHAPE, counted, smooth_network


def published_share(step, steps, p_init=0.8):
    """The authors' `p_selection`, written out."""
    it = int(step / steps * 10000)
    for after, until, divisor in (
        (10, 50, 2), (50, 200, 4), (200, 500, 8), (500, 1000, 16), (1000, 2000, 32), (2000, 4000, 64),
        (4000, 6000, 128), (6000, 8000, 256), (8000, 10**9, 512),
    ):  # fmt: skip
        if after < it <= until:
            return p_init / divisor
    return p_init


@pytest.mark.parametrize("steps", [100, 5000, 20000])
def test_the_sides_are_the_published_schedules(steps):
    for step in range(1, steps, 7):
        expected = max(round(np.sqrt(published_share(step, steps) * 32 * 32)), 1)
        assert _side(step, steps, 0.8, 32, 32) == expected
    assert _side(1, 100, 0.99, 4, 16) == 4


def margins(logits, y):
    own = logits[np.arange(len(y)), y]
    others = np.where(np.eye(logits.shape[1], dtype=bool)[y], -np.inf, logits)
    return own - others.max(1)


def test_each_step_is_a_square_at_a_corner_of_the_ball_and_is_kept_if_the_margin_falls():
    network = smooth_network().eval()
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1)
    asked = []

    def logits(images):
        asked.append(images.clone())
        with torch.no_grad():
            return network(images)

    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    steps = [found.adversarial.clone() for found in square(
        logits, x, y, targeted=False, eps=0.004, max_iter=40, p_init=0.8, clip_values=(0.0, 1.0), generators=generators,
    )]  # fmt: skip
    assert len(steps) == len(asked)
    best, least = steps[0], margins(network(steps[0]).detach().numpy(), y.numpy())
    for tried, kept in zip(asked[1:], steps[1:], strict=True):
        assert len(tried) == 3, "nothing is broken at this radius"
        change = (tried - best).abs().amax(1) > 0
        for moved in change:
            where = moved.nonzero()
            if len(where):
                height, width = (where.amax(0) - where.amin(0) + 1).tolist()
                assert height <= 8
                assert width <= 8
        edge = torch.minimum((tried - x).abs(), torch.minimum(tried, 1 - tried))
        at_edge = ((tried - x).abs() > 0.004 - 1e-6) | (tried < 1e-6) | (tried > 1 - 1e-6)
        assert at_edge.all(), edge
        new = margins(network(tried).detach().numpy(), y.numpy())
        better = torch.from_numpy(new < least)[:, None, None, None]
        assert torch.equal(kept, torch.where(better, tried, best))
        best, least = kept, np.minimum(new, least)
    assert (least < margins(network(steps[0]).detach().numpy(), y.numpy())).all()


def test_one_query_a_step_and_none_after_success(trained, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    attack = qadv.Square(trained, eps=0.1, max_iter=50, seed=0, verbose=False)
    with counted(trained.network) as rows:
        adversarial = attack.generate(x, y)
    assert sum(rows) == attack.queries.sum()
    holds_out = trained.predict(adversarial).argmax(1) == y
    assert 0 < holds_out.sum() < 30
    assert (attack.queries[holds_out] == 50).all()
    assert (attack.queries[~holds_out] < 50).any()
    assert np.abs(adversarial - x).max() <= 0.1 + 1e-6


def test_it_breaks_more_than_arts_at_the_same_number_of_passes(trained, digits):
    x, y = digits.x_test[:150], digits.y_test[:150]
    left = {}
    for name, attack in (
        ("own", qadv.Square(trained, eps=0.08, max_iter=90, seed=0, verbose=False)),
        ("art", SquareAttack(trained, eps=0.08, max_iter=30, verbose=False)),
    ):
        np.random.seed(0)
        left[name] = (trained.predict(attack.generate(x, y)).argmax(1) == y).mean()
    assert left["own"] < left["art"]


def published_bump(side):
    """The authors' `meta_pseudo_gaussian_pert`, written out."""

    def peak(rows, columns):
        found, middle = np.zeros((rows, columns)), [rows // 2, columns // 2]
        for ring in range(max(rows // 2, columns // 2) + 1):
            top, left = middle[0] - ring, middle[1] - ring
            found[max(top, 0) : top + 2 * ring + 1, max(left, 0) : left + 2 * ring + 1] += 1 / (ring + 1) ** 2
        return found / np.linalg.norm(found)

    found = np.concatenate([peak(side // 2, side), -peak(side - side // 2, side)])
    return found / np.linalg.norm(found)


@pytest.mark.parametrize("side", [3, 5, 6, 13])
def test_bumps_of_l2_are_the_published_ones(side):
    np.testing.assert_allclose(_bump(side, torch.zeros(1)), published_bump(side), atol=1e-6)


def test_an_l2_ball_is_filled_from_the_start_and_kept_to():
    network = smooth_network().eval()
    x = 0.4 + 0.2 * torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1)

    def logits(images):
        with torch.no_grad():
            return network(images)

    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    options = {"eps": 0.02, "max_iter": 60, "p_init": 0.8, "clip_values": (0.0, 1.0), "norm": 2}
    steps = [found.adversarial.clone() for found in square(logits, x, y, generators=generators, **options)]
    for images in steps:
        np.testing.assert_allclose((images - x).flatten(1).norm(dim=1), 0.02, rtol=1e-3)
    first, last = (margins(logits(images).numpy(), y.numpy()) for images in (steps[0], steps[-1]))
    assert (last < first).all()
    tiles = _tiled(torch.ones(1, 5, 5, dtype=torch.bool), torch.ones(1, 2, 5, 5), 12, 13)
    assert tiles.shape == (1, 2, 12, 13)
    torch.testing.assert_close(tiles[0, 1, 1:3, 1:3], _bump(2, tiles))
    assert tiles[..., 0].eq(0).all()
    assert tiles[..., -2:].eq(0).all()


def test_an_l2_attack_breaks_more_than_noise_as_far_away_and_can_be_targeted(trained, digits):
    x, y = digits.x_test[:60], digits.y_test[:60]
    found = qadv.Square(trained, eps=0.6, norm=2, max_iter=100, seed=0, verbose=False).generate(x, y)
    noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    noise *= 0.6 / np.linalg.norm(noise.reshape(60, -1), axis=1)[:, None, None, None]
    right = [(trained.predict(images).argmax(1) == y).mean() for images in (found, np.clip(x + noise, 0, 1))]
    assert right[0] < right[1] - 0.1
    assert np.linalg.norm((found - x).reshape(60, -1), axis=1).max() <= 0.6 + 1e-5
    goals = (y + 1) % 10
    attack = qadv.Square(trained, eps=2.0, norm=2, max_iter=100, targeted=True, seed=0, verbose=False)
    assert (trained.predict(attack.generate(x, goals)).argmax(1) == goals).mean() > 0.2


def test_refusals(trained):
    for name, value in (("p_init", 1), ("p_init", 0), ("max_iter", 0), ("eps", -1), ("norm", 1)):
        with pytest.raises(InvalidInputError, match=name):
            qadv.Square(trained, **{name: value})
    vectors = qadv.QuantizedClassifier(torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss(), (4,), 3)
    with pytest.raises(InvalidInputError, match=r"squares need images of shape \(C, H, W\), got input_shape \(4,\)"):
        qadv.Square(vectors)
