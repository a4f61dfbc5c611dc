"""Writes the files beside it, each in an environment that has its producer: `python write.py` with its name.

nncf.onnx: NNCF 3.4.0, onnx 1.23. pt2e.onnx: torch 2.14.1, torchao 0.18.0, onnxscript 0.7. quark.onnx: amd-quark 0.13,
onnx 1.22.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import onnx

FOLDER = Path(__file__).parent


def files() -> Any:
    """The module that makes the network; qadv need not be there."""
    spec = importlib.util.spec_from_file_location("files", FOLDER.parent / "files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nncf(network: onnx.ModelProto, images: Any) -> onnx.ModelProto:
    import nncf

    return nncf.quantize(network, nncf.Dataset([{"images": image[None]} for image in images]))


def pt2e(network: onnx.ModelProto, images: Any) -> onnx.ModelProto:
    import torch
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torch import nn
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(count, 8, 3, padding=1) for count in (3, 8))
            self.last = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.last(torch.relu(self.second(x) + x).mean((2, 3)))

    weights = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in network.graph.initializer}
    module, x, batch = Network().eval(), torch.from_numpy(images), torch.export.Dim("batch")
    for index, layer in enumerate((module.first, module.second, module.last), 1):
        weight = weights[f"w{index}"]
        layer.load_state_dict({"weight": weight if index < 3 else weight.T, "bias": weights[f"b{index}"]})
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    graph = torch.export.export(module, (x[:2],), dynamic_shapes=({0: batch},)).module()
    prepared = prepare_pt2e(graph, quantizer)
    prepared(x)
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": ({0: batch},)}
    model = torch.onnx.export(convert_pt2e(prepared), (x[:2],), dynamo=True, **names).model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        part.ClearField("metadata_props")
    return model


def quark(network: onnx.ModelProto, images: Any) -> onnx.ModelProto:
    from types import SimpleNamespace

    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, get_default_config

    given = ({"images": image[None]} for image in images)
    quantizer = ModelQuantizer(Config(global_quant_config=get_default_config("INT8_CNN_DEFAULT")))
    return quantizer.quantize_model(network, None, SimpleNamespace(get_next=lambda: next(given, None)))


if __name__ == "__main__":
    made, producer = files(), sys.argv[1]
    written = {"nncf": nncf, "pt2e": pt2e, "quark": quark}[producer](made.float_model(), made.images())
    onnx.save(written, FOLDER / f"{producer}.onnx")
