"""What an audit costs, in passes of images through the networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qadv.recording import recording


@dataclass
class Cost:
    """Passes so far, one for each image.

    Attributes:
        forward: forward passes.
        backward: backward passes.
    """

    forward: int = 0
    backward: int = 0

    def to_dict(self) -> dict[str, int]:
        """Returns plain data for JSON."""
        return asdict(self)

    def copy(self) -> "Cost":
        """Returns what the cost is now."""
        return replace(self)

    def __sub__(self, before: "Cost") -> "Cost":
        """Returns what has been added since."""
        return Cost(self.forward - before.forward, self.backward - before.backward)

    def __add__(self, other: "Cost") -> "Cost":
        """Returns both together."""
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __rmul__(self, times: int) -> "Cost":
        """Returns so many times the cost."""
        return Cost(times * self.forward, times * self.backward)

    @contextmanager
    def counted(self, model: nn.Module) -> Iterator[None]:
        """Counts the passes through a network while the block runs."""
        # ART calls the parts of an `nn.Sequential` one by one
        parts = list(model.children()) if isinstance(model, nn.Sequential) else [model]
        with recording({"": parts[0]}, entering=self._enter), recording({"": parts[-1]}, leaving=self._leave):
            yield

    def _enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling():  # a graph that is exported must not depend on the number of images
            self.forward += len(inputs[0])

    def _leave(self, name: str, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._came_back)  # type: ignore[no-untyped-call]

    def _came_back(self, gradient: Tensor) -> None:
        self.backward += len(gradient)
