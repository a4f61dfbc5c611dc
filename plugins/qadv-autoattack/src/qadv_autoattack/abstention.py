"""Ensembles that abstain, attacked for a wrong answer: an abstention is then no success."""

from typing import Any

import torch
from torch import Tensor, nn

import qadv
from qadv.errors import InvalidInputError


def abstains(estimator: Any) -> bool:
    """Whether the estimator's last class stands for "no prediction"."""
    return isinstance(estimator, qadv.EnsembleClassifier) and estimator.model.abstain_below is not None


def nb_answers(estimator: Any, abstention_breaks: bool) -> int:
    """Returns the number of classes that an attack can go for."""
    return int(estimator.nb_classes) - (abstains(estimator) and not abstention_breaks)


def check_no_abstention(estimator: Any, labels: Any) -> None:
    """Refuses "no prediction" as the true class of an image.

    Raises:
        InvalidInputError: some label is the last class of an ensemble that abstains.
    """
    if abstains(estimator) and (labels == estimator.nb_classes - 1).any():
        raise InvalidInputError(
            "y: with abstention_breaks=False each image needs a true class, and 'no prediction' (the last one) is "
            "none; give y, of images whose class is known"
        )


class AbstentionHolds(nn.Module):
    """An ensemble that abstains, as a network that is wrong only where the ensemble answers, and wrongly.

    For images of one class y: the last output a, the abstention's, is dropped, and `z_y` becomes `max(z_y, a)`. So
    another class has the largest logit if and only if the ensemble gives that class.

    Args:
        model: images (N, *input_shape) → logits (N, classes + 1).
        label: y.
    """

    def __init__(self, model: nn.Module, label: int) -> None:
        super().__init__()
        self.model = model
        self.label = label

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) → (N, classes)."""
        logits = self.model(x)
        held = torch.maximum(logits[:, self.label], logits[:, -1])
        return torch.cat([logits[:, : self.label], held[:, None], logits[:, self.label + 1 : -1]], dim=1)
