"""Steps of a network that lose the gradient, and the identity in their place on the way back (BPDA).

Athalye, Carlini, Wagner 2018, "Obfuscated Gradients Give a False Sense of Security", ICML, arXiv:1802.00420, §4.1.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.target import Target
from qadv.modes import kept
from qadv.quantization.quantizer import straight_through
from qadv.recording import recording

_LEAST_LOST = 0.02
_MOST_LOST = 0.5
_MOST_STEPS = 4
Watch = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Place:
    """What enters or leaves a module or a preprocessor."""

    owner: Any
    leaves: bool

    def __str__(self) -> str:
        return f"the {'output' if self.leaves else 'input'} of {type(self.owner).__name__}"

    def watched(self, watch: Watch) -> AbstractContextManager[None]:
        """Replaces, while the block runs, the tensor that passes here by what `watch` makes of it."""
        if not isinstance(self.owner, nn.Module):
            return _preprocessor_watched(self.owner, **{"after" if self.leaves else "before": watch})
        if self.leaves:
            return recording({"": self.owner}, leaving=lambda name, inputs, output: _watch(watch, output))
        return recording({"": self.owner}, entering=lambda name, inputs: _watch_first(watch, inputs))


@dataclass(frozen=True)
class LostStep:
    """Where the gradient gets lost: between two places, one right after the other, of tensors of one shape."""

    start: Place
    end: Place

    def __str__(self) -> str:
        if self.start.owner is self.end.owner:
            return type(self.start.owner).__name__
        return f"between {self.start} and {self.end}"

    @contextmanager
    def mended(self) -> Iterator[None]:
        """Gives the step the gradient of the identity while the block runs; its values stay, to the bit."""
        entered: list[Tensor] = []

        def enter(tensor: Tensor) -> Tensor:
            entered.append(tensor)
            return tensor

        def leave(tensor: Tensor) -> Tensor:
            earlier = entered.pop() if entered else None
            if earlier is None or earlier.shape != tensor.shape or not earlier.requires_grad:
                return tensor
            return straight_through(earlier, tensor.detach())

        with self.start.watched(enter), self.end.watched(leave):
            yield


@contextmanager
def mended(steps: Sequence[LostStep]) -> Iterator[None]:
    """Mends several steps while the block runs."""
    with ExitStack() as stack:
        for step in steps:
            stack.enter_context(step.mended())
        yield


def lost_steps(target: Target, x: Tensor, y: Tensor, is_mended: Callable[[], bool]) -> list[LostStep]:
    """Returns the steps whose mending brings the gradient back, the one that loses most first.

    Args:
        target: the network.
        x, y: a batch of images and labels to look with.
        is_mended: whether the gradient is there, asked after each step that was mended.
    """
    found: list[LostStep] = []
    shares = []
    while len(found) < _MOST_STEPS:
        with mended(found):
            share, step = _worst_step(target, x, y, [step.end for step in found])
        if step is None or share < _LEAST_LOST or step in found:
            break
        found.append(step)
        shares.append(share)
        with mended(found):
            if is_mended():
                return found
    # honest steps lose a little too: without success only those count that lose most
    return [step for step, share in zip(found, shares, strict=True) if share >= _MOST_LOST]


def _worst_step(target: Target, x: Tensor, y: Tensor, mended_ends: Sequence[Place]) -> tuple[float, LostStep | None]:
    """Returns the step that loses the gradient of the largest share of what it gives, and this share.

    At an end that is mended another tensor goes on than the one that is seen here.
    """
    here, passed = threading.get_ident(), list[tuple[Place, Tensor]]()
    slopes: list[Tensor | None] = []

    def watch(place: Place, tensor: Tensor) -> Tensor:
        if threading.get_ident() != here or tensor.ndim not in (x.ndim, 2) or len(tensor) != len(x):
            return tensor  # another thread's, or weights
        if not tensor.requires_grad:  # the step has cut it off: what comes after is looked at all the same
            tensor = tensor.detach().requires_grad_()
        passed.append((place, tensor))
        return tensor

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        values = negative_margin(logits, labels)
        tensors = [tensor for _, tensor in passed]
        slopes[:] = torch.autograd.grad(values.sum(), tensors, retain_graph=True, allow_unused=True)
        return values

    with kept(target, "draws"), ExitStack() as stack:
        target.draws = 1
        for each in target.classifier.preprocessing_operations:
            before, after = (partial(watch, Place(each, leaves)) for leaves in (False, True))
            stack.enter_context(_preprocessor_watched(each, before, after))
        # networks may run other modules than they show: whatever runs is seen
        for handle in (
            register_module_forward_pre_hook(
                lambda module, inputs: _watch_first(partial(watch, Place(module, leaves=False)), inputs)
            ),
            register_module_forward_hook(
                lambda module, inputs, output: _watch(partial(watch, Place(module, leaves=True)), output)
            ),
        ):
            stack.callback(handle.remove)
        target.gradient(x, y, loss)
    worst: tuple[float, LostStep | None] = 0.0, None
    for ((start, earlier), before_), ((end, later), after_) in pairwise(zip(passed, slopes, strict=True)):
        if earlier.shape != later.shape or after_ is None or start in mended_ends:
            continue
        given = (after_ != 0).any(dim=0)
        lost = given if before_ is None else given & ~(before_ != 0).any(dim=0)
        share = float(lost.sum() / given.sum()) if given.any() else 0.0
        if share > worst[0]:
            worst = share, LostStep(start, end)
    return worst


@contextmanager
def _preprocessor_watched(preprocessor: Any, before: Watch | None = None, after: Watch | None = None) -> Iterator[None]:
    forward = preprocessor.forward

    def watched(x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        result, labels = forward(x if before is None else before(x), y)
        return result if after is None else after(result), labels

    own = vars(preprocessor).get("forward")
    vars(preprocessor)["forward"] = watched
    try:
        yield
    finally:
        if own is None:
            del vars(preprocessor)["forward"]
        else:
            vars(preprocessor)["forward"] = own


def _watch(watch: Watch, value: Any) -> Any:
    return watch(value) if isinstance(value, Tensor) and value.is_floating_point() else value


def _watch_first(watch: Watch, inputs: tuple[Any, ...]) -> Any:
    return (_watch(watch, inputs[0]), *inputs[1:]) if inputs else inputs
