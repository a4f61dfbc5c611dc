"""The front end of `.tflite` files."""

from qadv.frontends import FileNetwork, Graph, OnnxFrontend
from qadv_litert.reader import read_graph
from qadv_litert.runtime import LiteRT
from qadv_litert.writer import tflite_of


class LiteRTNetwork(FileNetwork):
    """Images (N, *input_shape), channels first → logits (N, classes), as LiteRT answers for a `.tflite` file."""

    read_graph = staticmethod(read_graph)
    runtime = LiteRT


class LiteRTFrontend(OnnxFrontend):
    """`.tflite` files: values are LiteRT's, gradients those of a twin; `qadv.export(…, to="litert")` writes them."""

    name = "litert"
    suffixes = (".tflite",)
    packages = ("ai-edge-litert",)
    writes = True
    network = LiteRTNetwork

    def written(self, graph: Graph) -> bytes:
        return tflite_of(graph)
