"""What an attack may ask of any ART estimator, as functions of tensors; the answers are checked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from qadv.errors import InvalidInputError
from qadv.estimators import door
from qadv.estimators.masked_gradients import check_finite
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode

C = TypeVar("C", bound=Classifier)
_OF_THE_NETWORK: set[Callable[..., Any]] = {PyTorchClassifier.predict}


class Oracle:
    """What an attack asks of an estimator, `batch_size` rows to a pass; here a network behind torch preprocessing."""

    def __init__(self, estimator: Classifier, batch_size: int) -> None:
        self._estimator = estimator
        self._batch_size = batch_size

    @property
    def device(self) -> torch.device:
        """Where images and labels are expected."""
        return self._estimator.device

    def logits(self, x: Tensor) -> Tensor:
        """Returns logits, (N, nb_classes), without a graph, of images (N, *input_shape) in `clip_values`.

        Outputs that are something else are an `InvalidInputError`, NaN an `AttackError`.
        """
        with torch.no_grad():
            answers = [door.logits(self._estimator, rows) for rows in torch.split(x, self._batch_size)]
        return self._checked(torch.cat(answers))

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of one batch, and the gradient of each image's loss for labels `y`, (N,), as `x`.

        The loss is the cross-entropy; the estimator's own where only that can be had. Errors are as of `logits`; a
        gradient that is not finite is one, too.
        """
        answer, _, slope = door.gradient(self._estimator, x, y, self._losses)
        check_finite(slope)
        return answer, slope

    def _losses(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self._checked(logits), y, reduction="none")

    def _checked(self, logits: Tensor) -> Tensor:
        classes = self._estimator.nb_classes
        if logits.ndim != 2 or logits.shape[1] != classes or classes < 2:
            raise InvalidInputError(
                f"estimator: expected one logit for each of nb_classes={classes} (at least 2) classes, got outputs of "
                f"shape (N, {', '.join(map(str, logits.shape[1:]))})"
            )
        door.check_answers(logits)
        return logits


class PredictOracle(Oracle):
    """The same of any ART classifier, through numpy, by its `predict` and `loss_gradient`."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def logits(self, x: Tensor) -> Tensor:
        ask = self._estimator.predict
        if type(self._estimator).predict in _OF_THE_NETWORK and door.gives_logits(self._estimator):
            ask = partial(door.predict_logits, self._estimator)
        answer = ask(x.numpy(), batch_size=self._batch_size)
        return self._checked(torch.from_numpy(np.asarray(answer, dtype=np.float32)))

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = nn.functional.one_hot(y, self._estimator.nb_classes).float().numpy()
        slope = torch.from_numpy(np.asarray(self._estimator.loss_gradient(x.numpy(), one_hot), dtype=np.float32))
        check_finite(slope)
        return self.logits(x), slope


@contextmanager
def open_oracle(estimator: Classifier, batch_size: int) -> Iterator[Oracle]:
    """Yields an oracle; the network is in evaluation mode meanwhile, and in its own mode afterwards.

    Only where the answers of a `PyTorchClassifier` are those of its preprocessors and network, all in torch, are these
    asked directly; a `predict` of its own (randomized smoothing), postprocessors and numpy preprocessors are honoured,
    but for a `Softmax`: margins of probabilities vanish where the network is sure, and its logits are there.
    """
    module = getattr(estimator, "model", None)
    with evaluation_mode(module) if isinstance(module, nn.Module) else nullcontext():
        direct = (
            type(estimator).predict in _OF_THE_NETWORK
            and estimator.all_framework_preprocessing
            and door.gives_logits(estimator)
        )
        yield (Oracle if direct else PredictOracle)(estimator, batch_size)


def asks_the_network(kind: type[C]) -> type[C]:
    """Marks a class whose `predict` is no more than its preprocessors and network, so that attacks may ask these.

    A class that derives from it and has a `predict` of its own is asked that.
    """
    _OF_THE_NETWORK.add(kind.predict)  # ART's metaclass has put its own function in the place of the class's
    return kind
