"""Whether torch records what is computed, for a derivative that somebody may ask for."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_recorded(x: Tensor) -> bool:
    """Whether a derivative along `x` may be asked for: backward, or forward (`torch.func.jvp`), under `no_grad` too.

    Where it may, a quantizer is a function of its own, since a rounding's derivative is 0.
    """
    return (torch.is_grad_enabled() and x.requires_grad) or forward_ad._current_level >= 0
