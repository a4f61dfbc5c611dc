"""The one door to a classifier's network, attack → door → network: what ART keeps private is named here only.

Whoever asks sees to the network's mode, as `qadv.modes` does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from numpy.typing import NDArray
from torch import Tensor

from qadv.errors import AttackError, InvalidInputError
from qadv.estimators.protocol import Classifier
from qadv.estimators.upkeep import run_after_steps
from qadv.postprocessors.softmax import Softmax

Array = NDArray[Any]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (N, classes) and labels → (N,), or one number
T = TypeVar("T")
_MOST_VALUES = 2**19  # pixels in one backward pass of several classes: beyond, batches are large enough


def prepare(classifier: Classifier, x: Any, y: Any = None, fit: bool = False) -> tuple[Any, Any]:
    """Returns images, and labels if any, as network and loss take them: through the defences, and standardised.

    Args:
        x: images (N, *input_shape); of an array comes an array, of a tensor a tensor, with its graph.
        y: rows, (N, nb_classes), of the same kind as `x`.
        fit: the steps for training, or those for prediction.

    Raises:
        InvalidInputError: a tensor, and a step works on arrays.
    """
    art: Any = classifier
    if not isinstance(x, Tensor):
        return art._apply_preprocessing(x, y, fit=fit)  # type: ignore[no-any-return]
    for step in classifier.preprocessing_operations:  # ART's own asks for tensors in the steps that do not apply, too
        if step.apply_fit if fit else step.apply_predict:
            if not isinstance(step, PreprocessorPyTorch):
                name = type(step).__name__
                raise InvalidInputError(
                    f"{name} works on numpy arrays, and got tensors; use its torch form, {name}PyTorch"
                )
            x, y = step.forward(x, y)
    return x, y


def forward(classifier: Classifier, prepared: Tensor) -> Tensor:
    """Returns the logits, (N, nb_classes), of images that are prepared."""
    art: Any = classifier
    logits: Tensor = art._model(prepared)[-1]
    return logits


def logits(classifier: Classifier, x: Tensor) -> Tensor:
    """Returns logits, (N, nb_classes), with their graph, of images (N, *input_shape) on the classifier's device."""
    return forward(classifier, prepare(classifier, x)[0])


@torch.no_grad()
def in_batches(
    classifier: Classifier, x: Any, batch_size: int, ask: Callable[[Tensor], Tensor], axis: int = 0
) -> Array:
    """Returns what `ask` says of images (N, *input_shape), a batch of prepared ones at a time, as a float32 array.

    Its answers have one row for each image along `axis`.
    """
    answers = []
    for start in range(0, len(x), batch_size):  # nothing is made of all images at once
        batch = torch.as_tensor(prepare(classifier, x[start : start + batch_size])[0])
        answers.append(ask(batch.to(classifier.device)).float().cpu().numpy())
    return np.concatenate(answers, axis=axis)


def predict(classifier: Classifier, x: Array, batch_size: int) -> Array:
    """Returns what ART's `predict` does: logits, or what postprocessing makes of them, (N, nb_classes) float32.

    Raises:
        AttackError: some are NaN.
    """
    art: Any = classifier
    outputs: Array = art._apply_postprocessing(preds=_checked(classifier, x, batch_size), fit=False)
    return outputs


def predict_logits(classifier: Classifier, x: Array, batch_size: int) -> Array:
    """Returns the logits behind `predict`, (N, nb_classes) float32: a `Softmax`, with which it answers, is left out.

    Raises:
        AttackError: some are NaN.
        InvalidInputError: other postprocessors stand behind the network.
    """
    if not gives_logits(classifier):
        names = ", ".join(type(each).__name__ for each in classifier.postprocessing_defences or [])
        raise InvalidInputError(
            f"classifier: expected one that gives logits, it has postprocessors ({names}); leave them out"
        )
    return _checked(classifier, x, batch_size)


def _checked(classifier: Classifier, x: Array, batch_size: int) -> Array:
    answers = in_batches(classifier, x, batch_size, partial(forward, classifier))
    check_answers(answers)
    return answers


def gives_logits(classifier: Classifier) -> bool:
    """Whether what `predict` answers are logits, or probabilities that a `Softmax` makes of them and nothing else."""
    return all(isinstance(each, Softmax) for each in classifier.postprocessing_defences or [])


def check_answers(answers: Array | Tensor) -> None:
    """Raises an `AttackError` where logits, (N, nb_classes), are NaN, of which `argmax` would make the first class."""
    nan = answers.isnan() if isinstance(answers, Tensor) else np.isnan(answers)
    if nan.any():
        raise AttackError(
            f"the network's logits are NaN for {int(nan.any(1).sum())} of {len(answers)} images; what is made of them "
            "would say nothing. Check weights and inputs"
        )


def own_loss(classifier: Classifier) -> Loss:
    """Returns the classifier's loss, of logits and labels as rows, (N, nb_classes), which has to be one number."""
    art: Any = classifier

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        value: Tensor = art.loss(logits, art.reduce_labels(y))
        if value.numel() != 1:
            raise InvalidInputError(
                f"loss: expected one number for a batch, got {tuple(value.shape)} from {type(art.loss).__name__}"
            )
        return value

    return loss


def gradient(
    classifier: Classifier, x: Array | Tensor, y: Array | Tensor, loss: Loss, draws: int = 1
) -> tuple[Tensor, Tensor, Any]:
    """Returns logits, losses, and the gradient of their sum at the images; zeros where it does not depend on them.

    Args:
        x: images, (N, *input_shape); the gradient is of the same shape and kind.
        y, loss: labels as `loss` takes them, and the loss of each image or of the batch, as `own_loss(classifier)`.
        draws: passes whose answers are averaged, for random networks (expectation over transformation).

    Raises:
        AttackError: another thread has changed the weights meanwhile.
    """
    labels = _usable(torch.as_tensor(y, device=classifier.device))

    def ask() -> tuple[Tensor, Tensor, Tensor]:
        leaf, prepared = _leaf(classifier, x)
        logits = forward(classifier, prepared)
        losses = loss(logits, labels)
        return logits.detach(), losses.detach(), _gradient(losses.sum(), leaf)

    with _recorded(classifier):
        answer, losses, found = mean_of(draws, ask)
    return answer, losses, _at_images(classifier, x, found)


def class_gradients(classifier: Classifier, x: Array, label: Any = None) -> Array:
    """Returns the gradient of logits with respect to `x`: (N, nb_classes, *input_shape), or (N, 1, …) with `label`.

    That is one class for all images, or one each, (N,); `None` stands for every class. Errors as of `gradient`.
    """

    def ask() -> tuple[Tensor, Tensor]:
        leaf, prepared = _leaf(classifier, x)
        return leaf, forward(classifier, prepared)

    with _recorded(classifier):
        leaf, logits = ask()
        if label is not None:
            classes = torch.as_tensor(np.broadcast_to(label, len(x)).copy(), device=logits.device)
            gradients = _gradient(logits.gather(1, classes[:, None]).sum(), leaf)[None]
        else:
            try:
                gradients = _every_class(logits, leaf)
            except RuntimeError:  # something on the way back can't take several classes at once, as a hook's `item()`
                leaf, logits = ask()
                gradients = torch.stack([_gradient(one.sum(), leaf, retain_graph=True) for one in logits.unbind(1)])
    found: Array = _at_images(classifier, x, gradients.transpose(0, 1))
    return found


@contextmanager
def _recorded(classifier: Classifier) -> Iterator[None]:
    """Records gradients, in inference mode too, where nothing else would say that there are none.

    cuDNN's recurrent layers have them in training mode alone, torch's own always.
    """
    recurrent = getattr(classifier, "is_rnn", False)
    kernels = torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), kernels:
        yield


def _every_class(logits: Tensor, leaf: Tensor) -> Tensor:
    ones = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    at_once = max(1, _MOST_VALUES // leaf.numel())
    gradients = torch.empty((len(ones), *leaf.shape), dtype=leaf.dtype, device=leaf.device)
    for start in range(0, len(ones), at_once):
        each = ones[start : start + at_once, None].expand(-1, len(logits), -1)
        left = start + at_once < len(ones)
        gradients[start : start + at_once] = _gradient(logits, leaf, each, is_grads_batched=True, retain_graph=left)
    return gradients


def mean_of(draws: int, ask: Callable[[], tuple[T, ...]]) -> tuple[T, ...]:
    """Returns the mean of so many answers, each some arrays or tensors."""
    answers: Any = ask()
    for _ in range(draws - 1):
        answers = tuple(total + new for total, new in zip(answers, ask(), strict=True))
    return answers if draws == 1 else tuple(total / draws for total in answers)


def give_optimizer(classifier: Classifier, optimizer: torch.optim.Optimizer) -> None:
    """Has a classifier train with this optimizer, made from the parameters of its `model`."""
    art: Any = classifier
    art._optimizer = optimizer
    run_after_steps(optimizer, classifier.model)


def _gradient(outputs: Tensor, leaf: Tensor, *weights: Tensor, **options: Any) -> Tensor:
    grad: Any = torch.autograd.grad
    if not outputs.requires_grad:
        return torch.zeros_like(leaf)
    try:
        found: Tensor | None = grad(outputs, leaf, *weights, allow_unused=True, **options)[0]
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise AttackError(
            "what the gradient needs was changed in place before it was computed: by the network itself, as `x *= 2` "
            "behind a ReLU does (write `x = x * 2`), or because another thread trains it by a loop of its own (ask "
            f"between its steps, or from the thread that trains): {error}"
        ) from error
    return torch.zeros_like(leaf) if found is None else found


def _usable(tensor: Tensor) -> Tensor:
    """Returns a tensor that can be part of a gradient's graph: one made in inference mode can't."""
    return tensor.clone() if tensor.is_inference() else tensor


def _leaf(classifier: Classifier, x: Array | Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tensor whose gradient is wanted, and what goes into the network."""
    if isinstance(x, Tensor) or classifier.all_framework_preprocessing:
        leaf = _usable(torch.as_tensor(x, device=classifier.device)).detach().requires_grad_()
        return leaf, prepare(classifier, leaf)[0]
    leaf = torch.tensor(prepare(classifier, x)[0], device=classifier.device).requires_grad_()
    return leaf, leaf


def _at_images(classifier: Classifier, x: Any, gradient: Tensor) -> Any:
    """Returns the gradient as `x` is, taken through the steps that work on arrays."""
    art: Any = classifier
    if isinstance(x, Tensor):
        return gradient
    array = gradient.cpu().numpy()
    return array if classifier.all_framework_preprocessing else art._apply_preprocessing_gradient(x, array)
