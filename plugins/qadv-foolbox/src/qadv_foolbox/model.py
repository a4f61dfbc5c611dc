"""`as_foolbox`: a classifier as a Foolbox model."""

import foolbox
from art.estimators.classification import PyTorchClassifier

import qadv


def as_foolbox(classifier: PyTorchClassifier) -> foolbox.models.Model:
    """Returns a classifier as a Foolbox model, in evaluation mode, on its device, with its `clip_values` as bounds.

    What Foolbox attacks is what ART attacks: the classifier's preprocessing and defences are inside, a quantized
    network is its frozen twin, and outputs and gradients are those of `predict` and `loss_gradient`. Network and
    weights are shared with the classifier. Images and distances are in the units of `clip_values`.

        model = as_foolbox(classifier)
        _, clipped, success = foolbox.attacks.LinfPGD()(model, images, labels, epsilons=8 / 255)

    Args:
        classifier: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier` or `EnsembleClassifier`.

    Raises:
        InvalidInputError: the classifier can't be one torch module, see `qadv.as_module`.
    """
    module = qadv.as_module(classifier)
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device=classifier.device)
    low, high = map(float, classifier.clip_values)
    return model if (low, high) == (0, 1) else model.transform_bounds((low, high))
