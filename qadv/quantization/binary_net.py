"""BinaryConnect and BinaryNet, docs/methods.md §1 `binary-connect`, `binary-net` (low-bitwidth study §3.1, eq. 1)."""

import torch
from torch import Tensor, nn

from qadv.quantization.clip import inclusive_clip
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer, straight_through
from qadv.quantization.scheme import Scheme


class SignWeights(WeightQuantizer):
    """`W_q = sign(W)` in {-1, +1}, `sign(0) = +1`; gradient 1 where `|W| <= 1`, else 0.

    After each optimizer step the latent weights are clipped to [-1, 1].
    """

    fixes_range = True

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype), torch.ones_like(weight[:1, :1]).flatten()[:1]

    def code_values(self) -> Tensor:
        return torch.tensor([-1, 1])

    def latent(self, weight: Tensor) -> Tensor:
        return inclusive_clip(weight, -1.0, 1.0)

    def update_latent(self, weight: nn.Parameter) -> None:
        weight.clamp_(-1.0, 1.0)


class SignActivation(ActivationQuantizer):
    """`sign(a)` in {-1, +1}, `sign(0) = +1`; gradient 1 where `|a| <= 1`, else 0."""

    signed = True

    def __init__(self, bits: int, spec: str = "") -> None:
        super().__init__(bits, spec)
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)

    def quantize(self, x: Tensor) -> Tensor:
        return straight_through(inclusive_clip(x, -1.0, 1.0), torch.where(x >= 0, 1.0, -1.0).to(x.dtype))

    def levels(self) -> Tensor:
        return torch.tensor([-1.0, 1.0])


class BinaryConnect(Scheme):
    """`binary-connect`: weights, 1 bit without a scale."""

    takes_bits = False
    bits_choices = (1,)
    weights = SignWeights


class BinaryNet(BinaryConnect):
    """`binary-net`: weights as in `binary-connect`, activations likewise."""

    activations = SignActivation
    inputs = SignActivation
