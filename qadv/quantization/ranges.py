"""Clipping ranges of activations, from a histogram of them."""

import torch
from torch import Tensor

from qadv.quantization.quantizer import ActivationQuantizer

_BINS = 4096
_CANDIDATES = 128


class Histogram:
    """Counts of values between their extremes: one pass finds the extremes, a second one counts."""

    def __init__(self) -> None:
        self.low = torch.inf
        self.high = -torch.inf
        self.counts: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Adds values of the current pass."""
        if self.counts is None:
            low, high = torch.aminmax(values)
            self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        else:
            self.counts += torch.histc(values.float(), _BINS, self.low, self.high).double().cpu()

    @property
    def is_empty(self) -> bool:
        """Whether there was no value in the first pass, or one that is not finite."""
        return not -torch.inf < self.low <= self.high < torch.inf

    def finish_pass(self) -> None:
        """Ends the pass over the data."""
        if self.counts is None:
            if self.low == self.high:  # all values the same: a dead layer, whose range does not matter
                self.high = self.high + (abs(self.high) * 1e-6 or 1.0)
            self.counts = torch.zeros(_BINS, dtype=torch.float64)

    @property
    def values(self) -> Tensor:
        """The middle of each bin, (bins,) float32; the bin that holds 0 stands for 0, where most activations are."""
        edges = torch.linspace(self.low, self.high, _BINS + 1, dtype=torch.float64)
        middles = (edges[1:] + edges[:-1]) / 2
        return torch.where((edges[:-1] <= 0) & (edges[1:] > 0), 0.0, middles).float()

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))


def percentile_range(histogram: Histogram, percentile: float) -> float:
    """Returns the smallest c > 0 such that a share of `percentile` / 100 of all magnitudes is at most c."""
    assert histogram.counts is not None
    width = (histogram.high - histogram.low) / _BINS
    magnitudes, order = (histogram.values.abs() + width / 2).sort()  # upper edges
    below = histogram.counts[order].cumsum(0)
    index = int(torch.searchsorted(below, below[-1] * percentile / 100).clamp(max=_BINS - 1))
    return min(float(magnitudes[index]), histogram.largest)


def mse_range(histogram: Histogram, quantizer: ActivationQuantizer) -> float:
    """Returns the c, of 128 shares of the largest magnitude, whose quantizer has the smallest squared error."""
    assert histogram.counts is not None
    device = quantizer.zero_point.device
    values, counts = histogram.values.to(device), histogram.counts.to(device)
    best, least = histogram.largest, torch.inf
    for step in range(_CANDIDATES, 0, -1):
        high = histogram.largest * step / _CANDIDATES
        quantizer.set_range(high)
        error = ((quantizer.quantize(values) - values).double().square() * counts).sum().item()
        if error < least:
            best, least = high, error
    return best
