"""ONNX files: what the ones that qadv writes cost, and how well the ones that others write are read.

    python benchmarks/files.py export --data-dir DATA [--backbone resnet20] [--size 32] [--nb-test 2000]
    python benchmarks/files.py read --data-dir DATA [--nb-test 200]

`export`: time of a pass in onnxruntime, one thread, × the float graph, all files in turns, medians; and accuracy in
onnxruntime beside that of the simulation and of the simulation that rounds what the file rounds (`deploy=True`), and
the share of the codes of 100 images that are others in that one. `quantize_static` is onnxruntime's own quantization of
the network (QDQ, uint8 activations, int8 weights for each filter). ResNet-20 is the trained one, its activations
calibrated on 512 images and not trained on; other backbones have random weights, BatchNorms from noise, and noise for
images.

`read`: each producer's file of the trained ResNet-20 through `QuantizedClassifier.from_file`: images on which twin and
runtime give the same logits to the bit, and the same class; accuracy, and after ART's PGD (2/255, 10 steps) on the file
and on the twin alone.
"""

import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from art.attacks.evasion import ProjectedGradientDescent
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table
from torch import nn

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.frontends.onnx.graph import graph_of
from qadv.frontends.onnx.runtime import Runtime, sums_are_exact
from qadv.frontends.onnx.twin import Twin

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)
DataDir = Annotated[Path, typer.Option(help="folder with CIFAR-10 and resnet20-cifar10.safetensors")]
MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCHES = {1: 100, 16: 12, 128: 3}  # passes at a width of 32 pixels
STATIC = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}


class Images:
    """What `quantize_static` calibrates on."""

    def __init__(self, images: Any) -> None:
        self.left = iter(np.array_split(images, 16))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.left, None)
        return None if batch is None else {"images": batch}


def float_network(backbone: str, size: int, data_dir: Path, images: Any) -> nn.Module:
    torch.manual_seed(0)
    if backbone == "resnet20":
        net = create_backbone("resnet20", nb_classes=10, in_channels=3)
        load_float_weights(net, data_dir / "resnet20-cifar10.safetensors")
        return net.eval()
    net = create_backbone(backbone, nb_classes=10, in_channels=3)
    with torch.no_grad():
        net.train()(torch.from_numpy(images[:32]))
    return net.eval()


def classifier_of(net: nn.Module, size: int, standardised: bool) -> qadv.QuantizedClassifier:
    preprocessing = MEAN_STD if standardised else (0.0, 1.0)
    shape = (3, size, size)
    return qadv.QuantizedClassifier(
        net, nn.CrossEntropyLoss(), shape, 10, preprocessing=preprocessing, device_type="cpu"
    )


def write_float(net: nn.Module, size: int, is_standardised: bool, path: Path) -> None:
    """As onnxruntime's quantization wants it: BatchNorms fused, shapes inferred."""
    images, batch = torch.zeros(2, 3, size, size), torch.export.Dim("batch")
    network = nn.Sequential(Standardised() if is_standardised else nn.Identity(), net).eval()
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    program: Any = torch.onnx.export(
        network, (images,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **names
    )
    path.write_bytes(program.model_proto.SerializeToString())
    quant_pre_process(path, path)


class Standardised(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in MEAN_STD)
        return (x - mean) / std


def standardised(images: Any) -> Any:
    mean, std = (np.array(each, dtype=np.float32).reshape(3, 1, 1) for each in MEAN_STD)
    return (images - mean) / std


def accuracy(logits: Any, y: Any) -> str:
    return f"{100 * float((logits.argmax(1) == y).mean()):.2f}"


def codes_apart(path: Path, images: Any) -> str:
    """Share of all codes that onnxruntime and the twin that is made from the file give for the same images."""
    model = onnx.load(path)
    graph = graph_of(model, b"", None, str(path))
    codes: dict[str, tuple[str, Any, Any]] = {
        node.inputs[0]: (node.outputs[0], *(graph.constants[name] for name in node.inputs[1:]))
        for node in graph.nodes
        if node.kind == "DequantizeLinear" and node.inputs[0] not in graph.constants
    }
    for name in codes:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    runtime, twin = Runtime(model.SerializeToString(), str(path)), Twin(graph, batched=True)
    apart = count = 0
    for batch in np.array_split(images, max(1, len(images) // 10)):
        values = twin.every_value(torch.from_numpy(batch))
        for name, (real, scale, zero) in codes.items():
            found = np.rint(values[real].numpy() / scale) + zero
            apart, count = apart + int((found != runtime(batch, name)).sum()), count + found.size
    return f"{100 * apart / count:.4f}"


def in_batches(network: Any, x: Any) -> Any:
    return np.concatenate([network(x[start : start + 100]) for start in range(0, len(x), 100)])


@app.command()
def export(data_dir: DataDir, backbone: str = "resnet20", size: int = 32, nb_test: int = 2000) -> None:
    """Cost and accuracy of what qadv writes."""
    quiet()
    trained = backbone == "resnet20"
    if trained:
        data = qadv.create("dataset", "cifar10", data_dir=data_dir)
        seen, x, y = data.x_train[:512], data.x_test[:nb_test], data.y_test[:nb_test]
    else:
        seen = x = np.random.default_rng(0).random((32, 3, size, size), dtype=np.float32)
        y = None
    net = float_network(backbone, size, data_dir, seen)
    given = standardised(seen) if trained else seen
    rows: dict[str, tuple[Runtime, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = classifier_of(net, size, trained)
        write_float(net, size, trained, folder / "float.onnx")
        quantize_static(folder / "float.onnx", folder / "static.onnx", Images(seen), **STATIC)
        files: dict[str, tuple[str, Any]] = {"float": ("float.onnx", plain), "quantize_static": ("static.onnx", None)}
        for bits in (8, 4):
            quantized = qadv.quantize(net, f"int:{bits}", f"relu6:{bits}", calibration=given)
            files[f"qadv, {bits} bit"] = f"{bits}.onnx", classifier_of(quantized, size, trained)
            qadv.export(files[f"qadv, {bits} bit"][1], folder / f"{bits}.onnx", to="onnx", images=seen[:256])
        for label, (file, classifier) in files.items():
            runtime = Runtime((folder / file).read_bytes(), label)
            figures = []
            if trained:
                figures += [accuracy(in_batches(runtime, x), y)]
                figures += ["–" if classifier is None else accuracy(classifier.predict(x), y)]
            if label.startswith("qadv"):
                figures += [codes_apart(folder / file, x[:100])]
                if trained:
                    deployed = qadv.QuantizedClassifier.from_file(folder / file, deploy=True, device_type="cpu")
                    figures.insert(2, accuracy(deployed.predict(x), y))
            rows[label] = runtime, " / ".join(figures)
    times: dict[tuple[str, int], list[float]] = {}
    for batch, passes in BATCHES.items():
        images = np.random.default_rng(0).random((batch, 3, size, size), dtype=np.float32)
        for round_ in range(max(3, passes * 32 // size) + 1):
            for label, (runtime, _) in rows.items():
                started = time.perf_counter()
                runtime(images)
                if round_:
                    times.setdefault((label, batch), []).append(time.perf_counter() - started)
    what = "file / simulation / deploy, codes apart in %"
    table = Table("file", *(f"batch {batch}" for batch in BATCHES), what, "kernels")
    for label, (runtime, shown) in rows.items():
        found = [statistics.median(times[label, b]) / statistics.median(times["float", b]) for b in BATCHES]
        kernels = ", ".join(f"{kind} {count}" for kind, count in runtime.kernels(images[:1]).most_common(4))
        table.add_row(label, *(f"{ratio:.2f}" for ratio in found), shown, kernels)
    table.title = f"{backbone}, {size} px, one thread, × the float graph; 8-bit sums exact: {sums_are_exact()}"
    Console(width=160).print(table)


@app.command()
def read(data_dir: DataDir, nb_test: int = 200) -> None:
    """Producers' files, read and attacked."""
    quiet()
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    seen, x, y = data.x_train[:512], data.x_test[:nb_test], data.y_test[:nb_test]
    net = float_network("resnet20", 32, data_dir, seen)
    table = Table("file", "equal to the bit", "same class", "accuracy", "after PGD", "on the twin alone")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / "float.onnx"
        write_float(net, 32, True, plain)
        signed = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
        for label, options in {
            "quantize_static, QDQ": STATIC,
            "quantize_static, QDQ, int8": {**signed, "extra_options": {"ActivationSymmetric": True}},
            "quantize_static, QOperator": {**STATIC, "quant_format": QuantFormat.QOperator},
            "quantize_static, int4 weights": {**STATIC, "weight_type": QuantType.QInt4},
        }.items():
            quantize_static(plain, folder / f"{label}.onnx", Images(seen), **options)
        quantize_dynamic(plain, folder / "quantize_dynamic.onnx", weight_type=QuantType.QUInt8)
        for bits in (8, 4):
            model = qadv.quantize(net, f"int:{bits}", f"relu6:{bits}", calibration=standardised(seen))
            for to in ("onnx", "qcdq"):
                path = folder / f"qadv, {to}, {bits} bit.onnx"
                qadv.export(classifier_of(model, 32, standardised=True), path, to=to)
        for path in sorted(folder.glob("*.onnx")):
            file = qadv.QuantizedClassifier.from_file(path, (3, 32, 32), images=x, device_type="cpu")
            network: Any = file.network
            twin = classifier_of(network.twin, 32, standardised=False)
            equal = (file.predict(x) == twin.predict(x)).all(1).mean()
            after = []
            for attacked in (file, twin):
                attack = ProjectedGradientDescent(attacked, eps=2 / 255, eps_step=0.5 / 255, max_iter=10, verbose=False)
                after.append(accuracy(attacked.predict(attack.generate(x, y)), y))
            same = f"{100 * network.joined.agreement:.1f} %"
            table.add_row(path.stem, f"{100 * equal:.1f} %", same, accuracy(file.predict(x), y), *after)
    Console(width=140).print(table)


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    assert os.environ.get("OMP_NUM_THREADS", "1") == "1", "one thread"


if __name__ == "__main__":
    app()
