"""`as_torchattacks`: a classifier as a module that torchattacks attacks."""

from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError


def as_torchattacks(classifier: PyTorchClassifier) -> nn.Module:
    """Returns a classifier as a module for torchattacks: images (N, C, H, W) in [0, 1] → logits, in evaluation mode.

    What torchattacks attacks is what ART attacks: the classifier's preprocessing and defences are inside, so that no
    `set_normalization_used` is needed, a quantized network is its frozen twin, and outputs and gradients are those of
    `predict` and `loss_gradient`. Network and weights are shared with the classifier; the device is found by them.

        images = torchattacks.PGD(as_torchattacks(classifier), eps=8 / 255)(images, labels)

    Args:
        classifier: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier` or `EnsembleClassifier`.
            Pixels in [0, 1] are moved to its `clip_values`.

    Raises:
        InvalidInputError: the classifier can't be one torch module, see `qadv.as_module`, or its images are not
            (C, H, W).
    """
    module = qadv.as_module(classifier)
    if len(classifier.input_shape) != 3:
        raise InvalidInputError(
            f"classifier: torchattacks works on images (C, H, W), got input_shape={classifier.input_shape}"
        )
    return module
