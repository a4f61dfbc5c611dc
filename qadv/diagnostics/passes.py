"""Runs clean and adversarial images through a network and compares what enters its layers."""

from collections.abc import Callable, Container
from contextlib import ExitStack
from typing import Any

import torch
from brevitas.quant_tensor import QuantTensor
from numpy.typing import NDArray
from torch import Tensor

from qadv.checks import check_whole
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode
from qadv.recording import recording

Compare = Callable[[str, int, Tensor, Tensor], None]


@torch.no_grad()
def compare_inputs(
    classifier: Classifier,
    x: NDArray[Any],
    x_adversarial: NDArray[Any],
    names: Container[str],
    compare: Compare,
    batch_size: int,
    clean_on: Classifier | None = None,
) -> None:
    """Calls `compare(name, call, clean, adversarial)` for what enters each module of these names, batch by batch.

    The clean images go through `clean_on`, where it is given: another network.

    `call` counts the runs of a module in one pass, from 0: a ReLU may run several times. What the clean images give is
    kept for one batch, what the adversarial ones give is compared at once and forgotten. Two passes, and not one over
    both: then equal images are equal to the bit.
    """
    limits = classifier.input_shape, classifier.clip_values
    x = check_images(x, *limits, "x", strict=False)
    x_adversarial = check_images(x_adversarial, *limits, "x_adversarial", strict=False)
    if x.shape != x_adversarial.shape:
        raise InvalidInputError(f"x_adversarial: expected the shape of x, {x.shape}, got {x_adversarial.shape}")
    batch_size = check_whole("batch_size", batch_size)
    kept: dict[tuple[str, int], Tensor] = {}
    calls: dict[str, int] = {}
    adversarial = False

    def note(name: str, inputs: Any) -> None:
        value: Tensor = inputs[0].value if isinstance(inputs[0], QuantTensor) else inputs[0]
        call = calls.get(name, 0)
        calls[name] = call + 1
        if adversarial:
            compare(name, call, kept.pop((name, call)), value)
        else:
            kept[name, call] = value.clone()  # what comes next may work in place

    first = clean_on or classifier
    with ExitStack() as stack:
        for network in dict.fromkeys((classifier, first)):
            modules = {name: module for name, module in network.model.named_modules() if name in names}
            stack.enter_context(recording(modules, entering=note))
            stack.enter_context(evaluation_mode(network.model))
        for start in range(0, len(x), batch_size):
            for network, images, adversarial in ((first, x, False), (classifier, x_adversarial, True)):  # noqa: B007
                calls.clear()  # (note reads `adversarial`)
                batch = images[start : start + batch_size]
                network.predict(batch, batch_size=len(batch))
