"""What an ONNX graph in integers is made of: grids of codes, and layers with codes as weights."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.frontends.onnx.graph import Node

Array = NDArray[Any]
Range = tuple[float, float]
_OFF_TIES = 3e-5  # of a scale: more than float32 is off by, less than what lies between averages of some hundred codes
_LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class Grid:
    """Codes `first` to 255, as uint8; value = (code - zero) * scale."""

    scale: float
    zero: int
    first: int = 0

    @property
    def ends(self) -> Range:
        return (self.first - self.zero) * self.scale, (255 - self.zero) * self.scale

    @classmethod
    def over(cls, ends: Range, least: float = 0.0) -> "Grid":
        """256 levels over a range, one of them 0, and not closer than `least`."""
        low, high = min(ends[0], 0.0), max(ends[1], 0.0)
        scale = float(np.float32(max(max(high - low, 1e-6) / 255, least)))
        return cls(scale, round(-low / scale))

    @property
    def off_ties(self) -> "Grid":
        """With levels a little closer, for averages, which lie halfway between two levels often: all go up there."""
        return replace(self, scale=float(np.float32(self.scale * (1 - _OFF_TIES))))


@dataclass
class Layer:
    """A convolution or linear layer; its weights have filters first, as `Gemm` takes them with `transB`."""

    node: Node
    output: str
    codes: Array | None
    weight: Array
    scale: Array
    bias: Array

    def folded(self, factor: Array, shift: Array, output: str) -> "Layer":
        """With `factor * y + shift` for each filter behind it."""
        shape = (-1,) + (1,) * (self.weight.ndim - 1)
        codes = None if self.codes is None else self.codes * np.sign(factor).reshape(shape)
        weight, scale = self.weight * factor.reshape(shape), self.scale * np.abs(factor)
        return Layer(self.node, output, codes, weight, scale, self.bias * factor + shift)

    def in_codes_up_to(self, most: int) -> "Layer":
        """With such codes of the weights, where it has none: one scale for each filter."""
        if self.codes is not None and np.abs(self.codes).max() <= most:
            return self
        largest = np.abs(self.weight).reshape(len(self.weight), -1).max(1)
        scale = np.where(largest > 0, largest, 1.0) / most
        return replace(self, scale=scale, codes=_rounded(self.weight, scale))

    def with_bias_in_32_bits(self, input_scale: float) -> "Layer":
        """With scales so large that its bias is a whole number of 32 bits: of filters that are next to nothing."""
        least = np.maximum(np.abs(self.bias) / (input_scale * _LARGEST_BIAS), np.finfo(np.float32).tiny * 1e3)
        if (self.scale >= least).all():
            return self
        scale = np.maximum(self.scale, least)
        return replace(self, scale=scale, codes=_rounded(self.weight, scale))


def _rounded(weight: Array, scale: Array) -> Array:
    return np.round(weight / scale.reshape((-1,) + (1,) * (weight.ndim - 1)))
