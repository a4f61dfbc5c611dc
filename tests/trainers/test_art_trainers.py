"""ART's own adversarial trainers run on quantized classifiers, unmodified, and train them."""

import copy

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerFBFPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)

import qadv
from qadv.quantization.layers import QuantLinear

EPS = 0.15


def attack(classifier, steps=3):
    return ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 2, max_iter=steps, verbose=False)


TRAINERS = {
    "AdversarialTrainer": lambda c, proxy: AdversarialTrainer(c, attack(c), ratio=0.7),
    "MadryPGD": lambda c, proxy: AdversarialTrainerMadryPGD(
        c, nb_epochs=2, batch_size=64, eps=EPS, eps_step=0.05, max_iter=3
    ),
    "FBF": lambda c, proxy: AdversarialTrainerFBFPyTorch(c, eps=EPS),
    "TRADES": lambda c, proxy: AdversarialTrainerTRADESPyTorch(c, attack(c), beta=3.0),
    "AWP": lambda c, proxy: AdversarialTrainerAWPPyTorch(
        c, proxy, attack(c), mode="PGD", gamma=0.01, beta=1.0, warmup=0
    ),
}


def with_sgd(trained, lr=0.02):
    """Returns a trained network with an optimizer."""
    model = copy.deepcopy(trained.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return qadv.QuantizedClassifier(model, trained.loss, (1, 8, 8), 10, optimizer=optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_it_makes_a_quantized_network_more_robust(name, trained, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # AWP writes its networks into the working directory
    classifier, proxy = with_sgd(trained), with_sgd(trained)
    trainer = TRAINERS[name](classifier, proxy)
    x, y = digits.x_train[:640], np.eye(10, dtype=np.float32)[digits.y_train[:640]]
    if name == "MadryPGD":
        trainer.fit(x, y)
    elif name == "AWP":
        validation = (digits.x_test[:64], np.eye(10, dtype=np.float32)[digits.y_test[:64]])
        trainer.fit(x, y, validation_data=validation, batch_size=64, nb_epochs=3)
    else:
        trainer.fit(x, y, batch_size=64, nb_epochs=3)
    classifier.model.eval()

    def accuracy(classifier, x):
        return (classifier.predict(x).argmax(1) == digits.y_test[:120]).mean()

    x = digits.x_test[:120]
    assert accuracy(classifier, x) > 0.5
    before, after = (
        accuracy(each, attack(each, 10).generate(x, digits.y_test[:120])) for each in (trained, classifier)
    )
    assert after > before + 0.1
    layer = next(m for m in classifier.model.modules() if isinstance(m, QuantLinear))
    assert len(layer.decoded().unique()) <= 15 * len(layer.weight), "it is still quantized"
