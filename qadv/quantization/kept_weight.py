"""Quantized weights that are computed once and kept for as long as nothing they come from has changed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qadv.quantization.quantizer import WeightQuantizer


class _FromLatent(torch.autograd.Function):
    """A value that is known, with the gradient that quantizing again would have; that is done when it is asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, quantizer: WeightQuantizer, *sources: Tensor) -> Tensor:
        ctx.quantizer = quantizer
        ctx.save_for_backward(*sources)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight, *parameters = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()  # for gradients of gradients, the step is part of their graph
        with torch.enable_grad():
            latent = weight if differentiable else weight.detach().requires_grad_(weight.requires_grad)
            value = ctx.quantizer(latent)[0]
            wanted = [source for source in (latent, *parameters) if source.requires_grad]
            found = iter(
                torch.autograd.grad(value, wanted, grad_outputs[0], allow_unused=True, create_graph=differentiable)
            )
        return None, None, *(next(found) if source.requires_grad else None for source in (latent, *parameters))


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

    def of_latent(self, weight: Tensor) -> Tensor:
        """Returns `value` as what quantizing `weight` gives, in its graph where gradients are recorded."""
        parameters = [parameter for parameter in self.quantizer.parameters() if parameter.requires_grad]
        if not torch.is_grad_enabled() or not (weight.requires_grad or parameters):
            return self.value
        value: Tensor = _FromLatent.apply(self.value, self.quantizer, weight, *parameters)
        return value

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
