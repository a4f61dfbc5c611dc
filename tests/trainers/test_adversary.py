"""Adversarial training examples: their numerics, and what training on them does."""

import copy
import math

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.trainers.adversary import Adversary
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.options import LoopOptions
from qadv.trainers.parallel import BatchPart

MIDDLE = 0.5  # a random start that is none


def network_of(classifier):
    return TrainedNetwork(classifier, LoopOptions())


def tensors(digits, n=32):
    return torch.from_numpy(digits.x_train[:n]), torch.from_numpy(digits.y_train[:n])


@pytest.fixture
def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=(0.3, 0.5))


def gradient_sign(classifier, x, y):
    """Sign of ∂CE/∂x of a linear softmax classifier: Wᵀ(p - onehot)."""
    weight = classifier.model[1].weight.detach().numpy().astype(np.float64)
    bias = classifier.model[1].bias.detach().numpy()
    logits = ((x - 0.3) / 0.5).reshape(len(x), -1) @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.sign((p - np.eye(10)[y]) @ weight).reshape(x.shape)


def test_fgsm_and_r_fgsm_are_their_equations(linear, digits):
    x, y = tensors(digits)
    images, labels = x.numpy(), y.numpy()
    found = Adversary("fgsm", eps=0.1).perturb(network_of(linear), x, y).numpy()
    expected = np.clip(images + 0.1 * gradient_sign(linear, images, labels), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)

    torch.manual_seed(3)
    found = Adversary("r-fgsm", eps=0.1).perturb(network_of(linear), x, y).numpy()
    torch.manual_seed(3)
    start = np.clip(images + 0.05 * np.sign(torch.randn(x.shape).numpy()), 0, 1)
    expected = np.clip(start + 0.05 * gradient_sign(linear, start, labels), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pgd_is_arts(trained, digits, monkeypatch):
    x, y = tensors(digits)
    network = network_of(trained)
    monkeypatch.setattr(network, "draw", lambda sampler, x, *shape: torch.full_like(x, MIDDLE))
    found = Adversary("pgd", eps=0.2, eps_step=0.03, max_iter=9).perturb(network, x, y)
    attack = ProjectedGradientDescent(trained, eps=0.2, eps_step=0.03, max_iter=9, verbose=False)
    np.testing.assert_allclose(found.numpy(), attack.generate(x.numpy(), y.numpy()), atol=1e-6)


@pytest.mark.parametrize(("eps", "steps"), [(2, 2), (4, 5), (8, 10), (16, 20), (20, 24)])
def test_the_number_of_steps_is_kurakins_rule(eps, steps, linear, digits, monkeypatch):
    """⌊min(ε + 4, 1.25 ε)⌋ steps of 1/255."""
    x, y = tensors(digits, 4)
    network = network_of(linear)
    calls = []
    gradient = network.input_gradient
    monkeypatch.setattr(network, "input_gradient", lambda x, y: calls.append(len(x)) or gradient(x, y))
    Adversary("pgd", eps=eps / 255, eps_step=1 / 255).perturb(network, x, y)
    assert calls == [4] * steps


def test_sampled_budgets_are_the_papers_distribution(linear, digits, monkeypatch):
    """ε = clip(|ε′|, 0, 2δ), ε′ ~ N(0, δ); images whose steps are done leave the batch."""
    x = torch.from_numpy(np.tile(digits.x_train[:1], (4000, 1, 1, 1)))
    eps = Adversary("fgsm", eps=0.1, sampled=True)._budgets(network_of(linear), x).flatten().numpy()
    assert eps.max() == pytest.approx(0.2)
    assert (eps == eps.max()).mean() == pytest.approx(math.erfc(2 / math.sqrt(2)), abs=0.01)
    assert np.median(eps) == pytest.approx(0.0674, abs=0.004)  # 0.6745 δ

    x, y = tensors(digits, 64)
    network = network_of(linear)
    sizes = []
    gradient = network.input_gradient
    monkeypatch.setattr(network, "input_gradient", lambda x, y: sizes.append(len(x)) or gradient(x, y))
    torch.manual_seed(0)
    found = Adversary("pgd", eps=0.1, eps_step=0.02, sampled=True).perturb(network, x, y)
    torch.manual_seed(0)
    drawn = np.clip(np.abs(0.1 * torch.randn(64, 1).numpy()), 0, 0.2).ravel()
    steps = np.floor(np.minimum(drawn / 0.02 + 4, 1.25 * drawn / 0.02) + 1e-4)
    assert sizes == [int((steps > step).sum()) for step in range(int(steps.max()))]
    change = np.abs((found - x).numpy()).reshape(64, -1).max(1)
    assert (change <= drawn + 1e-6).all()
    assert (change > 0.5 * drawn).mean() > 0.9


@pytest.mark.parametrize("attack", ["fgsm", "r-fgsm", "pgd"])
def test_two_halves_of_a_batch_are_perturbed_as_the_whole(attack, trained, digits):
    x, y = tensors(digits, 33)
    network = network_of(trained)
    adversary = Adversary(attack, eps=0.1, sampled=True, ratio=0.7)
    torch.manual_seed(5)
    whole = adversary.perturb(network, x, y)
    assert torch.equal(whole[23:], x[23:])
    assert not torch.equal(whole[22], x[22])
    for part in (BatchPart(0, 16, 33), BatchPart(16, 33, 33), BatchPart(30, 33, 33)):
        network.part = part
        torch.manual_seed(5)
        torch.testing.assert_close(
            adversary.perturb(network, part.of(x), part.of(y)), part.of(whole), atol=2e-6, rtol=0
        )


def test_stochastic_filters_are_attacked_as_they_are_trained(digits, make_classifier):
    """Filters that stay real in the step stay real in its attack; modes and gradients are as before afterwards."""
    classifier = make_classifier(weights="sq(bwn)", skip_first_last=False)
    network = network_of(classifier)
    x, y = tensors(digits, 8)
    model = classifier.model.train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0
    layer = next(m for m in model.modules() if type(m).__name__ == "QuantLinear")
    with torch.no_grad():
        images = torch.rand(4, layer.in_features)
        partly = layer(images)
        with network.attacked():
            assert not model.training
            torch.testing.assert_close(layer(images), partly)
        whole = layer.eval()(images)
    assert not torch.allclose(partly, whole)
    layer.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    Adversary("pgd", max_iter=2).perturb(network, x, y)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("adversary", ["r-fgsm", "pgd"])
def test_adversarial_training_makes_a_trained_network_more_robust(adversary, trained, digits):
    x, y = digits.x_test[:120], digits.y_test[:120]

    def robust(classifier):
        attack = ProjectedGradientDescent(classifier, eps=0.15, eps_step=0.02, max_iter=15, verbose=False)
        return (classifier.predict(attack.generate(x, y)).argmax(1) == y).mean()

    classifier = copy.deepcopy(trained)
    steps = {"max_iter": 3, "eps_step": 0.05} if adversary == "pgd" else {}
    trainer = qadv.AdversarialQuantTrainer(classifier, adversary, eps=0.15, lr=0.05, verbose=False, **steps)
    trainer.fit(digits.x_train, digits.y_train, batch_size=64, nb_epochs=2)
    assert robust(classifier) > robust(trained) + 0.1


def test_defenses_compose(make_classifier, digits):
    adversary = qadv.Adversary("r-fgsm", eps=0.1, sampled=True)
    classifier = make_classifier(weights="sq(twn)", activations="pact:3", calibration=digits.x_train[:64])
    trainer = qadv.ErrorSilencedTrainer(classifier, max_iter=2, adversary=adversary, lr=0.02, verbose=False)
    trainer.fit(digits.x_train[:256], digits.y_train[:256], nb_epochs=2)
    assert {"pairing", "scheme_penalty", "sq_ratio", "distance/logits"} <= set(trainer.history[-1])
    trainer = qadv.DefensiveQuantTrainer(make_classifier(), beta=1e-3, adversary="pgd", lr=0.02, verbose=False)
    trainer.fit(digits.x_train[:256], digits.y_train[:256], nb_epochs=1)
    assert "penalty" in trainer.history[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attack": "pgt"}, "expected one of fgsm, r-fgsm, pgd, got 'pgt'; did you mean pgd"),
        ({"eps": 0}, "eps: expected a finite number above 0, .*got 0"),
        ({"eps": float("inf")}, "eps: expected a finite"),
        ({"eps_step": -1.0}, "eps_step: expected a finite"),
        ({"max_iter": 0}, "max_iter: expected a whole number of at least 1, got 0"),
        ({"max_iter": True}, "max_iter"),
        ({"attack": "fgsm", "max_iter": 3}, "fgsm takes one step"),
        ({"ratio": 0.0}, "ratio: expected a finite number above 0 and at most 1"),
        ({"ratio": 1.1}, "ratio"),
        ({"sampled": "yes"}, "sampled: expected True or False"),
    ],
)
def test_wrong_arguments(arguments, message, make_classifier):
    with pytest.raises(InvalidInputError, match=message):
        qadv.AdversarialQuantTrainer(make_classifier(), **arguments)


def test_an_adversary_by_a_wrong_name_or_type(make_classifier):
    with pytest.raises(InvalidInputError, match="attack: expected one of"):
        qadv.DefensiveQuantTrainer(make_classifier(), adversary="spsa")
    with pytest.raises(InvalidInputError, match="or an Adversary, got int"):
        qadv.DefensiveQuantTrainer(make_classifier(), adversary=3)
