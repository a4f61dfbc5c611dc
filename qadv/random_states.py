"""The global random states of numpy, Python and torch, one set for each of several runs that take turns."""

import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from qadv.checks import check_whole

P = ParamSpec("P")
R = TypeVar("R")
# what the types of numpy and torch leave out
_numpy_random: Any = np.random
_bit_generator: Any = np.random.bit_generator
_cuda: Any = torch.cuda


class RandomStates:
    """What `numpy.random`, `random` and torch's CPU generator draw from while one run has its turn.

    Swapping costs 10 µs: numpy's generator is exchanged, not copied; Python's is seeded anew from its own stream, since
    its state takes three times as long to copy.
    """

    def __init__(self, seed: np.random.SeedSequence) -> None:
        self._numpy = np.random.MT19937(seed)
        self._python, torch_seed = (int(word) for word in seed.generate_state(2, np.uint64))
        self._torch = torch.Generator().manual_seed(torch_seed % 2**63).get_state()

    def put_in_place(self) -> None:
        _numpy_random.set_bit_generator(self._numpy)
        random.seed(self._python)
        torch.set_rng_state(self._torch)

    def take_back(self) -> None:
        self._python = random.getrandbits(64)
        self._torch = torch.get_rng_state()


@contextmanager
def global_states_kept() -> Iterator[None]:
    """Leaves the global random states of numpy, Python and torch, on all devices in use, as they were."""
    generator, state = _numpy_random.get_bit_generator(), np.random.get_state(legacy=False)
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if _cuda.is_initialized() else []
    try:
        yield
    finally:
        _numpy_random.set_bit_generator(generator)
        np.random.set_state(state)
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        for device, cuda_state in enumerate(cuda_states):
            torch.cuda.set_rng_state(cuda_state, device)


@contextmanager
def seeded(seed: int, *more: int) -> Iterator[None]:
    """Seeds everything that draws numbers in this thread, and leaves the global random states as they were.

    That is `numpy.random`, `random` and torch on all devices in use; and what is made without a seed meanwhile,
    `np.random.RandomState()` and `np.random.default_rng()`, as ART's Boundary and HopSkipJump do. Where there are
    `more` numbers, as that of a batch or an epoch, each makes the draws different ones.
    """
    seed = check_whole("seed", seed, least=0)
    if more:
        seed = int(np.random.SeedSequence([seed, *more]).generate_state(1, np.uint64)[0]) >> 1
    with global_states_kept(), entropy_from_global_state():
        np.random.seed(seed % 2**32)
        random.seed(seed)
        torch.default_generator.manual_seed(seed % 2**63)
        if _cuda.is_initialized():  # else its generators would be changed later, when nobody puts them back
            torch.cuda.manual_seed_all(seed % 2**63)
        yield


def repeatable(function: Callable[P, R]) -> Callable[P, R]:
    """Has a function draw all that it draws, a random network's noise too, from its argument `seed`.

    Parts that seed themselves by the same number, as attacks are, draw other numbers.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with seeded(bound.arguments["seed"], 1):
            return function(*args, **kwargs)

    return run


@contextmanager
def entropy_from_global_state(*threads: type[threading.Thread]) -> Iterator[None]:
    """Seeds `RandomState()` and `default_rng()` from numpy's global state, in this thread and in those of some classes.

    ART's Boundary and HopSkipJump draw their starting points from a fresh `np.random.RandomState()`, which takes its
    seed from the operating system: no `np.random.seed` makes them repeatable.
    """
    before, caller = _bit_generator.randbits, threading.current_thread()

    def randbits(bits: int) -> int:
        current = threading.current_thread()
        if current is caller or isinstance(current, threads):
            return int.from_bytes(np.random.bytes(bits // 8), "little")
        return int(before(bits))

    _bit_generator.randbits = randbits
    try:
        yield
    finally:
        _bit_generator.randbits = before
