"""Gradients with respect to images, in few backward passes, without those of the parameters."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.errors import AttackError, InvalidInputError

Array = NDArray[Any]
_MOST_VALUES = 2**19  # pixels in one backward pass of several classes: beyond, batches are large enough


def loss_gradient(classifier: Any, x: Array | Tensor, y: Array | Tensor) -> Array | Tensor:
    """Returns the gradient of the loss with respect to `x`, of its shape and kind.

    Args:
        classifier: a `PyTorchClassifier` whose network is in the mode wanted.
        x: images, (N, *input_shape).
        y: one-hot labels, or probabilities, (N, nb_classes).

    Raises:
        InvalidInputError: the loss is not one number.
        AttackError: another thread has changed the weights meanwhile.
    """
    leaf, inputs = _inputs(classifier, x)
    labels = classifier.reduce_labels(torch.as_tensor(y, device=classifier.device))
    loss = classifier._loss(classifier._model(inputs)[-1], labels)
    if loss.numel() != 1:
        raise InvalidInputError(
            f"loss: expected one number for a batch, got {tuple(loss.shape)} from {type(classifier.loss).__name__}"
        )
    gradient = _gradient(loss, leaf)
    return gradient if isinstance(x, Tensor) else _to_images(classifier, x, gradient)


def class_gradient(classifier: Any, x: Array, label: Any = None) -> Array:
    """Returns the gradient of logits with respect to `x`: (N, nb_classes, *input_shape), or (N, 1, …) with `label`.

    Args:
        classifier: a `PyTorchClassifier` whose network is in the mode wanted.
        x: images, (N, *input_shape).
        label: one class for all images, or one each, (N,); `None` for every class.
    """
    leaf, inputs = _inputs(classifier, x)
    logits = classifier._model(inputs)[-1]
    if label is None:
        ones = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        at_once = max(1, _MOST_VALUES // leaf.numel())
        gradients = torch.empty((len(ones), *leaf.shape), dtype=leaf.dtype, device=leaf.device)
        for start in range(0, len(ones), at_once):
            each = ones[start : start + at_once, None].expand(-1, len(logits), -1)
            left = start + at_once < len(ones)
            part = _gradient(logits, leaf, each, is_grads_batched=True, retain_graph=left)
            gradients[start : start + at_once] = part
        gradients = gradients.transpose(0, 1)
    else:
        classes = torch.as_tensor(np.broadcast_to(label, len(x)).copy(), device=logits.device)
        gradients = _gradient(logits.gather(1, classes[:, None]).sum(), leaf)[:, None]
    return _to_images(classifier, x, gradients)


def _gradient(outputs: Tensor, leaf: Tensor, *weights: Tensor, **options: Any) -> Tensor:
    grad: Any = torch.autograd.grad
    try:
        gradient: Tensor = grad(outputs, leaf, *weights, **options)[0]
        return gradient
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise AttackError(
            "the network's weights changed while its gradient was computed: another thread trains it by a loop of its "
            f"own. Ask between its steps, or from the thread that trains ({error})"
        ) from error


def _inputs(classifier: Any, x: Array | Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tensor whose gradient is wanted, and what goes into the network."""
    if classifier.all_framework_preprocessing:
        leaf = torch.as_tensor(x, device=classifier.device).detach().clone().requires_grad_()
        inputs, _ = classifier._apply_preprocessing(leaf, y=None, fit=False, no_grad=False)
        return leaf, inputs
    if isinstance(x, Tensor):
        raise NotImplementedError("tensors can't go through preprocessors that work on numpy arrays")
    preprocessed, _ = classifier._apply_preprocessing(x, y=None, fit=False, no_grad=True)
    leaf = torch.tensor(preprocessed, device=classifier.device).requires_grad_()
    return leaf, leaf


def _to_images(classifier: Any, x: Array | Tensor, gradient: Tensor) -> Array:
    array: Array = gradient.detach().cpu().numpy()
    if not classifier.all_framework_preprocessing:
        array = classifier._apply_preprocessing_gradient(x, array)
    return array
