"""Quantized weights that are computed once and kept for as long as nothing they come from has changed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qadv.quantization.quantizer import WeightQuantizer


@dataclass(frozen=True)
class KeptWeight:
    """The value of a layer's quantized weights, with copies of all that it was computed from."""

    value: Tensor
    quantizer: WeightQuantizer
    training: bool
    changes: int
    sources: list[Tensor]

    @classmethod
    @torch.inference_mode(False)  # a tensor made in inference mode could not be part of a gradient's graph later
    @torch.no_grad()
    def of(cls, weight: Tensor, quantizer: WeightQuantizer) -> "KeptWeight":
        """Quantizes a layer's latent weights."""
        value = quantizer(weight.detach())[0]
        changes, tensors = quantizer.state()
        return cls(
            value, quantizer, quantizer.training, changes, [source.detach().clone() for source in (weight, *tensors)]
        )

    def holds_for(self, weight: Tensor, quantizer: WeightQuantizer) -> bool:
        """Whether `value` is what quantizing would give.

        Contents are compared: version counters miss changes through `.data`.
        """
        changes, tensors = quantizer.state()
        sources = [weight, *tensors]
        if (
            self.quantizer is not quantizer
            or self.training != quantizer.training
            or self.changes != changes
            or len(sources) != len(self.sources)
        ):
            return False
        return all(map(_same, sources, self.sources))


def _same(a: Tensor, b: Tensor) -> bool:
    if a.device != b.device or a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.device.type == "cpu" and a.dtype != torch.bfloat16:
        return bool((a.detach().numpy() == b.numpy()).all())  # takes a fifth of the time of torch.equal
    return torch.equal(a, b)
