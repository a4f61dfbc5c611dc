"""How networks of each origin are read: what in them is quantized, and how they are computed in evaluation mode."""

from qadv.frontends.find import file_frontend, frontend_of, quantizers
from qadv.frontends.frontend import (
    EvaluationForm,
    NetworkFrontend,
    QuantizedActivation,
    QuantizedTensor,
    QuantizedWeights,
)

__all__ = [
    "EvaluationForm",
    "NetworkFrontend",
    "QuantizedActivation",
    "QuantizedTensor",
    "QuantizedWeights",
    "file_frontend",
    "frontend_of",
    "quantizers",
]
