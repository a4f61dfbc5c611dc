"""One door to a classifier's network: what it answers, and that nobody goes round it."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import AttackError, InvalidInputError, NoGradientError
from qadv.estimators import door
from qadv.estimators.oracle import open_oracle

X = np.random.default_rng(0).random((5, 1, 4, 4)).astype(np.float32)
Y = np.arange(5) % 3
MEAN, STD = 0.4, 0.5
ROOT = Path(__file__).parents[2]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def classifier_of(kind=qadv.QuantizedClassifier, model=None, **options):
    options = {"preprocessing": (MEAN, STD), "clip_values": (0.0, 1.0), **options}
    return kind(model or network(), nn.CrossEntropyLoss(), (1, 4, 4), 3, **options)


def squares(logits, y):
    return logits.square().sum(1) * (y + 1)


@pytest.mark.parametrize("kind", [PyTorchClassifier, qadv.QuantizedClassifier])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_the_gradient_of_any_loss_of_each_image(kind, as_tensor):
    x, y = (torch.from_numpy(X), torch.from_numpy(Y)) if as_tensor else (X, Y)
    logits, losses, found = door.gradient(classifier_of(kind), x, y, squares)
    leaf = torch.from_numpy(X).requires_grad_()
    expected = network()((leaf - MEAN) / STD)
    by_hand = squares(expected, torch.from_numpy(Y))
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(losses, by_hand.detach())
    assert type(found) is type(x)
    (gradient,) = torch.autograd.grad(by_hand.sum(), leaf)
    torch.testing.assert_close(torch.as_tensor(found), gradient)


def test_random_networks_are_asked_several_times_for_the_mean():
    passes = []

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            passes.append(len(x))
            return self.inner(x + torch.randn_like(x))

    classifier, x, y = classifier_of(model=Noisy()), torch.from_numpy(X), torch.from_numpy(Y)
    passes.clear()
    torch.manual_seed(1)
    found = door.gradient(classifier, x, y, squares, draws=3)
    assert passes == [5, 5, 5]
    torch.manual_seed(1)
    single = [door.gradient(classifier, x, y, squares) for _ in range(3)]
    for mean, *each in zip(found, *single, strict=True):
        torch.testing.assert_close(mean, torch.stack(each).mean(0))
    assert not torch.equal(single[0][2], single[1][2])


def test_a_network_without_gradient_says_so_and_which_attacks_need_none():
    class Detached(nn.Sequential):
        def forward(self, x):
            return super().forward(x).detach()

    classifier = classifier_of(model=Detached(network()))
    for ask in (
        lambda: classifier.loss_gradient(X, Y),
        lambda: classifier.class_gradient(X),
        lambda: qadv.DDN(classifier, max_iter=2, verbose=False).generate(X, Y),
        lambda: FastGradientMethod(classifier).generate(X, Y),
    ):
        with pytest.raises(NoGradientError, match=r"no gradient.*Square.*surrogate="):
            ask()
    assert qadv.Square(classifier, max_iter=3, verbose=False).generate(X, Y).shape == X.shape


def test_a_surrogate_gives_the_gradients_and_the_network_its_values():
    values, gradients = network(seed=1), network(seed=2)

    class Detached(nn.Sequential):
        def forward(self, x):
            return super().forward(x).detach()

    classifier = classifier_of(model=Detached(values), surrogate=gradients)
    plain, other = classifier_of(model=values), classifier_of(model=gradients)
    rebuilt = classifier_of(PyTorchClassifier, classifier.model)
    for asked in (classifier, rebuilt, copy.deepcopy(classifier)):
        assert np.array_equal(asked.predict(X), plain.predict(X))
        assert not np.allclose(asked.predict(X), other.predict(X))
        assert np.allclose(asked.class_gradient(X), other.class_gradient(X))
    with pytest.raises(InvalidInputError, match=r"surrogate: expected a torch\.nn\.Module"):
        classifier_of(model=values, surrogate=other)


def test_weights_that_change_meanwhile_are_reported_whoever_asks():
    classifier = classifier_of(PyTorchClassifier)

    def trains(logits, y):
        with torch.no_grad():
            classifier.model[3].weight.add_(1)
        return logits.sum(1)

    with pytest.raises(AttackError, match=r"by the network itself, .* or because another thread trains it"):
        door.gradient(classifier, X, Y, trains)


class Rounds(SpatialSmoothing):
    """Works on arrays."""

    def __init__(self, **options):
        super().__init__(window_size=1, channels_first=True)
        self._apply_fit, self._apply_predict = options["fit"], options["predict"]

    def __call__(self, x, y=None):
        return x.round(1), y


def test_steps_that_work_on_arrays_are_applied_to_arrays_and_refused_to_tensors_where_they_apply():
    classifier = classifier_of(preprocessing_defences=Rounds(fit=False, predict=True))
    x = torch.from_numpy(X)
    np.testing.assert_allclose(door.prepare(classifier, X)[0], (X.round(1) - MEAN) / STD, rtol=1e-5)
    with pytest.raises(InvalidInputError, match="RoundsPyTorch"):
        door.prepare(classifier, x)
    torch.testing.assert_close(door.prepare(classifier, x, fit=True)[0], (x - MEAN) / STD)
    with open_oracle(classifier, 8) as oracle:  # asks through numpy
        torch.testing.assert_close(oracle.logits(x), torch.from_numpy(classifier.predict(X)))
        assert not torch.equal(oracle.logits(x), torch.from_numpy(classifier_of().predict(X)))


def test_an_oracle_asks_a_network_itself_unless_predict_is_another():
    class Doubled(qadv.QuantizedClassifier):
        def predict(self, x, *args, **options):
            return 2 * super().predict(x, *args, **options)

    for kind in (PyTorchClassifier, qadv.QuantizedClassifier, Doubled):
        classifier, passes = classifier_of(kind), []
        expected = classifier.predict(X)
        classifier.model[1].register_forward_hook(lambda *_, passes=passes: passes.append(1))
        with open_oracle(classifier, 8) as oracle:
            torch.testing.assert_close(oracle.logits(torch.from_numpy(X)), torch.from_numpy(expected))
            passes.clear()
            logits, _ = oracle.gradient(torch.from_numpy(X), torch.from_numpy(Y))
            assert len(passes) == (2 if kind is Doubled else 1)
        torch.testing.assert_close(logits, torch.from_numpy(expected))


def test_what_art_keeps_private_is_named_in_the_door_only():
    """An estimator's own class, which inherits it, may say `self._model`."""
    private = {name for name in {*dir(PyTorchClassifier), *vars(classifier_of(PyTorchClassifier))} if name[0] == "_"}
    private = {name for name in private if not name.startswith("__")} | {"reduce_labels"}
    assert {"_model", "_apply_preprocessing", "_apply_preprocessing_gradient", "_optimizer"} <= private
    named = {
        (path.name, name)
        for folder in ("qadv", "plugins", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".jinja")
        for name in re.findall(r"(?<!\bself)(?<!\bsuper\(\))\.(\w+)\b", path.read_text("utf-8"))
        if name in private
    }
    assert {file for file, _ in named} == {"door.py"}, named
