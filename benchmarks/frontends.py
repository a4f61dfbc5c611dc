"""What networks of each origin cost: through this project, and in plain ART, against plain ART on the float network.

    python benchmarks/frontends.py [--frontend brevitas] [--rounds 15] [--backbone resnet20]

Untrained 4-bit networks made from one float network, after a few batches in training mode. In each round all take
turns, on one thread; the table has medians of the ratios of processor time to plain ART's `PyTorchClassifier` on the
float network in the same round, of `predict` and `loss_gradient` at batches of 1 and 16.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import brevitas.nn as qnn
import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from rich.console import Console
from rich.table import Table
from torch import nn

import qadv
from qadv.backbones import create_backbone

BATCHES = (1, 16)
SIZES = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"


def of_qadv(network: nn.Module) -> nn.Module:
    return qadv.quantize(network, "int:4", "relu6:4")


def of_brevitas(network: nn.Module) -> nn.Module:
    """Returns the network with Brevitas's layers, as written by hand: 4 bits, learned ranges of activations."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            bias = getattr(child, "bias", None) is not None
            new: Any = None
            if isinstance(child, nn.Conv2d):
                sizes = {size: getattr(child, size) for size in SIZES}
                new = qnn.QuantConv2d(**sizes, bias=bias, weight_bit_width=4)
            elif isinstance(child, nn.Linear):
                new = qnn.QuantLinear(child.in_features, child.out_features, bias=bias, weight_bit_width=4)
            elif isinstance(child, nn.ReLU):
                new = qnn.QuantReLU(bit_width=4)
            if new is not None:
                setattr(parent, name, new)
    return network


FRONTENDS: dict[str, Callable[[nn.Module], nn.Module]] = {"qadv": of_qadv, "brevitas": of_brevitas}


def calls(classifier: Any) -> list[Callable[[], Any]]:
    """Returns what is timed: predict and gradient, at each batch size."""
    found: list[Callable[[], Any]] = []
    for size in BATCHES:
        x = np.random.default_rng(0).random((size, 3, 32, 32), dtype=np.float32)
        y = np.eye(10, dtype=np.float32)[np.arange(size) % 10]
        found.append(lambda x=x: classifier.predict(x))
        found.append(lambda x=x, y=y: classifier.loss_gradient(x, y))
    return found


def seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main(
    frontend: Annotated[list[str] | None, typer.Option(help="which; all without this")] = None,
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 15,
    backbone: Annotated[str, typer.Option(help="any backbone for 3x32x32 images")] = "resnet20",
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = list(frontend or FRONTENDS)
    if unknown := [name for name in names if name not in FRONTENDS]:
        raise typer.BadParameter(f"no front end {', '.join(unknown)}; there are: {', '.join(FRONTENDS)}")

    def classifier(kind: Any, network: nn.Module) -> Any:
        return kind(network.eval(), nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0))

    def made() -> nn.Module:
        return create_backbone(backbone, nb_classes=10, in_channels=3)

    timed = {("float", "plain ART"): calls(classifier(PyTorchClassifier, made()))}
    for name in names:
        network = FRONTENDS[name](made())
        network.train()
        for _ in range(3):
            network(torch.rand(16, 3, 32, 32))
        timed[name, "qadv"] = calls(classifier(qadv.QuantizedClassifier, network))
        timed[name, "plain ART"] = calls(classifier(PyTorchClassifier, network))
    measured: dict[tuple[str, str], list[list[float]]] = {key: [] for key in timed}
    for round_ in range(rounds + 1):
        for key, runs in timed.items():
            found = [statistics.median(seconds(run) for _ in range(3)) for run in runs]
            if round_:  # the first one warms up
                measured[key].append(found)
    base = measured["float", "plain ART"]
    table = Table("network", "through", *(f"{what}, {size}" for size in BATCHES for what in ("predict", "gradient")))
    for (name, through), rows in measured.items():
        medians = np.median(np.array(rows) / np.array(base), axis=0)
        table.add_row(name, through, *(f"{median:.2f}" for median in medians))
    milliseconds = [1e3 * statistics.median(column) for column in zip(*base, strict=True)]
    table.add_row("float", "ms", *(f"{each:.2f}" for each in milliseconds))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
