"""A classifier as the audit asks it: logits, gradients of any loss, and who is misclassified."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor

from qadv.backbones.float_weights import check_finite
from qadv.errors import AttackError, InvalidInputError, NoGradientError
from qadv.estimators.door import Loss, gradient, mean_of
from qadv.estimators.module import check_module
from qadv.estimators.protocol import Classifier
from qadv.modes import in_mode, nb_labels
from qadv.units import limits

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]
_ONE_HOT = 1e-6  # how far a straight-through step leaves hard labels from 0 and 1


class Target:
    """Answers of one classifier; where these are random, the mean of several passes (expectation over transformation).

    Args:
        classifier: an ART `PyTorchClassifier` that gives logits, with `clip_values` and preprocessing in torch.
        batch_size: images in one pass.
        name: what messages call it.
        targeted: labels are the classes that images are to be given, not those that they are not to be given any more.

    Attributes:
        draws: passes whose logits and gradients are averaged.
        has_gradient: `False` once it was seen that the network gives none.
        classes: number of classes, without an ensemble's abstention, which is the last.

    Raises:
        InvalidInputError: it is something else.
    """

    def __init__(
        self, classifier: Classifier, batch_size: int, name: str = "classifier", targeted: bool = False
    ) -> None:
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
        self.targeted = targeted
        self.draws = 1
        self.has_gradient = True
        low, high = limits(classifier.clip_values)
        self.low, self.high = float(np.min(low)), float(np.max(high))
        self.classes = nb_labels(classifier)

    @property
    def device(self) -> torch.device:
        return torch.device(self.classifier.device)

    def tensors(self, *arrays: NDArray[Any]) -> Iterator[Tensor]:
        """Returns arrays as tensors where the network is."""
        return (torch.from_numpy(each).to(self.device) for each in arrays)

    def logits(self, x: Images) -> NDArray[np.float32]:
        """Returns logits, (N, classes), for images (N, *input_shape)."""
        (mean,) = mean_of(self.draws, lambda: (self.classifier.predict(x, batch_size=self.batch_size),))
        return np.asarray(mean, dtype=np.float32)

    def check_logits(self, x: Images) -> None:
        """Refuses a network that takes no batches, or whose answers to images (N, *input_shape) are probabilities.

        Hard labels are none, nor are logits that are the same for all images.

        Raises:
            InvalidInputError: it is such a network.
        """
        answers = self._asked_at_once(x[: self.batch_size])
        shares = answers.min() >= 0 and answers.max() <= 1 and bool(np.allclose(answers.sum(axis=1), 1, atol=1e-4))
        constant = len(answers) > 1 and bool((answers == answers[0]).all())
        if shares and not constant and np.abs(answers - answers.round()).max() > _ONE_HOT:
            raise InvalidInputError(
                f"{self.name}: the network gives probabilities, the audit needs logits: take the softmax off its end "
                "(the loss, as CrossEntropyLoss, has one); for attacks that want probabilities there is "
                "QuantizedClassifier(..., probabilities=True)"
            )

    def _asked_at_once(self, x: Images) -> NDArray[np.float32]:
        failure = None
        try:
            answers = self.logits(x)
            if answers.shape == (len(x), self.classifier.nb_classes):
                return answers
            reason = f"it gives an array of shape {answers.shape}"
        except AttackError:
            raise  # as of NaN for some images, which one image need not have
        except Exception as error:  # whatever the network raises
            failure, reason = error, f"{type(error).__name__}: {error}"
        try:
            self.logits(x[:1])
        except Exception as error:
            raise failure or error from None
        raise InvalidInputError(
            f"{self.name}: the network takes one image, and not {len(x)} at once, as attacks ask it ({reason}); put it "
            "in a module whose forward is torch.cat([network(image) for image in x.split(1)])"
        )

    def right(self, x: Images, y: Labels) -> Flags:
        """Returns which images are classified correctly, (N,), or if targeted not yet as wished.

        An ensemble's abstention is not correct either.
        """
        return ~self.broken(x, y) if self.targeted else self.logits(x).argmax(axis=1) == y

    def broken(self, x: Images, y: Labels) -> Flags:
        """Returns which images are given another class than `y`, (N,), or if targeted this one.

        An ensemble's abstention is no other class.
        """
        return self.wins(torch.from_numpy(self.logits(x)), torch.from_numpy(y)).numpy()

    def wins(self, logits: Tensor, y: Tensor) -> Tensor:
        """As `broken`, from logits (N, classes)."""
        predicted = logits.argmax(dim=1)
        return predicted == y if self.targeted else (predicted != y) & (predicted < self.classes)

    def aimed(self, loss: Loss) -> Loss:
        """Returns what an attack makes large: the loss, or if targeted its negative."""
        return (lambda logits, y: -loss(logits, y)) if self.targeted else loss

    def gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits (N, classes), losses (N,) and the losses' gradients at the images, as `x`.

        The gradient of a network that has none is zero.
        """
        batches = zip(*(torch.split(each, self.batch_size) for each in (x, y)), strict=True)
        logits, losses, slopes = zip(*(self._gradient(images, labels, loss) for images, labels in batches), strict=True)
        return torch.cat(logits), torch.cat(losses), torch.cat(slopes)

    def _gradient(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        with in_mode(self.classifier.model, training=False):
            try:
                return gradient(self.classifier, x, y, self.aimed(loss), self.draws)
            except NoGradientError:
                self.has_gradient = False
                answers = torch.from_numpy(self.logits(x.numpy(force=True))).to(x.device)
                return answers, self.aimed(loss)(answers, y), torch.zeros_like(x)
