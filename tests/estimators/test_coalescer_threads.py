"""Coalescers within coalescers, of attacks with threads, and in several threads: right, or refused at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.attacks.evasion import AutoAttack, SquareAttack
from torch import nn

import qadv
from qadv.errors import InvalidInputError


class OfOnesOwn(EvasionAttack):
    """An attack whose `body(attack, x)` is what a test is about."""

    _estimator_requirements = ()
    body = None

    def __init__(self, estimator, body):
        super().__init__(estimator=estimator)
        type(self).body = staticmethod(body)

    def generate(self, x, y=None, **kwargs):
        type(self).body(self, x)
        return x


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")


X = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)


def in_a_pool(attack, x):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: attack.estimator.predict(x), range(3)))


def in_a_thread_that_is_waited_for(attack, x):
    answered = threading.Event()

    def ask():
        attack.estimator.predict(x)
        answered.set()

    threading.Thread(target=ask).start()
    answered.wait(3)  # for ever, in an attack


def in_threads_while_it_asks_itself(attack, x):
    threading.Thread(target=lambda: attack.estimator.predict(x)).start()
    for _ in range(50):
        attack.estimator.predict(x)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("body", [in_a_pool, in_a_thread_that_is_waited_for, in_threads_while_it_asks_itself])
def test_an_attack_that_asks_from_threads_of_its_own_is_refused_at_once(body, classifier):
    attack = qadv.QueryCoalescer(OfOnesOwn(classifier, body), verbose=False)
    np.random.seed(5)
    before, started = np.random.get_state()[1].copy(), time.monotonic()
    attack.seed = 0
    with pytest.raises(InvalidInputError, match=r"asks the estimator from threads of its own.*Call the attack"):
        attack.generate(X)
    assert time.monotonic() - started < 2.5
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_coalescer_that_an_attack_makes_on_its_estimator_is_refused(classifier):
    def nested(attack, x):
        qadv.QueryCoalescer(SquareAttack(attack.estimator, max_iter=2), verbose=False).generate(x)

    with pytest.raises(InvalidInputError, match="a QueryCoalescer within another"):
        qadv.QueryCoalescer(OfOnesOwn(classifier, nested), seed=0, verbose=False).generate(X)


def test_a_coalescer_that_an_attack_makes_on_another_estimator_is_refused(classifier):
    def nested(attack, x):
        qadv.QueryCoalescer(SquareAttack(classifier, max_iter=2), verbose=False).generate(x)

    with pytest.raises(InvalidInputError, match="a QueryCoalescer within another"):
        qadv.QueryCoalescer(OfOnesOwn(classifier, nested), seed=0, verbose=False).generate(X)


def test_an_attack_made_of_coalescers_is_refused(classifier):
    inner = qadv.QueryCoalescer(SquareAttack(classifier, max_iter=2), verbose=False)
    with pytest.raises(InvalidInputError, match="got AutoAttack with a QueryCoalescer in it"):
        qadv.QueryCoalescer(AutoAttack(classifier, attacks=[inner]), verbose=False)


def test_coalescers_in_several_threads_give_what_each_gives_alone(classifier):
    def attack(seed):
        made = SquareAttack(classifier, max_iter=6, eps=0.2)
        return qadv.QueryCoalescer(made, seed=seed, concurrency=3, verbose=False).generate(X)

    alone = [attack(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(attack, range(6)))
    np.testing.assert_array_equal(alone, together)
