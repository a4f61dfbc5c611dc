"""Quantization schemes, and the conversion of float networks to Brevitas-quantized ones."""

from qadv.quantization.calibration import Calibration
from qadv.quantization.convert import quantize
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer
from qadv.quantization.scheme import Scheme, parse_scheme
from qadv.quantization.stochastic import set_stochastic_ratio

__all__ = [
    "ActivationQuantizer",
    "Calibration",
    "Scheme",
    "WeightQuantizer",
    "parse_scheme",
    "quantize",
    "set_stochastic_ratio",
]
