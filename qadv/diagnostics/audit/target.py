"""A classifier as the audit asks it: logits, gradients of any loss, and who is misclassified."""

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor

from qadv.backbones.float_weights import check_finite
from qadv.errors import InvalidInputError, NoGradientError
from qadv.estimators.door import Loss, gradient, mean_of
from qadv.estimators.ensemble_network import EnsembleNetwork
from qadv.estimators.module import check_module
from qadv.estimators.protocol import Classifier
from qadv.modes import held_network, in_mode
from qadv.units import limits

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Target:
    """Answers of one classifier; where these are random, the mean of several passes (expectation over transformation).

    Args:
        classifier: an ART `PyTorchClassifier` that gives logits, with `clip_values` and preprocessing in torch.
        batch_size: images in one pass.
        name: what messages call it.

    Attributes:
        draws: passes whose logits and gradients are averaged.

    Raises:
        InvalidInputError: it is something else.
    """

    def __init__(self, classifier: Classifier, batch_size: int, name: str = "classifier") -> None:
        check_module(classifier, name)
        if classifier.postprocessing_defences:
            raise InvalidInputError(
                f"{name}: the audit works on logits, and there are postprocessing defences "
                f"({', '.join(type(d).__name__ for d in classifier.postprocessing_defences)}); leave them out "
                "(probabilities=False)"
            )
        check_finite(classifier.model, name)
        self.classifier: PyTorchClassifier = classifier
        self.batch_size = batch_size
        self.name = name
        self.draws = 1
        low, high = limits(classifier.clip_values)
        self.low, self.high = float(np.min(low)), float(np.max(high))
        network = held_network(classifier.model)
        abstains = isinstance(network, EnsembleNetwork) and network.abstain_below is not None
        self._abstention = classifier.nb_classes - 1 if abstains else -1

    @property
    def device(self) -> torch.device:
        return torch.device(self.classifier.device)

    def logits(self, x: Images) -> NDArray[np.float32]:
        """Returns logits, (N, classes), for images (N, *input_shape)."""
        (mean,) = mean_of(self.draws, lambda: (self.classifier.predict(x, batch_size=self.batch_size),))
        return np.asarray(mean, dtype=np.float32)

    def check_logits(self, x: Images) -> None:
        """Refuses a network whose answers to images (N, *input_shape) are probabilities.

        Raises:
            InvalidInputError: they are.
        """
        answers = self.logits(x[: self.batch_size])
        if answers.min() >= 0 and answers.max() <= 1 and bool(np.allclose(answers.sum(axis=1), 1, atol=1e-4)):
            raise InvalidInputError(
                f"{self.name}: the network gives probabilities, the audit needs logits: take the softmax off its end "
                "(the loss, as CrossEntropyLoss, has one); for attacks that want probabilities there is "
                "QuantizedClassifier(..., probabilities=True)"
            )

    def broken(self, x: Images, y: Labels) -> Flags:
        """Returns which images are given another class than `y`, (N,); an ensemble's abstention is no such class."""
        return self.wins(torch.from_numpy(self.logits(x)), torch.from_numpy(y)).numpy()

    def wins(self, logits: Tensor, y: Tensor) -> Tensor:
        """As `broken`, from logits (N, classes)."""
        predicted = logits.argmax(dim=1)
        return (predicted != y) & (predicted != self._abstention)

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits (N, classes), losses (N,) and the losses' gradients at the images, as `x`; one batch.

        The gradient of a network that has none is zero.
        """
        with in_mode(self.classifier.model, training=False):
            try:
                return gradient(self.classifier, x, y, loss, self.draws)
            except NoGradientError:
                answers = torch.from_numpy(self.logits(x.numpy(force=True)))
                return answers, loss(answers, y), torch.zeros_like(x)
