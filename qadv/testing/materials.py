"""Test data for the checks: scikit-learn's digits and a small network trained on them."""

from functools import cache
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

import qadv
from qadv.datasets import Images, digits
from qadv.estimators.protocol import Classifier
from qadv.random_states import seeded
from qadv.trainers.loop_trainer import LoopTrainer

_BACKBONE = {"input_shape": (1, 8, 8), "image_size": 8, "width": 4}


@cache
def data() -> Images:
    """The digits: 1×8×8, ten classes; not to be changed."""
    return digits()


def few(number: int = 6) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns test images that the network of `digits_classifier` gets right, and their classes, as fresh arrays."""
    images = data()
    right = _right()[:number]
    return images.x_test[right].copy(), images.y_test[right].copy()


def digits_classifier(weights: Any = "int:4", activations: Any = "relu6:4", **arguments: Any) -> Any:
    """Returns a small trained classifier of scikit-learn's digits, a new one at each call.

    It is trained once per process and pair of schemes (`"float"` for none), to more than 80 % of the test images;
    `arguments` are those of `QuantizedClassifier.from_backbone`, e.g. `clip_values`."""
    classifier = untrained(weights, activations, **arguments)
    classifier.model.load_state_dict(_trained(str(weights), str(activations)))
    return classifier


def untrained(weights: Any = "int:4", activations: Any = "relu6:4", **arguments: Any) -> Any:
    """Returns the same network before its training, the same at each call."""
    with seeded(0):
        return qadv.QuantizedClassifier.from_backbone(
            "mnist-cnn", weights, activations, **{"device_type": "cpu", **_BACKBONE, **arguments}
        )


def trained_on(number: int = 64) -> dict[str, Any]:
    """Returns training images and their classes, one-hot, as fresh arrays `x` and `y`."""
    images = data()
    return {"x": images.x_train[:number].copy(), "y": np.eye(10, dtype=np.float32)[images.y_train[:number]]}


def state(classifier: Classifier) -> dict[str, Tensor]:
    """Returns a copy of what a network has learned."""
    return {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}


def plain(classifier: Classifier) -> PyTorchClassifier:
    """Returns ART's own classifier round the same network."""
    return PyTorchClassifier(
        classifier.model,
        nn.CrossEntropyLoss(),
        classifier.input_shape,
        classifier.nb_classes,
        clip_values=classifier.clip_values,
        preprocessing_defences=classifier.preprocessing_defences,
        device_type="cpu",
    )


@cache
def _trained(weights: str, activations: str) -> dict[str, Tensor]:
    classifier, images = untrained(weights, activations), data()
    LoopTrainer(classifier, lr=0.1, verbose=False).fit(images.x_train, images.y_train, nb_epochs=6, batch_size=64)
    return state(classifier)


@cache
def _right() -> NDArray[np.int64]:
    images = data()
    found: NDArray[np.int64] = np.flatnonzero(digits_classifier().predict(images.x_test).argmax(1) == images.y_test)
    return found
