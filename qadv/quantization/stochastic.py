"""Stochastic quantization, docs/methods.md §1 `sq` and §3 (EQ §4.3): in each training step some filters stay real."""

import zlib
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from qadv.checks import check_number, check_whole
from qadv.errors import InvalidInputError, SchemeError
from qadv.quantization.layers import weight_quantizers
from qadv.quantization.quantizer import WeightQuantizer, straight_through
from qadv.quantization.scheme import Scheme

Rule = Literal["real", "quantized"]
RULES: tuple[Rule, ...] = ("real", "quantized")


class StochasticWeights(WeightQuantizer):
    """In training mode `int((1 - r) m)` of the m filters stay real; in evaluation mode all are quantized.

    With `e = ‖R - Q(W)‖₁ / ‖R‖₁` of each filter, R what it is while it stays real, the rule `"real"` draws those that
    stay real without replacement with probability ∝ e, the rule `"quantized"` the others ∝ 1/e. A draw follows from
    the seed, the layer's name and the number of steps so far; it is made after each optimizer step and holds until the
    next, so that an attack and the loss it serves see the same weights.

    R is W itself. **Reading:** where the scheme gives its values a range of its own, whatever the
    size of the weights (`dorefa`, `binary-connect`), W is brought to the scale of Q(W), or the layer would mix
    filters of quite different sizes: `R = L ‖Q‖² / ⟨L, Q⟩`, which Q approximates best of all its multiples, as BWN's
    and TWN's values do W by their definition; L is what the scheme rounds (the tanh over its maximum, or W in
    [-1, 1]). Its gradient is L's, the one that the filter also has while it is quantized.

    Args:
        inner: the quantizer of the filters that are quantized.
        rule: see above.
        spec: the scheme as the user wrote it.

    Attributes:
        real: which filters stay real until the next step, (c_out,) bool. Like all state here it is a buffer, so that a
            resumed training goes on with the same draws.
        nb_real: how many they are, `int((1 - r) m)`, r = 0.2 at first.
    """

    real: Tensor | None
    nb_real: Tensor
    seed: Tensor
    draws: Tensor

    def __init__(self, inner: WeightQuantizer, rule: Rule, spec: str = "") -> None:
        super().__init__(inner.bits, spec)
        self.inner = inner
        self.rule = rule
        self.register_buffer("real", None)
        for name in ("nb_real", "seed", "draws"):
            self.register_buffer(name, torch.tensor(0))

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.encode(weight)

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        return self.inner.decode(codes, scale)

    def code_values(self) -> Tensor:
        return self.inner.code_values()

    def latent(self, weight: Tensor) -> Tensor:
        return self.inner.latent(weight)

    def fit(self, weight: Tensor) -> None:
        self.inner.fit(weight)
        self.nb_real.fill_(nb_real_filters(0.2, len(weight)))
        self.draw(weight)

    def update_latent(self, weight: nn.Parameter) -> None:
        self.inner.update_latent(weight)
        self.draws += 1
        self.draw(weight)

    def draw(self, weight: Tensor) -> None:
        """Draws the filters that stay real."""
        filters, keep = len(weight), int(self.nb_real)
        value = self.inner(weight)[0]
        flat = self._real_value(weight, value).flatten(1)
        norm = flat.abs().sum(1)
        error = (flat - value.flatten(1)).abs().sum(1) / torch.where(norm > 0, norm, 1.0)
        # the k smallest of Exp(1) / w are a draw of k without replacement with probability ∝ w (Efraimidis, Spirakis)
        stream = _mix(_mix(int(self.seed), zlib.crc32(self.layer.encode())), int(self.draws))
        generator = torch.Generator().manual_seed(stream)
        waiting = torch.empty(filters, dtype=torch.float64).exponential_(generator=generator).to(error.device)
        self.real = torch.zeros(filters, dtype=torch.bool, device=weight.device)
        if self.rule == "real":
            self.real[torch.argsort(waiting / error, stable=True)[:keep]] = True
        else:
            self.real[torch.argsort(waiting * error, stable=True)[filters - keep :]] = True

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        value, scale, zero_point, bit_width = self.inner(weight)
        if self.training and self.real is not None:
            real = self._real_value(weight, value)
            value = torch.where(self.real.reshape(-1, *[1] * (weight.ndim - 1)), real, value)
        return value, scale, zero_point, bit_width

    def _real_value(self, weight: Tensor, quantized: Tensor) -> Tensor:
        """Returns the filters as they are while they stay real, shaped as `weight`."""
        if not self.inner.fixes_range:
            return weight
        latent = self.inner.latent(weight)
        with torch.no_grad():
            dims = tuple(range(1, weight.ndim))
            product = (latent * quantized).sum(dims, keepdim=True)
            square = quantized.square().sum(dims, keepdim=True)
            rescaled = torch.where(product > 0, latent / product * square, latent)  # a filter of zeros stays one
        return straight_through(latent, rescaled)


class StochasticQuantization(Scheme):
    """`sq(bwn)`, `sq(int:4)`, …: a weight scheme to train with; the filters that stay real are drawn ∝ error."""

    takes_scheme: ClassVar[bool] = True
    rule: ClassVar[Rule] = "real"
    weights = StochasticWeights

    def __init__(self, inner: Scheme, spec: str = "") -> None:
        if isinstance(inner, StochasticQuantization):
            raise SchemeError(f"scheme {spec!r}: one sq is enough")
        self.inner = inner
        self.bits = inner.bits
        self.spec = spec or f"sq({inner.spec})"

    def for_weights(self) -> WeightQuantizer:
        return StochasticWeights(self.inner.for_weights(), self.rule, self.spec)


class StochasticQuantizationByInverse(StochasticQuantization):
    """`sq-inverse(bwn)`, …: as `sq`, but the filters that are quantized are drawn ∝ 1 / error."""

    rule = "quantized"


@torch.no_grad()
def set_stochastic_ratio(model: nn.Module, ratio: float, seed: int | None = None) -> int:
    """Sets the share of filters that `sq` quantizes in training mode, from this step on; returns the number of layers.

    Args:
        model: a network quantized with `sq(…)` or `sq-inverse(…)` weights.
        ratio: 0 (all filters real) to 1 (all quantized, as in evaluation mode).
        seed: decides all draws from here on, different ones in each layer; `None` goes on with the last, 0 at first.

    Raises:
        InvalidInputError: a ratio outside [0, 1], or a network without such layers.
    """
    ratio = check_number("ratio", ratio, zero=True, most=1)
    seed = None if seed is None else check_whole("seed", seed, least=0, most=2**63 - 1)
    found = {own: layer for _, layer, own in weight_quantizers(model) if isinstance(own, StochasticWeights)}
    if not found:
        raise InvalidInputError("no layer has a stochastic scheme: quantize(model, weights='sq(bwn)') gives it one")
    for quantizer, layer in found.items():
        if seed is not None:
            quantizer.seed.fill_(seed)
            quantizer.draws.zero_()
        keep = nb_real_filters(ratio, len(layer.weight))
        if seed is not None or int(quantizer.nb_real) != keep:
            quantizer.nb_real.fill_(keep)
            quantizer.draw(layer.weight)
    return len(found)


def nb_real_filters(ratio: float, filters: int) -> int:
    """Returns `int((1 - r) m)`, the number of filters that stay real."""
    return int((1 - ratio) * filters + 1e-9)  # (1 - 0.8) * 10 is 1.99… in floats


def _mix(seed: int, index: int) -> int:
    """Returns a 62-bit number for a (seed, index), by splitmix64, so that neighbouring ones give unrelated streams."""
    value = (seed * 0x9E3779B97F4A7C15 + index + 1) % 2**64
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        value = ((value ^ (value >> 30)) * factor) % 2**64
    return (value ^ (value >> 31)) % 2**62
