"""What qadv uses of a classifier, whoever made its class."""

from typing import Any, Protocol

import torch
from torch import nn


class Classifier(Protocol):
    """An ART classifier on a torch network: a `PyTorchClassifier`, or what derives from it, as `QuantizedClassifier`.

    Attributes:
        model: images, preprocessed, (N, …) → logits, (N, nb_classes).
        device: where it computes.
        input_shape: shape of one image.
        nb_classes: number of logits.
        clip_values: smallest and largest pixel value, numbers or arrays, or `None`.
        loss: of logits and labels.
        optimizer: for training, or `None`.
        preprocessing_operations: preprocessing defences and standardisation, in the order in which they are applied.
        preprocessing_defences, postprocessing_defences: as given, or `None`.
        all_framework_preprocessing: all of `preprocessing_operations` work on tensors.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def nb_classes(self) -> int: ...
    @property
    def clip_values(self) -> Any: ...
    @property
    def loss(self) -> Any: ...
    @property
    def optimizer(self) -> Any: ...
    @property
    def preprocessing_operations(self) -> list[Any]: ...
    @property
    def preprocessing_defences(self) -> Any: ...
    @property
    def postprocessing_defences(self) -> Any: ...
    @property
    def all_framework_preprocessing(self) -> bool: ...

    def predict(self, x: Any, batch_size: int = 128) -> Any:
        """Returns logits, or what postprocessing makes of them, (N, nb_classes), for images (N, *input_shape)."""
        ...

    def loss_gradient(self, x: Any, y: Any) -> Any:
        """Returns the gradient of `loss` at images, as `x`; labels as rows (N, nb_classes)."""
        ...
