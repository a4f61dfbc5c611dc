"""Everything that draws numbers is seeded, and the user's own numbers go on as if nothing had been."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from qadv.random_states import seeded

DRAWS = {
    "numpy": lambda: np.random.rand(),
    "numpy, a state without a seed": lambda: np.random.RandomState().rand(),
    "numpy, a generator without a seed": lambda: np.random.default_rng().random(),
    "Python": random.random,
    "torch": lambda: torch.rand(()).item(),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_the_same_seed_draws_the_same(draw):
    drawn = []
    for seed in (3, 3, 4, 2**40):
        with seeded(seed):
            drawn.append(DRAWS[draw]())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_states_are_put_back_also_after_an_error():
    def state():
        return str((np.random.get_state(), random.getstate(), torch.get_rng_state().tolist()))

    before = state()
    with suppress(RuntimeError), seeded(0):
        for draw in DRAWS.values():
            draw()
        raise RuntimeError
    assert state() == before
    assert np.random.RandomState().rand() != np.random.RandomState().rand()


def test_further_numbers_make_other_draws_and_the_same_at_each_call():
    def drawn(*numbers):
        with seeded(*numbers):
            return torch.rand(1).item(), np.random.rand(), random.random()

    assert drawn(0, 1) == drawn(0, 1)
    assert len({drawn(0), drawn(1), drawn(0, 0), drawn(0, 1), drawn(1, 0)}) == 5
