"""What qadv uses of a classifier, whoever made its class."""

from typing import Any, Protocol

import torch
from torch import nn


class Classifier(Protocol):
    """An ART classifier on a torch network: a `PyTorchClassifier`, or what derives from it, as `QuantizedClassifier`.

    Attributes:
        preprocessing_operations: defences and standardisation, in the order in which they are applied.
        all_framework_preprocessing: all of these work on tensors.
    """

    device: torch.device
    input_shape: tuple[int, ...]
    nb_classes: int
    loss: Any
    optimizer: torch.optim.Optimizer | None
    preprocessing_defences: list[Any] | None
    postprocessing_defences: list[Any] | None
    preprocessing_operations: list[Any]
    all_framework_preprocessing: bool

    @property
    def model(self) -> nn.Module:
        """Images that are prepared, (N, …) → logits, (N, nb_classes)."""

    @property
    def clip_values(self) -> Any:
        """Smallest and largest pixel value, numbers or arrays, or `None`."""

    def predict(self, x: Any, batch_size: int = 128) -> Any:
        """Images (N, *input_shape) → logits, or what postprocessing makes of them, (N, nb_classes)."""

    def loss_gradient(self, x: Any, y: Any) -> Any:
        """Images, and labels as rows (N, nb_classes) → the gradient of `loss` at the images, as `x`."""
