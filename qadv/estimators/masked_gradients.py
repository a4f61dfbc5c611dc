"""A gradient that is zero or not finite is reported: ART's attacks go on with it in silence (PGD makes NaN a 0)."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qadv.errors import AttackError, MaskedGradientWarning
from qadv.estimators.protocol import Classifier

_WARNED = "_warned_of_masking"


def said_of_zeros(zero: int, nb_images: int) -> str:
    """Returns what is said of gradients that are exactly zero at `zero` of so many images.

    At single images that is no sign of masking: the softmax is sure of them, or an attack has arrived there.
    """
    if zero > 1 and 2 * zero >= nb_images:
        why = "Unless a targeted attack has arrived, the network masks its gradients, or its softmax is saturated."
    else:
        why = "The softmax may be sure of them, or a targeted attack have arrived; of masking it would take more."
    return (
        f"the gradient at the input is exactly zero for {zero} of {nb_images} images ({zero / nb_images:.0%}): attacks "
        f"by gradients do not move them, and that they survive is no sign of robustness. {why}"
    )


def check_finite(gradient: Tensor) -> None:
    """Raises an `AttackError` where gradients, (N, …), are NaN or infinite for some images."""
    if not gradient.isfinite().all():
        bad = int((~gradient.isfinite()).reshape(len(gradient), -1).any(dim=1).sum())
        raise AttackError(
            f"the gradient at the input is NaN or infinite for {bad} of {len(gradient)} images; an attack on it would "
            "say nothing. Look for divisions by zero or roots in the network, or attack without gradients "
            "(SquareAttack, SPSA)"
        )


def report_masking(classifier: Classifier, gradient: Any) -> None:
    """Looks at the gradients of a batch of images, (N, …), an array or a tensor; with those of several classes, at all.

    Raises:
        AttackError: some are NaN or infinite.

    Warns:
        MaskedGradientWarning: some are exactly zero; once for each classifier.
    """
    if isinstance(gradient, Tensor):
        largest = gradient.detach().flatten(1).abs().amax(dim=1).cpu().numpy()
    else:
        largest = np.abs(gradient).reshape(len(gradient), -1).max(axis=1)
    if ((largest > 0) & (largest < np.inf)).all():  # false for NaN
        return
    check_finite(torch.from_numpy(largest))
    if getattr(classifier, _WARNED, False):
        return
    setattr(classifier, _WARNED, True)
    zero = int((largest == 0).sum())
    warnings.warn(
        f"{said_of_zeros(zero, len(largest))} Attack the logits too (DeepFool, or APGD with its "
        "difference_logits_ratio), or without gradients (SquareAttack, SPSA); qadv.audit tells masking from the rest. "
        "Further queries of this classifier are not reported",
        MaskedGradientWarning,
        stacklevel=4,
    )
