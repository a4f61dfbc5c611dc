"""What folding BatchNorm and channels last give on 4-bit ResNet-20, by batch.

    python benchmarks/accelerate.py --data-dir DATA

DATA holds CIFAR-10's test images and resnet20-cifar10.safetensors. One thread; times are of the processor, so that
other work beside it matters less; ratios are medians over rounds in which all take turns. Errors and classes are
those of 128 test images.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from attacks import MEAN_STD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.estimators.answers import logits_and_gradient
from qadv.estimators.door import prepare

OPTIONS: dict[str, dict[str, Any]] = {
    "fold_batch_norm": {"fold_batch_norm": True, "channels_last": False},
    "channels_last": {"fold_batch_norm": False, "channels_last": True},
    "both": {},
}


@torch.no_grad()
def logits(network: nn.Module, x: Tensor) -> Tensor:
    return network(x)


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    rounds: Annotated[int, typer.Option(help="rounds in which all take turns")] = 10,
) -> None:
    torch.set_num_threads(1)
    network = create_backbone("resnet20", nb_classes=10, in_channels=3)
    load_float_weights(network, data_dir / "resnet20-cifar10.safetensors")
    with np.load(data_dir / "cifar10-test.npz") as file:
        x = file["x_test"][:128].astype(np.float32) / 255
    settings: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(), "input_shape": (3, 32, 32), "nb_classes": 10, "preprocessing": MEAN_STD,
    }  # fmt: skip
    quantized = qadv.quantize(network.eval(), "int:4", "relu6:4")
    unfolded = qadv.QuantizedClassifier(quantized, **settings, fold=False)
    # here the cost is of interest even of what would be left off
    made = {name: qadv.accelerate(unfolded, x, **options, bound=1e30, share=1e-9) for name, options in OPTIONS.items()}
    networks = {"float": network.requires_grad_(False), "unfolded": unfolded.model}
    networks |= {name: classifier.model for name, classifier in made.items()}

    prepared = torch.from_numpy(prepare(unfolded, x)[0])
    sizes = (1, 16, 128)
    header = [f"batch {n}: forward, gradient" for n in sizes]
    table = Table("× float", *header, "logits error", "gradient error", "changed")
    rows: dict[str, list[str]] = {name: [] for name in networks}
    for n in sizes:
        ratios: dict[str, list[str]] = {name: [] for name in networks}
        for ask in (logits, logits_and_gradient):
            taken: dict[str, list[float]] = {name: [] for name in networks}
            for _ in range(rounds + 1):
                for name, module in networks.items():
                    started = time.process_time()
                    ask(module, prepared[:n])
                    taken[name].append(time.process_time() - started)
            for name, seconds in taken.items():
                pairs = zip(seconds[1:], taken["float"][1:], strict=True)
                ratios[name].append(f"{statistics.median(a / b for a, b in pairs):.2f}")
        for name, row in rows.items():
            row.append(", ".join(ratios[name]))
    for name, row in rows.items():
        check = made[name].checks[-1] if name in made else None
        last = () if check is None else (f"{check.logits_error:.1e}", f"{check.gradient_error:.1e}", f"{check.changed}")
        table.add_row(name, *row, *last)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
