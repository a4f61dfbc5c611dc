"""Quantization schemes, and the conversion of float networks to Brevitas-quantized ones."""

from qadv.quantization.convert import quantize
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer
from qadv.quantization.scheme import Scheme, parse_scheme
from qadv.quantization.summary import Summary, summarize

__all__ = ["ActivationQuantizer", "Scheme", "Summary", "WeightQuantizer", "parse_scheme", "quantize", "summarize"]
