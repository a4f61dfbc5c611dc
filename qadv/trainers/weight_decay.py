"""Weight decay for everything but what has a penalty of its own."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Returns a network's parameters as `torch.optim`'s optimizers take them.

    The own parameters of modules with a `penalty()` are a group without weight decay: the training loop adds the
    penalty to the loss, and with both PACT's α would shrink twice.
    """
    apart = {id(parameter): parameter for _, parameter in _penalised(model)}
    others = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": list(apart.values()), "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def warn_of_double_decay(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Warns where an optimizer that the user made decays a parameter that has a penalty of its own."""
    names = {id(parameter): name for name, parameter in _penalised(model)}
    decayed = (id(each) for group in optimizer.param_groups if group.get("weight_decay") for each in group["params"])
    if twice := [names[each] for each in decayed if each in names]:
        warnings.warn(
            f"the classifier's optimizer decays {', '.join(twice)}, beside the penalty that the scheme itself has for "
            f"them: make it as {type(optimizer).__name__}(qadv.trainers.parameter_groups(model), …)",
            stacklevel=4,
        )


def _penalised(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, module in model.named_modules():
        if callable(getattr(module, "penalty", None)):
            yield from module.named_parameters(prefix=name, recurse=False)
