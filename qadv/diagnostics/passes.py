"""Runs clean and adversarial images through a network and compares what enters its layers."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from brevitas.quant_tensor import QuantTensor
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.checks import check_whole
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode

Compare = Callable[[str, int, Tensor, Tensor], None]


def check_pairs(classifier: Classifier, x: Any, x_adversarial: Any) -> None:
    """Refuses images that are not those of the classifier, or not pairs.

    Raises:
        InvalidInputError: the two differ in shape, or are no images of this classifier.
    """
    check_images(x, classifier.input_shape, classifier.clip_values, "x", strict=False)
    check_images(x_adversarial, classifier.input_shape, classifier.clip_values, "x_adversarial", strict=False)
    if x.shape != x_adversarial.shape:
        raise InvalidInputError(f"x_adversarial: expected the shape of x, {x.shape}, got {x_adversarial.shape}")


@torch.no_grad()
def compare_inputs(
    classifier: Classifier,
    x: NDArray[Any],
    x_adversarial: NDArray[Any],
    modules: Mapping[str, nn.Module],
    compare: Compare,
    batch_size: int,
) -> None:
    """Calls `compare(name, call, clean, adversarial)` for what enters each module, batch by batch.

    What the clean images give is kept for one batch, what the adversarial ones give is compared at once and forgotten.
    Two passes, and not one over both: then equal images are equal to the bit.

    Args:
        classifier: an ART `PyTorchClassifier`.
        x: clean images, (N, *input_shape).
        x_adversarial: their adversarial versions, same shape.
        modules: submodules of its network, by name.
        compare: gets the module's name, which of its calls in the pass it is (0 for the first; a ReLU may run several
            times), and both tensors, (batch, …).
        batch_size: images per pass.

    Raises:
        InvalidInputError: images or `batch_size` are off.
    """
    check_pairs(classifier, x, x_adversarial)
    batch_size = check_whole("batch_size", batch_size)
    kept: dict[tuple[str, int], Tensor] = {}
    calls: dict[str, int] = {}
    adversarial = False

    def note(name: str, entering: Any) -> None:
        value: Tensor = entering.value if isinstance(entering, QuantTensor) else entering
        call = calls.get(name, 0)
        calls[name] = call + 1
        if adversarial:
            compare(name, call, kept.pop((name, call)), value)
        else:
            kept[name, call] = value.clone()  # what comes next may work in place

    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, module in modules.items()
    ]
    try:
        with evaluation_mode(classifier.model):
            for start in range(0, len(x), batch_size):
                for images, adversarial in ((x, False), (x_adversarial, True)):  # noqa: B007  (note reads it)
                    calls.clear()
                    batch = images[start : start + batch_size]
                    classifier.predict(batch, batch_size=len(batch))
    finally:
        for handle in handles:
            handle.remove()
