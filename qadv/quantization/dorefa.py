"""DoReFa-Net, docs/methods.md §1 `dorefa` (low-bitwidth study eq. 3)."""

import torch
from torch import Tensor

from qadv.quantization.clipped_relu import ReLU1
from qadv.quantization.quantizer import WeightQuantizer
from qadv.quantization.scheme import Scheme


class DoReFaWeights(WeightQuantizer):
    """`W_q = 2 Q(tanh W / (2 max|tanh W|) + 1/2) - 1`, `Q(x) = round((2^k - 1) x) / (2^k - 1)`.

    Straight-through over `Q`; the gradient of tanh, and of its maximum over the layer, is kept. A layer of zeros, where
    the definition divides by zero, is encoded as if its maximum were 1.
    """

    fixes_range = True

    def latent(self, weight: Tensor) -> Tensor:
        squashed = weight.tanh()
        largest = squashed.abs().amax()
        return squashed / torch.where(largest > 0, largest, 1.0)  # 2 (u/2 + 1/2) - 1 = u, so this is what Q rounds

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        steps = ((weight / 2 + 0.5) * self.intervals).round()
        return 2 * steps - self.intervals, torch.full_like(weight[:1, :1], 1 / self.intervals).flatten()[:1]

    def code_values(self) -> Tensor:
        return torch.arange(-self.intervals, self.intervals + 1, 2)


class DoReFa(Scheme):
    """`dorefa:1` … `dorefa:8`: weights as above, activations `Q(clip(a, 0, 1))`."""

    weights = DoReFaWeights
    activations = ReLU1.activations  # Q(clip(a, 0, 1)) is relu1
    inputs = ReLU1.inputs
    from_data = ReLU1.from_data
