"""The losses that the gradient attacks make large, image by image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qadv.attacks.goal import margin

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the cross-entropy of logits (N, classes) and labels (N,), shape (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def negative_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Returns `max_{c≠y} z_c - z_y`, (N,); its gradient does not depend on the logits' scale but by a factor."""
    return -margin(logits, y, targeted=False)


def margin_towards(goals: Tensor) -> Loss:
    """Returns the loss `z_goal - z_y`, with a class for each image, (N,)."""
    return lambda logits, y: (logits.gather(1, goals[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def at_temperature(temperature: float) -> Loss:
    """Returns the cross-entropy of the logits divided by `temperature`, > 0."""
    return lambda logits, y: cross_entropy(logits / temperature, y)


def typical_margin(logits: Tensor, y: Tensor) -> float:
    """Returns the median distance between the label's logit and the best other one; 1 where that is 0."""
    size = margin(logits, y, targeted=False).abs().median().item()
    return size if torch.isfinite(torch.tensor(size)) and size > 0 else 1.0
