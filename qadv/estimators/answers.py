"""Whether a network answers as another way of computing it does: logits, gradients, classes, and how fast."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qadv.outputs import logits_of

Network = Callable[[Tensor], Tensor]
_ROUNDS = 5


@dataclass(frozen=True)
class OptionCheck:
    """How a network with one more option answered, against the network that `accelerate` was given.

    The error of an image is the largest difference of a logit, divided by its largest logit; so for the gradient of the
    cross-entropy, towards the second most likely class, with respect to the image.

    Attributes:
        option: its name; the first is `"kept_weights"`, the network with its weights quantized once.
        kept: whether the result has it.
        logits_error: largest error of an image's logits.
        gradient_error: largest error of an image's gradient.
        images: number of images.
        equal: images of which both errors are within the bound and the predicted class is the same.
        changed: images of which the predicted class is another.
        forward_speed: how many times faster a forward pass is than with the options kept before (for the first, than
            the network given).
        gradient_speed: so for a forward and a backward pass.
    """

    option: str
    kept: bool
    logits_error: float
    gradient_error: float
    images: int
    equal: int
    changed: int
    forward_speed: float
    gradient_speed: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Answers:
    """What a network says about N images: logits (N, nb_classes), and gradients (N, *input_shape)."""

    logits: Tensor
    gradients: Tensor
    classes: Tensor

    @classmethod
    def of(cls, network: Network, batches: Sequence[Tensor], classes: Tensor | None = None) -> "Answers":
        """Asks a network in evaluation mode about batches of images as it takes them.

        The gradient is of the cross-entropy with labels `classes`, (N,); `None` stands for the second most likely.
        """
        sizes = [len(batch) for batch in batches]
        given = [None] * len(batches) if classes is None else torch.split(classes, sizes)
        parts = [logits_and_gradient(network, *pair) for pair in zip(batches, given, strict=True)]
        logits, gradients, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(logits, gradients, labels)


def logits_and_gradient(network: Network, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits, the gradient of each image's cross-entropy, and the labels, by default the second most likely.

    Towards these the gradient does not vanish where the network is sure, and is not the difference of two numbers
    near 1, of which rounding would leave little.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(network(x))
        if labels is None:
            labels = logits.detach().topk(2).indices[:, 1]
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return logits.detach(), gradient, labels


def compared(
    option: str,
    network: Network,
    before: Network,
    batches: Sequence[Tensor],
    expected: Answers,
    bound: float,
    share: float,
) -> OptionCheck:
    """Returns how a network answers compared with what is expected, and how fast compared with the one before."""
    answers = Answers.of(network, batches, expected.classes)
    x, labels = batches[0], expected.classes[: len(batches[0])]
    gradient_errors = errors(answers.gradients, expected.gradients)
    speed = _seconds_ratio(before, network, lambda *given: logits_and_gradient(*given)[1], x, labels)
    within = (errors(answers.logits, expected.logits) <= bound) & (gradient_errors <= bound)
    found = _checked(option, answers.logits, expected, within, share, _seconds_ratio(before, network, _logits, x))
    return replace(found, gradient_error=float(gradient_errors.max()), gradient_speed=speed)


@torch.no_grad()
def values_compared(
    option: str, network: Network, before: Network, batches: Sequence[Tensor], expected: Answers, share: float
) -> OptionCheck:
    """As `compared`, of what gives values only: equal are the images whose class is the same."""
    logits = torch.cat([logits_of(network(batch)) for batch in batches])
    within = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return _checked(option, logits, expected, within, share, _seconds_ratio(before, network, _logits, batches[0]))


def _checked(option: str, logits: Tensor, expected: Answers, within: Tensor, share: float, speed: float) -> OptionCheck:
    same = logits.argmax(dim=1) == expected.logits.argmax(dim=1)
    equal, largest = int((within & same).sum()), float(errors(logits, expected.logits).max())
    kept, changed = equal >= share * len(same), int((~same).sum())
    return OptionCheck(option, kept, largest, 0.0, len(same), equal, changed, speed, 1.0)


def errors(found: Tensor, expected: Tensor) -> Tensor:
    """Returns, for each row, the largest difference divided by the largest expected value; infinite if not finite."""
    largest = expected.flatten(1).abs().amax(dim=1)
    difference = (found - expected).flatten(1).abs().amax(dim=1)
    relative = torch.where(difference == 0, 0.0, difference / largest)
    return torch.where(relative.isfinite(), relative, torch.inf)


@torch.no_grad()
def _logits(network: Network, x: Tensor) -> Tensor:
    return logits_of(network(x))


def _seconds_ratio(a: Network, b: Network, ask: Callable[..., Tensor], *given: Any) -> float:
    """Returns the time that `a` takes divided by that of `b`: the shortest of a few turns each."""
    times: dict[Network, list[float]] = {a: [], b: []}
    for _ in range(_ROUNDS):
        for network, taken in times.items():
            started = time.perf_counter()
            ask(network, *given).sum().item()  # a GPU has finished then
            taken.append(time.perf_counter() - started)
    return min(times[a]) / min(times[b])
