"""A quantization scheme under test: its bit widths, its quantizers, and a network that it quantizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import qadv
from qadv.quantization import ActivationQuantizer, WeightQuantizer
from qadv.testing.case import Arrays, ConformanceCase, registered
from qadv.testing.check import NotApplicable
from qadv.testing.materials import data, digits_classifier, few


class QuantizerCase(ConformanceCase):
    kind = "quantizer"

    def make(self, **changes: Any) -> Any:
        return self.scheme(None, **{**self.options, **changes})

    def scheme(self, bits: int | None = None, **options: Any) -> Any:
        """Returns the scheme at a bit width, the largest it exists at without."""
        if self.target.takes_scheme:
            return self.target(inner=qadv.create("quantizer", "int", bits=4, spec="int:4"), **options)
        if self.target.takes_bits:
            return self.target(bits=self.widths[-1] if bits is None else bits, **options)
        return self.target(**options)

    @property
    def widths(self) -> list[int]:
        """The bit widths that it exists at."""
        return [1] if self.target.takes_scheme else list(self.target.bits_choices)

    def schemes(self) -> list[Any]:
        """Returns the scheme at each of its bit widths."""
        return [self.scheme(bits) for bits in self.widths]

    @contextmanager
    def specs(self) -> Iterator[list[str]]:
        """Gives the scheme as users write it, at its smallest and largest bit width, e.g. `["pow2:3", "pow2:5"]`."""
        with registered(self) as name:
            if self.target.takes_scheme:
                yield [f"{name}(int:4)"]
            elif self.target.takes_bits:
                yield [f"{name}:{bits}" for bits in dict.fromkeys((self.widths[0], self.widths[-1]))]
            else:
                yield [name]

    def quantized(self, spec: str) -> Any:
        """Returns a small trained classifier quantized with it: weights, activations or both."""
        weights = spec if self.target.weights is not None else "float"
        activations = spec if self.target.activations is not None else "float"
        calibration = data().x_train[:64] if activations != "float" else None
        model = digits_classifier("float", "float").model
        quantized = qadv.quantize(model, weights, activations, calibration=calibration)
        return qadv.QuantizedClassifier(quantized, nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        with self.specs() as specs:
            return self.quantized(specs[0]).predict(few()[0])

    def weight_quantizers(self, weight: Tensor) -> list[WeightQuantizer]:
        """Returns a quantizer of weights for each bit width, fitted to such weights."""
        if self.target.weights is None:
            raise NotApplicable("it quantizes no weights")
        made = [scheme.for_weights().eval() for scheme in self.schemes()]
        with torch.no_grad():
            for quantizer in made:
                quantizer.fit(weight)
        return made

    def activation_quantizers(self) -> list[ActivationQuantizer]:
        """Returns a quantizer of activations for each bit width, with the range [0, 2] where calibration gives one."""
        if self.target.activations is None:
            raise NotApplicable("it quantizes no activations")
        made = [scheme.for_activation().eval() for scheme in self.schemes()]
        for quantizer in made:
            if quantizer.takes_range:
                quantizer.set_range(2.0)
        return made


def weights() -> Tensor:
    """Returns weights of a convolution, (6, 3, 3, 3): normal ones, and filters that are zero, constant and tiny."""
    values = torch.randn((6, 3, 3, 3), generator=torch.Generator().manual_seed(0))
    values[1] = 0.0
    values[2] = 0.5
    values[3] *= 1e-6
    return values


def activations() -> Tensor:
    """Returns values as they come into an activation, (4, 60) from -3 to 9."""
    values = torch.rand((4, 60), generator=torch.Generator().manual_seed(0)) * 12 - 3
    values[0, 0], values[0, 1] = 0.0, 6.0
    return values
