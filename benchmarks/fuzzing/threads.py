"""Calls from several threads, of one classifier, of an ensemble and its members, beside a training, and coalesced."""

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks import EvasionAttack
from art.attacks.evasion import SquareAttack
from torch import nn

import qadv

from .trials import Trial

_IMAGES = np.random.default_rng(0).random((16, 1, 8, 8), dtype=np.float32)
_LABELS = np.arange(16) % 10


def threads(folder: Path) -> Trial:
    """Each answer is what it is alone, training goes on as if nobody asked, or the call is refused at once."""
    a, b = _classifier(0), _classifier(1)
    classifiers = [a, b, qadv.EnsembleClassifier.of([a, b])]
    calls: list[Callable[[Any, slice], Any]] = [
        lambda net, part: net.predict(_IMAGES[part]),
        lambda net, part: net.loss_gradient(_IMAGES[part], _LABELS[part]),
        lambda net, part: net.class_gradient(_IMAGES[part], _LABELS[part]),
        lambda net, part: net.compute_loss(_IMAGES[part], _LABELS[part], reduction="none"),
        lambda net, part: np.asarray(net.compute_loss(_IMAGES[part], _LABELS[part], reduction="mean")),
    ]

    def trial(draws: random.Random) -> str:
        way = draws.random()
        if way < 0.35:
            return _coalesced(a, draws)
        if way < 0.42:
            return _trained(draws)
        work = []
        for _ in range(draws.randrange(4, 12)):
            start = draws.randrange(12)
            work.append((draws.choice(calls), draws.choice(classifiers), slice(start, start + draws.randrange(1, 5))))
        alone = [call(net, part) for call, net, part in work]
        with ThreadPoolExecutor(draws.randrange(2, 5)) as pool:
            together = list(pool.map(lambda each: each[0](each[1], each[2]), work))
        return "same" if all(map(_close, alone, together)) else "taken wrong"

    return trial


class _Asks(EvasionAttack):
    """Asks from threads of its own, or runs a coalescer."""

    _estimator_requirements = ()

    def __init__(self, estimator: Any, nested: bool) -> None:
        super().__init__(estimator=estimator)
        self.nested = nested

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        if self.nested:
            return qadv.QueryCoalescer(SquareAttack(self.estimator, max_iter=1), verbose=False).generate(x)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: self.estimator.predict(x), range(2)))
        return x


def _coalesced(classifier: Any, draws: random.Random) -> str:
    bad = _Asks(classifier, nested=draws.random() < 0.5)
    qadv.QueryCoalescer(bad, seed=0, verbose=False).generate(_IMAGES[: draws.randrange(1, 4)])
    return "taken wrong"


def _trained(draws: random.Random) -> str:
    alone = _classifier(draws.randrange(100))
    asked = _classifier_of(copy.deepcopy(alone.network))
    _train(alone)
    with ThreadPoolExecutor(2) as pool:
        training = pool.submit(_train, asked)
        while not training.done():
            asked.predict(_IMAGES)
        training.result()
    pairs = zip(alone.network.state_dict().values(), asked.network.state_dict().values(), strict=True)
    return "same" if all(_close(x, y) for x, y in pairs) else "taken wrong"


def _close(a: Any, b: Any) -> bool:
    """Whether two answers are equal but for rounding: another thread may have other kernels under it."""
    return np.allclose(a, b, rtol=1e-3, atol=1e-5)


def _train(classifier: Any) -> None:
    qadv.DefensiveQuantTrainer(classifier, seed=1, verbose=False).fit(_IMAGES, _LABELS, nb_epochs=2, batch_size=8)


def _classifier(seed: int) -> Any:
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 10)
    return _classifier_of(nn.Sequential(*layers).eval())


def _classifier_of(model: nn.Module) -> Any:
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")
