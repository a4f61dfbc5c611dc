"""The front end of ONNX files."""

from os import PathLike
from typing import Any

from torch import nn

from qadv.frontends.frontend import NetworkFrontend, QuantizedTensor
from qadv.frontends.onnx.network import FileNetwork


class OnnxFrontend(NetworkFrontend):
    """ONNX files; what is quantized in them are the rows of `network.file_layers`, which are no modules.

    Attributes:
        network: what a file becomes; a front end of another kind of files has a subclass here.
    """

    name = "onnx"
    suffixes = (".onnx",)
    network: type[FileNetwork] = FileNetwork

    def recognises(self, network: nn.Module) -> bool:
        return any(type(module) is self.network for module in network.modules())

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        return []

    def read(self, path: str | PathLike[str], **arguments: Any) -> FileNetwork:
        return self.network(path, **arguments)
