"""How networks of each origin are read: what in them is quantized, and how they are computed in evaluation mode."""

from qadv.frontends.find import file_frontend, frontend_of, quantizers
from qadv.frontends.frontend import (
    EvaluationForm,
    NetworkFrontend,
    QuantizedActivation,
    QuantizedTensor,
    QuantizedWeights,
)
from qadv.frontends.onnx.frontend import OnnxFrontend
from qadv.frontends.onnx.graph import CLIP_VALUES, LARGEST_FILE, PICTURES, Graph, Node, check_graph, needed
from qadv.frontends.onnx.network import FileNetwork
from qadv.frontends.onnx.twin import Twin

__all__ = [
    "CLIP_VALUES",
    "LARGEST_FILE",
    "PICTURES",
    "EvaluationForm",
    "FileNetwork",
    "Graph",
    "NetworkFrontend",
    "Node",
    "OnnxFrontend",
    "QuantizedActivation",
    "QuantizedTensor",
    "QuantizedWeights",
    "Twin",
    "check_graph",
    "file_frontend",
    "frontend_of",
    "needed",
    "quantizers",
]
