"""The two kinds of quantizer that schemes are made of, as Brevitas `tensor_quant` modules.

Brevitas lets gradients through its scales and rounds before it clips; the papers' straight-through estimators do
neither, so the arithmetic stands here and Brevitas contributes the layers, the proxies and their export.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from brevitas.inject import ExtendedInjector
from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
from torch import Tensor, nn

from qadv.errors import SchemeError
from qadv.versions import PlainTensors


class _StraightThrough(torch.autograd.Function):
    """Value of the second argument, gradient to the first."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def straight_through(latent: Tensor, value: Tensor) -> Tensor:
    """Returns `value`, with the gradient going to `latent`; both of one shape."""
    return _StraightThrough.apply(latent, value)  # type: ignore[no-any-return]


class _Quantizer(nn.Module):
    """Common to both kinds: bits, the scheme's name, and the buffers that Brevitas asks for."""

    zero_point: Tensor
    bit_width: Tensor

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__()
        self.bits = bits
        self.spec = spec
        self.register_buffer("zero_point", torch.tensor(0.0), persistent=False)
        self.register_buffer("bit_width", torch.tensor(float(bits)), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.spec or self.bits}"

    @property
    def intervals(self) -> int:
        """Steps between the lowest and the highest of 2^bits levels."""
        return int(2**self.bits - 1)


class WeightQuantizer(_Quantizer):
    """Replaces weights by `codes * scale`, with the gradient of the latent weights.

    A scheme is one method, `encode`. Override `latent` where the paper's definition is differentiable up to the
    rounding (a tanh, a clip): gradients flow through it, and the straight-through estimator starts after it. Override
    `fit` and keep the result in buffers where something is found once, after training.

    Args:
        bits: storage bits of one code.
        spec: the scheme as the user wrote it, for messages and summaries.

    Attributes:
        layer: name of the layer in the network, set by `quantize`.
        fixes_range: the range of the values is the definition's, however large the weights are.
    """

    layer = ""
    fixes_range: ClassVar[bool] = False

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns integer codes shaped as `weight`, (c_out, …), and a scale that broadcasts to it; no gradient.

        A scheme with several scales stacks them along a new first dimension, and overrides `decode`.
        """
        raise NotImplementedError

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Returns the weights that codes stand for, shaped as `codes`: `codes * scale`."""
        return codes * scale

    def fit(self, weight: Tensor) -> None:
        """Called without gradients when a layer gets this quantizer, with the float weights, to set its buffers."""

    def code_values(self) -> Tensor:
        """Returns every integer code the scheme can give, ascending, shape (levels,)."""
        raise NotImplementedError

    def latent(self, weight: Tensor) -> Tensor:
        """Returns what is encoded, as a differentiable function of the weights: the weights themselves."""
        return weight

    def update_latent(self, weight: nn.Parameter) -> None:
        """Called without gradients after each optimizer step, with the layer's latent weights, to change in place."""

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns value, scale, zero point and bit width, as Brevitas wants them."""
        latent = self.latent(weight)
        with torch.no_grad():
            codes, scale = self.encode(latent)
            value = self.decode(codes, scale)
        return straight_through(latent, value), scale, self.zero_point, self.bit_width

    def injector(self) -> Any:
        """Returns a Brevitas injector that puts this very module into a quantized layer."""
        return ExtendedInjector.let(
            proxy_class=_WeightProxy, tensor_quant=self, signed=True, narrow_range=True, bit_width=self.bits
        )


class ActivationQuantizer(_Quantizer):
    """Replaces activations by 2^bits levels or fewer; the clip and its gradient mask are part of it.

    Args:
        bits: bits of one activation.
        spec: the scheme as the user wrote it.

    Attributes:
        signed: whether values below zero are among the levels.
        takes_range: whether calibration chooses the clipping range.
        ceiling: the bound of the activation whose place this quantizer takes (6 for a ReLU6), which no level exceeds.
    """

    scale: Tensor
    signed = False
    takes_range: ClassVar[bool] = False
    ceiling = math.inf

    def cap(self, ceiling: float) -> None:
        """Keeps all levels at or below the bound of the activation whose place this quantizer takes.

        A scheme with `takes_range` gets a range up to there; one with a fixed range overrides this method, if it can.

        Raises:
            SchemeError: a level lies above it.
        """
        self.ceiling = ceiling
        if not self.has_range or self.levels().max().item() <= ceiling:
            return
        if not self.takes_range:
            raise SchemeError(
                f"scheme {self.spec!r} has levels up to {self.levels().max().item():g}, above the bound {ceiling:g} of "
                "the activation that it would replace"
            )
        self.set_range(ceiling)

    def unquantized(self, x: Tensor) -> Tensor:
        """Returns what is quantized, shaped as `x`, in the float network: `x` itself, or the replaced ReLU's output."""
        y = x if self.signed else F.relu(x)
        return y if self.ceiling == math.inf else y.clamp(max=self.ceiling)

    def set_range(self, high: float) -> None:
        """Sets the end of the clipping range, > 0; for schemes with `takes_range`, which calibration calls it for."""
        raise NotImplementedError

    @property
    def has_range(self) -> bool:
        """Whether the clipping range is known; a scheme that takes it from data answers `False` until then."""
        return True

    def quantize(self, x: Tensor) -> Tensor:
        """Returns the quantized activations, shaped as `x`, with the scheme's gradient."""
        raise NotImplementedError

    def levels(self) -> Tensor:
        """Returns the values the output can have, ascending, shape (levels,)."""
        raise NotImplementedError

    def grid(self) -> tuple[float, float, int] | None:
        """Returns lowest level, highest level and the number of steps between them; `None` for uneven levels.

        With a grid, the output is the level nearest to `squash(x)` clipped to it. Exported graphs rely on that.
        """
        return None

    def squash(self, x: Tensor) -> Tensor:
        """Returns what is rounded to the grid, shaped as `x`: `x` itself."""
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns value, scale, zero point and bit width, as Brevitas wants them."""
        return self.quantize(x), self.scale, self.zero_point, self.bit_width

    def injector(self) -> Any:
        """Returns a Brevitas injector that puts this very module into an activation layer."""
        return ExtendedInjector.let(
            proxy_class=_ActivationProxy, tensor_quant=self, signed=self.signed, bit_width=self.bits
        )


class _WeightProxy(PlainTensors, WeightQuantProxyFromInjector):
    """Keeps one quantizer: Brevitas's own proxy makes a new one at every `load_state_dict`, losing its state.

    Layers are given plain tensors; QuantTensors are made only where metadata are asked for.
    """

    tensor_quant: nn.Module | None

    def init_tensor_quant(self, preserve_state_dict: bool = False) -> None:
        if self.tensor_quant is None:
            self.tensor_quant = self.quant_injector.tensor_quant


class _ActivationProxy(PlainTensors, ActQuantProxyFromInjector):
    def init_tensor_quant(self) -> None:
        if getattr(self, "fused_activation_quant_proxy", None) is None:
            super().init_tensor_quant()
