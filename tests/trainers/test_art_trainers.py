"""ART's own adversarial trainers run on quantized classifiers, unmodified, and train them."""

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
        c, nb_epochs=6, batch_size=64, eps=EPS, eps_step=0.05, max_iter=3
    ),
    "FBF": lambda c, proxy: AdversarialTrainerFBFPyTorch(c, eps=EPS),
    "TRADES": lambda c, proxy: AdversarialTrainerTRADESPyTorch(c, attack(c), beta=3.0),
    "AWP": lambda c, proxy: AdversarialTrainerAWPPyTorch(
        c, proxy, attack(c), mode="PGD", gamma=0.01, beta=1.0, warmup=0
    ),
}


def with_sgd(make_classifier, lr=0.05):
    classifier = make_classifier("int:4", "relu6:4")
    model = classifier.model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return qadv.QuantizedClassifier(model, classifier.loss, (1, 8, 8), 10, optimizer=optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_it_trains_a_quantized_network(name, make_classifier, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # AWP writes its networks into the working directory
    classifier, proxy = with_sgd(make_classifier), with_sgd(make_classifier)
    trainer = TRAINERS[name](classifier, proxy)
    y = np.eye(10, dtype=np.float32)[digits.y_train]
    if name == "MadryPGD":
        trainer.fit(digits.x_train, y)
    elif name == "AWP":
        validation = (digits.x_test, np.eye(10, dtype=np.float32)[digits.y_test])
        trainer.fit(digits.x_train, y, validation_data=validation, batch_size=64, nb_epochs=6)
    else:
        trainer.fit(digits.x_train, y, batch_size=64, nb_epochs=14 if name == "FBF" else 6)
    classifier.model.eval()
    assert (classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean() > 0.85
    adversarial = attack(classifier, 10).generate(digits.x_test, digits.y_test)
    assert (classifier.predict(adversarial).argmax(1) == digits.y_test).mean() > 0.3, "an undefended one has under 0.2"
    layer = next(m for m in classifier.model.modules() if isinstance(m, QuantLinear))
    assert len(layer.decoded().unique()) <= 15 * len(layer.weight), "it is still quantized"
