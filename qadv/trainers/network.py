"""The classifier in training, as the loop and its objectives see it: images in pixel values in, logits out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qadv.estimators.door import own_loss, prepare
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode, held_network
from qadv.quantization.quantizer import WeightQuantizer
from qadv.trainers.options import LoopOptions
from qadv.trainers.parallel import BatchPart
from qadv.units import limits


class TrainedNetwork:
    """A classifier's network with its torch preprocessors, on its device.

    Attributes:
        model: the network, (N, …) preprocessed images → (N, nb_classes) logits.
        black: the smallest pixel value; 0 where there are no `clip_values`.
        part: which images of the step's batch this process has.
        fit: whether preprocessors are those for training, or, while the loop evaluates, for prediction.
        loss: the classifier's, a scalar, of logits and labels as `prepare` gives them.
    """

    def __init__(self, classifier: Classifier, options: LoopOptions) -> None:
        self.model: nn.Module = classifier.model
        self.clip_values = classifier.clip_values
        self.black = 0.0 if classifier.clip_values is None else limits(classifier.clip_values)[0]
        self.part, self.fit, self.loss = BatchPart(), True, own_loss(classifier)
        self._classifier, self._options = classifier, options
        self._forward: Callable[[Tensor], Tensor] = self.model
        if options.compile:
            backend = options.compile if isinstance(options.compile, str) else "inductor"
            self._forward = torch.compile(held_network(self.model), backend=backend)

    @property
    def device(self) -> torch.device:
        """Where batches live."""
        return self._classifier.device

    def prepare(self, x: Tensor, y: Tensor | None = None, fit: bool | None = None) -> tuple[Tensor, Any]:
        """Returns what network and `loss` take: images through ART's torch preprocessors, and labels, (N,), as rows.

        They are the preprocessors for training, or with `fit=False` for prediction; by default those of `self.fit`.
        """
        targets = None if y is None else nn.functional.one_hot(y, self._classifier.nb_classes).float()
        return prepare(self._classifier, x, targets, self.fit if fit is None else fit)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, (N, nb_classes) float32, of images that are prepared."""
        if self._options.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._options.amp):
            return self._forward(inputs).float()

    def logits(self, x: Tensor) -> Tensor:
        """Returns logits, (N, nb_classes) float32, of images in pixel values."""
        return self.forward(self.prepare(x)[0])

    def input_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the gradient of the loss with respect to images, shaped as `x`; use it inside `attacked()`."""
        x = x.detach().requires_grad_()
        inputs, targets = self.prepare(x, y)
        (gradient,) = torch.autograd.grad(self.loss(self.forward(inputs), targets), x)
        return gradient

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """While training examples are attacked: evaluation mode.

        Weights are those of the step that follows: filters that stochastic quantization leaves real stay real. They are
        quantized once, however many passes an attack makes.
        """
        quantizers = [m for m in self.model.modules() if isinstance(m, WeightQuantizer) and m.training]
        with evaluation_mode(self.model):
            for quantizer in quantizers:
                quantizer.training = True
            yield

    def draw(self, sampler: Callable[..., Tensor], x: Tensor, *shape: int) -> Tensor:
        """Returns this process's part of what `torch.rand` or `torch.randn` draws for all images of the batch.

        `shape` is that of the numbers for one image, by default the image's own.
        """
        numbers = sampler(self.part.total(len(x)), *(shape or x.shape[1:]), device=x.device)
        return self.part.of(numbers)
