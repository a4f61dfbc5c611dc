"""`as_module`: a classifier as one torch module, for toolkits that attack modules."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qadv.errors import InvalidInputError
from qadv.estimators.door import logits
from qadv.estimators.protocol import Classifier
from qadv.units import limits


class _OfImages(torch.autograd.Function):
    """A function of images whose backward pass leaves the network's parameters out, also if `backward()` starts it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.set_grad_enabled(x.requires_grad):
            ctx.x = x.detach().requires_grad_(x.requires_grad)
            ctx.y = function(ctx.x)
        return ctx.y.detach()  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # several losses of the same logits may ask one after the other
        (gradient,) = torch.autograd.grad(ctx.y, ctx.x, grad_outputs[0], retain_graph=True)
        return gradient, None


class ClassifierModule(nn.Module):
    """Images in [0, 1] → logits, with a classifier's preprocessing and defences inside; see `as_module`."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = classifier.model  # for toolkits that ask for the parameters' device, or for evaluation mode
        self._classifier = classifier
        self._low, self._high = limits(classifier.clip_values)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) in [0, 1] → logits, (N, nb_classes)."""
        if (self._low, self._high) != (0.0, 1.0):
            x = self._low + (self._high - self._low) * x
        return _OfImages.apply(x, partial(logits, self._classifier))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"clip_values=({self._low}, {self._high})"


def as_module(classifier: PyTorchClassifier) -> ClassifierModule:
    """Returns a classifier as one module, images in [0, 1] → logits, for toolkits that attack torch modules.

    Its preprocessing and defences are inside, so what a toolkit attacks is what ART attacks; outputs and gradients are
    those of `predict` and `loss_gradient`. Network and weights are shared with the classifier, not copied. It is in
    evaluation mode. Postprocessors are left out: toolkits work on logits.

        model = foolbox.PyTorchModel(qadv.as_module(classifier), bounds=(0, 1))

    Args:
        classifier: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier` or `EnsembleClassifier`.
            Pixels in [0, 1] are moved to its `clip_values`.

    Raises:
        InvalidInputError: it is none, has no `clip_values`, or a preprocessor that works on numpy arrays, through which
            no gradient passes.
    """
    check_module(classifier)
    return ClassifierModule(classifier)


def check_module(classifier: Any, name: str = "classifier") -> None:
    """Refuses what `as_module` can't take, and leaves the classifier as it is; `name` is what messages call it."""
    if not isinstance(classifier, PyTorchClassifier):
        raise InvalidInputError(f"{name}: expected an ART PyTorchClassifier, got {type(classifier).__name__}")
    if classifier.clip_values is None:
        raise InvalidInputError(f"{name}: pixels of a known range are attacked; give the classifier clip_values")
    limits(classifier.clip_values)
    steps = classifier.preprocessing_operations
    if in_numpy := [type(step).__name__ for step in steps if not isinstance(step, PreprocessorPyTorch)]:
        raise InvalidInputError(
            f"{name}: its preprocessing works on numpy arrays ({', '.join(in_numpy)}), so no gradient passes; use the "
            "PyTorch version of each preprocessor"
        )
