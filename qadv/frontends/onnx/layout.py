"""How a file takes its images: where their channels are, in which numbers, and how many at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.frontends.onnx.graph import INTEGERS, Graph
from qadv.quantization.quantizer import straight_through

_TYPES: dict[str, type] = {"FLOAT": np.float32, "FLOAT16": np.float16, "DOUBLE": np.float64, "UINT8": np.uint8,
                           "INT8": np.int8, "INT16": np.int16}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How images (N, *input_shape), channels first, go into a file.

    Attributes:
        input_shape: of one image.
        order: how the file has it.
        sizes: of one image in the file; -1 where it leaves one open.
        kind: element type, as ONNX names it.
        low, width: smallest number, and range of the numbers, that integers of a file are spread over: what it says
            itself, or those of the pixels.
    """

    input_shape: tuple[int, ...]
    order: Literal["as it is", "channels last", "reshaped"]
    sizes: tuple[int, ...]
    kind: str
    low: float
    width: float

    @classmethod
    def of(cls, graph: Graph, input_shape: Sequence[int] | None, low: float, width: float) -> "Layout":
        """Returns the layout of a graph's input.

        Raises:
            UnsupportedModelError: it is no image.
            InvalidInputError: sizes are left open and `input_shape` is missing, or does not fit.
        """
        name, sizes = graph.name, tuple(size or -1 for size in graph.input_shape[1:])
        if graph.input_type not in _TYPES:
            raise UnsupportedModelError(f"{name} takes {graph.input_type} values; expected images")
        shape, order = _shape_and_order(name, sizes, input_shape)
        if graph.input_ends is not None:
            low, width = graph.input_ends[0], graph.input_ends[1] - graph.input_ends[0]
        return cls(shape, order, sizes, graph.input_type, low, width)

    @property
    def step(self) -> float:
        """Distance of the numbers of two neighbouring integers, 0 for a file that takes floats."""
        low, high = INTEGERS.get(self.kind, (0, math.inf))
        return self.width / (high - low)

    @property
    def takes_integers(self) -> bool:
        """Whether pixels are bytes."""
        return self.kind in INTEGERS

    def arranged(self, x: Tensor) -> Tensor:
        """Images as the file has them, with their graph; whole numbers as floats."""
        x = x.float()
        x = x.permute(0, 2, 3, 1) if self.order == "channels last" else x
        x = x.reshape(len(x), *self.sizes) if self.order == "reshaped" else x
        if not self.takes_integers:
            return x
        low, high = INTEGERS[self.kind]
        codes = low + (x - self.low) / self.width * (high - low)
        return straight_through(codes, codes.detach().round().clamp(low, high))

    def as_array(self, x: Tensor) -> Any:
        """Images as the runtime takes them."""
        return np.ascontiguousarray(self.arranged(x).numpy().astype(_TYPES[self.kind], copy=False))


def _shape_and_order(name: str, sizes: tuple[int, ...], input_shape: Sequence[int] | None) -> Any:
    if input_shape is None:
        if -1 in sizes:
            raise InvalidInputError(f"{name} leaves the sizes of its images open, {sizes}; give input_shape=(C, H, W)")
        if len(sizes) == 3 and sizes[2] in (1, 3, 4) and sizes[0] not in (1, 3, 4):
            return (sizes[2], *sizes[:2]), "channels last"
        return sizes, "as it is"

    def fits(shape: tuple[int, ...]) -> bool:
        return len(shape) == len(sizes) and all(a in (-1, b) for a, b in zip(sizes, shape, strict=True))

    shape = tuple(int(size) for size in input_shape)
    if fits(shape):
        return shape, "as it is"
    if len(shape) == 3 and fits((*shape[1:], shape[0])):
        return shape, "channels last"
    if (
        -1 not in sizes
        and prod(sizes) == prod(shape)
        and [n for n in sizes if n > 1] in ([prod(shape)], [n for n in shape if n > 1])
    ):  # rows of pixels, or channels that are left out
        return shape, "reshaped"
    raise InvalidInputError(f"input_shape: {name} takes images of sizes {sizes}, got {shape}")


def in_chunks(x: Tensor, size: int | None, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """Asks for exactly so many rows at a time, the last ones filled up; all at once for `None`."""
    if size is None or len(x) == size:
        return ask(x)
    parts = []
    for chunk in torch.split(x, size):
        missing = size - len(chunk)
        filled = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])]) if missing else chunk
        parts.append(ask(filled)[: len(chunk)])
    return torch.cat(parts)
