"""Piecewise linear weights for post-training quantization, docs/methods.md §1 `pwlq` (pipeline study)."""

import torch
from torch import Tensor

from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.scheme import Scheme

_COARSE = 256  # shares of the first grid
_KEPT = 16  # of them that are refined
_FINE = 12  # steps of the second grid between two of the first
_CHUNK = 2**15


class PiecewiseWeights(WeightQuantizer):
    """Per filter a centre `|w| <= p` of k bits and two tails `p < |w| <= m`, `m = max|W|`, of k - 1 bits each.

    `W_q = s₁ c₁ + s₂ c₂`, where `s₁ = p / (2^(k-1) - 1)` and `s₂ = (m - p) / 2^(k-1)` are the steps of centre and tail,
    `c₁` is the code clipped to the centre's and `c₂` what of it lies in a tail. The breakpoint p is the one with the
    smallest squared error of the filter's own weights on a grid (256 shares of m, and 23 round each of the best 16);
    p = m, which is `int:k`, is among those tried.

    **Reading:** the paper's tails have a code for p itself, and so 2^(k-1) - 1 steps from p to m. Here p is the
    centre's outermost level, and a tail's 2^(k-1) codes are all beyond it: no level has two codes, the step is finer.

    Breakpoint and maximum are found once, when a layer gets the quantizer, and kept: later weights beyond m are clipped
    to it. **Reading:** the tails add codes to the centre's, so a weight takes k + 1 bits of storage; the gradient,
    which the method does not need, is 1 everywhere.
    """

    scale: Tensor | None

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits + 1, spec)
        self.centre_codes = int(2 ** (bits - 1) - 1)
        self.tail_codes = int(2 ** (bits - 1))
        self.register_buffer("scale", None)

    def fit(self, weight: Tensor) -> None:
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        share = self._best_share(weight, largest)
        self.scale = self._steps(largest, share)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None:
            self.fit(weight)
        assert self.scale is not None
        return self._encode(weight, self.scale), self.scale

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        centre = codes.clamp(-self.centre_codes, self.centre_codes)
        return centre * scale[0] + (codes - centre) * scale[1]

    def code_values(self) -> Tensor:
        largest = self.centre_codes + self.tail_codes
        return torch.arange(-largest, largest + 1)

    def breakpoint(self, scale: Tensor) -> Tensor:
        """Returns the p of each filter, shape (c_out,), for the scale that `encode` gave."""
        return (scale[0] * self.centre_codes).flatten()

    def _steps(self, largest: Tensor, share: Tensor) -> Tensor:
        """Returns both steps, (2, c_out, 1, …), for breakpoints at a share of the largest weight."""
        centre = share * largest / self.centre_codes
        tail = (largest - share * largest) / self.tail_codes
        return torch.stack([torch.where(centre > 0, centre, 1.0), tail])  # a filter of zeros has only the code 0

    def _encode(self, weight: Tensor, steps: Tensor) -> Tensor:
        centre, tail = steps
        in_centre = (weight / centre).round().clamp(-self.centre_codes, self.centre_codes)
        beyond = weight.abs() - centre * self.centre_codes
        in_tail = (beyond / torch.where(tail > 0, tail, torch.inf)).round().clamp(0, self.tail_codes)
        codes: Tensor = in_centre + weight.sign() * in_tail
        return codes

    def _best_share(self, weight: Tensor, largest: Tensor) -> Tensor:
        """Searches p / m for each filter, a few filters at a time so that their weights stay in the cache."""
        if not bool(largest.any()):
            return torch.ones_like(largest)
        rows = max(1, _CHUNK // weight[0].numel())
        parts = zip(torch.split(weight.abs(), rows), torch.split(largest, rows), strict=True)
        return torch.cat([self._search(*part) for part in parts])

    def _search(self, magnitude: Tensor, largest: Tensor) -> Tensor:
        """A coarse grid of (0, 1], then a fine one round each of the best coarse shares: the error has many minima."""
        coarse = torch.arange(1, _COARSE + 1, device=largest.device) / _COARSE
        errors = torch.stack([self._squared_error(magnitude, largest, share.expand_as(largest)) for share in coarse])
        centres = coarse[errors.topk(_KEPT, dim=0, largest=False).indices]
        best, least = torch.ones_like(largest), errors[-1] * (1 - 1e-6)  # p = m, unless something is really better
        for offset in torch.arange(1 - _FINE, _FINE, device=largest.device) / (_FINE * _COARSE):
            for centre in centres:
                share = (centre + offset).clamp(max=1.0)
                error = self._squared_error(magnitude, largest, share)
                better = error < least
                best, least = torch.where(better, share, best), torch.where(better, error, least)
        return best

    def _squared_error(self, magnitude: Tensor, largest: Tensor, share: Tensor) -> Tensor:
        """What encoding and decoding leaves of |w|, summed over each filter: signs change nothing."""
        centre, tail = self._steps(largest, share)
        in_centre = (magnitude / centre).round_().clamp_(max=self.centre_codes)
        in_tail = (magnitude - centre * self.centre_codes).div_(torch.where(tail > 0, tail, torch.inf))
        in_tail.round_().clamp_(0, self.tail_codes)
        error = in_centre.mul_(centre).add_(in_tail.mul_(tail)).sub_(magnitude)
        total: Tensor = error.square_().sum(dim=tuple(range(1, error.ndim)), keepdim=True, dtype=torch.float64)
        return total


class PWLQ(Scheme):
    """`pwlq:2` … `pwlq:8`: after training; k bits in the centre, k - 1 in each tail, k + 1 stored."""

    bits_choices = range(2, 9)
    weights = PiecewiseWeights
