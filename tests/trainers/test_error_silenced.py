"""Error-silenced Quantization: its loss, its schedule, its effect, and resuming."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.quantization.stochastic import StochasticWeights
from qadv.trainers.adversary import Adversary
from qadv.trainers.loop import TrainingLoop
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.objective import Objective
from qadv.trainers.pairing import relative_distance
from qadv.trainers.stochastic_schedule import stage

QUICK = {"lr": 0.05, "verbose": False}


def test_the_distance_is_the_papers():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3, 4, 4)), rng.normal(size=(5, 3, 4, 4))
    for norm in (2, math.inf):
        expected = [
            np.linalg.norm((p - q).ravel(), norm) / np.linalg.norm(p.ravel(), norm) for p, q in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(relative_distance(torch.tensor(a), torch.tensor(b), norm), expected)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_dead_and_equal_activations_give_finite_gradients(norm):
    clean = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    adversarial = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    relative_distance(clean, adversarial, norm).sum().backward()
    assert clean.grad.isfinite().all()
    assert adversarial.grad.isfinite().all()


def test_one_step_is_algorithm_1(digits, monkeypatch):
    """W - lr · ∂/∂W [CE(x) + λ₁ D(logits) + λ₂ D(hidden)], δ fixed by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    x, y = torch.from_numpy(digits.x_train[:32]), torch.from_numpy(digits.y_train[:32])
    delta = 0.1 * torch.randn(x.shape)
    monkeypatch.setattr(Adversary, "perturb", lambda self, network, x, y: x + delta[x[:, 0, 0, 0].argsort().argsort()])

    twin = copy.deepcopy(model).double()
    moved = x + delta[x[:, 0, 0, 0].argsort().argsort()]
    clean, adversarial = x.double(), moved.double()

    def distance(network):
        f, g = network(clean), network(adversarial)
        return ((f - g).square().sum(1).sqrt() / f.square().sum(1).sqrt()).mean()

    loss = nn.functional.cross_entropy(twin(clean), y) + 0.7 * distance(twin) + 0.2 * distance(twin[:2])
    gradients = torch.autograd.grad(loss, list(twin.parameters()))

    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    hooks = len(model[1]._forward_hooks)
    before = [p.detach().clone() for p in model.parameters()]
    settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant", "verbose": False}
    trainer = qadv.ErrorSilencedTrainer(classifier, lambdas={"logits": 0.7, "1": 0.2}, **settings)
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n))
    trainer.fit(x.numpy(), y.numpy(), batch_size=32, nb_epochs=1)
    for old, new, gradient in zip(before, model.parameters(), gradients, strict=True):
        torch.testing.assert_close(new.detach(), old - 0.1 * gradient.float(), rtol=1e-4, atol=1e-6)
    assert trainer.history[0]["pairing"] == pytest.approx(
        0.7 * trainer.history[0]["distance/logits"] + 0.2 * trainer.history[0]["distance/1"], rel=1e-5
    )
    assert len(model[1]._forward_hooks) == hooks, "the pairing's hooks are gone"


def test_the_schedule_has_equal_stages_and_ends_fully_quantized():
    ratios = (0.2, 0.4, 0.6, 0.8, 1.0)
    assert [stage(ratios, step, 10) for step in range(10)] == [r for r in ratios for _ in range(2)]
    assert [stage(ratios, step, 7) for step in range(7)] == [0.2, 0.4, 0.6, 0.6, 0.8, 1.0, 1.0]
    assert [stage(ratios, step, 2) for step in range(2)] == [0.6, 1.0]
    assert stage(ratios, 0, 1) == 1.0


def test_training_follows_the_schedule_by_itself(make_classifier, digits):
    seen = []

    class Look(Objective):
        def terms(self, network, x, y, logits):
            quantizers = [m for m in network.model.modules() if isinstance(m, StochasticWeights)]
            seen.append(float(np.mean([q.real.float().mean() for q in quantizers])))
            return {}

    classifier = make_classifier(weights="sq(bwn)")
    trainer = LoopTrainer(classifier, [Look()], sq_ratios=(0.25, 0.5, 1.0), **QUICK)
    trainer.fit(digits.x_train[:128], digits.y_train[:128], batch_size=32, nb_epochs=3)
    assert np.allclose(seen, [0.75] * 4 + [0.5] * 4 + [0.0] * 4)
    assert [entry["sq_ratio"] for entry in trainer.history] == [0.25, 0.5, 1.0]


def test_a_schedule_that_nothing_follows_is_refused(make_classifier, digits):
    trainer = LoopTrainer(make_classifier(weights="twn"), sq_ratios=(0.5, 1.0), **QUICK)
    with pytest.raises(InvalidInputError, match=r"sq_ratios.*no weights of this network"):
        trainer.fit(digits.x_train[:32], digits.y_train[:32], batch_size=32, nb_epochs=1)


@pytest.mark.slow
def test_pairing_silences_the_error(make_classifier, digits):
    """From the same natural start, the logits of the paired network move less under the same attack."""
    start = make_classifier(weights="float", activations="float")
    LoopTrainer(start, **QUICK).fit(digits.x_train, digits.y_train, batch_size=64, nb_epochs=4)
    found = {}
    for lambdas in (1e-6, 1.0):
        model = qadv.quantize(start.model, "sq(twn)", "relu6:4")
        classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
        trainer = qadv.ErrorSilencedTrainer(classifier, lambdas, eps=0.1, eps_step=0.025, max_iter=3, **QUICK)
        trainer.fit(digits.x_train[:640], digits.y_train[:640], batch_size=64, nb_epochs=5)
        found[lambdas] = trainer.history[-1]["distance/logits"]
    assert found[1.0] < 0.85 * found[1e-6]


def test_a_resumed_run_equals_an_uninterrupted_one(make_classifier, digits, tmp_path):
    class Stop(Objective):
        def __repr__(self):
            return "Stop()"

        def measure(self, network):
            self.epochs = getattr(self, "epochs", 0) + 1
            if self.epochs == self.last:
                raise KeyboardInterrupt
            return {}

    def run(seed, last, checkpoint=None):
        classifier = make_classifier(weights="sq-inverse(twn)", seed=seed)
        settings = {"max_iter": 2, "checkpoint": checkpoint, **QUICK}
        trainer = qadv.ErrorSilencedTrainer(classifier, {"logits": 1.0, "3": 0.1}, **settings)
        stop = Stop()
        stop.last = last
        trainer.objectives.append(stop)
        trainer.fit(digits.x_train[:192], digits.y_train[:192], batch_size=64, nb_epochs=4)
        return classifier, trainer

    whole, trainer = run(0, None)
    with pytest.raises(KeyboardInterrupt):
        run(0, 3, tmp_path / "run.ckpt")
    resumed, again = run(9, None, tmp_path / "run.ckpt")
    states = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    plain = [[{**entry, "seconds": 0} for entry in t.history] for t in (trainer, again)]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambdas": 0.0}, "lambdas: λ of 'logits': expected a finite number above 0, got 0.0"),
        ({"lambdas": {}}, "lambdas: expected a number, or a mapping"),
        ({"lambdas": {"3": "x"}}, "λ of '3'"),
        ({"norm": 1}, "norm: expected one of 2, inf, got 1"),
        ({"eps": -1}, "eps: expected"),
        ({"sq_ratios": (0.2, 0.8)}, "the last one 1"),
        ({"sq_ratios": ()}, "sq_ratios"),
        ({"sq_ratios": (1.2, 1)}, "sq_ratios"),
    ],
)
def test_wrong_arguments(arguments, message, make_classifier):
    with pytest.raises(InvalidInputError, match=message):
        qadv.ErrorSilencedTrainer(make_classifier(), **arguments)


def test_a_module_that_is_not_there_is_named(make_classifier, digits):
    trainer = qadv.ErrorSilencedTrainer(make_classifier(), lambdas={"logit": 1.0}, verbose=False)
    with pytest.raises(InvalidInputError, match="no module 'logit'; did you mean logits"):
        trainer.fit(digits.x_train[:64], digits.y_train[:64], nb_epochs=1)


def test_the_attack_sees_the_real_filters_of_its_step_from_the_first_step_on(make_classifier, digits, monkeypatch):
    seen = []
    perturb = Adversary.perturb

    def look(self, network, x, y):
        seen.append(all(m.training for m in network.model.modules()))
        return perturb(self, network, x, y)

    monkeypatch.setattr(Adversary, "perturb", look)
    trainer = qadv.ErrorSilencedTrainer(make_classifier(weights="sq(bwn)"), max_iter=1, **QUICK)
    trainer.fit(digits.x_train[:64], digits.y_train[:64], batch_size=32, nb_epochs=2)
    assert seen == [True] * 4


def test_the_trainers_seed_decides_the_draws(make_classifier):
    def drawn(seed):
        classifier = make_classifier(weights="sq(bwn)")
        trainer = LoopTrainer(classifier, seed=seed, **QUICK)
        loop = TrainingLoop(classifier, trainer.objectives, trainer.options, "")
        trainer.objectives[0].start(loop.network, torch.zeros(1, 1, 8, 8))
        trainer.objectives[0].step(loop.network, 0, 10)
        return torch.cat([m.real for m in classifier.model.modules() if isinstance(m, StochasticWeights)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
