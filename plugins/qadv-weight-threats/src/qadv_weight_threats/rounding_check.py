"""A check of audits: is there an input on which rounding errors do what random ones as large do not?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.diagnostics import AuditCase, CountedCheck, Finding, Scale
from qadv.errors import UnsupportedModelError
from qadv.estimators import as_module
from qadv_weight_threats.roundings import with_errors

_STEPS, _SIZE, _STEP, _DRAWS = 25, 0.1, 1 / 8, 2
_CLEAR = 5.0  # nats, beyond which an image counts no more
_MOST = 128  # images that are searched on, and as many that are counted
_POINTS = 15


class RoundingErrors(CountedCheck):
    """Looks for one change of all images that the quantized network falls for, and the float one does not.

    A backdoor that opens by quantizing is made of the rounding errors e of weights and activations. With errors ±e of
    random signs it stays shut, while an honest network minds its own errors about as much as those; see
    `rounding_errors`.
    """

    name = "rounding errors"
    rule = f"one change of all images breaks at most {_POINTS} points more than with rounding errors of random signs"

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        if case.target.targeted:
            return Finding.none("of a pair of classes")
        try:
            return rounding_errors(case.target.classifier, case.x, case.y)
        except UnsupportedModelError as error:
            return Finding.none(str(error))

    def judge(self, counts: Any, of: Scale) -> Finding:
        images, random = counts["images"], max(counts["random"].values())
        figure = f"{counts['broken']} of {images} images, with random signs {random}"
        return Finding.of(counts["broken"] - random <= _POINTS * images / 100, figure, **counts)


def rounding_errors(classifier: Any, x: NDArray[Any], y: NDArray[np.int64]) -> dict[str, Any]:
    """Counts what a common change of images breaks by a network's own rounding errors, and by those of random signs.

    On half of the images that the float network f has right a change δ goes up

        mean clip(ln p_f(y | x + δ) - ln p_q(y | x + δ), -5, 5),   ‖δ‖₂ <= 0.1 · range of the pixels · √values,

    and on the other half those count that f still has right and q has not; q is the network itself, and then the one
    with random signs, twice. Where f has less than half right, as after training with few levels, activations are
    rounded in it as in q, and only errors of weights get signs.

    Args:
        classifier: its network is quantized and has its float weights.
        x, y: images (N, *input_shape) and labels (N,).

    Returns:
        The numbers of images `broken` by q, by each of the `random` ones, and of all `images` that were counted.

    Raises:
        UnsupportedModelError: the network has no float weights, or with them not half of the images right.
    """
    for activations in (True, False):
        as_float = with_errors(classifier, torch.zeros_like, activations)
        right = as_float.predict(x).argmax(axis=1) == y
        if right.sum() >= max(2, len(right) / 2):
            break
    else:
        raise UnsupportedModelError(f"with float weights the network has {right.sum()} of {len(right)} images right")
    low, high = classifier.clip_values
    images = torch.from_numpy((x[right][: 2 * _MOST] - low) / (high - low)).float().to(classifier.device)
    labels = torch.from_numpy(y[right][: 2 * _MOST]).to(classifier.device)
    networks = [classifier, *(with_errors(classifier, _signed, activations) for _ in range(_DRAWS))]
    found = [_broken(as_module(as_float), as_module(network), images, labels) for network in networks]
    random = {str(number): count for number, count in enumerate(found[1:], 1)}
    return {"broken": found[0], "random": random, "images": len(images) - len(images) // 2}


def _signed(error: Tensor) -> Tensor:
    return torch.where(torch.rand_like(error) < 0.5, error, -error)


def _broken(as_float: nn.Module, network: nn.Module, x: Tensor, y: Tensor) -> int:
    """Returns how many images of the second half, in [0, 1], only the network gets wrong, after the search."""
    half, radius = len(x) // 2, _SIZE * x[0].numel() ** 0.5
    change = torch.zeros_like(x[:1])
    for _ in range(_STEPS):
        change.requires_grad_()
        logs = [each((x[:half] + change).clamp(0, 1)).log_softmax(1) for each in (as_float, network)]
        apart = (logs[0] - logs[1]).gather(1, y[:half, None]).clamp(-_CLEAR, _CLEAR).mean()
        (slope,) = torch.autograd.grad(apart, change)
        change = change.detach() + _STEP * radius * nn.functional.normalize(slope.flatten(1)).view_as(slope)
        change = change * (radius / change.norm().clamp(min=radius))
    with torch.no_grad():
        images = (x[half:] + change).clamp(0, 1)
        kept, lost = as_float(images).argmax(1) == y[half:], network(images).argmax(1) != y[half:]
    return int((kept & lost).sum())
