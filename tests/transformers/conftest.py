"""A trained float classifier."""

import pytest
import torch

import qadv


@pytest.fixture(scope="package")
def trained_float(digits):
    """Trained on the digits; not to be changed by a test."""
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "float", "float", input_shape=(1, 8, 8), image_size=8, width=8, preprocessing=(0.3, 0.4)
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=5, batch_size=64)
    assert (classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean() > 0.9
    return classifier
