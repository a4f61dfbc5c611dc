"""The front end of ONNX files."""

from collections.abc import Iterator
from os import PathLike
from typing import Any

from torch import nn

from qadv.frontends.frontend import EvaluationForm, NetworkFrontend, QuantizedTensor
from qadv.frontends.onnx.network import FileNetwork
from qadv.quantization.form import FormOptions


class OnnxFrontend(NetworkFrontend):
    """ONNX files: values are their runtime's, gradients those of a twin.

    Attributes:
        network: what a file becomes; a front end of another kind of files has a subclass here.
    """

    name = "onnx"
    exports = False
    suffixes = (".onnx",)
    packages = ("onnxruntime", "onnxruntime-gpu")
    network: type[FileNetwork] = FileNetwork

    def recognises(self, network: nn.Module) -> bool:
        return any(True for _ in self._files(network))

    def _files(self, network: nn.Module) -> Iterator[tuple[str, FileNetwork]]:
        for name, module in network.named_modules():
            if type(module) is self.network:
                yield name, module

    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        return [each for name, file in self._files(network) for each in file.quantizers(name)]

    def files(self, network: nn.Module) -> dict[str, str]:
        return {
            f"{name}/{file.file}{' (simulated)' if file.simulated else ''}".lstrip("/"): file.digest
            for name, file in self._files(network)
        }

    def form(self, network: nn.Module, options: FormOptions) -> EvaluationForm:
        if isinstance(network, self.network) and not network.simulated:
            return network.joined
        return super().form(network, options)

    def read(self, path: str | PathLike[str], **arguments: Any) -> FileNetwork:
        return self.network(path, **arguments)
