"""Square against an independent definition, and against ART's at the same number of passes."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import SquareAttack

import qadv
from qadv.attacks.square import _side, square
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


def test_refusals(trained):
    for name, value in (("p_init", 1), ("p_init", 0), ("max_iter", 0), ("eps", -1)):
        with pytest.raises(InvalidInputError, match=name):
            qadv.Square(trained, **{name: value})
    vectors = qadv.QuantizedClassifier(torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss(), (4,), 3)
    with pytest.raises(InvalidInputError, match=r"squares need images of shape \(C, H, W\), got input_shape \(4,\)"):
        qadv.Square(vectors)
