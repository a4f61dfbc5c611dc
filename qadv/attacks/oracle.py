"""What an attack may ask of an ART estimator, as functions of tensors: logits, and the gradient at the input."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from qadv.errors import AttackError, InvalidInputError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.modes import evaluation_mode


class Oracle(Protocol):
    """Answers for images (N, *input_shape) in `clip_values`, on `device`."""

    device: torch.device

    def logits(self, x: Tensor) -> Tensor:
        """Returns logits, (N, nb_classes), without a graph."""
        ...

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits, (N, nb_classes), and the gradient of each image's loss for labels `y`, as `x`."""
        ...


class TorchOracle:
    """Preprocessing and network of a `PyTorchClassifier`, on its device; the loss is the cross-entropy."""

    def __init__(self, estimator: Any, batch_size: int) -> None:
        self.device = estimator.device
        self._estimator = estimator
        self._batch_size = batch_size

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._forward(rows) for rows in torch.split(x, self._batch_size)])

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self._forward(x)
            loss = nn.functional.cross_entropy(logits, y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
        return logits.detach(), _finite(gradient)

    def _forward(self, x: Tensor) -> Tensor:
        entering, _ = self._estimator._apply_preprocessing(x, y=None, fit=False, no_grad=False)
        return _checked(self._estimator._model(entering)[-1], self._estimator.nb_classes)


class PredictOracle:
    """`predict` and `loss_gradient` of any ART classifier, through numpy; the loss is the estimator's own."""

    def __init__(self, estimator: Any, batch_size: int) -> None:
        self.device = torch.device("cpu")
        self._estimator = estimator
        self._batch_size = batch_size

    def logits(self, x: Tensor) -> Tensor:
        logits = self._estimator.predict(x.numpy(), batch_size=self._batch_size)
        return _checked(torch.from_numpy(np.asarray(logits, dtype=np.float32)), self._estimator.nb_classes)

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = nn.functional.one_hot(y, self._estimator.nb_classes).float().numpy()
        gradient = np.asarray(self._estimator.loss_gradient(x.numpy(), one_hot), dtype=np.float32)
        return self.logits(x), _finite(torch.from_numpy(gradient))


@contextmanager
def open_oracle(estimator: Any, batch_size: int) -> Iterator[Oracle]:
    """Yields an oracle; the network is in evaluation mode meanwhile, and in its own mode afterwards.

    Only where the answers of a `PyTorchClassifier` are those of its preprocessors and network, all in torch, are these
    asked directly; a `predict` of its own (randomized smoothing), postprocessors and numpy preprocessors are honoured.

    Args:
        estimator: an ART classifier.
        batch_size: rows of one forward pass.
    """
    module = getattr(estimator, "_model", None)
    with evaluation_mode(module) if isinstance(module, nn.Module) else nullcontext():
        direct = (
            type(estimator).predict in (PyTorchClassifier.predict, QuantizedClassifier.predict)
            and estimator.all_framework_preprocessing
            and not estimator.postprocessing_defences
        )
        yield (TorchOracle if direct else PredictOracle)(estimator, batch_size)


def _checked(logits: Tensor, nb_classes: int) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] != nb_classes or nb_classes < 2:
        raise InvalidInputError(
            f"estimator: expected one logit for each of nb_classes={nb_classes} (at least 2) classes, got outputs of "
            f"shape (N, {', '.join(map(str, logits.shape[1:]))})"
        )
    if logits.isnan().any():
        raise AttackError("the network's logits are NaN; an attack on it would say nothing. Check weights and inputs")
    return logits


def _finite(gradient: Tensor) -> Tensor:
    if not gradient.isfinite().all():
        bad = int((~gradient.isfinite()).flatten(1).any(dim=1).sum())
        raise AttackError(
            f"the gradient at the input is NaN or infinite for {bad} of {len(gradient)} images; an attack on it would "
            "say nothing. Look for divisions by zero or roots in the network, or attack without gradients (SPSA)"
        )
    return gradient
