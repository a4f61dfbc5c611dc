"""Random signs at full strength: what any defense should shrug off."""

import torch

from qadv.attacks import Count, Eps, FunctionAttack, signs, wins
from qadv.units import Share


def sign_noise(logits, x, y, limits, generators, eps: Eps = Share(8 / 255), nb_draws: Count = 10):
    """Adds `eps * ±1` and keeps, for each image, the first of `nb_draws` draws that is misclassified.

    Args:
        eps: L∞ strength, in the images' own unit; default 8/255 of their range.
        nb_draws: how many times to try.
        others: see `qadv.FunctionAttack`.
    """
    best, unbroken = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(nb_draws):
        noise = eps * signs([generators[i] for i in unbroken.tolist()], x.shape[1:])
        best[unbroken] = (x[unbroken] + noise).clamp(*limits)
        unbroken = unbroken[~wins(logits(best[unbroken]), y[unbroken], targeted=False)]
        if len(unbroken) == 0:
            break
    return best


class SignNoise(FunctionAttack):
    run = sign_noise
    seed = 0
