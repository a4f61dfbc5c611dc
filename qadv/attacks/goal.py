"""The goal of an attack as a function of the logits."""

import torch
from torch import Tensor


def wins(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Returns which rows are adversarial, (N,) bool: predicted as the target `y`, or untargeted as anything else."""
    return (logits.argmax(dim=1) == y) == targeted


def margin(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Returns what an attack makes small, (N,): `z_y - max_{c≠y} z_c`, its negative when `y` is the target."""
    others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    own = logits.gather(1, y[:, None])[:, 0]
    return others - own if targeted else own - others
